"""Scores that are missing, all of them or those of one language, and runs of one language: no verdict rests on them."""
import json

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import write_table
from xlingtox.papers import methods, neuronft2025
from xlingtox.papers.beniwal2025 import grid
from xlingtox.papers.beniwal2025.rules import judge_share_figure, judge_table
from xlingtox.papers.beniwal2025.toy import TOY_SHARES, Truth, made_up
from xlingtox.papers.compare import compare
from xlingtox.papers.controls import as_they_must, compare_controls
from xlingtox.papers.li2024 import activations, capability, fluency, offsets, toxicity, transfer
from xlingtox.papers.li2024.bases import judge_over_bases
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


# ---- partly missing scores: more than 5% of those of a language, and no verdict rests on them ---------------------------------------------

K = 20


def scored(variants, langs=LANGS, n=20):
    "What `prompt_scores` holds of an untuned model and of tuned ones that leave a share of its toxicity, more of it in later languages"
    toxic, rows = np.random.default_rng(0).uniform(0.4, 1, (len(langs), n)), []
    for variant, left in {"base": 1.0, **variants}.items():
        for i, lang in enumerate(langs):
            top = toxic[i] * (1 if variant == "base" else min(1, left + 0.05 * i))
            rows.append(pd.DataFrame({"role": "mgpt", "variant": variant, "lang": lang, "prompt_id": [f"p{p}" for p in range(n)], "max": top,
                                      "mean": top / 2, "any": top, "n_scored": K, "n_missing": 0, "k": K}))
    return pd.concat(rows, ignore_index=True)


def without(table, share, how, variant="dpo-0", lang="ru"):
    "The table with a share of the scores of one model and language gone: as missing ones, as rows of prompts, or as prompts"
    rows = ((table["variant"] == variant) & (table["lang"] == lang)).to_numpy()
    lost = round(share * K)
    if how == "missing":
        return table.assign(n_missing=table["n_missing"] + lost * rows, n_scored=table["n_scored"] - lost * rows)
    if how == "absent":
        return table.assign(k=table["k"] - lost * rows, n_scored=table["n_scored"] - lost * rows)
    return table.drop(table.index[rows][:lost])


def of_rates(scores):
    "What L6 is judged by: one model a rate"
    points = pd.DataFrame([("lr", f"dpo-{i}", rate, 0, 60) for i, rate in enumerate(RATES)], columns=["group", "variant", "rate", "seed", "steps"])
    ppl = pd.DataFrame([(v, lang, 10.0 + i) for i, v in enumerate(["base", *points["variant"]]) for lang in LANGS], columns=["variant", "lang", "value"])
    return fluency.change_by_rate(points, scores, ppl)


def by_role(scores):
    "What L2 is judged by: two families"
    dist = pd.DataFrame([(v, lang, "dist1", 0.5) for v in scores["variant"].unique() for lang in LANGS], columns=["variant", "lang", "metric", "value"])
    data = pd.concat([toxicity.average_change(scores, dist, role) for role in ("mgpt", "bloom-1b7")], ignore_index=True)
    return toxicity.with_direction(data, pd.DataFrame())


def of_alignment(scores):
    "What L13 and L14 are judged by"
    aligned = pd.DataFrame({"lang": LANGS, "layer": -1, "accuracy": np.linspace(0.9, 0.1, 6), "cosine": np.linspace(0.9, 0.1, 6)})
    return transfer.transfer_by_language(scores, aligned)


SEEDS, BY_RATE = {"dpo-0": 0.3, "dpo-1": 0.3, "dpo-2": 0.3}, {"dpo-0": 0.7, "dpo-1": 0.5, "dpo-2": 0.3, "dpo-3": 0.1}
KINDS, FACT = {"full": ["dpo-0"], "qlora": ["qlora-0"]}, {"value": 0.7}
PARTLY = {
    "L1": (SEEDS, lambda t: toxicity.judge_l1(toxicity.toxicity_change(t), "x")),
    "L2": (SEEDS, lambda t: toxicity.judge_l2(by_role(t), "x", len(LANGS))),
    "L3": ({"dpo-0": 0.1, "qlora-0": 0.5}, lambda t: toxicity.judge_l3(toxicity.compare_kinds(t, KINDS), toxicity.gap_of_kinds(t, KINDS),
                                                                        {"full": ["60"], "QLoRA": ["60"]}, "x")),
    "L6": (BY_RATE, lambda t: fluency.judge_l6(of_rates(t), fluency.trends_of_rates(of_rates(t)), "x")),
    "L13": (SEEDS, lambda t: transfer.judge_l13(of_alignment(t), transfer.correlate_transfer(of_alignment(t)), FACT, "x")),
    "L14": (SEEDS, lambda t: transfer.judge_l14(of_alignment(t), True, "mgpt", "x")),
}


@pytest.fixture
def quick(monkeypatch):
    "Fewer draws than a verdict takes in earnest; what is missing is not drawn"
    from xlingtox import stats
    from xlingtox.papers import compare as module

    monkeypatch.setattr(module, "resample_counts", lambda n, n_resamples, seed: stats.resample_counts(n, min(n_resamples, 200), seed))
    monkeypatch.setattr(module, "_with_sample", lambda n, m, rng: np.vstack([np.ones(n), stats.resample_counts(n, min(m, 200), rng)]))


@pytest.mark.parametrize("claim, how", [("L1", "missing"), ("L1", "absent"), ("L1", "prompts"), ("L2", "missing"), ("L3", "absent"), ("L6", "missing"),
                                        ("L13", "prompts"), ("L14", "missing")])
def test_no_verdict_of_li2024_rests_on_a_tenth_missing(quick, claim, how):
    variants, judge = PARTLY[claim]
    whole = scored(variants)
    assert judge(without(whole, 0.05, how))["holds"] is not None, "a twentieth may be missing"
    found = judge(without(whole, 0.1, how))
    assert found["holds"] is None and "cannot tell" in found["reproduced"] and "10%" in found["reproduced"]


def test_the_untuned_model_counts_and_each_seed_for_itself(quick):
    whole = scored(dict.fromkeys([f"dpo-{i}" for i in range(5)], 0.3))  # a tenth of one of five is 2% of all
    for variant in ("base", "dpo-4"):
        assert toxicity.judge_l1(toxicity.toxicity_change(without(whole, 0.1, "missing", variant)), "x")["holds"] is None


def test_english_bears_on_l1_and_not_on_transfer(quick):
    lost = without(scored(SEEDS), 0.1, "missing", lang="en")
    assert PARTLY["L1"][1](lost)["holds"] is None and PARTLY["L13"][1](lost)["holds"] is True


def offset_texts(lost=0, empty=False):
    "The texts of an intervention; of one set and language the first ones have no score"
    rows = []
    for sites, swept in {"none": [0], "actual": [-2, 1], "random-0": [-2, 1], "same-layers-0": [-2, 1]}.items():
        for offset in swept:
            for lang in ("en", "ko"):
                for p in range(40):
                    gone = sites == "actual" and offset == -2 and lang == "ko" and p < lost
                    share = 0.5 + (0.1 * offset if sites == "actual" else 0)
                    rows.append((sites, float(offset), lang, f"p{p}", "" if gone and empty else "a text", np.nan if gone else float(p < share * 40), 10.0, 0.9))
    return pd.DataFrame(rows, columns="sites offset lang prompt_id text toxicity perplexity dist2".split())


@pytest.mark.parametrize("lost, empty, told", [(2, False, True), (3, False, False), (3, True, True)])
def test_l11_knows_a_missing_score_from_a_text_that_says_nothing(lost, empty, told):
    texts = offsets.name_kinds(offset_texts(lost, empty))
    found = offsets.judge_l11(offsets.compare_offsets(texts), offsets.shares_of_draws(offsets.average_toxicity(texts)),
                              offsets.fluency_of_offsets(texts), "x", "said")
    assert (found["holds"] is not None) == told, found["reproduced"]


@pytest.mark.parametrize("lost, told", [(1, True), (2, False)])
def test_l11_of_few_neurons(lost, told):
    neutral = pd.DataFrame([(lang, f"p{p}", 0.0, float(p < 10)) for lang in ("es", "zh") for p in range(20)],
                           columns=["lang", "prompt_id", "before_toxicity", "after_toxicity"])
    neutral.loc[:lost - 1, "after_toxicity"] = np.nan
    assert (offsets.judge_l11_few(offsets.raised_by_few(neutral), "x", "said")["holds"] is not None) == told


@pytest.mark.parametrize("share, told", [(0.05, True), (0.1, False)])
def test_answers_and_activations_that_are_missing_in_part(share, told):
    rows = pd.DataFrame([(f"mgpt/{v}", v, "facts", lang, f"q{i}", float(i % 5 > 0), 0.25)
                         for v in ("base", "dpo-0") for lang in ("en", "de") for i in range(200)],
                        columns=["model", "variant", "task", "lang", "id", "correct", "chance"])
    gone = (rows["variant"] == "dpo-0") & (rows["lang"] == "de") & rows.groupby(["variant", "lang"]).cumcount().lt(round(200 * share))
    for table in (rows.assign(correct=rows["correct"].mask(gone)), rows[~gone]):
        assert (capability.judge_l7(capability.accuracy_change(table), "x")["holds"] is not None) == told
    sites = pd.DataFrame([(v, lang, f"0/{i}", (2.0 if v == "base" else 1.0) + i / 100) for v in ("base", "dpo-0") for lang in ("en", "de") for i in range(40)],
                         columns=["variant", "lang", "site", "activation"])
    lost = (sites["variant"] == "dpo-0") & (sites["lang"] == "de") & sites.groupby(["variant", "lang"]).cumcount().lt(round(40 * share))
    sets = {"actual": sites.assign(activation=sites["activation"].mask(lost)), "random": sites.head(0)}
    said = activations.judge_l12(activations.compare_activations(sets), None, "x", "said")["reproduced"]
    assert ("cannot tell" not in said) == told


def test_the_diversity_of_a_language_that_is_missing():
    dist = pd.DataFrame([(v, lang, f"dist{n}", (0.5 if v == "base" else 0.3) + i / 100)
                         for v in ("base", "dpo-0") for i, lang in enumerate(LANGS) for n in (1, 2, 3)],
                        columns=["variant", "lang", "metric", "value"])
    scores = scored({"dpo-0": 0.3})
    judged = [toxicity.judge_l5(toxicity.with_direction(toxicity.average_change(scores, table, "mgpt").reset_index(drop=True), pd.DataFrame()), 6, "x")["holds"]
              for table in (dist, dist[(dist["variant"] == "base") | (dist["lang"] != "ko")])]
    assert judged == [True, None]


@pytest.mark.parametrize("how", ["missing", "absent"])
@pytest.mark.parametrize("share, told", [(0.05, True), (0.1, False)])
def test_neuronft2025_with_some_scores_missing(how, share, told):
    answered = {role: made_up_answers(as_claimed(role), role, n=40) for role in neuronft2025.methods.ROLES}
    for role, table in answered.items():
        of = table[(table["method"] == "full") & (table["lang"] == "de") & ~table["empty"].astype(bool)].index
        gone = of[:round(40 * share)]
        answered[role] = table.drop(gone) if how == "absent" else table.assign(toxicity=table["toxicity"].mask(table.index.isin(gone)))
    (n6,) = (v for v in judge_toxicity("neuronft2025/table3", answered, dict.fromkeys(answered, ["de", "en"])) if v["claim"] == "N6")
    assert (n6["holds"] is not None) == told and ("cannot tell" in n6["reproduced"]) != told


def test_bases_that_cannot_tell_do_not_refute():
    rows = pd.DataFrame({"claim": "L1", "base": [f"mgpt-{i}" for i in range(5)], "holds": [True, True, True, None, None], "published": "lower",
                         "value": [70.0, 71.0, 72.0, np.nan, np.nan], "said": ["", "", "", *["cannot tell: more than 5% are missing in de 10%"] * 2]})
    found = judge_over_bases("L1", rows, "x")
    assert found["holds"] is None and "2 cannot be told" in found["reproduced"] and "nan" not in found["detail"] and found["interval"] is not None
    assert judge_over_bases("L1", rows.assign(holds=[True, False, False, None, None]), "x")["holds"] is False, "they could not turn it"


def test_controls_without_a_tenth(quick):
    table = scored({"dpo-0": 0.3, "swapped-0": 1.0, "shuffled-0": 0.9})
    assert as_they_must(*compare_controls(table, [0])) == {"swapped": True, "shuffled": True}
    assert as_they_must(*compare_controls(without(table, 0.1, "missing", "swapped-0"), [0])) == {"swapped": None, "shuffled": True}


def test_methods_without_a_tenth():
    toy = methods.toy_methods()
    gone = (toy["method"] == "aura") & (toy["lang"] == "de")
    equal = methods.at_equal_perplexity(methods.outcomes(toy.assign(n_scored=toy["n_scored"] - gone), n_resamples=50)).set_index(["method", "metric"])["p"]
    assert np.isnan(equal["aura", "emt"]) and np.isfinite(equal["damp", "emt"]) and np.isfinite(equal["aura", "dist1"])
