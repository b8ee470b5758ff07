"""Scorers that a run trains or measures: sentence features on several architectures, lists of words of any origin, and the card that says where they may be
believed."""
import numpy as np
import pandas as pd
import pytest
from xlingtox import babel, models
from xlingtox.core import InputError
from xlingtox.runs.scorers import card_of
from xlingtox.scorers import load_scorer
from xlingtox.scorers.card import LEAST_LEFT_OUT, false_alarms, parallel_agreement, scorer_card
from xlingtox.scorers.features import Encoder, FeaturesScorer
from xlingtox.scorers.ngram import NgramScorer, hold_out_texts
from xlingtox.scorers.words import WordsScorer, read_word_lists


@pytest.fixture(scope="module")
def labelled():
    return babel.labelled(["de", "en"], n=60)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3_text", "mt5"])
def test_an_encoder_of_any_architecture_from_a_folder(architecture, toy_model, toy_tokenizer, labelled, tmp_path):
    models.save(toy_model(architecture), toy_tokenizer, tmp_path / "base")
    scorer = FeaturesScorer.fit(labelled, 0, Encoder(str(tmp_path / "base"), max_tokens=40))
    scorer.save(tmp_path / "models/scorer/features")
    again = load_scorer(f"features:{tmp_path}/models/scorer/features")
    texts = ["the thief sings.", "a friend reads a book.", ""]
    np.testing.assert_allclose(again.score(texts, "en"), scorer.score(texts, "en"), rtol=1e-5)
    assert np.isnan(again.score([""], "en")).all() and again.trained_on == ["de", "en"]
    (tmp_path / "moved").mkdir()
    for name in ("base", "models"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert load_scorer(f"features:{tmp_path}/moved/models/scorer/features").version == scorer.version, "a run can be moved"
    models.save(toy_model(architecture, **{"mt5": {"d_ff": 32}}.get(architecture, {})).double(), toy_tokenizer, tmp_path / "moved/base2")
    (tmp_path / "moved/base").rename(tmp_path / "moved/gone")
    (tmp_path / "moved/base2").rename(tmp_path / "moved/base")
    with pytest.raises(InputError, match="or those of the encoder .* are not those that were saved"):
        load_scorer(f"features:{tmp_path}/moved/models/scorer/features")


def test_the_layer_and_the_prefix_matter(labelled):
    texts = labelled["text"].tolist()[:5]
    first, last = Encoder("mini:mgpt", layer=1).represent(texts), Encoder("mini:mgpt", layer=4).represent(texts)
    assert first.shape == last.shape and not np.allclose(first, last)
    assert not np.allclose(first, Encoder("mini:mgpt", layer=1, prefix="query: ").represent(texts))
    with pytest.raises(InputError, match="the model has no layer 9"):
        Encoder("mini:mgpt", layer=9).represent(texts)


def test_features_hear_a_language_that_they_were_not_taught():
    texts = babel.labelled(["de", "es", "zh"], n=150)
    train, test = hold_out_texts(texts, 0)
    encoder, parallel = Encoder("mini:mgpt"), babel.multiway(["de", "en", "zh"], n=20)
    plain = babel.labelled(["de"], n=10, toxic_share=0)
    args = train, test, parallel, plain, ["de", "es", "ko", "zh"]
    heard = scorer_card(FeaturesScorer.train(train, encoder), *args, fit=lambda rows: FeaturesScorer.train(rows, encoder)).set_index("lang")
    read = scorer_card(NgramScorer.train(train), *args, fit=NgramScorer.train).set_index("lang")
    assert (heard.loc[["de", "es", "zh"], "left_out"] > read.loc[["de", "es", "zh"], "left_out"] + 0.1).all()
    assert heard.loc[["de", "es", "zh"], "judged"].all() and heard.loc["ko", ["judged", "reason"]].tolist() == [False, "no labels"]
    weak = read["left_out_low"] < LEAST_LEFT_OUT
    assert weak.any() and not read.loc[weak[weak].index, "judged"].any()
    assert heard.loc["de", "n"] == (test["lang"] == "de").sum() and np.isnan(heard.loc["ko", "auc"])


def test_a_language_with_one_kind_of_label_is_not_judged(labelled):
    texts = labelled[(labelled["lang"] == "en") | (labelled["toxic"] == 0)]
    train, test = hold_out_texts(texts, 0)
    plain = pd.DataFrame({"lang": ["de"], "text": ["der Arzt liest."]})
    card = scorer_card(NgramScorer.train(train), train, test, babel.multiway(["de", "en"], n=8), plain, ["de", "en"], NgramScorer.train)
    assert card.set_index("lang").loc["de", ["judged", "reason"]].tolist() == [False, "no AUC"]


def test_a_scorer_without_english_or_without_a_language_leaves_gaps():
    lists = WordsScorer({"de": ["dieb"]})
    assert parallel_agreement(lists, babel.multiway(["de", "en"], n=8)).empty
    assert false_alarms(lists, pd.DataFrame({"lang": ["de", "fr"], "text": ["ein Dieb", "voleur"]})).to_dict() == {"de": 1.0}
    train, test = hold_out_texts(babel.labelled(["de", "fr"], n=60), 0)
    plain = pd.DataFrame({"lang": ["fr"], "text": ["bonjour"]})
    card = scorer_card(lists, train, test, babel.multiway(["de", "en"], n=8), plain, ["de", "fr"]).set_index("lang")
    assert card.loc["de", "n"] > 0 and card.loc["fr", "reason"] == "not scored" and np.isnan(card.loc["fr", "plain_alarms"])


def test_spaces_and_ends_of_lines_do_not_hide_a_disguised_phrase():
    scorer = WordsScorer({"en": ["f@@l x", "bad word"]})
    assert scorer.score(["f@@l x", "f@@l  x", "f@@l\nx", "bad\n word", "f@@lx"], "en").tolist() == [1, 1, 1, 1, 0]


def test_two_lists_of_one_language_are_not_one(tmp_path):
    (tmp_path / "de.txt").write_text("Dieb\n")
    (tmp_path / "de").write_text("Lump\n")
    with pytest.raises(InputError, match=r"de and de\.txt are both lists of de; keep one of them"):
        read_word_lists(tmp_path)


@pytest.mark.parametrize("name, content, message", [
    ("de.txt", "Dieb\nLügner\n".encode("latin-1"), "de.txt, line 2: not UTF-8; save the list as UTF-8"),
    ("de", "Dieb\nL\ufffdgner\n".encode(), "de, line 2: a character that no word has"),
    ("de.txt", b" \n\n", "de.txt: an empty list"),
    ("list.txt", b"Dieb", "no list in it; expected a folder with files such as en.txt and de.txt")])
def test_a_bad_list_of_words_is_one_clear_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_scorer(f"words:{tmp_path}")


def test_lists_of_words_in_scripts_with_and_without_spaces(tmp_path):
    for lang, words in {"en": "thief\ndon't care\nmother-in-law\n", "zh": "骗子\n", "ja": "嘘つき\n", "hi": "चोर\n"}.items():
        (tmp_path / lang).write_text(words, encoding="utf-8-sig")
    assert sorted(read_word_lists(tmp_path)) == ["en", "hi", "ja", "zh"]
    scorer = load_scorer(f"words:{tmp_path}")
    assert scorer.score(["THIEF!", "thieves", "I don\u2019t care", "the mother-in-law", "mother law"], "en").tolist() == [1, 0, 1, 1, 0]
    assert scorer.score(["他是骗子。", "朋友"], "zh").tolist() == [1, 0] and scorer.score(["彼は嘘つきです"], "ja").tolist() == [1]
    assert scorer.score(["वह चोर है", "दोस्त"], "hi").tolist() == [1, 0]


def test_cards_on_real_pairs(real_data):
    from xlingtox import data

    labelled = data.paradetox(real_data / "paradetox_splits", as_="labelled").query("lang in ['en', 'ru', 'uk', 'zh']")
    labelled = labelled.groupby(["lang", "toxic"]).head(120)
    train, test = hold_out_texts(labelled, 0)
    parallel = data.load_any(f"parallel-prompts:{real_data}/parallel_prompts", languages=["en", "ru", "zh"]).groupby("lang").head(60)
    card = scorer_card(NgramScorer.train(train), train, test, parallel, babel.labelled(["en", "ru"], n=30, toxic_share=0), ["en", "ru", "sv"],
                       NgramScorer.train).set_index("lang")
    assert card.loc["ru", "judged"] and not card.loc[["zh", "sv"], "judged"].any(), "Ukrainian tells of Russian, nothing tells of Chinese"


@pytest.mark.parametrize("lost", [{"id": ["a", "b"], "lang": ["de", "ru"]}, {"id": ["a", "b"], "lang": ["en", "ru"]}], ids=["no English", "no pair"])
def test_parallel_sentences_that_pair_with_nothing(tmp_path, lost):
    "Of them no agreement could be said, and dashes do not say why"
    pd.DataFrame(lost).assign(text=["Guten Tag", "Dobryj den"]).to_csv(tmp_path / "multiway.csv", index=False)
    babel.labelled(["en"], n=20).to_parquet(tmp_path / "labelled.parquet")
    with pytest.raises(InputError, match="multiway.csv: no sentence is there in English and, by the same id, in another language"):
        card_of("lexicon:babel", None, str(tmp_path / "labelled.parquet"), str(tmp_path / "multiway.csv"), None, None)


def test_a_score_does_not_hang_on_the_texts_beside_it():
    "To the last bit, so that two runs whose jobs score in another order are equal byte for byte"
    from types import SimpleNamespace

    from xlingtox.scorers.features import FeaturesScorer

    rng = np.random.default_rng(0)
    known = {f"text {i}": rng.normal(size=640) for i in range(50)}
    encoder = SimpleNamespace(represent=lambda texts: np.stack([known[text] for text in texts]))
    scorer = SimpleNamespace(encoder=encoder, weights={"coefficients": rng.normal(size=640).astype(np.float32), "intercept": np.float32(0.1)})
    together = FeaturesScorer.assess(scorer, list(known), "en")[0]
    assert together.tolist() == [FeaturesScorer.assess(scorer, [text], "en")[0][0] for text in known]
    assert together[7:20].tolist() == FeaturesScorer.assess(scorer, list(known)[7:20], "en")[0].tolist()


def test_texts_that_are_read_alone_do_not_hang_on_others(labelled):
    "As the profiles on real text read them: two jobs share a store, and what is new to one depends on the other"
    texts, encoder = labelled["text"].drop_duplicates().tolist()[:40], Encoder("mini:mgpt", batch_size=1)
    together = encoder.represent(texts)
    some = Encoder("mini:mgpt", batch_size=1).represent(texts[30:5:-1])
    assert np.array_equal(together[30:5:-1], some)
