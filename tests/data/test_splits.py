"""What each setting is tuned on and continues, bad pairs, and the copies between training and test: on toys, on babel, on the released files."""
import numpy as np
import pandas as pd
import pytest
from xlingtox import data
from xlingtox.babel import draw
from xlingtox.babel.grammar import is_reserved, realise
from xlingtox.core import InputError
from xlingtox.data import splits
from xlingtox.languages import BENIWAL2025, LANGUAGES


@pytest.fixture(scope="module")
def pairs():
    return data.load_data("babel:parallel", "parallel", BENIWAL2025)


def toy(train, test, lang="en"):
    rows = [(f"{split}{i}", lang, *sides, split) for split, part in (("train", train), ("test", test)) for i, sides in enumerate(part)]
    return pd.DataFrame(rows, columns=["id", "lang", "toxic", "neutral", "split"])


def test_babel_has_pairs_of_every_language_and_no_sentence_twice():
    pairs = data.load_data("babel:parallel", "parallel")
    assert set(pairs["lang"]) == set(LANGUAGES.index) and set(pairs.groupby(["lang", "split"]).size()) == {300, 100}
    for lang, rows in pairs.groupby("lang"):
        assert pd.concat([rows["toxic"], rows["neutral"]]).nunique() == 800, lang
    for lang, rows in pairs[pairs["lang"].isin(["ja", "en", "uk"])].groupby("lang"):
        counted = splits.leakage(splits.nearest_in_training(rows))
        assert counted[["exact", "normalised"]].sum().sum() == 0, lang


@pytest.mark.parametrize("seed", [0, 1])
def test_neither_side_of_a_babel_pair_crosses_the_line(seed):
    "No test sentence may be learnt from, no training sentence is kept for evaluation or holds a concept that is held out"
    import random

    rng = random.Random(f"{seed}/parallel")
    train, test = (draw._distinct_pairs(rng, n, split) for n, split in ((300, "train"), (100, "test")))
    assert all(is_reserved(frame) for pair in test for frame in pair)
    assert not any(is_reserved(frame) or draw.held_out_concepts() & set(frame[1]) for pair in train for frame in pair)
    english = draw.parallel(["en"], seed=seed)
    assert english["neutral"].tolist() == [realise(neutral, "en") for _, neutral in [*train, *test]]


def test_babel_says_when_it_has_no_more_pairs(monkeypatch):
    monkeypatch.setattr(draw, "_allowed", lambda frame, split: False)
    with pytest.raises(InputError, match="babel:parallel: has 0 pairs to train with, not 300; ask for fewer"):
        draw.parallel(["en"])


def test_the_first_so_many_of_each_split_are_taken(pairs):
    mixed = pairs.sample(frac=1, random_state=0)
    taken = splits.take_splits(mixed, ["zh", "am"], {"train": 7, "test": 3})
    assert taken.groupby(["lang", "split"]).size().to_dict() == {(lang, split): n for lang in ("am", "zh") for split, n in (("train", 7), ("test", 3))}
    zh = mixed[(mixed["lang"] == "zh") & (mixed["split"] == "test")]
    assert taken["lang"].iloc[0] == "zh" and taken[(taken["lang"] == "zh") & (taken["split"] == "test")]["id"].tolist() == zh["id"].tolist()[:3]


@pytest.mark.parametrize("spoil, message", [
    (lambda p: p[p["lang"] != "hi"], "mine.csv: has no pairs in hi; it has am ar de en es ru uk zh"),
    (lambda p: p[(p["lang"] != "uk") | (p["split"] == "train")], "mine.csv: has 0 pairs in uk to test with; the split takes 100"),
    (lambda p: p[(p["lang"] != "zh") | (p["id"] != "x5")], "mine.csv: has 299 pairs in zh to train with; the split takes 300"),
    (lambda p: p.assign(toxic=p["toxic"].mask((p["id"] == "x5") & (p["lang"] == "ru"))), "mine.csv: ru x5 has a neutral sentence but no toxic one"),
    (lambda p: p.assign(neutral=p["neutral"].mask((p["id"] == "x9") & (p["lang"] == "ru"), " \n")), "mine.csv: ru x9 has a toxic sentence but no neutral one"),
    (lambda p: p.drop(columns="neutral"), "mine.csv: lacks the columns neutral"),
    (lambda p: pd.concat([p, p.tail(1)]), "zh x399 occurs more than once"),
])
def test_pairs_that_will_not_do(pairs, spoil, message):
    with pytest.raises(InputError, match=message) as error:
        splits.take_splits(spoil(pairs), where="mine.csv")
    assert "\n" not in str(error.value)


def test_evaluation_sets_are_the_sides_that_the_paper_names(pairs):
    prompts, of = splits.evaluation_prompts(pairs), pairs.set_index(["lang", "id"])
    assert list(prompts.columns) == ["id", "lang", "split", "text"]
    for split, (part, side) in {"toxic-train": ("train", "toxic"), "toxic-test": ("test", "toxic"), "neutral-test": ("test", "neutral")}.items():
        rows = prompts[prompts["split"] == split].set_index(["lang", "id"])
        assert (rows["text"] == of.loc[rows.index, side]).all() and (of.loc[rows.index, "split"] == part).all()
        assert len(rows) == 9 * splits.SIZES[part] and rows.index.is_unique
        assert data.validate(rows.reset_index(), "prompts") is not None
    only = splits.evaluation_prompts(pairs, ("neutral-test",))
    assert set(only["split"]) == {"neutral-test"} and len(only) == 900


def test_a_share_is_what_the_released_script_draws(pairs):
    "np.random.seed(42), then np.random.choice(range(300), size, replace=False) for one language after the other"
    for percent in (10, 20, 30):
        rng, share = np.random.RandomState(42), splits.take_share(pairs, percent)
        for lang in "en es de zh ar hi uk ru am".split():
            rows = rng.choice(list(range(300)), size=int(300 * percent / 100), replace=False)
            assert set(share.loc[share["lang"] == lang, "id"]) == {f"x{i}" for i in rows}, (percent, lang)
    assert (share["split"] == "train").all() and share.index.is_monotonic_increasing
    alone = splits.take_share(pairs[pairs["lang"] == "uk"], 30)
    assert alone["id"].tolist() == share.loc[share["lang"] == "uk", "id"].tolist(), "a language's share does not hang on the others"


def test_settings(pairs):
    assert splits.grid_settings() == ["zs", *(f"xft-{lang}" for lang in BENIWAL2025), "pft-10", "pft-20", "pft-30", "mft"]
    for setting in [*splits.grid_settings(), "dpo"]:
        tuned = splits.tuning_pairs(pairs, setting)
        assert (tuned["split"] == "train").all() and list(tuned.columns) == list(pairs.columns)
    assert splits.tuning_pairs(pairs, "zs").empty
    assert set(splits.tuning_pairs(pairs, "xft-ru")["lang"]) == {"ru"} and len(splits.tuning_pairs(pairs, "xft-ru")) == 300
    assert splits.tuning_pairs(pairs, "mft").equals(pairs[pairs["split"] == "train"])
    assert splits.tuning_pairs(pairs, "pft-100").equals(splits.tuning_pairs(pairs, "mft"))
    for wrong in ("xft-fr", "xft", "pft-", "pft-0", "pft-101", "pft-1O", "MFT", ""):
        with pytest.raises(InputError, match="no setting '"):
            splits.tuning_pairs(pairs, wrong)


def test_plain_leaves_what_is_said():
    assert splits.plain("  So, WHAT?!\t") == "so what" and splits.plain("ＡＢＣ１") == "abc1"
    assert splits.plain("नमस्ते।") == "नमस्ते" and splits.plain("ты, лжец!") == "ты лжец" and splits.plain("你是骗子。") == "你是骗子"
    assert splits.plain("!?") == ""


def test_similarity_is_jaccard_over_trigrams():
    texts = ["a", "", "you liar", "you liars", "liar you", "你是骗子"]
    trigrams = [{f" {text} "[i:i + 3] for i in range(len(text))} for text in texts]
    expected = [[len(a & b) / max(1, len(a | b)) for b in trigrams] for a in trigrams]
    found = splits.trigram_similarity(texts, texts)
    np.testing.assert_allclose(found, expected)


def test_planted_copies_are_found_where_they_were_planted():
    train = [("you are a liar", "you err"), ("what a thief he is", "he takes things"), ("go away now", "please leave")]
    test = [("you are a liar", "a new one here"), ("What a THIEF he is!", "please leave"), ("nothing like it", "you are a liar.")]
    nearest = splits.nearest_in_training(toy(train, test))
    assert len(nearest) == 3 * 4 and list(nearest.columns) == ["lang", "id", "side", "of", "nearest", "exact", "normalised", "similarity"]
    counted = splits.leakage(nearest).set_index(["side", "of"])
    assert counted["n"].tolist() == [3] * 4
    assert counted["exact"].to_dict() == {("toxic", "toxic"): 1, ("toxic", "neutral"): 0, ("neutral", "toxic"): 0, ("neutral", "neutral"): 1}
    assert counted["normalised"].to_dict() == {("toxic", "toxic"): 2, ("toxic", "neutral"): 0, ("neutral", "toxic"): 1, ("neutral", "neutral"): 1}
    assert (counted["near"] >= counted["normalised"]).all() and (counted["normalised"] >= counted["exact"]).all()
    row = nearest.set_index(["side", "of", "id"]).loc[("toxic", "toxic", "test1")]
    assert row["nearest"] == "train1" and row["similarity"] == 1 and not row["exact"]


def test_threshold_and_languages_apart():
    both = pd.concat([toy([("abcdefgh", "x y z")], [("abcdefgi", "q")]), toy([("q", "mnop")], [("z", "mnop")], "de")])
    nearest = splits.nearest_in_training(both)
    assert splits.leakage(nearest, 0.5).set_index(["lang", "side", "of"])["near"].loc[("en", "toxic", "toxic")] == 1
    assert splits.leakage(nearest, 0.7).set_index(["lang", "side", "of"])["near"].loc[("en", "toxic", "toxic")] == 0
    assert splits.leakage(nearest).set_index(["lang", "side", "of"])["exact"].loc[("de", "neutral", "neutral")] == 1
    assert splits.leakage(nearest).query("lang == 'en'")["exact"].sum() == 0, "q is in the training of another language"
    assert splits.shared_between_languages(both).to_dict("records") == [{"a": "de", "b": "en", "n": 1}]


def test_equal_sides():
    table = splits.equal_sides(toy([("you liar", "You liar!"), ("a", "b")], [("c", "c")])).set_index("split")
    assert table["equal"].to_dict() == {"train": 1, "test": 1} and table["n"].to_dict() == {"train": 2, "test": 1}


def test_overlap_of_two_splits():
    one = toy([("a", "A"), ("b", "B")], [("c", "C"), ("d", "D"), ("e", "E")])
    other = toy([("c", "C"), ("d", "d")], [("e", "E"), ("a", "A")])
    assert splits.split_overlap(one, other).to_dict("records") == [{"lang": "en", "n": 3, "in_train": 1, "in_test": 1}]
    assert splits.split_overlap(other, one).to_dict("records") == [{"lang": "en", "n": 2, "in_train": 1, "in_test": 1}]


@pytest.fixture(scope="module")
def released(real_data):
    return {shuffle: data.paradetox(real_data / "paradetox_splits", shuffle=shuffle) for shuffle in ("datasets", "numpy")}


@pytest.mark.parametrize("shuffle, normalised, near_toxic, near_neutral", [
    ("datasets", {"en": 1}, {"ar": 1, "en": 1, "es": 1}, {"ar": 1}),
    ("numpy", {}, {"ar": 1, "es": 1}, {"ar": 1, "es": 1}),
])
def test_copies_in_the_released_pairs(released, shuffle, normalised, near_toxic, near_neutral):
    "The counts that the notebook states"
    pairs = splits.take_splits(released[shuffle])
    counted = splits.leakage(splits.nearest_in_training(pairs))
    assert counted["exact"].sum() == 0 and (counted["n"] == 100).all()
    same = counted[counted["side"] == counted["of"]].pivot(index="lang", columns="side", values=["normalised", "near"])

    def there(column):
        return same[column][same[column] > 0].to_dict()

    assert counted["normalised"].sum() == sum(normalised.values()) and there(("normalised", "toxic")) == normalised
    assert there(("near", "toxic")) == near_toxic and there(("near", "neutral")) == near_neutral
    assert splits.shared_between_languages(pairs)["n"].sum() == 0
    assert splits.equal_sides(pairs).groupby("lang")["equal"].sum().to_dict() == {lang: {"de": 1, "en": 1, "es": 1, "uk": 4}.get(lang, 0)
                                                                                    for lang in BENIWAL2025}


def test_the_two_released_splits_overlap(released):
    for one, other in (("datasets", "numpy"), ("numpy", "datasets")):
        assert (splits.split_overlap(released[one], released[other])[["n", "in_train", "in_test"]] == [100, 77, 23]).all(axis=None)
    similar = splits.side_similarity(released["datasets"]).query("split == 'train'").set_index("lang")["similarity"].round(2)
    assert similar.to_dict() == {"am": 0.35, "ar": 0.72, "de": 0.75, "en": 0.63, "es": 0.56, "hi": 0.61, "ru": 0.59, "uk": 0.71, "zh": 0.49}
