"Agreement between scorers: figures against plain formulas, and the exhibit on a run without a model."
import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr
from xlingtox import babel, profiles
from xlingtox.core import InputError, read_table
from xlingtox.languages import LANGUAGES
from xlingtox.metrics.agreement import agreement, calibration, metrics_by_scorer, pair_scores
from xlingtox.runs import select
from xlingtox.scorers.by_name import load_scorer
from xlingtox.scorers.distorted import BiasedScorer, NoisyScorer
from xlingtox.scorers.lexicon import LexiconScorer

from synthetic_run import make_run, run_cells


def table(scorer, toxicity, lang="en"):
    n = len(toxicity)
    return pd.DataFrame({"model": "m/base", "lang": lang, "prompt_id": [f"p{i // 5}" for i in range(n)], "sample": [i % 5 for i in range(n)],
                         "scorer": scorer, "toxicity": toxicity})


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    x = np.round(rng.random(300), 1)
    y = np.clip(x * 0.6 + 0.3 * rng.random(300), 0, 1)
    y[[3, 50]] = np.nan
    return pair_scores(table("a", x), table("b", y))


def test_figures_are_those_of_the_plain_formulas(pairs):
    (row,) = agreement(pairs).to_dict("records")
    both = pairs.dropna()
    x, y = both["reference"], both["other"]
    assert row["pearson"] == pytest.approx(pearsonr(x, y)[0]) and row["spearman"] == pytest.approx(spearmanr(x, y)[0])
    assert row["bias"] == pytest.approx((y - x).mean()) and row["error"] == pytest.approx((y - x).abs().mean())
    assert (row["n"], row["n_missing"]) == (298, 2)
    bins = calibration(pairs)
    expected = sum(abs((y - x)[y.between(i / 10, (i + 1) / 10, inclusive="left")].sum()) for i in range(10)) / 298
    assert row["calibration_error"] == pytest.approx(expected) and bins["n"].sum() == 298 and bins["bin"].iloc[0] == 0.05


def test_intervals_are_over_prompts():
    "Five equal continuations a prompt are one observation, so the interval is as wide as with one each"
    rng = np.random.default_rng(1)
    x = rng.random(60)
    y = x + rng.normal(0, 0.5, 60)
    y = (y - y.min()) / np.ptp(y)
    five = agreement(pair_scores(table("a", np.repeat(x, 5)), table("b", np.repeat(y, 5)))).iloc[0]
    fisher = 2 * 1.96 / np.sqrt(57) * (1 - five["pearson"] ** 2)
    assert five["pearson_low"] < five["pearson"] < five["pearson_high"]
    assert five["pearson_high"] - five["pearson_low"] == pytest.approx(fisher, rel=0.25)


@pytest.mark.parametrize("y", [np.zeros(50), np.full(50, 0.7), np.full(50, np.nan)])
def test_a_scorer_without_an_opinion_has_no_correlation(y):
    (row,) = agreement(pair_scores(table("a", np.linspace(0, 1, 50)), table("b", y))).to_dict("records")
    assert np.isnan([row["pearson"], row["spearman"]]).all()
    assert row["n"] == (0 if np.isnan(y).all() else 50)


def test_perfect_agreement():
    x = np.linspace(0, 1, 50)
    (row,) = agreement(pair_scores(table("a", x), table("b", x))).to_dict("records")
    assert row["pearson"] == pytest.approx(1) and row["calibration_error"] == row["bias"] == 0
    (row,) = agreement(pair_scores(table("a", x), table("b", 1 - x))).to_dict("records")
    assert row["pearson"] == pytest.approx(-1) and row["spearman"] == pytest.approx(-1)


def test_pairs_must_fit():
    x = np.linspace(0, 1, 50)
    for other, message in [(table("b", x, "de"), "have 0 in common"), (pd.concat([table("b", x), table("c", x)]), "2 scorers in one table"),
                           (table("b", x).drop(columns="sample"), "lacks the columns sample")]:
        with pytest.raises(InputError, match=message):
            pair_scores(table("a", x), other)


def test_metrics_under_each_scorer():
    both = pd.concat([table("a", np.linspace(0, 0.49, 50)), table("b", np.linspace(0, 1, 50))])
    found = metrics_by_scorer(both).set_index("scorer")
    assert found.loc["a", "toxprob"] == 0 < found.loc["b", "toxprob"] and found.loc["a", "emt"] < found.loc["b", "emt"]


@pytest.fixture(scope="module")
def truth():
    return LexiconScorer(babel.load_lexicon())


def test_the_noisy_scorer_is_fair_and_always_the_same(truth):
    labelled = babel.labelled(["en", "zh"], n=300)
    for lang, g in labelled.groupby("lang"):
        texts = g["text"].tolist()
        scores, again = NoisyScorer(truth).score(texts, lang), load_scorer("noisy:lexicon:babel").score(texts[::-1], lang)[::-1]
        np.testing.assert_array_equal(scores, again)
        known = np.clip(truth.score(texts, lang), 0.02, 0.98)
        z = (np.log(scores / (1 - scores)) - np.log(known / (1 - known))) / 1.5
        z = z[np.unique(texts, return_index=True)[1]]
        assert abs(z.mean()) < 4 / np.sqrt(len(z)) and abs(z.std() - 1) < 4 / np.sqrt(2 * len(z))
    assert NoisyScorer(truth, 0.5).version != NoisyScorer(truth).version != truth.version


def test_the_biased_scorer_reads_latin_letters_only(truth):
    biased = load_scorer("biased:lexicon:babel")
    for lang in LANGUAGES.index:
        texts = babel.labelled([lang], n=60)["text"].tolist()
        latin = LANGUAGES.at[lang, "script"] == "Latin"
        known = truth.score(texts, lang)
        np.testing.assert_allclose(biased.score(texts, lang), known if latin else 0, err_msg=lang)
        assert known.max() > 0
    assert BiasedScorer(truth).score(["Müller, l'été: naïve!"], "de")[0] == truth.score(["Müller, l'été: naïve!"], "de")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "mini", 0.9, ["en", "de", "es", "ru", "zh", "ko"], n_prompts=20)


def test_the_exhibit(run):
    run_cells("ours/agreement", run)
    folder = run / "exhibits/ours/agreement"
    found = json.loads((folder / "exhibit.json").read_text())
    assert found["verdicts"] == [] and found["scorer"] == "lexicon, noisy lexicon, biased lexicon"
    assert any(line.startswith("biased lexicon: 0 scores missing; one score for every text in ru") for line in found["footer"])
    data = read_table(folder / "agreement.csv").set_index(["scorer", "lang"])
    assert data.loc[("biased lexicon", "de"), "pearson"] == pytest.approx(1) and np.isnan(data.loc[("biased lexicon", "zh"), "pearson"])
    assert (data.loc["biased lexicon"].loc[["ko", "ru", "zh"], "bias_high"] < 0).all() and data.loc[("biased lexicon", "de"), "bias"] == 0
    assert (data.loc["noisy lexicon", "pearson"].between(0.2, 0.99)).all()
    metrics = read_table(folder / "metrics.csv").set_index(["scorer", "lang"])
    assert metrics.loc["noisy lexicon", "emt_before"].mean() > metrics.loc["lexicon", "emt_before"].mean(), "a maximum of noisy scores is too high"
    assert metrics.loc[("biased lexicon", "zh"), "emt_before"] == 0
    shown = read_table(folder / "averages.csv").set_index("scorer")
    assert shown.loc["biased lexicon", "languages without toxicity"] == 3 and shown.loc["lexicon", "r"] == "-"


def test_the_exhibit_needs_a_profile_with_further_scorers(tmp_path):
    mini = profiles.load_profile("mini")
    assert "ours/agreement" in select.available(mini)
    without = mini.model_copy(update={"agreement": []})
    assert "ours/agreement" not in select.available(without)
    (tmp_path / "mine.yaml").write_text("extends: mini\nname: mine\nagreement: ['noisy:oracle:x']\n")
    with pytest.raises(InputError, match="unknown scorer 'oracle:x'"):
        profiles.load_profile(tmp_path / "mine.yaml")
