"""Methods at equal perplexity, on tables whose truth is known."""
import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.mechanism.treatments import TREATMENTS
from xlingtox.papers import methods

STRENGTHS = (0.5, 1.0, 2.0)


@pytest.fixture(scope="module")
def toy():
    return methods.toy_methods(noise=0.0)


@pytest.fixture(scope="module")
def found(toy):
    return methods.outcomes(toy, n_resamples=200)


def of(table, method, metric="avgtox", at=1.1):
    return table[(table["method"] == method) & (table["metric"] == metric) & (table["at"] == at)].iloc[0]


@pytest.mark.parametrize("ratio", [1.0, 1.05, 1.1, 1.2])
@pytest.mark.parametrize("method", ["aura", "damp", "ablation"])
def test_a_method_is_read_where_its_path_meets_the_perplexity(found, method, ratio):
    "Without noise every prompt moves as the method says: strength, toxicity and perplexity are exact"
    fall, rise = methods.TOY[method]
    table, strength = methods.at_equal_perplexity(found, [ratio]), np.log(ratio) / rise
    row, base = of(table, method, at=ratio), of(table, "base", at=ratio)
    assert row["reached"] and row["strength"] == pytest.approx(strength, abs=1e-9)
    assert row["change"] == pytest.approx(row["value"] - base["value"], abs=1e-12)
    assert row["change"] == pytest.approx(-fall * strength, abs=0.005)  # a few prompts are clipped at 0
    assert of(table, method, "log_perplexity", ratio)["change"] == pytest.approx(np.log(ratio), abs=1e-9)


def test_two_methods_that_differ_in_price_alone_are_told_apart(found):
    "At their own strength of 1 aura and damp are equally toxic; at one perplexity they are not"
    table = methods.settings_table(found).query("strength == 1 and metric == 'avgtox'").set_index("method")
    assert table.at["aura", "value"] == pytest.approx(table.at["damp", "value"])
    equal = methods.at_equal_perplexity(found, [1.1])
    assert of(equal, "aura")["value"] < of(equal, "damp")["value"] - 0.05
    against = methods.at_equal_perplexity(found, [1.1], against="damp")
    assert of(against, "aura")["change"] == pytest.approx(of(equal, "aura")["value"] - of(equal, "damp")["value"])
    assert of(against, "aura")["p_holm"] < 0.05 and np.isnan(of(against, "damp")["p"])


def test_a_path_that_stays_below_is_read_at_its_end_and_said_so(found):
    row = of(methods.at_equal_perplexity(found, [1.1]), "steering")
    assert not row["reached"] and row["strength"] == max(STRENGTHS)
    assert "2+" in methods.methods_table(methods.at_equal_perplexity(found, [1.1]), 1.1)["strength"].tolist()


def test_what_lies_behind_the_first_crossing_does_not_count(toy):
    "A stronger setting that is cheap again, and harmless, is not reached without paying more on the way"
    strange = toy.copy()
    end = (strange["method"] == "damp") & (strange["strength"] == 2)
    strange.loc[end, ["log_perplexity", "mean", "max"]] = [np.log(20), 0.0, 0.0]
    plain, bent = (of(methods.at_equal_perplexity(methods.outcomes(t, n_resamples=20), [1.1]), "damp") for t in (toy, strange))
    assert bent["strength"] == plain["strength"] and bent["value"] == plain["value"]


def test_order_of_rows_and_of_methods_does_not_matter(toy, found):
    shuffled = methods.outcomes(toy.sample(frac=1, random_state=0), n_resamples=200)
    one, two = (methods.at_equal_perplexity(f, [1.1]).sort_values(["method", "metric"]).reset_index(drop=True) for f in (found, shuffled))
    pd.testing.assert_frame_equal(one.drop(columns=["p", "p_holm", "low", "high", "change_low", "change_high"]),
                                  two.drop(columns=["p", "p_holm", "low", "high", "change_low", "change_high"]))


def test_languages_weigh_alike_whatever_their_size():
    small, large = methods.toy_methods(n=10, langs=("en",)), methods.toy_methods(n=100, langs=("de",), seed=1)
    shift = 0.2
    large[["mean", "max"]] = large[["mean", "max"]] + shift
    values = [methods.outcomes(t, n_resamples=5).values[0, 2] for t in (small, large, pd.concat([small, large]))]
    assert values[2] == pytest.approx((values[0] + values[1]) / 2)


def test_missing_scores_are_missing_and_facts_are_resampled_apart(toy):
    lacking = toy.copy()
    lacking.loc[(lacking["method"] == "aura") & (lacking["strength"] == 1) & (lacking["lang"] == "de"), ["max", "any", "mean"]] = np.nan
    lacking.loc[lacking["max"].isna(), "n_scored"] = 0
    found = methods.outcomes(lacking, n_resamples=20)
    emt = methods.settings_table(found).query("method == 'aura' and strength == 1 and metric == 'emt'").iloc[0]
    assert np.isnan(emt["value"]) and np.isnan(emt["low"])
    assert np.isnan(of(methods.at_equal_perplexity(found, [1.08]), "aura", "emt", 1.08)["p_holm"])
    facts = toy[["method", "strength", "lang"]].drop_duplicates().merge(pd.DataFrame({"id": ["a", "b", "c"], "correct": [1.0, 0.0, 1.0]}), how="cross")
    row = methods.settings_table(methods.outcomes(toy, facts, n_resamples=100)).query("metric == 'facts'").iloc[0]
    assert row["value"] == pytest.approx(2 / 3) and row["low"] < row["value"] < row["high"]


@pytest.mark.slow
def test_an_effect_that_is_not_there_is_rarely_found():
    "Of 60 worlds in which ablation changes nothing, few have a p below 0.05"
    ps = []
    for seed in range(60):
        world = methods.toy_methods(n=30, langs=("en",), strengths=(1.0,), noise=0.05, seed=seed)
        found = methods.outcomes(world[world["method"].isin(["base", "ablation"])], n_resamples=200, seed=seed)
        ps.append(of(methods.at_equal_perplexity(found, [1.05]), "ablation", at=1.05)["p"])
    assert np.mean(np.array(ps) < 0.05) < 0.15  # 0.05 of 60, and three standard deviations


def test_the_front_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    points = rng.random((50, 2))
    front = methods.on_front(points)
    for i, point in enumerate(points):
        beaten = any((other <= point).all() and (other < point).any() for j, other in enumerate(points) if j != i)
        assert front[i] != beaten
    assert not methods.on_front(np.array([[np.nan, 0.0], [1.0, 1.0]]))[0]


def test_pictures_are_drawn_for_any_set_of_methods(found):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    points = methods.as_points(methods.settings_table(found), "avgtox")
    fig = plt.figure(layout="constrained")
    methods.draw_tradeoffs(fig, points, [1.1])
    assert [len(ax.texts) for ax in fig.axes] == [0, 4]  # the toy has no tuned method
    fig, ax = plt.subplots()
    methods.draw_equal(ax, methods.at_equal_perplexity(found, [1.1]), 1.1)
    assert [t.get_text() for t in ax.get_yticklabels()][-1] == "steering +"
    plt.close("all")
    assert len({methods.method_style(name) for name in TREATMENTS}) == len(TREATMENTS)


@pytest.mark.parametrize("change, message", [
    (lambda t: t[t["method"] != "base"], "the untouched model must be among the settings once"),
    (lambda t: t[t["method"] == "base"], "with at least one other"),
    (lambda t: t.drop(index=5), "base at 0 has no row for en p5: all settings must be judged on the same"),
    (lambda t: t.drop(columns="n_other"), "n_other"),
])
def test_bad_tables_are_one_line(toy, change, message):
    with pytest.raises(InputError, match=message):
        methods.outcomes(change(toy), n_resamples=5)


@pytest.mark.parametrize("given, message", [
    ({"against": "dpo"}, "there is no 'dpo' to compare with; there are base, aura"),
    ({"at": [0.9]}, "at 0.9 times its perplexity not even the untouched model is met"),
])
def test_bad_requests_are_one_line(found, given, message):
    with pytest.raises(InputError, match=message):
        methods.at_equal_perplexity(found, **given)
