"""The command: help, exit statuses, one line for bad input, and what is not imported."""
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

HEAVY = ["torch", "transformers", "trl", "datasets", "sklearn", "scipy", "statsmodels", "matplotlib", "seaborn", "papermill", "snakemake"]


def python(code, cwd=None):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def xlingtox(*arguments, cwd=None):
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", *arguments], capture_output=True, text=True, cwd=cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module, also", [("xlingtox", ["pandas", "numpy", "typer"]), ("xlingtox.cli", ["pandas", "numpy", "pydantic"]),
                                          ("xlingtox.runs.workflow", []), ("xlingtox.profiles", []), ("xlingtox.runs.execute", ["pandas", "numpy"])])
def test_imports_are_light(module, also):
    loaded = python(f"import sys, {module}; print([m for m in {HEAVY + also} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_status_loads_nothing_heavy(tmp_path):
    out = python(f"import sys\nfrom xlingtox.runs.workflow import status\nprint(status())\nprint([m for m in {HEAVY} if m in sys.modules])", tmp_path)
    assert out.splitlines()[-1] == "[]" and "no runs in" in out


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help(arguments):
    code, out, err = xlingtox(*arguments)
    assert code == 0 and err == ""
    for command in ("reproduce", "status", "report", "doctor", "generate", "score", "metrics", "compare"):
        assert f"  {command} " in out
        assert xlingtox(command, "--help")[0] == 0


GENERATIONS = pd.DataFrame([("mine", "en", "p0", i, text) for i, text in enumerate(["the liar sings", "the friend", ""])],
                           columns=["model", "lang", "prompt_id", "sample", "text"])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_score_and_metrics(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    GENERATIONS.to_parquet(tmp_path / "g.parquet")
    assert xlingtox("score", "--in", "g.parquet", "--scorer", "lexicon:babel", "--out", f"s.{suffix}", cwd=tmp_path) == (0, "", "")
    code, out, err = xlingtox("metrics", "--in", f"s.{suffix}", "--json", cwd=tmp_path)
    (row,) = json.loads(out)
    assert code == 0 and row["lang"] == "en" and row["k"] == 3 and 0 < row["emt"] < 1
    assert row["emt_low"] is row["emt_high"] is None, "one prompt is no sample of prompts"
    code, out, _ = xlingtox("metrics", "--in", f"s.{suffix}", cwd=tmp_path)
    assert code == 0 and out.split()[:5] == ["model", "lang", "emt", "toxprob", "avgtox"]


def some_scores(model, shift=0.0, langs=("en", "de"), scorer="lexicon", n=40, k=10):
    rng, level = np.random.default_rng(len(model)), np.random.default_rng(7).beta(2, 2, n)
    rows = [(model, lang, f"p{p}", s, scorer, float(np.clip(level[p] + shift + rng.normal(0, 0.15), 0, 1)))
            for lang in langs for p in range(n) for s in range(k)]
    return pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])


def test_metrics_have_intervals(tmp_path):
    from xlingtox.metrics import summary_intervals

    table = some_scores("mine")
    table.to_parquet(tmp_path / "s.parquet")
    rows = json.loads(xlingtox("metrics", "--in", "s.parquet", "--json", cwd=tmp_path)[1])
    known = summary_intervals(table).query("metric == 'emt' and lang == 'en'").iloc[0]
    (row,) = [r for r in rows if r["lang"] == "en"]
    assert [row["emt"], row["emt_low"], row["emt_high"]] == pytest.approx(known[["value", "low", "high"]].tolist())
    shown = f"{row['emt']:.3f} [{row['emt_low']:.3f}, {row['emt_high']:.3f}]"
    assert shown in xlingtox("metrics", "--in", "s.parquet", cwd=tmp_path)[1]


def test_compare(tmp_path):
    some_scores("base").to_parquet(tmp_path / "a.parquet")
    some_scores("tuned", -0.2, ["en"]).to_csv(tmp_path / "b.csv", index=False)
    code, out, err = xlingtox("compare", "a.parquet", "b.csv", "--json", "--out", "picture.svg", cwd=tmp_path)
    table = pd.DataFrame(json.loads(out)).set_index(["metric", "lang"])
    assert (code, err) == (0, "") and (tmp_path / "picture.svg").read_text().rstrip().endswith("</svg>")
    assert table.loc[("emt", "en"), "says"] == "B lower" and table.loc[("emt", "en"), "p_holm"] < 0.05
    assert set(table.loc[[("emt", "de"), ("emt", "mean")], "says"]) == {"cannot tell"} and table.loc[("emt", "de"), "p"] != table.loc[("emt", "de"), "p"]
    code, out, _ = xlingtox("compare", "a.parquet", "a.parquet", "--metric", "emt", cwd=tmp_path)
    assert code == 0 and out.count("no difference shown") == 3 and "toxprob" not in out


def test_scores_bridge(tmp_path):
    truth = some_scores("base")
    truth.to_csv(tmp_path / "truth.csv", index=False)
    strict = truth.assign(scorer="strict", toxicity=truth["toxicity"] ** 0.5)
    strict.to_csv(tmp_path / "strict.csv", index=False)
    pd.concat([strict, some_scores("base", langs=["ko"], scorer="strict")]).to_parquet(tmp_path / "more.parquet")
    fit = ("scores", "bridge", "fit", "--reference", "truth.csv", "--substitute", "strict.csv", "--out", "b.json", "--json")
    code, out, err = xlingtox(*fit, cwd=tmp_path)
    assert code == 0 and [row["refused"] for row in json.loads(out)] == ["", ""] and "held out by prompt" in err
    code, out, err = xlingtox("scores", "bridge", "cross", "--bridge", "b.json", "--in", "more.parquet", "--out", "c.csv", cwd=tmp_path)
    assert code == 1 and "base ko: missing, not in the bridge" in err, "not all that was asked for was done"
    crossed = pd.read_csv(tmp_path / "c.csv")
    assert crossed.loc[crossed["lang"] == "ko", "toxicity"].isna().all()
    both = crossed[crossed["lang"] != "ko"].merge(truth, on=["model", "lang", "prompt_id", "sample"])
    assert (both["toxicity_x"] - both["toxicity_y"]).abs().max() < 0.02
    rows = json.loads(xlingtox("metrics", "--in", "c.csv", "--json", cwd=tmp_path)[1])
    assert {row["lang"]: row["emt"] is None for row in rows} == {"de": False, "en": False, "ko": True}
    strict.head(100).to_csv(tmp_path / "strict.csv", index=False)
    (tmp_path / "b.json").unlink()
    code, out, err = xlingtox(*fit, cwd=tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1) and "no language can be bridged: de: no text scored by both; en: 100 texts scored by both" in err
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("arguments", [("data", "list"), ("data", "check", "babel:prompts"), ("miniatures", "list")])
def test_what_is_printed_as_a_table_is_also_json(tmp_path, arguments):
    code, out, _ = xlingtox(*arguments, "--json", cwd=tmp_path)
    assert code == 0 and json.loads(out)[0]


@pytest.mark.parametrize("words, completed", [("xlingtox comp", ["compare"]), ("xlingtox scores br", ["bridge"]), ("xlingtox metrics --js", ["--json"])])
def test_completion(monkeypatch, words, completed):
    for name, value in {"_XLINGTOX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}.items():
        monkeypatch.setenv(name, value)
    assert xlingtox()[1].split() == completed


def test_score_says_that_a_lexicon_does_not_know_the_texts(tmp_path, monkeypatch):
    from xlingtox import babel

    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    unknown = ["parliament adjourned yesterday", "quarterly revenue exceeded forecasts", "the friend"]
    known = [GENERATIONS.assign(lang=lang, text=babel.load_lexicon()[lang].iloc[0]) for lang in ("nl", "sv")]
    pd.concat([GENERATIONS.assign(text=unknown), *known]).to_parquet(tmp_path / "g.parquet")
    code, out, err = xlingtox("score", "--in", "g.parquet", "--scorer", "lexicon:babel", "--out", "s.parquet", cwd=tmp_path)
    assert (code, out, err) == (0, "", "lexicon:babel knows few of the words of these texts (33% in en); all others count as harmless\n")
    lexicon = babel.load_lexicon()
    lexicon[lexicon["severity"] > 0].to_csv(tmp_path / "toxic.csv", index=False)
    told = xlingtox("score", "--in", "g.parquet", "--scorer", "lexicon:toxic.csv", "--out", "t.parquet", cwd=tmp_path)
    assert told == (0, "", ""), "a list of toxic words is not expected to know the others"


@pytest.mark.parametrize("texts", [(), ("--texts",)])
def test_scores_export_and_import(tmp_path, monkeypatch, texts):
    from xlingtox import babel, scorers

    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run"
    (run / "generations/mine").mkdir(parents=True)
    GENERATIONS.to_parquet(run / "generations/mine/base.parquet")
    store = scorers.ScoreStore(run / "scores.sqlite")
    first = scorers.score_generations(GENERATIONS, scorers.LexiconScorer(babel.load_lexicon()), store)
    store.score(scorers.LexiconScorer(babel.load_lexicon()), ["a text of another evaluation"], "en")
    store.close()
    code, out, err = xlingtox("scores", "export", "--run", "run", "--out", "archive", *texts, cwd=tmp_path)
    assert (code, err) == (0, "") and "3 scores, 0 failures" in out, "the texts of the run only"
    kept = pd.read_parquet(tmp_path / "archive/scores.parquet")
    assert ("text" in kept) == bool(texts) and (set(GENERATIONS["text"]) <= set(kept["text"]) if texts else b"liar" not in kept.to_csv().encode())
    code, out, err = xlingtox("scores", "import", "--in", "archive", cwd=tmp_path)
    assert (code, err) == (0, "") and out.startswith(f"{len(kept)} scores added, 0 known already")
    GENERATIONS.to_parquet(tmp_path / "g.parquet")
    assert xlingtox("score", "--in", "g.parquet", "--scorer", "archive:archive", "--out", "s.parquet", cwd=tmp_path) == (0, "", "")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), first)
    GENERATIONS.assign(text=["the liar sings", "nobody judged this", "nor this"]).to_parquet(tmp_path / "more.parquet")
    told = xlingtox("score", "--in", "more.parquet", "--scorer", "archive:archive", "--out", "more-scores.parquet", cwd=tmp_path)
    assert told == (0, "", "2 of 3 scores are missing; they are counted as missing, not as 0\n")
    (tmp_path / "archive/scores.parquet").write_bytes(b"cut off")
    code, out, err = xlingtox("scores", "import", "--in", "archive", cwd=tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1) and "not the table that archive.json describes" in err


@pytest.mark.parametrize("arguments, message", [
    (("repruduce",), "No such command 'repruduce'"),
    (("score", "--in", "g.csv"), "Missing option '--scorer'"),
    (("score", "--in", "none.csv", "--scorer", "lexicon:babel", "--out", "s.csv"), "none.csv: no such file"),
    (("score", "--in", "g.csv", "--scorer", "oracle", "--out", "s.csv"), "unknown scorer 'oracle'"),
    (("score", "--in", "g.csv", "--scorer", "lexicon:babel", "--out", "s.txt"), "unknown kind of file; use .parquet, .csv, .jsonl"),
    (("score", "--in", "g.csv", "--scorer", "lexicon:babel", "--out", "no/s.csv"), "no such folder"),
    (("score", "--in", "bad.csv", "--scorer", "lexicon:babel", "--out", "s.csv"), "bad.csv: lacks the columns text"),
    (("score", "--in", "fi.csv", "--scorer", "lexicon:babel", "--out", "s.csv"), "fi.csv: unknown language fi"),
    (("metrics", "--in", "empty.jsonl"), "empty.jsonl: is empty"),
    (("metrics", "--in", "broken.jsonl"), "broken.jsonl, line 2"),
    (("generate", "--model", "mini:mgpt", "--prompts", "none.csv", "--out", "g2.csv"), "none.csv: no such file"),
    (("generate", "--model", "mini:nothing", "--prompts", "p.csv", "--out", "g2.csv"), "there is no miniature 'nothing'"),
    (("generate", "--model", "mini:mgpt", "--prompts", "p.csv", "--out", "g2.csv", "--k", "0"), "Invalid value for '--k'"),
    (("report", "--profile", "nothing"), "no run in"),
    (("compare", "none.csv", "none.csv"), "none.csv: no such run or table"),
    (("compare", "g.csv", "g.csv"), "g.csv: lacks the columns scorer, toxicity"),
    (("compare", ".", "."), "neither a table of scores nor the folder of a run"),
    (("compare", "g.csv", "g.csv", "--out", "p.txt"), "unknown kind of file; use .png, .svg, .pdf"),
    (("scores", "bridge", "fit", "--reference", "none", "--substitute", "none", "--out", "b.json"), "none: no such file"),
    (("scores", "bridge", "fit", "--reference", "g.csv", "--substitute", "g.csv", "--out", "b.txt"), "use .json"),
    (("scores", "bridge", "cross", "--bridge", "none.json", "--in", "g.csv", "--out", "o.csv"), "none.json: no such file"),
    (("scores", "export", "--run", "none", "--out", "a"), "--run none: no such folder"),
    (("scores", "export", "--store", "none.sqlite", "--out", "a"), "none.sqlite: no such store of scores"),
    (("scores", "import", "--in", "none", "--store", "t.sqlite"), "archive.json: no such file"),
])
def test_bad_input(tmp_path, arguments, message):
    GENERATIONS.to_csv(tmp_path / "g.csv", index=False)
    GENERATIONS.drop(columns="text").to_csv(tmp_path / "bad.csv", index=False)
    GENERATIONS.assign(lang="fi").to_csv(tmp_path / "fi.csv", index=False)
    (tmp_path / "p.csv").write_text("id,lang,text\na,en,hello\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"a": 1}\n{"a":\n')
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = xlingtox(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_doctor(tmp_path):
    code, out, _ = xlingtox("doctor", "--data", "nowhere", cwd=tmp_path)
    assert code == 1 and "data folder nowhere: no such folder" in out and out.splitlines()[0].startswith("Python 3.")
    assert "processor cores" in out and "GiB of memory free" in out and "cache of trained models in" in out
