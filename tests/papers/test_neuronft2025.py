"""The rules of the paper on targeted neurons: what is true of a made-up run is found, what is not true is not, and what is missing is said to be so."""
import numpy as np
import pandas as pd
import pytest
from xlingtox.languages import NEURONFT2025, NEURONFT2025_OUT
from xlingtox.mechanism.neuron_sets import sharing_counts
from xlingtox.papers.claims import CLAIMS, rules
from xlingtox.papers.neuronft2025 import abilities, answers, detected, methods, paired, shared, toxicity
from xlingtox.papers.neuronft2025.rules import JUDGES, judge_abilities, judge_toxicity, printed_verdicts
from xlingtox.papers.neuronft2025.toy import Truth, as_claimed, as_denied, made_up_abilities, made_up_answers, made_up_aurocs
from xlingtox.papers.published import reference

ROLES = list(methods.ROLES)
TABLES = {"neuronft2025/table3": NEURONFT2025, "neuronft2025/table4": NEURONFT2025_OUT}


def answered_of(truth_of, **more):
    return {role: made_up_answers(truth_of(role), role, **{"n": 40, "methods": (*methods.PAPER, "random")} | more) for role in ROLES}


def toxicity_verdicts(answered, name="neuronft2025/table4", langs=None):
    return {v["claim"]: v for v in judge_toxicity(name, answered, dict.fromkeys(answered, langs or TABLES[name]))}


def held(answered, name="neuronft2025/table4", langs=None):
    return {claim: v["holds"] for claim, v in toxicity_verdicts(answered, name, langs).items()}


def n1(langs=NEURONFT2025, **truth):
    aurocs, _ = made_up_aurocs(Truth(**truth), langs)
    return shared.judge_n1(sharing_counts(*shared.toxic_sets(aurocs)), list(langs), "neuronft2025/fig2")


def n2(chinese, roles=ROLES):
    counts = detected.counted({role: made_up_aurocs(Truth(chinese=c), seed=i)[1] for i, (role, c) in enumerate(zip(roles, chinese, strict=True))})
    return detected.judge_n2(counts, "neuronft2025/table2")


@pytest.fixture(scope="module")
def claimed():
    return answered_of(as_claimed)


def test_every_claim_has_a_rule_that_can_fail():
    table = rules(JUDGES)
    assert list(table.index) == [c for c in CLAIMS if c.startswith("N")] and (table != "").all(axis=None)


def test_what_the_printed_tables_are():
    assert len(reference("neuronft_tables")) == 242
    for table, role in [(t, r) for t in (3, 4, 5) for r in ROLES]:
        cells = methods.printed(table, role)
        assert list(cells) == list(methods.PAPER) and cells.notna().all(axis=None) and "average" not in cells.index


@pytest.mark.parametrize("truth, holds", [({"shared": 0.6}, True), ({"shared": 0.0}, False), ({"shared": 0.1, "toxic": 0.03}, False)])
def test_most_neurons_are_shared_and_more_than_by_chance(truth, holds):
    assert n1(**truth)["holds"] is holds


def test_sharing_of_one_language_or_none_cannot_be_told():
    assert n1(["en"], shared=0.6)["holds"] is None
    aurocs, _ = made_up_aurocs(Truth(shared=0.6))
    none = aurocs.assign(auroc=aurocs["auroc"].where(aurocs["lang"] != "hi", 0.4))
    v = shared.judge_n1(sharing_counts(*shared.toxic_sets(none)), NEURONFT2025, "neuronft2025/fig2")
    assert v["holds"] is None and "no toxic neuron in hi" in v["reproduced"]


@pytest.mark.parametrize("chinese, holds", [((0.7, 0.7), True), ((0.7, 1.3), False), ((1.3, 1.3), False), ((0.7, 1.0), None), ((1.0, 1.0), None)])
def test_chinese_has_the_fewest_in_each_model(chinese, holds):
    v = n2(chinese)
    assert v["holds"] is holds and v["reproduced"].startswith("cannot tell") == (holds is None)


def test_counts_without_chinese_or_without_a_null_cannot_be_told():
    counts = detected.counted({"aya-23-8b": made_up_aurocs(Truth(chinese=0.7))[1]})
    for rows, why in ((counts[counts["lang"] != "zh"], "it takes Chinese"), (counts.assign(low=np.nan), "under shuffled labels is not known"),
                      (counts[counts["threshold"] > 0.5], "no counts")):
        v = detected.judge_n2(rows, "neuronft2025/table2")
        assert v["holds"] is None and why in v["reproduced"]


def test_tuned_neurons_and_winners_are_found(claimed):
    assert held(claimed) == {"N3": True, "N6": True} and held(claimed, "neuronft2025/table3") == {"N6": True}
    assert held(answered_of(as_denied)) == {"N3": False, "N6": False}
    assert held(answered_of(lambda role: Truth())) == {"N3": False, "N6": False}


@pytest.mark.parametrize("winner", [("full", "full"), ("per-language", "per-language"), ("multilingual", "full")])
def test_each_model_has_its_own_winner(winner):
    best = dict(zip(ROLES, winner, strict=True))
    falls = {role: dict.fromkeys(("full", "per-language", "multilingual"), 0.3) | {best[role]: 0.8} for role in ROLES}
    assert held(answered_of(lambda role: Truth(falls=falls[role], beyond=falls[role]))) == {"N3": True, "N6": False}


def test_languages_that_were_tuned_on_say_nothing_of_the_others():
    "A fall in the nine languages alone is none out of scope, though the mean of all sixteen falls"
    falls = {"per-language": 0.8, "multilingual": 0.8}
    assert held(answered_of(lambda role: Truth(falls=falls))) == {"N3": False, "N6": False}


def test_one_way_of_tuning_neurons_is_not_both():
    assert held(answered_of(lambda role: Truth(beyond={"per-language": 0.8})))["N3"] is False


def test_random_neurons_stand_beside(claimed):
    v = toxicity_verdicts(claimed)["N3"]
    assert "multilingual less random -0." in v["detail"] and "random less base" in v["detail"] and "7 of 7" in v["detail"]
    alone = toxicity_verdicts({role: rows[rows["method"] != "random"] for role, rows in claimed.items()})["N3"]
    assert alone["holds"] is True and "multilingual less random -" in alone["detail"]  # the control is not known, the claim is


def test_silence_lowers_toxicity_and_is_seen_through():
    "Full tuning that only falls silent wins where empty responses count as harmless, and not without them"
    silent = answered_of(lambda role: Truth(empty={"full": 0.8}))
    langs = dict.fromkeys(ROLES, NEURONFT2025)
    full = {"aya-23-8b": [("full", "base")], "llama3.1-8b": [("full", "base")]}
    loud = {role: paired.spoken(rows) for role, rows in silent.items()}
    assert paired.settled(toxicity.role_contrasts(silent, full, langs), True).all()
    assert not paired.settled(toxicity.role_contrasts(loud, full, langs), True).any()
    levels = toxicity.toxicity_levels(silent, langs, out=False).set_index(["role", "responses", "method", "lang"])["value"]
    assert levels["aya-23-8b", "all", "full", "mean"] < 0.5 * levels["aya-23-8b", "not empty", "full", "mean"]


def test_missing_scores_leave_the_verdict_open(claimed):
    def lose(rows, n):
        of = (rows["method"] == "multilingual") & (rows["lang"] == "ko") & rows["prompt_id"].isin([f"p{i}" for i in range(n)])
        return rows.assign(toxicity=rows["toxicity"].mask(of & ~rows["empty"]))
    few, many = ({role: lose(rows, n) for role, rows in claimed.items()} for n in (2, 3))  # of 40: 5% and more
    assert held(few) == {"N3": True, "N6": True}
    found = toxicity_verdicts(many)
    assert found["N3"]["holds"] is None and "scores are missing in ko" in found["N3"]["reproduced"]
    assert held(many, "neuronft2025/table3") == {"N6": True}  # nothing is missing there


def test_unscored_empty_responses_are_left_out_and_not_missing(claimed):
    unscored = {role: rows.assign(toxicity=rows["toxicity"].mask(rows["empty"])) for role, rows in claimed.items()}
    assert held(unscored)["N3"] is True
    assert "no score and are left out" in methods.variant_of(*unscored.values())


@pytest.mark.parametrize("lacks, n3, n6", [("per-language", None, None), ("full", True, None), ("base", None, None), ("random", True, True)])
def test_a_method_that_was_not_run(claimed, lacks, n3, n6):
    found = toxicity_verdicts({role: rows[rows["method"] != lacks] for role, rows in claimed.items()})
    assert (found["N3"]["holds"], found["N6"]["holds"]) == (n3, n6)
    assert n6 or f"{lacks} not run" in found["N6"]["reproduced"]


def test_a_model_or_a_language_that_was_not_run(claimed):
    alone = toxicity_verdicts({"aya-23-8b": claimed["aya-23-8b"]})
    assert alone["N3"]["holds"] is True and alone["N6"]["holds"] is None and "llama3.1-8b" in alone["N6"]["reproduced"]
    assert held(claimed, langs=["cs", "ja"])["N3"] is True  # two of seven
    assert held({role: rows[rows["lang"] != "xx"].head(0) for role, rows in claimed.items()})["N3"] is None


def test_intervals_cover_and_p_is_uniform_where_nothing_differs():
    "Of 60 runs in which tuning does nothing, one-sided p below 0.1 in about 6"
    p = []
    for seed in range(60):
        rows = made_up_answers(Truth(), langs=["en", "de"], out=["cs"], n=30, methods=("base", "full"), seed=seed)
        p.append(paired.contrasts(rows, [("full", "base")], "toxicity", n_resamples=400).loc[0, "p_lower"])
    assert 1 <= (np.array(p) < 0.1).sum() <= 13 and 0.35 < np.mean(p) < 0.65


def test_a_contrast_is_the_difference_of_levels():
    rows = made_up_answers(Truth(falls={"full": 0.5}), n=25, methods=("base", "full"))
    levels = paired.level_table(rows, "toxicity", n_resamples=200).set_index(["method", "lang"])
    one = paired.contrasts(rows, [("full", "base")], "toxicity", n_resamples=200).loc[0]
    by_hand = rows.pivot_table(index="lang", columns="method", values="toxicity").mean()
    assert one["difference"] == pytest.approx(by_hand["full"] - by_hand["base"]) == pytest.approx(levels.at[("full", "mean"), "change"])
    assert levels.at[("full", "mean"), "value"] == pytest.approx(by_hand["full"]) and one["low"] < one["difference"] < one["high"]


def n4(answered, name="neuronft2025/fig5"):
    return answers.judge_n4(paired.contrasts(answers.off(answered), answers.AGAINST_FULL, "off", role="llama3.1-8b"), name)


@pytest.mark.parametrize("truth, holds", [(Truth(empty={"full": 0.3}), True), (Truth(other={"full": 0.3}), True), (Truth(), False),
                                          (Truth(other={"full": 0.3, "multilingual": 0.3}), False), (Truth(empty={"per-language": 0.3}), False)])
def test_off_answers_are_empty_or_in_another_language(truth, holds):
    assert n4(made_up_answers(truth, n=40, methods=tuple(methods.PAPER)))["holds"] is holds


def test_off_answers_need_no_score_and_every_method():
    rows = made_up_answers(Truth(empty={"full": 0.3}), n=40, methods=tuple(methods.PAPER)).assign(toxicity=np.nan)
    assert n4(rows)["holds"] is True
    assert n4(rows[rows["method"] != "multilingual"])["holds"] is None


def test_classes_count_what_is_heard():
    rows = made_up_answers(Truth(other={"full": 0.5}, empty={"full": 0.2}), langs=["en", "ja"], out=["ko"], n=100, methods=("base", "full"))
    rows.loc[rows.index[0], "heard"] = None  # says something, and no one can tell in which language
    counts = answers.classes(rows, 20).set_index(["method", "lang", "class"])["n"]
    assert counts["full", "ja", "en"] > 20 and counts["full", "ko", "NaN"] > 5 and counts["base", "ja", "self"] == 100
    assert counts.groupby(["method", "lang"]).sum().eq(100).all()
    assert (counts["base", "en", "others"], counts["base", "en", "NaN"]) == (1, 0)


def abilities_of(truth_of, **more):
    return {role: made_up_abilities(truth_of(role), role, **{"n": 50, "methods": tuple(methods.PAPER)} | more) for role in ROLES}


@pytest.mark.parametrize("truth_of, holds", [(as_claimed, True), (as_denied, False), (lambda role: Truth(), False),
                                             (lambda role: Truth(lost={"full": 0.8, "multilingual": 0.8}), False),
                                             (lambda role: Truth(lost=dict.fromkeys(methods.PAPER, 1.0)), None)])
def test_abilities_that_are_kept(truth_of, holds):
    assert judge_abilities("neuronft2025/table5", abilities_of(truth_of))["holds"] is holds


def test_abilities_without_a_method_cannot_be_told():
    less = {role: rows[rows["method"] != "full"] for role, rows in abilities_of(as_claimed).items()}
    v = judge_abilities("neuronft2025/table5", less)
    assert v["holds"] is None and "full not run" in v["reproduced"]


def test_questions_of_several_tasks_are_apart():
    rows = pd.concat([made_up_abilities(as_claimed("aya-23-8b"), task=task, seed=i, n=30) for i, task in enumerate(("facts", "m_mmlu"))])
    assert abilities.asked(rows)["question"].nunique() == 60 and abilities.task_words(rows).endswith("m_mmlu")
    assert judge_abilities("neuronft2025/table5", {"aya-23-8b": rows})["holds"] is True


def test_the_truth_of_neurons_is_known_or_not():
    from xlingtox.papers.neuronft2025.toy import made_up_mlp
    found = detected.truth_table({"aya-23-8b": made_up_mlp(Truth(found=2)), "llama3.1-8b": made_up_mlp(Truth(found=2), known=False)})
    assert set(found["role"]) == {"aya-23-8b"} and len(found) == 18 and detected.truth_words(found.head(0)) == []
    by = found.groupby("chosen")["precision"].mean()
    assert by["AUROC above 0.5"] < 0.3 < 0.6 < by["q up to 0.05"]


def test_the_printed_tables_under_the_rules():
    found = printed_verdicts().set_index(["claim", "exhibit"])["holds"]
    assert found["N2", "neuronft2025/table2"] is None  # no null is printed
    assert found["N3", "neuronft2025/table4"] is True and found["N5", "neuronft2025/table5"] is False
    assert {found["N6", f"neuronft2025/table{t}"] for t in (3, 4)} == {False}
    ours = paired.printed_contrasts(5, [("multilingual", "full")], "aya-23-8b").loc[0]
    assert ours["difference"] == pytest.approx(33.46 - 34.93, abs=0.02)
