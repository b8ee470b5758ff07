"Counts of shared neurons against enumeration and simulation, and a set that is toxic by construction."
import itertools

import numpy as np
import pandas as pd
import pytest
from xlingtox.core import InputError
from xlingtox.mechanism.neuron_sets import against_truth, by_number, neuron_counts, overlaps, sharing, sharing_counts
from xlingtox.neurons import neuron_index

SIZES = {"en": 30, "de": 12, "zh": 45}
N = 60


def drawn(seed, sizes=SIZES, n=N):
    "Sets of the given sizes, drawn independently, half of the neurons in each of two modules"
    rng = np.random.default_rng(seed)
    rows = [(lang, i) for lang, size in sizes.items() for i in rng.choice(n, size, replace=False)]
    table = pd.DataFrame(rows, columns=["lang", "i"])
    return table.assign(module=[f"layers.{i % 2}.mlp" for i in table["i"]], layer=table["i"] % 2, neuron=table["i"] // 2)


def test_counts_by_enumeration():
    toxic = drawn(0)
    members = {lang: set(group["i"]) for lang, group in toxic.groupby("lang")}
    counts = sharing_counts(toxic, N).set_index(["lang", "shared_by"])["n"]
    for lang in SIZES:
        others = [members[k] for k in SIZES if k != lang]
        one, every = members[lang] - set.union(*others), members[lang] & set.intersection(*others)
        assert counts[lang].to_dict() == {"one": len(one), "some": SIZES[lang] - len(one) - len(every), "all": len(every)}
    numbers = by_number(toxic, N)["n"].tolist()
    assert numbers == [sum(sum(i in s for s in members.values()) == k for i in range(N)) for k in range(4)]
    shared = sharing(toxic)
    assert len(shared) == N - numbers[0] and shared["n_langs"].is_monotonic_decreasing
    for row in shared.itertuples():
        assert set(row.langs.split()) == {lang for lang, s in members.items() if 2 * row.neuron + row.layer in s}
    for row in overlaps(toxic, N).itertuples():
        both, either = members[row.a] & members[row.b], members[row.a] | members[row.b]
        assert row.n_both == len(both) and row.jaccard == pytest.approx(len(both) / len(either))


def test_chance_is_the_mean_of_independent_sets():
    "200 draws; four standard errors"
    draws = [drawn(seed) for seed in range(200)]
    for function, key in ((sharing_counts, "n"), (by_number, "n"), (overlaps, "n_both")):
        values = np.array([function(d, N)[key] for d in draws])
        error = values.std(axis=0) / np.sqrt(len(draws))
        assert (np.abs(values.mean(axis=0) - function(draws[0], N)["by_chance"]) < 4 * error + 1e-9).all(), function
    pairs = overlaps(draws[0], N)
    inside = np.mean([(overlaps(d, N)["n_both"].between(pairs["low"], pairs["high"])).mean() for d in draws])
    assert inside > 0.93  # 95% at least, less what 600 pairs scatter
    assert (pairs["jaccard_low"] <= pairs["jaccard_by_chance"]).all() and (pairs["jaccard_by_chance"] <= pairs["jaccard_high"]).all()


@pytest.mark.parametrize("sizes", [{"en": 5}, {"en": 5, "de": 5}])
def test_few_languages(sizes):
    toxic = drawn(0, sizes)
    counts = sharing_counts(toxic, N)
    assert counts.groupby("lang")["n"].sum().to_dict() == sizes and counts.loc[counts["shared_by"] == "some", "n"].eq(0).all()
    assert len(overlaps(toxic, N)) == len(list(itertools.combinations(sizes, 2))) and len(by_number(toxic, N)) == len(sizes) + 1
    np.testing.assert_allclose(counts.groupby("lang")["by_chance"].sum(), 5)


def test_places():
    toxic = drawn(1)
    everyone = neuron_index({"layers.0.mlp": np.zeros((1, 30)), "layers.1.mlp": np.zeros((1, 30)), "layers.1.up": np.zeros((1, 10)), "x": np.zeros((1, 4))})
    by_layer = neuron_counts(toxic, everyone, ["layer"])
    assert len(by_layer) == 3 * 3 and by_layer.groupby("lang")["n_toxic"].sum().to_dict() == SIZES
    assert by_layer.groupby("lang", sort=False)["n_neurons"].sum().eq(74).all()
    by_module = neuron_counts(toxic, everyone, ["module"]).set_index(["lang", "module"])
    assert by_module.loc[("en", "layers.*.mlp"), "share"] == SIZES["en"] / 60 and by_module.loc[("en", "layers.*.up"), "n_toxic"] == 0
    assert len(neuron_counts(toxic, everyone, ["layer", "module"])) == 3 * 4


def test_truth():
    truth = pd.DataFrame({"layer": np.repeat([0, 1], 50), "neuron": np.tile(np.arange(50), 2), "toxic": np.tile(np.arange(50) < 5, 2)})
    mlp = truth.assign(module=["h." + str(layer) + ".mlp" for layer in truth["layer"]])
    found = against_truth(mlp[mlp["neuron"] < 10], truth)
    assert found["precision"] == 0.5 and found["recall"] == 1 and found["base_rate"] == 0.1 and found["p"] < 1e-6 and found["high"] < 0.3
    rng = np.random.default_rng(0)
    chance = [against_truth(mlp.iloc[rng.choice(100, 20, replace=False)], truth) for _ in range(300)]
    assert abs(np.mean([c["precision"] for c in chance]) - 0.1) < 0.015
    assert np.mean([c["low"] <= c["precision"] <= c["high"] for c in chance]) > 0.93 and np.mean([c["p"] < 0.05 for c in chance]) < 0.09
    empty = against_truth(mlp.head(0), truth)
    assert np.isnan([empty["precision"], empty["p"], empty["low"]]).all() and empty["recall"] == 0
    with pytest.raises(InputError, match="it takes those of modules='mlp'"):
        against_truth(pd.concat([mlp.head(1), mlp.head(1).assign(module="h.0.attn")]), truth)


@pytest.mark.parametrize("change, message", [
    (lambda t: t.head(0), "the table is empty"), (lambda t: pd.concat([t, t.tail(1)]), "occurs more than once in zh"),
    (lambda t: t.drop(columns="lang"), "lacks the columns lang")])
def test_bad_sets(change, message):
    everyone = neuron_index({"layers.0.mlp": np.zeros((1, 30)), "layers.1.mlp": np.zeros((1, 30))})
    for ask in (lambda t: sharing(t), lambda t: sharing_counts(t, N), lambda t: by_number(t, N), lambda t: overlaps(t, N),
                lambda t: neuron_counts(t, everyone, ["layer"])):
        with pytest.raises(InputError, match=message):
            ask(change(drawn(0)))


def test_more_toxic_neurons_than_neurons():
    with pytest.raises(InputError, match="zh has 45, more than there are: n_neurons is 44"):
        overlaps(drawn(0), 44)
