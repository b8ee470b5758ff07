"""The exhibits and claims of Beniwal et al. (2025) on made-up grids: an effect is found, none is not, and what is missing is said to be so."""
import json
import re

import numpy as np
import pandas as pd
import pytest
from xlingtox import babel
from xlingtox.core import InputError, file_digest, write_manifest, write_table
from xlingtox.languages import BENIWAL2025
from xlingtox.papers.beniwal2025 import grid, rules
from xlingtox.papers.beniwal2025.toy import TOY_SHARES, Truth, made_up
from xlingtox.papers.exhibits import EXHIBITS

from synthetic_grid import make_grid
from synthetic_run import run_cells

EVERYTHING = Truth(transfer=5, family=5, script=5, share=0.8, all_data=10, neutral=4, cost=0.3)
MINE = [e for e in EXHIBITS.values() if e.paper == "beniwal2025"]
# of each kind one exhibit, and the claims that it bears
KINDS = {"table6": "B1 B2 B3", "table7": "B5", "table18": "B7", "fig2": "B1 B4", "fig13": "B4", "fig14": "B5", "fig25": "B7", "fig8": "B6",
         "fig9": "B6", "table2": "", "fig1": ""}


@pytest.fixture(scope="module")
def effect(tmp_path_factory):
    return make_grid(tmp_path_factory.mktemp("effect"), EVERYTHING, closer=0.2)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    return make_grid(tmp_path_factory.mktemp("nothing"))


def made(run, name):
    run_cells(f"beniwal2025/{name}", run)
    return json.loads((run / "exhibits/beniwal2025" / name / "exhibit.json").read_text())


def holds(run, name):
    return {v["claim"]: v["holds"] for v in made(run, name)["verdicts"]}


def edit(run, role, change):
    path = run / f"evaluations/{role}.parquet"
    write_table(change(pd.read_parquet(path)), path)


def test_every_exhibit_of_the_paper_has_a_notebook():
    assert len(MINE) == 57 and {e.notebook for e in MINE} == {f"beniwal2025/{n}.ipynb" for n in
                                                             ("xft", "shares", "bars", "confusion", "silhouette", "index", "overview")}
    assert all(e.needs and e.roles for e in MINE)


@pytest.mark.parametrize("name", KINDS)
def test_effects_are_found(effect, name):
    found = holds(effect, name)
    if name == "table6":  # the miniature's shares do not rank the languages as those of the toy: see below
        assert found.pop("B3") is not True
        assert found == {"B1": True, "B2": True}
    else:
        assert found == dict.fromkeys(KINDS[name].split(), True)


@pytest.mark.parametrize("name", KINDS)
def test_no_effect_is_none(nothing, name):
    assert holds(nothing, name) == dict.fromkeys(KINDS[name].split(), False)


@pytest.mark.parametrize("truth, must, may", [
    (Truth(), "", ""), (Truth(transfer=6), "B1", ""), (Truth(family=5), "B1 B2", ""), (Truth(script=5, share=1), "B1 B3", "B2"),
    (Truth(script=5), "", "B1 B2"), (Truth(share=1), "B1", ""), (Truth(transfer=-6), "", "")])
def test_a_table_finds_what_is_there_and_nothing_else(truth, must, may):
    "All pairs of one script are Indo-European, so where script carries transfer these sources have the advantage too"
    for seed in (0, 1, 2):
        run = made_up(truth, seed=seed)
        before, change = grid.levels(run, "toxic-test").loc["zs"], grid.deltas(run, "toxic-test")
        found = {v["claim"]: v["holds"] for v in rules.judge_table("beniwal2025/table6", before, change, TOY_SHARES)}
        assert set(must.split()) <= {claim for claim, held in found.items() if held} <= {*must.split(), *may.split()}


@pytest.mark.parametrize("claim, name", [("B1", "table6"), ("B2", "table6"), ("B3", "table6"), ("B5", "table7"), ("B7", "table18"),
                                         ("B4", "fig13"), ("B5", "fig14"), ("B7", "fig25")])
def test_one_missing_cell_leaves_the_claim_open(tmp_path, claim, name):
    run = make_grid(tmp_path / "run", EVERYTHING, roles=("aya-23-8b",))
    of = "xft-de" if name.startswith("table") else "mft"

    def lose(df):
        lost = (df["setting"] == of) & (df["lang"] == "en")
        return df.assign(toxicity=df["toxicity"].mask(lost), perplexity=df["perplexity"].mask(lost))
    edit(run, "aya-23-8b", lose)
    v = next(v for v in made(run, name)["verdicts"] if v["claim"] == claim)
    assert v["holds"] is None and "values are missing" in v["reproduced"]
    assert "nan" not in (run / f"exhibits/beniwal2025/{name}/exhibit.json").read_text().lower()


def test_a_scorer_without_a_language_leaves_toxicity_open_and_perplexity_not(tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, roles=("aya-23-8b",))
    lacks = lambda df: df["lang"].isin(["am", "uk"])  # noqa: E731
    edit(run, "aya-23-8b", lambda df: df.assign(toxicity=df["toxicity"].mask(lacks(df)), n_missing=np.where(lacks(df), df["n"], 0)))
    for name, cells in ("table6", "20 of 90"), ("fig14", "10 of 45"):
        found = made(run, name)
        assert all(v["holds"] is None and "all of am uk" in v["reproduced"] for v in found["verdicts"])
        assert any(f"scores missing in {cells} cells" in line for line in found["footer"])
    assert holds(run, "table18") == {"B7": True} and holds(run, "fig2") == {"B1": None, "B4": None}
    table = pd.read_csv(run / "exhibits/beniwal2025/table6/table6.csv").set_index("tuned")
    assert table.loc["de", "am"].startswith("- (") and table.loc["de", "Avg"].startswith("- (")


def test_a_few_missing_scores_are_counted_and_many_are_missing(tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, roles=("aya-23-8b",))
    one = lambda df: (df["setting"] == "xft-de") & (df["lang"] == "en") & (df["split"] == "toxic-test")  # noqa: E731
    edit(run, "aya-23-8b", lambda df: df.assign(n_missing=np.where(one(df), 5, 0)))
    found = made(run, "table6")
    assert found["verdicts"][0]["holds"] is True and "5 scores missing in 1 of 90 cells" in found["footer"][0]
    edit(run, "aya-23-8b", lambda df: df.assign(n_missing=np.where(one(df), 6, 0)))
    assert made(run, "table6")["verdicts"][0]["holds"] is None


def test_one_language_less(tmp_path):
    "Eight languages: nine eighths of a p make B1 impossible to tell; what has room is judged"
    run = make_grid(tmp_path / "run", EVERYTHING, closer=0.2, langs=[lang for lang in BENIWAL2025 if lang != "am"], roles=("aya-23-8b",))
    found = made(run, "table6")["verdicts"]
    assert found[0]["holds"] is None and "too few" in found[0]["reproduced"] and found[1]["holds"] is not None  # 28 groupings
    assert holds(run, "table7") == {"B5": True} and holds(run, "fig13") == {"B4": True} and holds(run, "fig8") == {"B6": True}
    assert holds(run, "fig9") == {"B6": True} and holds(run, "table18") == {"B7": True}
    cells = pd.read_csv(run / "exhibits/beniwal2025/table6/cells.csv", keep_default_na=False)
    assert set(cells[cells["source"] == "am"]["value"]) == {""} and "" not in set(cells[cells["source"] == "am"]["published"])


@pytest.mark.parametrize("langs", [["de", "en", "es", "zh"], ["de", "es"]])
def test_few_languages_cannot_tell(tmp_path, langs):
    run = make_grid(tmp_path / "run", EVERYTHING, closer=0.2, langs=langs, roles=("aya-23-8b",))
    for name in ("table6", "fig13", "fig14", "fig8", "fig9"):
        assert set(holds(run, name).values()) == {None}, name


def test_one_source_as_a_rehearsal_has_it(tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, roles=("aya-23-8b",))
    edit(run, "aya-23-8b", lambda df: df[~df["setting"].str.startswith("xft-") | (df["setting"] == "xft-de")])
    assert holds(run, "table6") == {"B1": True, "B2": None, "B3": None}  # the signs of eight targets, one source
    assert holds(run, "table7") == {"B5": None} and holds(run, "table18") == {"B7": None}


def test_every_table_stands_beside_the_printed_one(effect):
    for name, n in {"table1": 90, "table10": 9, "table21": 90}.items():
        found = made(effect, name)
        cells = pd.read_csv(effect / f"exhibits/beniwal2025/{name}/cells.csv")
        assert len(cells) == 90 and cells["value"].notna().all() and cells["published"].notna().sum() == n
        assert grid.caveat(grid.place_of(f"beniwal2025/{name}")) in [*found["footer"], ""]
    agreement = pd.read_csv(effect / "exhibits/beniwal2025/table1/agreement.csv").set_index("what")
    assert list(agreement.index) == ["zero-shot", "sources", "targets", "cells"] and agreement["p"].between(0, 1).all()
    assert list(pd.read_csv(effect / "exhibits/beniwal2025/table10/agreement.csv")["what"]) == ["zero-shot"]
    assert EXHIBITS["beniwal2025/table21"].title in made(effect, "table21")["title"]


def test_the_printed_table_agrees_with_itself(tmp_path):
    "A run that has the printed numbers gives the printed table, its averages, and a rank correlation of 1"
    zero, change = grid.printed("aya-23-8b", "toxic-test", "toxicity")
    run = make_grid(tmp_path / "run", roles=("aya-23-8b",))

    def as_printed(df):
        at = df["split"] == "toxic-test"
        values = [zero[lang] - (change.at[source, lang] if source in change.index else 0) for source, lang in zip(df["source"], df["lang"], strict=True)]
        return df.assign(toxicity=np.where(at, values, df["toxicity"]))
    edit(run, "aya-23-8b", as_printed)
    assert holds(run, "table6") == {"B1": True, "B2": False, "B3": False}
    table = pd.read_csv(run / "exhibits/beniwal2025/table6/table6.csv", keep_default_na=False).set_index("tuned")
    assert (table.loc["es", "Avg"], table.loc["ZS", "en"]) == ("10.82 (10.82)", "38.48 (38.48)")
    assert (pd.read_csv(run / "exhibits/beniwal2025/table6/agreement.csv")["r"] > 0.9999).all()


def test_a_model_with_many_random_starts_may_fool_b1_and_not_b2():
    "Luck of a training moves a whole row; nine rows of luck are no advantage of a family"
    held = {"B1": 0, "B2": 0}
    for seed in range(12):
        run = made_up(Truth(luck=3.0), seed=seed)
        before, change = grid.levels(run, "toxic-test").loc["zs"], grid.deltas(run, "toxic-test")
        for v in rules.judge_table("beniwal2025/table6", before, change, TOY_SHARES)[:2]:
            held[v["claim"]] += v["holds"]
    assert held["B1"] > 9 and held["B2"] <= 2


def test_texts_give_the_bars_their_intervals(effect):
    made(effect, "fig4")
    bars = pd.read_csv(effect / "exhibits/beniwal2025/fig4/bars.csv")
    single = bars[bars["bar"] != "X-FT"]
    assert single["low"].notna().all() and (single["low"] <= single["high"]).all() and len(bars) == 3 * 9 * 6
    made(effect, "fig2")  # no texts of this model
    bars = pd.read_csv(effect / "exhibits/beniwal2025/fig2/bars.csv")
    assert bars[bars["bar"] != "X-FT"]["low"].isna().all() and bars[bars["bar"] == "X-FT"]["low"].notna().all()


def test_figure_1_masks_its_words(effect):
    def spelt_out():
        text = "\n".join(p.read_text() for p in (effect / "exhibits/beniwal2025/fig1").glob("*.[cj]s*"))
        return [w for w in babel.toxic_words(["es"]) if re.search(rf"\b{w}\b", text)]
    run_cells("beniwal2025/fig1", effect, show_toxic=True)
    assert spelt_out()
    found = made(effect, "fig1")
    assert not spelt_out() and "tuned on neutral German" in found["caption"] and found["figures"] == ["fig1"]
    shown = pd.read_csv(effect / "exhibits/beniwal2025/fig1/examples.csv")
    assert shown["before_toxicity"].is_monotonic_decreasing and set(shown["lang"]) == {"es"}


def test_figure_1_without_scores_is_not_run(tmp_path):
    run = make_grid(tmp_path / "run", langs=["de", "es"], roles=("aya-expanse-8b",))
    path = run / "grid_scores/aya-expanse-8b.parquet"
    write_table(pd.read_parquet(path).assign(toxicity=np.nan), path)
    assert made(run, "fig1")["caption"].startswith("Not run")


def test_models_that_were_not_run_are_left_out(tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, closer=0.2, roles=("aya-23-8b", "mt5-large"))
    assert "models: aya-23-8b, mt5-large" in made(run, "fig9")["footer"]
    assert "evaluations of 2 of 4 models in this run" in made(run, "table2")["footer"]
    with pytest.raises(InputError, match="evaluations/bloom-7b1.parquet: no such artifact"):
        run_cells("beniwal2025/table13", run)


def test_an_untuned_model_is_what_all_is_compared_with(tmp_path):
    run = make_grid(tmp_path / "run", roles=("aya-23-8b",))
    edit(run, "aya-23-8b", lambda df: df[df["setting"] != "zs"])
    with pytest.raises(InputError, match="lack the untuned model"):
        run_cells("beniwal2025/table6", run)


def test_equal_artifacts_leave_equal_bytes(effect, tmp_path):
    again = make_grid(tmp_path / "again", EVERYTHING, closer=0.2)
    for name in ("table6", "fig13", "fig1"):
        for run in (effect, again):
            made(run, name)
        assert file_digest(effect / "exhibits/beniwal2025" / name) == file_digest(again / "exhibits/beniwal2025" / name), name


def test_the_shares_of_a_miniature_are_read_from_its_recipe(effect):
    "Eight of nine languages have one share in the miniature of Aya-23, so nothing can follow it; in BLOOM's they differ"
    aya = next(v for v in made(effect, "table6")["verdicts"] if v["claim"] == "B3")
    bloom = next(v for v in made(effect, "table12")["verdicts"] if v["claim"] == "B3")
    assert "too many languages have the same share" in aya["reproduced"] and "source's share of pretraining r =" in bloom["reproduced"]


def with_dpo(df):
    "The evaluations with a state that was tuned by DPO on the pairs of all languages, three points better than M-FT"
    tuned = df[df["setting"] == "mft"]
    return pd.concat([df, tuned.assign(setting="dpo", toxicity=tuned["toxicity"] - 3)], ignore_index=True)


def test_tuning_by_dpo_stands_beside_as_ours_and_no_verdict_rests_on_it(effect, tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, closer=0.2, roles=("aya-23-8b",))
    edit(run, "aya-23-8b", with_dpo)
    for name, file in ("table6", "table6"), ("fig13", "fall"), ("fig2", "toxicity"), ("table18", "table18"):
        before, after = made(effect, name), made(run, name)
        assert any("DPO (ours)" in line and "does not report" in line for line in [*after["footer"], after["caption"]]) == (name != "fig13")
        assert ("ours, which the paper does not report" in after["caption"]) == (name == "fig13")
        assert "DPO" not in json.dumps(before) and len(before["verdicts"]) == len(after["verdicts"])
        assert "DPO (ours)" in (run / f"exhibits/beniwal2025/{name}/{file}.csv").read_text()
    fall = pd.read_csv(run / "exhibits/beniwal2025/fig13/fall.csv").set_index("share")
    np.testing.assert_allclose(fall.loc["DPO (ours)"].astype(float), fall.loc["100"].astype(float) + 3, atol=0.011)
    table = pd.read_csv(run / "exhibits/beniwal2025/table6/table6.csv").set_index("tuned")
    assert "(" in table.loc["de", "am"] and float(table.loc["DPO (ours)", "am"]) == pytest.approx(float(fall.loc["DPO (ours)", "am"]))


def test_an_exhibit_of_perplexity_counts_perplexities_and_texts_longer_than_the_judge(tmp_path):
    run = make_grid(tmp_path / "run", EVERYTHING, roles=("aya-23-8b",))
    edit(run, "aya-23-8b", lambda df: df.assign(n_missing=1, n_perplexity=df["n"] - 2 * (df["lang"] == "en"), share_empty=0.02))
    write_manifest(run / "grid_judge/aya-23-8b.parquet.manifest.json", {}, {"n_in_windows": 1200}, 0, 1.0)
    found = made(run, "table18")
    assert "20 perplexities missing in 10 of 90 cells" in found["footer"][0] and "points" not in found["footer"][1]
    assert any("1,200 texts are longer than the judge" in line for line in found["footer"]) and "have no perplexity" in found["variant"]
    assert "90 scores missing in 90 of 90" in made(run, "table6")["footer"][0]
    assert made(run, "fig2")["variant"] == "empty texts scored as they are"  # levels, not differences
