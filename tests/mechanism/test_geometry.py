"""The geometry of languages: which sentences, which vector, cosines against a loop, silhouettes by hand, and what moves between two matrices."""
import sys

import numpy as np
import pandas as pd
import pytest
from xlingtox import data, geometry
from xlingtox.core import InputError
from xlingtox.languages import BENIWAL2025
from xlingtox.mechanism import convergence
from xlingtox.papers import published
from xlingtox.representations import sentence_representations


def numbered(n, langs=("de", "en"), n_train=None):
    "Pairs whose texts say their language, side and row"
    n_train = n * 3 // 4 if n_train is None else n_train
    rows = [(f"p{i}", lang, f"{lang} toxic {i}", f"{lang} neutral {i}", "train" if i < n_train else "test") for lang in langs for i in range(n)]
    return pd.DataFrame(rows, columns=["id", "lang", "toxic", "neutral", "split"])


def row_numbers(texts, lang, split, label):
    kept = texts[(texts["lang"] == lang) & (texts["split"] == split) & (texts["label"] == label)]
    assert kept["text"].str.startswith(f"{lang} {label} ").all()
    return kept["text"].str.split().str[-1].astype(int).tolist()


def toy_clouds(seed=0, langs=("de", "en", "ru"), n=5, d=7):
    "Random vectors with the name of a cloud for each, in no order"
    rng = np.random.default_rng(seed)
    texts = pd.DataFrame([(lang, split, label) for lang in langs for split in ("train", "test") for label in ("toxic", "neutral") for _ in range(n)],
                         columns=["lang", "split", "label"])
    texts = texts.sample(frac=1, random_state=seed).reset_index(drop=True)
    return rng.normal(size=(len(texts), d)) + texts["lang"].map(dict(zip(langs, range(len(langs)), strict=True))).to_numpy()[:, None], texts


def matrix_of(change, langs="abcdefghi", clouds=("test_neutral", "train_toxic")):
    "A confusion table whose cells between languages are those of a square"
    names = [(i, f"{lang}_{cloud}") for i, lang in enumerate(langs) for cloud in clouds]
    rows = [(a, b, change[i, j]) for k, (i, a) in enumerate(names) for j, b in names[k:]]
    return pd.DataFrame(rows, columns=["a", "b", "cosine"])


# which sentences

def test_rows_of_pairs_are_both_sides_of_each():
    texts = geometry.cloud_texts(numbered(8))
    for lang in ("de", "en"):
        for label in ("toxic", "neutral"):
            assert row_numbers(texts, lang, "train", label) == [0, 1, 2, 3, 4, 5] and row_numbers(texts, lang, "test", label) == [6, 7]
    assert list(texts.columns) == ["id", "lang", "split", "label", "text"] and len(texts) == 32


@pytest.mark.parametrize("n, ends", [(400, (100, 200, 300, 400)), (800, (300, 600, 700, 800)), (1000, (300, 600, 700, 800)), (799, (199, 398, 597, 796))])
def test_published_rows_are_the_scripts(n, ends):
    "With 800 rows the script takes 300, 300, 100 and 100; with fewer a quarter each, as with the 400 of the data"
    texts = geometry.cloud_texts(numbered(n), "published")
    clouds = [("train", "toxic"), ("train", "neutral"), ("test", "toxic"), ("test", "neutral")]
    for (split, label), first, last in zip(clouds, (0, *ends[:3]), ends, strict=True):
        assert row_numbers(texts, "en", split, label) == list(range(first, last))
    assert not texts.duplicated(["lang", "id"]).any(), "no two sentences are a pair"


def test_released_pairs_give_clouds_of_a_hundred(real_data):
    texts = geometry.cloud_texts(data.paradetox(real_data / "paradetox_splits"), "published")
    assert set(geometry.cloud_names(texts).value_counts()) == {100} and geometry.cloud_names(texts).nunique() == 36
    toxic_test = texts[(texts["split"] == "test") & (texts["label"] == "toxic")]
    assert toxic_test["id"].str.startswith("train").all(), "training pairs of P-FT"
    assert texts.loc[(texts["split"] == "test") & (texts["label"] == "neutral"), "id"].str.startswith("test").all()


def test_no_such_rows():
    with pytest.raises(InputError, match="no rows 'paired' for the clouds; there are pairs and published"):
        geometry.cloud_texts(numbered(8), "paired")
    with pytest.raises(InputError, match="pairs: lacks the columns neutral"):
        geometry.cloud_texts(numbered(8).drop(columns="neutral"))


# which vector

TEXTS = ["the man sees the dog.", "du bist ein Hund.", "the woman", "the man"]


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "cohere", "mt5"])
def test_pooling_layer_and_length(toy_model, toy_tokenizer, architecture):
    model = toy_model(architecture)
    every = {pooling: sentence_representations(model, toy_tokenizer, TEXTS, 3, pooling) for pooling in ("mean", "first", "last")}
    for pooling, layers in every.items():
        for layer in (0, 1, -1):
            one = sentence_representations(model, toy_tokenizer, TEXTS, 2, pooling, layer)
            np.testing.assert_allclose(one, layers[layer], rtol=1e-3, atol=1e-4)
    first = sentence_representations(model, toy_tokenizer, TEXTS, max_tokens=1)
    assert first.shape == every["mean"].shape
    if architecture != "mt5":  # the encoder reads both ways
        np.testing.assert_allclose(first, every["first"], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="the model has no layer 3; there are 0 \\(embeddings\\) to 2"):
        sentence_representations(model, toy_tokenizer, TEXTS, layer=3)
    with pytest.raises(InputError, match="no pooling 'cls'; there are mean, first and last"):
        sentence_representations(model, toy_tokenizer, TEXTS, pooling="cls")


def test_the_first_token_of_a_causal_model_reads_nothing_after_it(toy_model, toy_tokenizer):
    class WithBos:
        def __call__(self, texts):
            return {"input_ids": [[1, *ids] for ids in toy_tokenizer(texts)["input_ids"]]}

    pairs = numbered(8, n_train=6)
    made = geometry.geometry(toy_model("gpt2"), WithBos(), pairs, "toy", "zs", pooling="first", method="none")
    np.testing.assert_allclose(made["confusion"]["cosine"], 1, atol=1e-6)
    assert made["silhouette"]["silhouette"].isna().all(), "missing, not 0"
    mean = geometry.geometry(toy_model("gpt2"), WithBos(), pairs, "toy", "zs", method="none")
    assert mean["confusion"]["cosine"].min() < 0.999 and mean["silhouette"]["silhouette"].notna().all()


def test_a_text_longer_than_the_context_is_cut(toy_model, toy_tokenizer):
    pairs = numbered(8, n_train=6)
    long = pairs.assign(toxic=pairs["toxic"] + " the dog sees the man." * 100)
    model = toy_model("gpt2")
    assert max(map(len, toy_tokenizer(long["toxic"].tolist())["input_ids"])) > model.config.max_position_embeddings
    made = geometry.geometry(model, toy_tokenizer, long, "toy", "zs", method="none")["confusion"]
    assert np.isfinite(made["cosine"]).all()


# the matrix

def test_confusion_is_the_mean_of_all_cosines():
    vectors, texts = toy_clouds()
    names = geometry.cloud_names(texts).to_numpy()
    table = geometry.confusion(vectors, names)
    assert len(table) == 12 * 13 / 2 and list(table.columns) == ["a", "b", "cosine"] and (table["a"] <= table["b"]).all()
    for row in table.itertuples():
        cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x in vectors[names == row.a] for y in vectors[names == row.b]]
        assert row.cosine == pytest.approx(np.mean(cosines), abs=1e-12)
    diagonal = table[table["a"] == table["b"]]["cosine"]
    assert (diagonal < 1 - 1e-6).all() and (diagonal > 0).all(), "each vector's cosine with itself is in it, and with others"


def test_lengths_do_not_matter_and_order_neither():
    vectors, texts = toy_clouds()
    names = geometry.cloud_names(texts)
    table, order = geometry.confusion(vectors, names), np.random.default_rng(1).permutation(len(vectors))
    longer = vectors * np.random.default_rng(2).uniform(0.1, 10, (len(vectors), 1))
    for other in (geometry.confusion(longer, names), geometry.confusion(vectors[order], names[order])):
        pd.testing.assert_frame_equal(table, other)


def test_confusion_has_the_published_form():
    vectors, texts = toy_clouds(langs=BENIWAL2025)
    ours, theirs = geometry.confusion(vectors, geometry.cloud_names(texts)), published.published_confusion("aya-23-8b", "zs")
    pd.testing.assert_frame_equal(ours[["a", "b"]], theirs[["a", "b"]])


@pytest.mark.parametrize("bad, message", [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "that of text 3 is zero")])
def test_vectors_without_a_direction(bad, message):
    vectors, texts = toy_clouds()
    vectors[3] = bad
    for call in (lambda: geometry.confusion(vectors, geometry.cloud_names(texts)), lambda: geometry.silhouettes(vectors, texts)):
        with pytest.raises(InputError, match=message):
            call()


def test_square():
    vectors, texts = toy_clouds()
    table = geometry.confusion(vectors, geometry.cloud_names(texts))
    matrix = geometry.square(table, ["ru", "de", "en"])
    assert [name[:2] for name in matrix.index] == ["ru"] * 4 + ["de"] * 4 + ["en"] * 4 and list(matrix.index) == list(matrix.columns)
    np.testing.assert_array_equal(matrix, matrix.T)
    for row in table.sample(20, random_state=0).itertuples():
        assert matrix.loc[row.a, row.b] == matrix.loc[row.b, row.a] == row.cosine
    assert geometry.square(table.assign(cosine=table["cosine"].where(table.index != 5))).isna().sum().sum() == 2, "missing stays missing"


# silhouettes

def silhouette_by_hand(vectors, labels):
    distance = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    found = []
    for i, own in enumerate(labels):
        means = {label: distance[i][[j for j, other in enumerate(labels) if other == label and j != i]].mean() for label in set(labels)}
        a = means.pop(own)
        found.append((min(means.values()) - a) / max(a, min(means.values())))
    return np.array(found)


def test_silhouettes_are_over_all_languages_and_averaged_in_each():
    vectors, texts = toy_clouds()
    found = geometry.silhouettes(vectors, texts).set_index("lang")["silhouette"]
    expected = pd.Series(silhouette_by_hand(vectors, texts["lang"].tolist())).groupby(texts["lang"]).mean()
    np.testing.assert_allclose(found, expected)
    assert found.index.tolist() == ["de", "en", "ru"]
    np.testing.assert_allclose(geometry.silhouettes(vectors * 3, texts)["silhouette"], found)


def test_silhouettes_by_label_stay_within_a_language():
    vectors, texts = toy_clouds()
    found = geometry.silhouettes(vectors, texts, "label").set_index("lang")["silhouette"]
    for lang in found.index:
        rows = (texts["lang"] == lang).to_numpy()
        assert found[lang] == pytest.approx(silhouette_by_hand(vectors[rows], texts.loc[rows, "label"].tolist()).mean())
    with pytest.raises(InputError, match="no silhouette by 'split'; there are lang and label"):
        geometry.silhouettes(vectors, texts, "split")
    rows = (texts["lang"] == "de").to_numpy()
    with pytest.raises(InputError, match="all texts are of one cluster, de; it takes two"):
        geometry.silhouettes(vectors[rows], texts[rows].reset_index(drop=True))
    everywhere = geometry.silhouettes(vectors, texts.set_index(pd.Index(range(100, 100 + len(texts)))))
    np.testing.assert_allclose(everywhere["silhouette"], geometry.silhouettes(vectors, texts)["silhouette"])


def test_rounding_is_no_spread():
    vectors, texts = toy_clouds()
    noise = 1 + 1e-6 * np.random.default_rng(0).normal(size=vectors.shape)
    assert geometry.silhouettes(noise, texts)["silhouette"].isna().all() and np.isnan(geometry.project(noise, "pca")).all()
    assert geometry.silhouettes(1 + 1e-2 * vectors, texts)["silhouette"].notna().all()


# pictures

def test_projection_standardises_each_feature():
    vectors, _ = toy_clouds(d=6)
    plane = geometry.project(vectors, "pca")
    assert plane.shape == (len(vectors), 2)
    scaled = vectors * [1, 1000, 1, 0.001, 1, 1] + [5, 0, -3, 0, 0, 1]
    np.testing.assert_allclose(np.abs(geometry.project(scaled, "pca")), np.abs(plane), atol=1e-6)
    with pytest.raises(InputError, match="no projection 'tsne'; there are umap and pca"):
        geometry.project(vectors, "tsne")


def test_umap_is_asked_for_by_name_and_its_absence_is_one_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install 'xlingtox\[umap\]', or take method pca"):
        geometry.project(toy_clouds()[0])


def test_umap_keeps_clouds_apart_and_comes_out_the_same():
    pytest.importorskip("umap", reason="umap-learn is not installed: pip install 'xlingtox[umap]'")
    vectors, texts = toy_clouds(n=12)
    vectors += 30 * (texts["lang"] == "ru").to_numpy()[:, None]
    plane = geometry.project(vectors)
    np.testing.assert_array_equal(plane, geometry.project(vectors))
    there = (texts["lang"] == "ru").to_numpy()
    gap = np.linalg.norm(plane[there].mean(0) - plane[~there].mean(0))
    assert gap > plane[there].std() and plane.shape == (len(vectors), 2)


def test_tables_of_a_model(toy_model, toy_tokenizer):
    pairs = numbered(8, n_train=6)
    made = geometry.geometry(toy_model("cohere"), toy_tokenizer, pairs, "toy", "xft-de", method="pca")
    assert {name: list(table.columns) for name, table in made.items()} == {
        "confusion": ["role", "setting", "a", "b", "cosine"], "silhouette": ["role", "setting", "lang", "silhouette"],
        "clouds": ["role", "setting", "lang", "split", "label", "id", "x", "y"]}
    assert all((table["role"] == "toy").all() and (table["setting"] == "xft-de").all() for table in made.values())
    vectors = sentence_representations(toy_model("cohere"), toy_tokenizer, geometry.cloud_texts(pairs)["text"], layer=-1)
    np.testing.assert_allclose(made["confusion"]["cosine"], geometry.confusion(vectors, geometry.cloud_names(geometry.cloud_texts(pairs)))["cosine"])
    for variant in geometry.VARIANTS.values():
        assert set(geometry.geometry(toy_model("mt5"), toy_tokenizer, pairs, "toy", "zs", method="none", **variant)) == {"confusion", "silhouette"}


# two matrices

def test_a_matrix_agrees_with_itself_and_its_renaming_does_not():
    figure7 = published.published_confusion("aya-23-8b", "zs")
    own = convergence.matrix_correlation(figure7, figure7, 199)
    assert own["r"] == pytest.approx(1) and own["r_between"] == pytest.approx(1) and own["p_between"] <= 0.02
    assert own["n"] == 36 * 35 // 2 and own["n_between"] == 36 * 16
    other = dict(zip(BENIWAL2025, np.roll(BENIWAL2025, 4), strict=True))
    renamed = figure7.assign(**{side: figure7[side].map(lambda name: other[name[:2]] + name[2:]) for side in ("a", "b")})
    found = convergence.matrix_correlation(figure7, renamed, 199)
    assert found["r_between"] < 0.7 and found["p_between"] > 0.05


def test_rank_correlation_leaves_the_diagonal_out_and_is_of_ranks():
    rng = np.random.default_rng(0)
    cells = rng.uniform(0, 1, (9, 9))
    one = matrix_of(cells)
    other = one.assign(cosine=np.where(one["a"] == one["b"], rng.uniform(size=len(one)) * 100, np.exp(5 * one["cosine"])))
    assert convergence.matrix_correlation(one, other, 1)["r"] == pytest.approx(1)
    down = one.assign(cosine=-one["cosine"])
    assert convergence.matrix_correlation(one, down, 99)["r"] == pytest.approx(-1) and convergence.matrix_correlation(one, down, 99)["p"] > 0.9
    lost = convergence.matrix_correlation(one, one.assign(cosine=one["cosine"].where(one.index != 1)), 5)
    assert np.isnan(lost["r"]) and np.isnan(lost["p"]), "missing is missing"
    flat = convergence.matrix_correlation(one, one.assign(cosine=1.0), 5)
    assert np.isnan(flat["r"]) and np.isnan(flat["p_between"])


def test_that_a_language_is_nearest_to_itself_is_no_agreement():
    "Whoever is named what, a cell of one language stays one: a matrix that tells languages apart and nothing more has p = 1"
    trivial = matrix_of(np.eye(9) * 0.5 + 0.2)
    found = convergence.matrix_correlation(trivial, trivial, 50)
    assert found["r"] == pytest.approx(1) and found["p"] == 1 and np.isnan(found["r_between"])


def test_matrices_of_other_clouds_are_refused():
    figure7 = published.published_confusion("aya-23-8b", "zs")
    without = figure7[~(figure7["a"] + figure7["b"]).str.contains("zh")]
    for call in (convergence.matrix_correlation, convergence.drawn_together):
        with pytest.raises(InputError, match="both need the same"):
            call(figure7, without)
    with pytest.raises(InputError, match="35 clouds of 9 languages; each needs test_neutral"):
        convergence.language_cosines(figure7[(figure7["a"] != "zh_train_toxic") & (figure7["b"] != "zh_train_toxic")])


def test_mean_cosine_of_languages():
    figure7 = published.published_confusion("aya-23-8b", "zs")
    table, square = convergence.language_cosines(figure7), geometry.square(figure7)
    for a, b in (("am", "en"), ("zh", "zh")):
        block = square.loc[square.index.str.startswith(a), square.columns.str.startswith(b)]
        assert table.loc[a, b] == pytest.approx(block.to_numpy().mean()) and block.shape == (4, 4)


def test_languages_drawn_together():
    rng = np.random.default_rng(0)
    before = np.eye(9) * 0.4 + 0.3
    noise = np.triu(rng.normal(0, 0.02, (9, 9)), 1)
    closer = convergence.drawn_together(matrix_of(before), matrix_of(before + 0.1 * (1 - np.eye(9)) + noise + noise.T))
    assert closer["before"] == pytest.approx(0.3) and closer["change"] == pytest.approx(0.1, abs=0.01)
    assert closer["low"] < 0.1 < closer["high"] and closer["low"] > 0 and closer["p"] == pytest.approx(2 / 512)
    assert closer["within_before"] == closer["within_after"] == pytest.approx(0.7) and closer["n_langs"] == 9
    apart = convergence.drawn_together(matrix_of(before), matrix_of(before - 0.1 * (1 - np.eye(9)) + noise + noise.T))
    assert apart["high"] < 0 and apart["p"] == pytest.approx(2 / 512)
    inside = convergence.drawn_together(matrix_of(before), matrix_of(before + 0.2 * np.eye(9) + noise + noise.T))
    assert inside["p"] > 0.05 and inside["within_after"] == pytest.approx(0.9)
    lost = matrix_of(before)
    lost.loc[lost["a"].str[0] != lost["b"].str[0], "cosine"] = np.nan
    lost = convergence.drawn_together(matrix_of(before), lost)
    assert np.isnan(lost["change"]) and np.isnan(lost["p"]) and np.isnan(lost["after"])
    two = convergence.drawn_together(matrix_of(before, "ab"), matrix_of(before + 0.1, "ab"))
    assert two["change"] == pytest.approx(0.1) and np.isnan(two["p"])


def test_shares_of_languages_add_up_to_the_change():
    rng = np.random.default_rng(1)
    change = rng.normal(size=(9, 9))
    change += change.T
    shares = convergence._shares(change)
    assert 2 * shares.mean() == pytest.approx(change[~np.eye(9, dtype=bool)].mean())
    rows = [(i, j) for i in range(9) for j in range(i)]
    design = np.array([[k in row for k in range(9)] for row in rows], dtype=float)
    np.testing.assert_allclose(shares, np.linalg.lstsq(design, [change[row] for row in rows])[0])


@pytest.mark.parametrize("of_languages, of_pairs", [(1, 0), (0, 1), (1, 1)])
def test_without_an_effect_the_test_is_not_too_often_significant(of_languages, of_pairs):
    rng, p = np.random.default_rng(0), []
    for _ in range(300):
        own, noise = of_languages * rng.normal(size=9), of_pairs * np.triu(rng.normal(size=(9, 9)), 1)
        p.append(convergence._flipped_p(convergence._shares(own[:, None] + own + noise + noise.T), 0))
    assert np.mean(np.array(p) <= 0.05) <= 0.08


def test_with_many_languages_signs_are_drawn():
    values = np.linspace(0.5, 1.5, 15)
    assert convergence._flipped_p(values, 0) == pytest.approx(1 / 10_000, abs=2e-4)
    assert convergence._flipped_p(np.resize([1.0, -1.0], 14), 0) == 1


# what was published

def test_the_published_matrices():
    whole = published.reference("beniwal2025_confusion")
    assert whole.shape == (20 * 666, 5) and list(whole.columns) == ["model", "tuning", "a", "b", "cosine"]
    assert (whole["cosine"].round(4) == whole["cosine"]).all() and whole["cosine"].between(-1, 1).all()
    settings = ("zs", "pft-10", "pft-20", "pft-30", "mft")
    cells = {setting: published.published_confusion("mt5-large", setting).set_index(["a", "b"])["cosine"] for setting in settings}
    assert all(cells[s].equals(cells["mft"]) for s in ("pft-10", "pft-20", "pft-30")) and (cells["zs"] - cells["mft"]).abs().max() < 1.5e-4
    with pytest.raises(InputError, match="no published matrix of role mgpt; there are aya-23-8b"):
        published.published_confusion("mgpt", "zs")
    with pytest.raises(InputError, match=r"no published matrix of setting pft-11 \(did you mean pft-10\?\)"):
        published.published_confusion("bloom-7b1", "pft-11")


def test_the_published_silhouettes_are_named_like_everything_else():
    table, released = published.published_silhouettes(), published.reference("beniwal2025_silhouette").set_index("lang")
    of = {(role, setting): rows.set_index("lang")["silhouette"] for (role, setting), rows in table.groupby(["role", "setting"])}
    assert len(of) == 20 and {role for role, _ in of} == {"aya-23-8b", "aya-expanse-8b", "bloom-7b1", "mt5-large"}
    for column, key in {"aya-23b-10-percent": ("aya-23-8b", "pft-10"), "aya_23_all": ("aya-23-8b", "mft"), "aya_23b_zero": ("aya-23-8b", "zs"),
                        "aya_8b_all": ("aya-expanse-8b", "mft"), "aya_8b_zero": ("aya-expanse-8b", "zs"), "bloom": ("bloom-7b1", "zs"),
                        "bloom_all_ft": ("bloom-7b1", "mft"), "mt5": ("mt5-large", "zs"), "mt5-30-percent": ("mt5-large", "pft-30")}.items():
        assert of[key].to_dict() == released[column].to_dict()


def test_claim_b6_on_the_published_matrices():
    def of(role, setting):
        return convergence.drawn_together(published.published_confusion(role, "zs"), published.published_confusion(role, setting))

    aya23, expanse, bloom = (of(role, "mft") for role in ("aya-23-8b", "aya-expanse-8b", "bloom-7b1"))
    assert aya23["change"] == pytest.approx(0.355, abs=1e-3) and expanse["change"] == pytest.approx(0.144, abs=1e-3)
    assert aya23["p"] < 0.01 and expanse["p"] < 0.01 and bloom["p"] > 0.05
    assert of("aya-expanse-8b", "pft-30")["high"] < 0
