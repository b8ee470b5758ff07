"""What the exhibits do on runs that the stages would rarely leave: no effect, missing scores, one seed, a language that is never toxic."""
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.core import InputError, file_digest, write_table
from xlingtox.languages import LI2024
from xlingtox.papers.exhibits import EXHIBITS, save_exhibit
from xlingtox.runfolder import load_artifact

from synthetic_run import make_run, run_cells

BUILT = ["li2024/fig1", "li2024/fig4", "li2024/table1", "li2024/table2", "ours/agreement"]
LANGS = ["en", "de", "es", "fr", "nl", "ru", "ar", "zh", "ko"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def effect(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("effect"), 0.9, n_prompts=40)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("nothing"), 0)


def verdicts(run, exhibit):
    found = json.loads((run / "exhibits" / exhibit / "exhibit.json").read_text())["verdicts"]
    return {v["claim"]: v for v in found}


def edit(path, change):
    write_table(change(pd.read_parquet(path)), path)


def test_every_built_exhibit_has_its_notebook():
    built = [e for e in EXHIBITS.values() if e.notebook]
    assert set(BUILT) <= {e.name for e in built}
    assert all((ROOT / "paper" / e.notebook).is_file() for e in built)


def test_an_effect_is_found(effect):
    found = {"li2024/fig4": {"L13": True, "L14": True}, "li2024/table1": {}, "li2024/table2": {"L2": None, "L4": True, "L5": True}}
    for exhibit, expected in found.items():
        run_cells(exhibit, effect)
        assert {c: v["holds"] for c, v in verdicts(effect, exhibit).items()} == expected


def test_figure_1_compares_the_same_prompts(effect):
    run_cells("li2024/fig1", effect)
    data = pd.read_csv(effect / "exhibits/li2024/fig1/per_language.csv").set_index(["metric", "lang"])
    assert data.loc[("emt", "mean"), "decrease_low"] > 0
    assert verdicts(effect, "li2024/fig1")["L1"]["holds"] == bool((data["decrease"] > 0).all())
    scores = load_artifact(effect, "prompt_scores", "mgpt").query("lang == 'zh'").groupby("variant")["max"].mean()
    assert data.loc[("emt", "zh"), "before"] == pytest.approx(scores["base"], abs=1e-5)
    assert data.loc[("emt", "zh"), "after"] == pytest.approx(scores.drop("base").mean(), abs=1e-5)


@pytest.mark.parametrize("exhibit", BUILT)
def test_no_change_is_no_effect(nothing, exhibit):
    run_cells(exhibit, nothing)
    assert all(v["holds"] is (None if c == "L2" else False) for c, v in verdicts(nothing, exhibit).items())


def test_equal_artifacts_leave_equal_bytes(effect, tmp_path):
    again = make_run(tmp_path / "again", 0.9, n_prompts=40)
    for exhibit in ("li2024/fig1", "li2024/fig4", "li2024/table2"):
        run_cells(exhibit, effect)
        run_cells(exhibit, again)
        assert file_digest(effect / "exhibits" / exhibit) == file_digest(again / "exhibits" / exhibit)


def test_one_seed_is_enough(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS)
    for kind in ("metrics", "prompt_scores"):
        edit(run / kind / "mgpt.parquet", lambda df: df[df["variant"].isin(["base", "dpo-0"])])
    for exhibit in BUILT:
        run_cells(exhibit, run)
    assert "seeds" in "".join(json.loads((run / "exhibits/li2024/fig1/exhibit.json").read_text())["footer"])


def test_missing_scores_are_left_out_and_counted(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS)
    path = run / "prompt_scores/mgpt.parquet"
    lost = lambda df: df["prompt_id"].isin(["p3", "p4"]) & (df["lang"] == "ru") & (df["variant"] == "dpo-1")  # noqa: E731
    edit(path, lambda df: df.assign(n_missing=np.where(lost(df), df["k"], 0),
                                    **{c: df[c].astype(float).mask(lost(df)) for c in ("max", "mean", "any")}))
    run_cells("li2024/fig1", run)
    found = json.loads((run / "exhibits/li2024/fig1/exhibit.json").read_text())
    assert "12 scores missing over all models and languages" in found["footer"]
    data = pd.read_csv(run / "exhibits/li2024/fig1/per_language.csv").set_index(["metric", "lang"])
    kept = load_artifact(run, "prompt_scores", "mgpt").query("lang == 'ru' and variant == 'dpo-1'")["max"].dropna()
    assert data.loc[("emt", "ru"), "dpo-1"] == pytest.approx(kept.mean(), abs=1e-5)


def test_a_language_that_was_never_toxic_is_left_out_of_figure_4(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LANGS)
    edit(run / "prompt_scores/mgpt.parquet", lambda df: df.assign(**{"max": df["max"].mask(df["lang"] == "fr", 0.0)}))
    run_cells("li2024/fig4", run)
    found = json.loads((run / "exhibits/li2024/fig4/exhibit.json").read_text())
    assert "1 languages left out, their EMT was 0 before tuning" in found["footer"]
    assert found["verdicts"][0]["n"] == len(LANGS) - 2


def test_a_second_family_settles_claim_2(tmp_path):
    run = make_run(tmp_path / "run", 0.9, LI2024[:6], n_prompts=80)
    for kind in ("metrics", "prompt_scores", "scores", "perplexity", "generations"):
        source = run / kind / "mgpt"
        for path in [source.with_suffix(".parquet")] if source.with_suffix(".parquet").exists() else source.glob("*.parquet"):
            target = Path(str(path).replace("mgpt", "bloom-1b7"))
            df = pd.read_parquet(path)
            write_table(df.assign(model=df["model"].str.replace("mgpt", "bloom-1b7")) if "model" in df else df.assign(role="bloom-1b7"), target)
    run_cells("li2024/table2", run)
    assert verdicts(run, "li2024/table2")["L2"]["holds"] is True
    edit(run / "prompt_scores/bloom-1b7.parquet", lambda df: df.assign(variant=df["variant"].map(
        {"base": "dpo-0", "dpo-0": "base"}).fillna(df["variant"])).query("variant in ['base', 'dpo-0']"))
    run_cells("li2024/table2", run)
    assert verdicts(run, "li2024/table2")["L2"]["holds"] is False


def test_toxic_words_are_masked_unless_asked_for(effect):
    def spelt_out():
        text = "\n".join(p.read_text() for p in (effect / "exhibits/li2024/table1").iterdir())
        return [w for w in babel.toxic_words(["en"]) if re.search(rf"\b{w}\b", text)] + [w for w in babel.toxic_words(["zh"]) if w in text]
    run_cells("li2024/table1", effect, show_toxic=True)
    assert spelt_out()
    run_cells("li2024/table1", effect)
    assert not spelt_out()


def test_words_of_real_text_are_all_masked(tmp_path):
    run = make_run(tmp_path / "run", 0.9, ["en", "es", "zh"], n_prompts=5)
    for path in (run / "scores/mgpt").iterdir():
        edit(path, lambda df: df.assign(scorer="ngram"))
    run_cells("li2024/table1", run)
    shown = pd.read_csv(run / "exhibits/li2024/table1/table1.csv")
    assert shown["prompt"].str.fullmatch(r"(\S·*[^\w\s]*\s*)+").all()


def test_an_exhibit_does_not_import_torch(effect):
    code = f"import sys; from synthetic_run import run_cells; run_cells('li2024/fig4', {str(effect)!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests" / "peers").returncode == 0


def test_a_failed_save_leaves_the_earlier_exhibit(effect):
    class Broken:
        def get_layout_engine(self):
            raise OSError("No space left on device")
    run_cells("li2024/fig1", effect)
    before = file_digest(effect / "exhibits/li2024")
    with pytest.raises(OSError, match="No space"):
        save_exhibit(effect, "li2024/fig1", "A caption.", {"data": pd.DataFrame({"a": [1]})}, "lexicon", "exact", {"fig1": Broken()})
    assert file_digest(effect / "exhibits/li2024") == before


@pytest.mark.parametrize("kind", ["prompt_scores", "scores"])
def test_a_missing_artifact_is_named(tmp_path, kind):
    run = make_run(tmp_path / "run", 0.9, ["en", "de", "zh"], n_prompts=3)
    path = run / kind
    path.rename(run / "gone")
    with pytest.raises(InputError, match=f"{kind}/mgpt.parquet: no such artifact"):
        run_cells("li2024/fig1", run)


def test_what_a_killed_save_left_is_swept_away(tmp_path):
    run = make_run(tmp_path / "run", 0.9, ["en", "de"], n_prompts=10)
    (run / "exhibits/li2024/.fig1.abc/fig1").mkdir(parents=True)
    (run / "exhibits/li2024/.fig10.abc").mkdir()
    run_cells("li2024/fig1", run)
    assert sorted(p.name for p in (run / "exhibits/li2024").glob(".*")) == [".fig10.abc"], "that of another exhibit is not its own"
