"AUROC of neurons against scikit-learn and scipy on every kind of number and tie, its null distribution, and bad input."
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.metrics import roc_auc_score
from xlingtox import neurons
from xlingtox.core import InputError
from xlingtox.neurons import auroc, neuron_aurocs, neuron_index, threshold_counts, toxic_neurons

N = 300


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).random(N) < 0.3


def numbers(kind):
    "Responses [N, 12] of a kind"
    x = np.random.default_rng(0).normal(size=(N, 12)) * np.logspace(-3, 3, 12)
    return {"float64": x, "float32": x.astype(np.float32), "float16": x.astype(np.float16), "rounded": np.round(x, 1), "integers": x.astype(int),
            "signs": np.sign(x), "booleans": x > 0, "relu": np.maximum(x, 0) * -1.0, "big-endian": x.astype(">f4"),
            "nearly equal": 1 + np.random.default_rng(0).integers(0, 4, (N, 12)) * 2**-52, "huge": np.sign(x) * np.exp(np.abs(x) % 600),
            "tiny": (x * 1e-6).astype(np.float16), "columns": np.asfortranarray(x), "constant": np.full((N, 12), 2.5)}[kind]


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "rounded", "integers", "signs", "booleans", "relu", "big-endian", "nearly equal",
                                  "huge", "tiny", "columns", "constant"])
@pytest.mark.parametrize("block", [1, 1000, 2**17])
def test_exact_with_ties(kind, block, labels, monkeypatch):
    monkeypatch.setattr(neurons, "_BLOCK", block)
    x = numbers(kind)
    np.testing.assert_allclose(auroc(x, labels), [roc_auc_score(labels, column) for column in x.T.astype(float)], atol=1e-12, rtol=0)


def test_minus_zero_is_zero():
    for dtype in (np.float16, np.float32, np.float64):
        assert auroc(np.array([[-0.0], [0.0], [-0.0], [0.0]], dtype=dtype), [1, 1, 0, 0]).tolist() == [0.5]
        assert auroc(np.array([[0.0], [-1e-3], [-0.0], [1e-3]], dtype=dtype), [1, 0, 1, 1]).tolist() == [1.0]


def test_many_texts_take_wider_keys():
    "More than 65,536 texts: their numbers no longer fit beside 16 bits into 32"
    n = 70_000
    y = np.random.default_rng(0).random(n) < 0.5
    x = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float16)
    np.testing.assert_allclose(auroc(x, y), [roc_auc_score(y, c) for c in x.T], atol=1e-12)


def test_from_a_file(tmp_path, labels):
    x = numbers("float16")
    np.save(tmp_path / "x.npy", x)
    np.testing.assert_array_equal(auroc(np.load(tmp_path / "x.npy", mmap_mode="r"), labels), auroc(x, labels))


@pytest.mark.parametrize("threads", ["1", "3", "", "2,1"])
def test_threads_do_not_matter(threads, labels, monkeypatch):
    monkeypatch.setattr(neurons, "_BLOCK", 900)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    np.testing.assert_allclose(auroc(numbers("rounded"), labels), [roc_auc_score(labels, c) for c in numbers("rounded").T], atol=1e-12)


@pytest.mark.parametrize("labels, message", [
    (np.zeros(4), "0 of 4 texts are toxic"), (np.ones(4, dtype=bool), "4 of 4 texts are toxic"), ([1, 0, 1], "3 labels for 4 texts"),
    ([1, 0, 0.4, 0], "the label of text 3 is 0.4"), ([1, 0, np.nan, 0], "the label of text 3 is nan"),
    (pd.Series([True, False, None, False], dtype="boolean"), "the label of text 3 is <NA>"), (["toxic", "no", "no", "no"], "the label of text 1 is toxic"),
    ([[1], [0], [1], [0]], "0 labels for 4 texts")])
def test_bad_labels(labels, message):
    with pytest.raises(InputError, match=message):
        auroc(np.arange(8.0).reshape(4, 2), labels)


def test_bad_responses():
    with pytest.raises(InputError, match=r"shape \(4,\); give \[texts, neurons\]"):
        auroc(np.arange(4.0), [1, 0, 1, 0])
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="not finite"):
            auroc(np.array([[0.0], [bad], [1.0]]), [1, 0, 1])
    assert auroc([[1, 2], [0, 3]], [True, False]).tolist() == [1.0, 0.0]


# --- the null distribution


def test_p_and_q(labels):
    x = numbers("rounded") + labels[:, None] * np.linspace(0, 1, 12) * np.logspace(-3, 3, 12)
    table, null = neuron_aurocs({"layers.0.a": x[:, :5], "layers.1.b": x[:, 5:]}, labels, n_shuffles=200, p="normal")
    expected = [mannwhitneyu(c[labels], c[~labels], alternative="greater", method="asymptotic").pvalue if np.ptp(c) else 1.0 for c in x.T]
    np.testing.assert_allclose(table["p"], expected, atol=1e-12)
    np.testing.assert_allclose(table["q"], false_discovery_control(expected), atol=1e-12)
    np.testing.assert_allclose(table["auroc"], auroc(x, labels))
    assert null.shape == (200, 12) and abs(null[:, np.ptp(x, axis=0) > 0].mean() - 0.5) < 0.01


def test_neither_kind_of_p_finds_more_than_it_may(labels):
    "Neurons that know nothing: p is uniform, so 5% are below 0.05, within four standard errors"
    x = np.random.default_rng(5).normal(size=(N, 3000)).astype(np.float16)
    for p in ("normal", "permutation"):
        table, _ = neuron_aurocs({"m": x}, labels, p=p)
        assert abs((table["p"] < 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 3000)
        assert len(toxic_neurons(table, max_fdr=0.05)) <= 2 and 1400 < len(toxic_neurons(table)) < 1600


def test_false_discoveries_are_held(labels):
    x = np.random.default_rng(6).normal(size=(N, 2000))
    x[:, :200] += labels[:, None]
    for p in ("normal", "permutation"):
        found = toxic_neurons(neuron_aurocs({"m": x}, labels, p=p)[0], max_fdr=0.1)
        assert found["neuron"].lt(200).sum() > 195 and 0.02 < found["neuron"].ge(200).mean() < 0.18


def test_a_constant_neuron_is_no_discovery(labels):
    x = np.zeros((N, 5))
    x[:, 0] = labels
    for p in ("normal", "permutation"):
        table, null = neuron_aurocs({"m": x}, labels, p=p)
        assert table["auroc"].tolist() == [1, 0.5, 0.5, 0.5, 0.5] and table["p"].tolist()[1:] == [1, 1, 1, 1] and (null[:, 1:] == 0.5).all()
        assert toxic_neurons(table)["neuron"].tolist() == [0]


def test_shuffles_come_from_the_seed_alone(labels):
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    a, b, c = (neuron_aurocs({"m": numbers("float16")}, labels, seed=seed)[1] for seed in (4, 4, 5))
    assert (a == b).all() and (a != c).any() and (np.random.get_state()[1] == state).all()


def test_modules_are_shuffled_together(labels):
    x = numbers("float16")
    _, null = neuron_aurocs({"a": x, "b": x}, labels)
    np.testing.assert_array_equal(null[:, :12], null[:, 12:])


@pytest.mark.parametrize("change, message", [
    ({"responses": {}}, "no neuron"), ({"responses": {"a": np.zeros((N, 0))}}, "no neuron"),
    ({"responses": {"a": np.zeros((N, 1)), "b": np.zeros((9, 1))}}, f"to 9 and {N} texts"), ({"p": "exact"}, "no p called 'exact'"),
    ({"n_shuffles": 0}, "n_shuffles is 0")])
def test_bad_input(change, message, labels):
    with pytest.raises(InputError, match=message):
        neuron_aurocs(**{"responses": {"a": numbers("signs")}, "labels": labels} | change)


# --- tables


def test_the_index_names_every_neuron():
    index = neuron_index({"model.layers.10.mlp.up_proj": np.zeros((1, 3)), "decoder.block.2.layer.0.wi_1": np.zeros((1, 1)), "x3.proj2": np.zeros((1, 1))})
    assert index["neuron"].tolist() == [0, 1, 2, 0, 0] and index["layer"].tolist()[:4] == [10, 10, 10, 2] and index["layer"].isna().tolist()[4]
    assert neuron_index({"h.1.x": np.zeros((1, 2))})["layer"].dtype == int


def test_counts_beside_chance():
    table = pd.DataFrame({"auroc": [0.5, 0.6, 0.7, 0.9]})
    null = np.array([[0.5, 0.6, 0.4, 0.4], [0.8, 0.6, 0.6, 0.5]])
    counts = threshold_counts(table, null, [0.5, 0.6, 0.95]).set_index("threshold")
    assert counts["n_toxic"].tolist() == [3, 2, 0] and (counts["n_neurons"] == 4).all()
    assert counts["by_chance"].tolist() == [2, 0.5, 0] and counts["fdr"].tolist()[:2] == [2 / 3, 0.25] and np.isnan(counts["fdr"].iloc[2])
    for bad in (null[:, :3], null[:0], null[0]):
        with pytest.raises(InputError, match="aurocs has 4 neurons and null the shape"):
            threshold_counts(table, bad)
