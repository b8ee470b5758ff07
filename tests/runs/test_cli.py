"""The command: help, exit statuses, one line for bad input, and what is not imported."""
import json
import subprocess
import sys

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
    for command in ("reproduce", "status", "report", "doctor", "generate", "score", "metrics"):
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
    code, out, _ = xlingtox("metrics", "--in", f"s.{suffix}", cwd=tmp_path)
    assert code == 0 and out.split()[:5] == ["model", "lang", "emt", "toxprob", "avgtox"]


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
