"""Scores that are missing, all of them or those of one language, and runs of one language: no verdict rests on them."""
import json

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import write_table
from xlingtox.papers import neuronft2025
from xlingtox.papers.beniwal2025 import grid
from xlingtox.papers.beniwal2025.rules import judge_share_figure, judge_table
from xlingtox.papers.beniwal2025.toy import TOY_SHARES, Truth, made_up
from xlingtox.papers.compare import compare
from xlingtox.papers.neuronft2025.rules import judge_toxicity
from xlingtox.papers.neuronft2025.toy import as_claimed, made_up_answers
from xlingtox.stats import paired_bootstrap

from synthetic_run import make_run, run_cells, write_capability, write_mechanism

LANGS = ["en", "de", "es", "ru", "zh", "ko"]
RATES = {2e-6: 0.1, 5e-6: 0.4, 1e-5: 0.65, 5e-5: 0.98}
# exhibit -> the claims that rest on scores
SCORED = {"fig1": "L1", "fig2": "L11", "fig4": "L13 L14", "fig11": "L6", "fig12": "L3", "table2": "L2", "table5": "L11"}
COMPARED = SCORED | {"fig3": "L12", "fig10": "L4", "table2": "L2 L4 L5", "table3": "L7", "table7": "L8"}


def whole_run(folder, langs):
    sweep = {"lr": {f"lr-{rate:g}-0": (s, {"learning_rate": rate}) for rate, s in RATES.items()}}
    make_run(folder, 0.9, langs, n_prompts=12, seeds=1, further=sweep)  # figure 11
    make_run(folder, 0.9, langs, n_prompts=12, roles=("bloom-1b7", "bloom-7b1"), seeds=1, further={"qlora": {"qlora-0": (0.3, {"tuning": "qlora"})}})
    write_capability(folder, "bloom-7b1", langs=langs, seeds=1)
    write_mechanism(folder, langs=LANGS, seeds=1, offsets=(-2, 1), n_prompts=12)
    for kind in ("probe", "activations", "interventions"):
        for path in (folder / kind).rglob("*.parquet"):
            table = pd.read_parquet(path)
            write_table(table[table["lang"].isin(langs)], path)
    return folder


def without_scores(folder):
    "Take away every toxicity of a run"
    for kind in ("scores", "prompt_scores", "metrics", "interventions"):
        for path in (folder / kind).rglob("*.parquet"):
            table = pd.read_parquet(path)
            lost = table["metric"].isin(["emt", "toxprob", "avgtox"]) if kind == "metrics" else np.ones(len(table), bool)
            columns = [c for c in ("toxicity", "prompt_toxicity", "max", "mean", "any", "value", "low", "high") if c in table]
            gone = {c: table[c].astype(float).mask(lost) for c in columns} | ({"n_missing": table["k"]} if "n_missing" in table else {})
            write_table(table.assign(**gone), path)
    return folder


@pytest.fixture(scope="module")
def unscored(tmp_path_factory):
    return without_scores(whole_run(tmp_path_factory.mktemp("unscored"), LANGS))


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    run = whole_run(tmp_path_factory.mktemp("english"), ["en"])
    for role in ("mgpt", "bloom-1b7", "bloom-7b1"):
        table = pd.DataFrame({"role": role, "lang": ["de"], "layer": [-1], "accuracy": [0.5], "cosine": [0.5]})
        write_table(table.head(0), run / f"retrieval/{role}.parquet")
    return run


def verdicts(run, name):
    run_cells(f"li2024/{name}", run)
    return {v["claim"]: v for v in json.loads((run / f"exhibits/li2024/{name}/exhibit.json").read_text())["verdicts"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORED)
def test_no_verdict_rests_on_scores_that_are_missing(unscored, name):
    found = verdicts(unscored, name)
    assert {c: found[c]["holds"] for c in SCORED[name].split()} == dict.fromkeys(SCORED[name].split())
    text = (unscored / f"exhibits/li2024/{name}/exhibit.json").read_text().lower()
    assert "nan" not in text.replace("finance", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARED)
def test_one_language_does_not_speak_for_others(english, name):
    found = verdicts(english, name)
    assert {c: found[c]["holds"] for c in COMPARED[name].split()} == dict.fromkeys(COMPARED[name].split())


def test_no_p_where_a_side_is_missing():
    values = np.random.default_rng(0).uniform(size=30)
    table = pd.DataFrame([(v, lang, i, x) for v in ("base", "dpo-0") for lang in ("en", "de") for i, x in enumerate(values)],
                         columns=["variant", "lang", "prompt_id", "max"])
    lost = table.assign(max=table["max"].mask((table["lang"] == "de") & (table["variant"] == "dpo-0")))
    found = compare(lost, "emt").set_index("lang")
    assert found.loc[["de", "mean"], ["p", "after", "decrease", "decrease_low"]].isna().all(axis=None) and found.loc["en", "p"] == 1
    assert np.isnan(paired_bootstrap(values, np.full(30, np.nan))["p"])


@pytest.mark.parametrize("langs", [None, ["de"]])
def test_beniwal2025_without_scores(langs):
    run = made_up(Truth(transfer=5, family=5, script=5, share=0.8, all_data=10, neutral=4, cost=0.3))
    run = run.assign(toxicity=np.nan, perplexity=np.nan) if langs is None else run[run["lang"].isin(langs) & run["source"].isin(["", *langs])]
    for split, names in {"toxic-test": ["table6"], "neutral-test": ["table7"]}.items():
        before, change = grid.levels(run, split).loc["zs"], grid.deltas(run, split)
        for name in names:
            assert {v["holds"] for v in judge_table(f"beniwal2025/{name}", before, change, TOY_SHARES)} == {None}
    levels = grid.levels(run, "toxic-train")
    shares = levels.loc["zs"] - levels.loc[[s for s in levels.index if s in grid.SHARES]]
    if langs is None:
        assert {v["holds"] for v in judge_share_figure("beniwal2025/fig13", levels.loc["zs"], shares)} == {None}


@pytest.mark.parametrize("langs", [None, ["de"]])
def test_neuronft2025_without_scores(langs):
    answered = {role: made_up_answers(as_claimed(role), role, n=20) for role in neuronft2025.methods.ROLES}
    if langs is None:
        answered = {role: table.assign(toxicity=np.nan) for role, table in answered.items()}
    of = dict.fromkeys(answered, langs or ["de", "fr"])
    assert {v["holds"] for v in judge_toxicity("neuronft2025/table4", answered, of)} == {None}
