"""Statistics against scipy, plain resampling and closed forms, and the edges where they do not exist."""
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from xlingtox.core import InputError
from xlingtox.stats import correlation, holm, mixed_effect, paired_bootstrap, relative_decrease, resample_counts


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


@pytest.mark.parametrize("method, theirs", [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)])
@pytest.mark.parametrize("n", [4, 17, 200])
def test_correlation_is_scipys(method, theirs, n):
    rng = np.random.default_rng(n)
    x = np.r_[rng.normal(size=n - 1), 0].round(1)  # with ties
    y = np.r_[x[:-1] + rng.normal(size=n - 1), 3].round(1)
    got, wanted = correlation(x, y, method), theirs(x, y)
    assert (got["r"], got["p"]) == pytest.approx((wanted.statistic, wanted.pvalue), abs=1e-9)
    assert got["n"] == n and got["method"] == method and got["note"] == ""
    if method == "pearson":
        assert (got["low"], got["high"]) == pytest.approx(tuple(wanted.confidence_interval()))
    else:
        half = 1.959964 * np.sqrt((1 + got["r"] ** 2 / 2) / (n - 3))  # Bonett and Wright (2000)
        centre = np.arctanh(got["r"])
        assert (got["low"], got["high"]) == pytest.approx((np.tanh(centre - half), np.tanh(centre + half)), abs=1e-6)


def test_permutation_p_is_the_share_of_all_orders():
    x, y = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 3, 2, 5, 4])
    r = np.corrcoef(x, y)[0, 1]
    exact = np.mean([abs(np.corrcoef(x, order)[0, 1]) >= abs(r) - 1e-12 for order in itertools.permutations(y)])
    got = correlation(x, y, n_permutations=20_000)["p_permutation"]
    assert got == pytest.approx(exact, abs=0.01)
    assert got == correlation(x, y, n_permutations=20_000)["p_permutation"] != correlation(x, y, n_permutations=20_000, seed=1)["p_permutation"]
    assert correlation(x, x, n_permutations=99)["p_permutation"] >= 1 / 100  # never 0


def test_correlation_where_it_does_not_exist():
    x = np.arange(6.0)
    for y, note in ((np.ones(6), "y constant"), (np.full(6, 0.1) + 1e-17, "y constant"), ([1, np.nan, np.nan, np.nan, np.nan, 2], "fewer than three pairs")):
        got = correlation(x, y)
        assert np.isnan([got["r"], got["low"], got["high"], got["p"], got["p_permutation"]]).all() and got["note"] == note
    assert correlation(np.ones(6), np.ones(6))["note"] == "x and y constant"
    assert correlation([], [])["n"] == 0
    three = correlation([1, 2, 3], [1, 3, 2])
    assert three["r"] == pytest.approx(0.5) and np.isnan(three["low"])  # Fisher's interval takes four
    perfect = correlation(x, -2 * x)
    assert perfect["r"] == pytest.approx(-1) and perfect["low"] == pytest.approx(-1) and perfect["p"] < 1e-9


def test_missing_pairs_are_left_out():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    with_gaps = correlation(np.r_[x, np.nan, 1, np.inf], np.r_[y, 1, np.nan, 1], n_permutations=500)
    assert with_gaps.pop("n_missing") == 3
    without = correlation(x, y, n_permutations=500)
    assert without.pop("n_missing") == 0 and with_gaps == without
    assert correlation(pd.Series(x), y.tolist(), n_permutations=500)["r"] == without["r"]


@pytest.mark.parametrize("arguments, message", [(([1, 2], [1]), "same length"), (([1, 2, 3], [1, 2, 3], "kendall"), "there are pearson and spearman")])
def test_bad_correlation(arguments, message):
    with pytest.raises(InputError, match=message):
        correlation(*arguments)


@pytest.mark.parametrize("n, n_resamples", [(1, 5), (3, 50_000), (200, 2000), (100_000, 2)])
def test_resample_counts_are_draws_with_replacement(n, n_resamples):
    "Also where a block ends within the resamples, and where one resample is longer than a block"
    counts = resample_counts(n, n_resamples, 0)
    plain = np.random.default_rng(0).integers(0, n, (n_resamples, n))
    np.testing.assert_array_equal(counts, [np.bincount(row, minlength=n) for row in plain])
    if n == 3:  # every one of the ten possible resamples as often as the multinomial law says
        seen = pd.Series(map(tuple, counts.astype(int))).value_counts(normalize=True)
        law = {k: scipy.stats.multinomial.pmf(k, 3, [1 / 3] * 3) for k in itertools.product(range(4), repeat=3) if sum(k) == 3}
        assert len(seen) == 10 and max(abs(seen[k] - p) for k, p in law.items()) < 0.01


def test_resample_counts_go_on_with_a_generator():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(np.vstack([resample_counts(7, 3, rng), resample_counts(7, 4, rng)]), resample_counts(7, 7, 0))
    assert resample_counts(7, 0, 0).shape == (0, 7) and resample_counts(0, 3, 0).shape == (3, 0)


def test_benchmark_of_the_bootstrap_compares_the_same_comparison():
    row = pytest.importorskip("benchmarks.bench_bootstrap").run(n_prompts=100, rounds=1)
    assert row["same_estimate"] and row["difference"] < 0.05 and row["ratio"] > 0


def test_paired_bootstrap_is_the_normal_interval_for_many_prompts():
    rng = np.random.default_rng(0)
    before = rng.random(400)
    after = before - 0.1 + rng.normal(0, 0.2, 400)
    got, change = paired_bootstrap(before, after), after - before
    half = 1.96 * change.std() / 20
    assert got["difference"] == pytest.approx(change.mean())
    assert (got["low"], got["high"]) == pytest.approx((change.mean() - half, change.mean() + half), abs=0.002)
    assert paired_bootstrap(after, before)["difference"] == pytest.approx(-change.mean())
    assert got == paired_bootstrap(before, after) and got != paired_bootstrap(before, after, seed=1)


def test_paired_bootstrap_draws_seeds_too():
    "Prompts that all change alike, and seeds that do not: the interval is that of the seeds"
    before, of_seed = np.random.default_rng(0).random(50), np.array([-0.1, -0.2, -0.3])
    got = paired_bootstrap(before, before + of_seed[:, None])
    assert got["difference"] == pytest.approx(-0.2) and (got["low"], got["high"]) == pytest.approx((-0.3, -0.1)) and got["n_seeds"] == 3
    assert paired_bootstrap(before, (before + of_seed[:, None]).mean(0))["low"] == pytest.approx(-0.2)
    paired = paired_bootstrap(before + of_seed[:, None], before + 2 * of_seed[:, None])  # a seed is paired with itself
    assert paired["low"] == pytest.approx(-0.3) and paired["difference"] == pytest.approx(-0.2)


def test_paired_bootstrap_p():
    rng = np.random.default_rng(0)
    p = [paired_bootstrap(np.zeros(40), rng.normal(size=40), 400, seed=i)["p"] for i in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.1 and 0.35 < np.mean(p) < 0.65
    assert paired_bootstrap(np.zeros(40), np.ones(40), 999)["p"] == pytest.approx(2 / 1000)


def test_paired_bootstrap_missing_and_bad():
    got = paired_bootstrap([0.5, np.nan, 0.4], [[0.2, 0.1, 0.3], [0.3, 0.1, np.nan]])
    assert (got["n"], got["n_missing"], got["difference"]) == (1, 2, pytest.approx(-0.25))
    nothing = paired_bootstrap([np.nan], [1.0])
    assert np.isnan(nothing["difference"]) and (nothing["n"], nothing["n_missing"]) == (0, 1)
    for before, after in ((np.zeros(3), np.zeros(4)), (np.zeros((2, 3)), np.zeros((3, 3))), (np.zeros((1, 1, 3)), np.zeros(3))):
        with pytest.raises(InputError, match="both need the same prompts"):
            paired_bootstrap(before, after)


def test_relative_decrease():
    assert relative_decrease(0.5, 0.1) == pytest.approx(80) and relative_decrease(0.1, 0.2) == pytest.approx(-100)
    np.testing.assert_allclose(relative_decrease([0.5, 0, np.nan], [0.5, 0.1, 0.1]), [0, np.nan, np.nan])


def test_holm():
    p = np.array([0.04, np.nan, 0.001, 0.02, 0.3])
    wanted = [min(1, max(np.sort(p[~np.isnan(p)])[: rank + 1] * (4 - np.arange(rank + 1)))) for rank in (2, 0, 1, 3)]
    got = holm(p)
    assert np.isnan(got[1])
    np.testing.assert_allclose(got[[0, 2, 3, 4]], wanted)
    assert np.isnan(holm([np.nan])).all() and holm([]).shape == (0,)
    assert holm(pd.Series([0.01, 0.02])).tolist() == pytest.approx([0.02, 0.02])


def grid(rng, effect=-0.3, langs=17, seeds=5, sd=(0.05, 0.03, 0.02)):
    level, of_lang, of_seed = rng.normal(0.5, 0.1, langs), rng.normal(0, sd[0], langs), rng.normal(0, sd[1], seeds)
    rows = [(lang, None, "before", level[lang] + rng.normal(0, sd[2])) for lang in range(langs)]
    rows += [(lang, s, "after", level[lang] + effect + of_lang[lang] + of_seed[s] + rng.normal(0, sd[2])) for lang in range(langs) for s in range(seeds)]
    return pd.DataFrame(rows, columns=["lang", "seed", "condition", "value"])


def test_mixed_effect_of_a_balanced_table_is_the_difference_of_means():
    data = grid(np.random.default_rng(0))
    got = mixed_effect(data)
    means = data.groupby("condition")["value"].mean()
    assert got["estimate"] == pytest.approx(means["after"] - means["before"], abs=0.005)
    assert got["low"] < got["estimate"] < got["high"] < 0 and got["p"] < 0.001 and got["converged"]
    assert (got["n_langs"], got["n_seeds"], got["n"]) == (17, 5, 102)
    scaled = mixed_effect(data.assign(value=1000 * data["value"]))
    assert scaled["estimate"] == pytest.approx(1000 * got["estimate"], rel=1e-3) and scaled["p"] == pytest.approx(got["p"], rel=0.05)
    wide = mixed_effect(data, level=0.99)
    assert wide["low"] < got["low"] and wide["estimate"] == got["estimate"]


def test_mixed_effect_with_one_seed_and_missing_values():
    data = grid(np.random.default_rng(1), seeds=1)
    got = mixed_effect(data)
    assert got["n_seeds"] == 1 and np.isnan(got["sd_seed"]) and got["low"] < -0.3 < got["high"]
    gaps = grid(np.random.default_rng(2))
    gaps.loc[[3, 40, 50], "value"] = np.nan
    assert mixed_effect(gaps)["n"] == 99 and mixed_effect(gaps)["estimate"] == pytest.approx(-0.3, abs=0.08)


def test_mixed_effect_where_nothing_happens():
    data = grid(np.random.default_rng(0))
    still = mixed_effect(data.assign(value=0.5))
    assert np.isnan(still["estimate"]) and still["note"] == "the value never varies" and not still["converged"]
    unchanged = mixed_effect(grid(np.random.default_rng(3), effect=0))
    assert unchanged["low"] < 0 < unchanged["high"] and unchanged["p"] > 0.05


@pytest.mark.parametrize("change, message", [
    (lambda d: d.drop(columns="seed"), "lacks the columns seed"),
    (lambda d: d[d["condition"] == "after"], "must be before and after"),
    (lambda d: d.assign(condition=d["condition"].replace("after", "tuned")), "mind after, tuned"),
    (lambda d: d[d["lang"] == 0], "values of 1 language"),
])
def test_bad_mixed_effect(change, message):
    with pytest.raises(InputError, match=message):
        mixed_effect(change(grid(np.random.default_rng(0))))
