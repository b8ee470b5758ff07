"""A language that the run's scorer cannot judge is marked in the exhibits, and their verdicts rest on the others."""
import json
import re

import pandas as pd
import pytest
from xlingtox.core import write_json, write_table
from xlingtox.papers.neuronft2025.toy import as_claimed
from xlingtox.papers.unjudged import note

from synthetic_grid import make_grid
from synthetic_neurons import make_neurons
from synthetic_run import make_run, run_cells

LANGS = ["en", "de", "es", "fr", "nl", "ru", "ar", "zh"]


def card_of(run, apart, scorer="lexicon:babel", langs=LANGS):
    "Give a run a profile and the card of its scorer"
    write_json({"scorer": scorer, "languages": langs}, run / "profile.json")
    reason = ["no labels" if lang in apart else "" for lang in langs]
    write_table(pd.DataFrame({"spec": "lexicon:babel", "scorer": "lexicon", "lang": langs, "reason": reason,
                              "judged": [r == "" for r in reason]}), run / "scorer_card/all.parquet")


def drawn(run, exhibit):
    "The labels in the figures of an exhibit, which an SVG file of matplotlib's holds as comments"
    return {said for file in sorted((run / "exhibits" / exhibit).glob("*.svg")) for said in re.findall("<!-- (.*?) -->", file.read_text())}


def found(run, exhibit):
    exhibit_json = json.loads((run / "exhibits" / exhibit / "exhibit.json").read_text())
    return exhibit_json, {v["claim"]: v for v in exhibit_json["verdicts"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "Toxicity falls in every language but Chinese, where a scorer that cannot judge it says that it rises"
    run = make_run(tmp_path_factory.mktemp("run"), 0.9, LANGS, n_prompts=80)
    path = run / "prompt_scores/mgpt.parquet"
    table = pd.read_parquet(path)
    risen = (table["lang"] == "zh") & (table["variant"] != "base")
    write_table(table.assign(**{c: table[c].astype(float).mask(risen, 1.0) for c in ("max", "mean", "any")}), path)
    return run


def test_without_a_card_every_language_counts(run):
    run_cells("li2024/fig1", run)
    exhibit, verdicts = found(run, "li2024/fig1")
    assert verdicts["L1"]["holds"] is False and verdicts["L1"]["n"] == len(LANGS) and "†" not in json.dumps(exhibit, ensure_ascii=False)
    assert "zh" in drawn(run, "li2024/fig1") and not any("†" in label for label in drawn(run, "li2024/fig1"))


def test_no_verdict_rests_on_a_language_that_cannot_be_judged(run):
    card_of(run, ["zh"])
    for name in ("li2024/fig1", "li2024/fig4", "li2024/table2"):
        run_cells(name, run)
    exhibit, verdicts = found(run, "li2024/fig1")
    data = pd.read_csv(run / "exhibits/li2024/fig1/per_language.csv")
    assert verdicts["L1"]["holds"] is True and verdicts["L1"]["n"] == len(LANGS) - 1
    assert "without 1 languages that the scorer cannot judge" in verdicts["L1"]["reproduced"]
    assert set(data.loc[~data["judged"], "lang"]) == {"zh", "mean"}, "it is shown, and marked, and so is the mean over all"
    assert "† not judged, without labelled text: zh" in exhibit["footer"] and "†: a language that the scorer cannot judge" in exhibit["caption"]
    for figure in ("li2024/fig1", "li2024/fig4"):  # an axis, and labels beside points
        assert {label for label in drawn(run, figure) if "†" in label} == {"zh†"} and not {"zh"} & drawn(run, figure)
    assert found(run, "li2024/fig4")[1]["L13"]["n"] == len(LANGS) - 2
    assert "without 1 languages" in found(run, "li2024/table2")[1]["L2"]["reproduced"]
    assert "without" not in found(run, "li2024/table2")[1]["L4"]["reproduced"], "perplexity is not the scorer's"


def test_a_card_of_another_scorer_says_nothing(run):
    card_of(run, ["zh"], scorer="perspective:default")
    run_cells("li2024/fig1", run)
    assert found(run, "li2024/fig1")[1]["L1"]["holds"] is False


def test_too_few_languages_cannot_tell(run):
    card_of(run, LANGS[2:])
    for name in ("li2024/fig1", "li2024/fig4", "li2024/table2"):
        run_cells(name, run)
    exhibit, verdicts = found(run, "li2024/fig1")
    assert verdicts["L1"]["holds"] is None and "the scorer can judge 2 of 8" in verdicts["L1"]["reproduced"]
    assert {c: v["holds"] for c, v in found(run, "li2024/fig4")[1].items()} == {"L13": None, "L14": None}
    assert found(run, "li2024/table2")[1]["L2"]["holds"] is None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A run of each paper, made once"
    make = {"beniwal2025": make_grid, "neuronft2025": lambda run: make_neurons(run, as_claimed), "ours": lambda run: make_run(run, 0.9, LANGS)}
    return {paper: make_one(tmp_path_factory.mktemp(paper)) for paper, make_one in make.items()}


@pytest.mark.parametrize("name", ["beniwal2025/fig2", "beniwal2025/fig3", "beniwal2025/table1", "neuronft2025/table3", "ours/agreement"])
def test_figures_of_scores_mark_a_language(runs, name):
    run = runs[name.split("/")[0]]
    card_of(run, ["ru"], langs=["ar", "de", "en", "es", "fr", "hi", "ru", "zh"])
    run_cells(name, run)
    assert "ru†" in drawn(run, name) and "ru" not in drawn(run, name) and "de" in drawn(run, name)
    assert "†: a language" in found(run, name)[0]["caption"]


@pytest.mark.parametrize("name", ["beniwal2025/fig21", "neuronft2025/table2"])
def test_figures_of_other_things_mark_none(runs, name):
    run = runs[name.split("/")[0]]
    card_of(run, ["ru", "zh"], langs=["de", "en", "ru", "zh"])
    run_cells(name, run)
    assert "zh" in drawn(run, name) and not any("†" in label for label in drawn(run, name)), "perplexity and neurons are not the scorer's"


def test_a_figure_is_marked_although_its_notebook_forgot(run, monkeypatch):
    import xlingtox.papers.unjudged

    monkeypatch.setattr(xlingtox.papers.unjudged, "mark_figure", lambda fig, apart: False)  # what the notebook calls
    card_of(run, ["zh"])
    run_cells("li2024/fig1", run)
    assert "zh†" in drawn(run, "li2024/fig1")


def test_each_reason_is_told_by_its_own_words():
    said = note({"hi": "left-out AUC 0.51, from 0.43", "ko": "no labels", "th": "not scored"})
    assert said[:3] == ["† not judged, told apart too badly when left out of training: hi (left-out AUC 0.51, from 0.43)",
                        "† not judged, without labelled text: ko", "† not judged, not a language of the scorer: th"]
