"""From hate corpora to instruction pairs: what is drawn, what each filter takes, what is written, and what is refused."""
import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from xlingtox import babel, data, metrics
from xlingtox.core import InputError, read_table
from xlingtox.data import instructions
from xlingtox.data.instructions import (
    answer_candidates,
    data_card,
    draw_candidates,
    drop_empty,
    drop_not_fluent,
    drop_off_topic,
    drop_other_languages,
    drop_repeated,
    drop_toxic,
    filter_responses,
    instruct_pairs,
    keep_pairs,
    leave_out,
    make_instructions,
    save_instructions,
    steps_left,
    still_in,
    text_words,
    topic_rank,
    word_vectors,
)
from xlingtox.languages import LANGUAGES
from xlingtox.scorers import LexiconScorer

SCORER = LexiconScorer(babel.load_lexicon())
THREE = ["de", "en", "zh"]


def hear(texts, langs):
    return metrics.heard_in_babel(texts, langs)


def left(table, step):
    return steps_left(table).query("step == @step").set_index("lang")["left"].to_dict()


@pytest.fixture(scope="module")
def corpus():
    return babel.labelled(THREE, n=120, seed=2)


@pytest.fixture(scope="module")
def answered(corpus):
    return answer_candidates(draw_candidates(corpus, n=50), babel.polite_responses)


def pairs_of(responses, lang="en", prompts=None):
    prompts = prompts or [f"prompt number {i}" for i in range(len(responses))]
    table = pd.DataFrame({"id": [f"a{i}" for i in range(len(responses))], "lang": lang, "prompt": prompts})
    return leave_out(table.assign(response=responses), "drawn", False)


# -- steps

def test_a_row_keeps_the_first_step_that_left_it_out():
    table = pd.DataFrame({"lang": ["en", "de", "en"]}, index=[5, 3, 9])
    one = leave_out(table, "first", [True, False, False])
    two = leave_out(one, "second", [True, True, False])
    assert two["left_out"].tolist()[:2] == ["first", "second"] and still_in(two).tolist() == [False, False, True]
    assert list(two["left_out"].cat.categories) == ["first", "second"] and "left_out" not in table and len(one["left_out"].cat.categories) == 1
    nothing = leave_out(two, "third", False)
    assert steps_left(nothing).to_dict("list") == {"lang": ["en"] * 4 + ["de"] * 4, "step": ["all", "first", "second", "third"] * 2,
                                                   "left": [2, 1, 1, 1, 1, 1, 0, 0]}
    with pytest.raises(InputError, match="the step first was taken already; the steps are first, second, third"):
        leave_out(nothing, "first", False)


# -- candidates

def test_candidates_are_hateful_distinct_and_follow_from_the_seed(corpus):
    state = random.getstate(), np.random.get_state()[1].tolist()
    one = draw_candidates(corpus, n=20, seed=4)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
    drawn = one[still_in(one)]
    assert drawn.groupby("lang").size().to_dict() == dict.fromkeys(THREE, 20)
    toxic = corpus.set_index("id")["toxic"]
    assert toxic[drawn["id"]].all() and drawn.duplicated(["lang", "prompt"]).sum() == 0
    pd.testing.assert_frame_equal(one, draw_candidates(corpus, n=20, seed=4))
    assert drawn["id"].tolist() != (other := draw_candidates(corpus, n=20, seed=5))[still_in(other)]["id"].tolist()
    more = draw_candidates(corpus, n=30, seed=4)
    assert more[still_in(more)].groupby("lang").head(20)["id"].tolist() == drawn["id"].tolist(), "more candidates are these and more"
    alone = draw_candidates(corpus[corpus["lang"] == "de"], n=20, seed=4)
    assert alone[still_in(alone)]["id"].tolist() == drawn[drawn["lang"] == "de"]["id"].tolist(), "whatever other languages there are"
    assert len(one) == len(corpus) and set(one["id"]) == set(corpus["id"])


def test_texts_with_the_same_words_are_one():
    texts = ["RT @one: you there", "You there!! https://t.co/abc", "YOU   THERE @two", "you &amp; there", "you here", "@one http://x.y 🙂", "  ", "a" * 50]
    table = pd.DataFrame({"id": [f"t{i}" for i in range(len(texts))], "lang": "en", "text": texts, "toxic": True})
    found = draw_candidates(table, longest=40)
    assert left(found, "with words") == {"en": 6} and left(found, "not too long") == {"en": 5} and left(found, "distinct") == {"en": 2}
    kept = found[still_in(found)]["id"].tolist()
    assert "t4" in kept and len(set(kept) & {"t0", "t1", "t2", "t3"}) == 1
    two = pd.concat([table, table.assign(lang="nl")])
    assert left(draw_candidates(two, longest=40), "distinct") == {"en": 2, "nl": 2}, "the same words in two languages are two texts"


@pytest.mark.parametrize("text, words", [
    ("USER USER dia pergi\\n\\xf0\\x9f\\x98\\x84 URL", ["dia", "pergi"]),
    ("तुम मूर्ख हो।", ["तुम", "मूर्ख", "हो"]),
    ("你们ABC走吧", ["你", "们", "abc", "走", "吧"]),
    ("Ｆｕｌｌ ＷＩＤＴＨ 42", ["full", "width", "42"]),
    ("don't", ["don", "t"]),
    ("user1 curl_url", ["user1", "curl", "url"]),
])
def test_words_of_a_text(text, words):
    assert text_words(text) == words


# -- responders

def test_only_what_is_drawn_is_asked(corpus):
    drawn, asked = draw_candidates(corpus, n=7), []

    def respond(prompts):
        asked.append(prompts)
        return [f"answer to {name}" for name in prompts["id"]]

    found = answer_candidates(drawn, respond)
    assert len(asked) == 1 and list(asked[0]) == ["id", "lang", "text"] and len(asked[0]) == 21
    rows = found[still_in(found)]
    assert (rows["response"] == "answer to " + rows["id"]).all() and found["response"].notna().sum() == 21


@pytest.mark.parametrize("said, problem", [(["yes"], "the responder gave 1 texts for 21 prompts"), ([None] * 21, "gave 0 texts for 21 prompts")])
def test_a_responder_that_gives_something_else_is_refused(corpus, said, problem):
    with pytest.raises(InputError, match=problem):
        answer_candidates(draw_candidates(corpus, n=7), lambda prompts: said)


@pytest.mark.parametrize("lang", LANGUAGES.index)
def test_the_friend_is_polite_in_every_language_and_keeps_to_the_subject(lang):
    prompts = babel.labelled([lang], n=60, seed=8, toxic_share=1)
    responses = babel.polite_responses(prompts)
    assert SCORER.score(responses, lang).max() == 0
    assert metrics.heard_in_babel(responses, [lang] * 60) == [lang] * 60
    vectors = word_vectors([*prompts["text"], *responses])
    assert topic_rank(vectors[:60], vectors[60:]).mean() > 0.8
    assert babel.polite_responses(prompts.sample(20, random_state=1)) == [responses[i] for i in prompts.sample(20, random_state=1).index]
    assert babel.polite_responses(prompts, seed=1) != responses


def test_the_friend_says_nothing_that_is_kept_for_evaluation():
    kept = set(babel.prompts(["en"], n=600, seed=0, toxic_share=0.2)["text"])
    responses = babel.polite_responses(babel.labelled(["en"], n=2000, seed=0, toxic_share=1))
    assert not {sentence.strip() + "." for text in responses for sentence in text.split(".")} & kept


# -- filters

def test_each_filter_looks_only_at_what_is_still_in(answered):
    seen = []
    table = leave_out(answered, "by hand", answered["lang"] == "zh")
    scorer = SimpleNamespace(name="s", languages=None, score=lambda texts, lang: seen.append((lang, len(texts))) or np.zeros(len(texts)))
    drop_toxic(table, scorer)
    drop_other_languages(table, lambda texts, langs: seen.append((*sorted(set(langs)), len(texts))) or langs)
    drop_off_topic(table, lambda texts: seen.append(len(texts)) or np.eye(len(texts)))
    drop_not_fluent(table, lambda given, texts: seen.append((set(given), len(texts))) or np.ones(len(texts)))
    assert seen == [("de", 50), ("en", 50), ("de", "en", 100), 100, 100, *[({""}, 50)] * 4]


def test_empty_and_repeated_responses():
    found = drop_repeated(drop_empty(pairs_of(["", " \n", "No, thank you.", "no thank YOU", "Yes."])))
    assert found["left_out"].astype(object).where(found["left_out"].notna(), "").tolist() == ["answered", "answered", "", "not repeated", ""]
    assert still_in(drop_repeated(pairs_of(["Yes.", "Yes."], ["en", "nl"]))).all()


def test_a_response_in_another_language_or_in_none_is_left_out():
    found = drop_other_languages(pairs_of(["a", "b", "c"]), lambda texts, langs: ["en", "de", "und"])
    assert still_in(found).tolist() == [True, False, False] and found["heard"].tolist() == ["en", "de", "und"]
    real = ["Please let us talk about this calmly and with respect.", "Lass uns bitte in Ruhe darüber reden.", "?!"]
    assert still_in(drop_other_languages(pairs_of(real), lambda texts, langs: metrics.heard_by_langid(texts))).tolist() == [True, False, False]


def test_a_missing_score_is_not_a_polite_one():
    scorer = SimpleNamespace(name="s", languages={"en"}, score=lambda texts, lang: [0.1, 0.5, np.nan, 0.49])
    found = drop_toxic(pairs_of(list("abcd")), scorer)
    assert found["left_out"].astype(object).where(found["left_out"].notna(), "").tolist() == ["", "polite", "scored", ""]
    assert still_in(drop_toxic(pairs_of(list("abcd")), scorer, threshold=0.6)).tolist() == [True, True, False, True]
    with pytest.raises(InputError, match="scorer s does not support nl; it supports en"):
        drop_toxic(pairs_of(list("abcd"), "nl"), scorer)


def test_topic_rank_is_the_auroc_of_the_own_prompt():
    rng = np.random.default_rng(0)
    prompts, responses = rng.integers(0, 3, (40, 4)).astype(float), rng.integers(0, 3, (40, 4)).astype(float)
    centred = [x - x.mean(axis=0) for x in (prompts, responses)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in centred]
    similarity = (unit[1] @ unit[0].T).round(9)
    truth = [roc_auc_score(np.arange(40) == i, similarity[i]) for i in range(40)]
    np.testing.assert_allclose(topic_rank(prompts, responses), truth, atol=1e-12)
    np.testing.assert_allclose(topic_rank(prompts * 7 + 5, responses / 4 - 1), truth, atol=1e-12)
    assert np.isnan(topic_rank(prompts[:1], responses[:1])).all()


def test_a_response_to_another_prompt_is_off_topic(answered):
    own = drop_off_topic(answered)
    mixed = answered[still_in(answered)]
    mixed = drop_off_topic(mixed.assign(response=mixed.groupby("lang")["response"].transform(lambda r: np.roll(r, 7))))
    assert own["topic"].mean() > 0.85 and abs(mixed["topic"].mean() - 0.5) < 0.1
    assert sum(left(own, "on topic").values()) > 1.5 * sum(left(mixed, "on topic").values())


def test_fluency_is_measured_against_the_prompts_of_the_language():
    values = {f"prompt number {i}": float(i) for i in range(10)} | {"a": 7.0, "b": 9.0, "c": np.inf, "d": np.nan}
    found = drop_not_fluent(pairs_of([*"abcd", *"aaaaaa"]), lambda given, texts: np.array([values[t] for t in texts]), share=0.8)
    assert found["limit"].eq(8).all() and still_in(found).tolist() == [True, False, False, False, *[True] * 6]
    none = drop_not_fluent(pairs_of(["a", "b"]), lambda given, texts: np.full(len(texts), np.nan))
    assert not still_in(none).any()


# -- all of it

def test_pairs_of_the_miniature(corpus, tmp_path):
    pairs = make_instructions(corpus, babel.polite_responses, hear, SCORER, n_candidates=50, n=20)
    kept = instruct_pairs(pairs)
    assert kept.groupby("lang").size().to_dict() == dict.fromkeys(THREE, 20) and list(kept) == data.SCHEMAS["instruct"]
    assert SCORER.score(kept["prompt"][kept["lang"] == "de"].tolist(), "de").min() > 0
    counts = steps_left(pairs).groupby("lang", sort=False)["left"].apply(list)
    assert all(a >= b for of in counts for a, b in zip(of, of[1:], strict=False)) and [of[-1] for of in counts] == [20] * 3
    again = make_instructions(corpus, babel.polite_responses, hear, SCORER, n_candidates=50, n=20)
    pd.testing.assert_frame_equal(pairs, again)
    save_instructions(pairs, tmp_path / "out", ["babel:labelled"], {"seed": 0})
    pd.testing.assert_frame_equal(data.load_data(f"file:{tmp_path}/out/instructions.parquet", "instruct"), kept)
    everything = read_table(tmp_path / "out" / "candidates.parquet")
    assert len(everything) == 150 and (everything["left_out"].isna().sum(), "polite" in everything["left_out"].cat.categories) == (60, True)
    pd.testing.assert_frame_equal(read_table(tmp_path / "out" / "left.csv"), steps_left(pairs))


def test_a_responder_that_answers_in_another_language_is_named(corpus):
    def german(prompts):
        return babel.polite_responses(prompts.assign(lang="de"))

    with pytest.raises(InputError) as e:
        make_instructions(corpus, german, hear, SCORER, n_candidates=50, n=20)
    assert str(e.value) == ("20 pairs of each language are wanted. en: 0 pairs are left; the step 'own language' cost most, 50 of 50. "
                            "zh: 0 pairs are left; the step 'own language' cost most, 50 of 50")


def test_a_small_corpus_is_told_from_a_strict_filter(corpus):
    with pytest.raises(InputError, match="the step 'hateful' cost most, 60 of 120"):
        keep_pairs(drop_empty(answer_candidates(draw_candidates(corpus), babel.polite_responses)), 61)
    rude = pairs_of([f"you are number {i}" for i in range(30)])
    all_rude = SimpleNamespace(name="s", languages=None, score=lambda texts, lang: np.where(np.arange(len(texts)) < 25, 1.0, 0.0))
    with pytest.raises(InputError, match="en: 5 pairs are left; the step 'polite' cost most, 25 of 30"):
        keep_pairs(filter_responses(rude, lambda texts, langs: langs, all_rude, represent=None), 10)


@pytest.mark.parametrize("settings, problem", [
    ({"scorer": SimpleNamespace(name="s", languages=["en", "de"])}, "scorer s does not support zh; it supports de en"),
    ({"n_candidates": 10, "n": 11}, "n_candidates: 11 pairs cannot be kept of 10 candidates"),
])
def test_what_can_be_known_before_is_said_before_anyone_is_asked(corpus, settings, problem):
    def respond(prompts):
        raise AssertionError("was asked")

    with pytest.raises(InputError, match=problem):
        make_instructions(corpus, respond, hear, **{"scorer": SCORER} | settings)
    with pytest.raises(InputError, match="hate corpora: lacks the columns toxic"):
        make_instructions(corpus.drop(columns="toxic"), respond, hear, SCORER)


@pytest.mark.parametrize("name, raw, problem", [
    ("davidson2017", b"", "labeled_data.csv: is empty"),
    ("davidson2017", b"class,text\n0,a\n", "labeled_data.csv: lacks the columns tweet; expected are tweet class, it has class text"),
    ("davidson2017", "class,tweet\n0,voilà\n".encode("latin-1"), "labeled_data.csv, line 2: not UTF-8 .byte 0xe0."),
    ("davidson2017", b"class,tweet\n7,a\n", "row 1: class is '7', not one of 1 2 0"),
    ("ibrohim2019", "Tweet,HS\nà,1\n".encode(), "re_dataset.csv: is in UTF-8, but the released file is in latin-1"),
    ("ibrohim2019", b"Tweet;HS\na;1\n", "re_dataset.csv: lacks the columns Tweet, HS"),
])
def test_a_corpus_that_is_not_the_released_one(tmp_path, name, raw, problem):
    file = tmp_path / {"davidson2017": "labeled_data.csv", "ibrohim2019": "re_dataset.csv"}[name]
    file.write_bytes(raw)
    with pytest.raises(InputError, match=problem) as e:
        data.load_data(f"hate:{name}@{file}", "labelled")
    assert "\n" not in str(e.value) and [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_corpus_in_latin_1_is_read_as_it_is(tmp_path):
    (tmp_path / "re_dataset.csv").write_bytes("Tweet,HS\nà la carte,1\nplain,0\n".encode("latin-1"))
    assert data.load_data(f"hate:ibrohim2019@{tmp_path}", "labelled")["text"].tolist() == ["à la carte", "plain"]


# -- what is written

@pytest.fixture(scope="module")
def pairs(answered):
    return keep_pairs(filter_responses(answered, hear, SCORER), 20)


def test_a_save_that_fails_leaves_what_was_there(pairs, tmp_path, monkeypatch):
    save_instructions(pairs, tmp_path / "out", ["babel:labelled"], {"seed": 0})
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert sorted(before) == ["README.md", "candidates.parquet", "instructions.parquet", "left.csv"]
    write = instructions.write_table
    monkeypatch.setattr(instructions, "write_table", lambda df, path: write(df, path) if path.name != "left.csv" else 1 / 0)
    for folder in ("out", "new"):
        with pytest.raises(ZeroDivisionError):
            save_instructions(pairs.assign(response="other"), tmp_path / folder, ["babel:labelled"], {"seed": 0})
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_card_says_what_was_done_and_what_was_not(pairs, tmp_path):
    sources = [f"hate:davidson2017@{tmp_path}/x", f"hate:ibrohim2019@{tmp_path}", f"file:{tmp_path}/mine.csv", "babel:labelled"]
    card = data_card(pairs, sources, {"responder": "some/model", "instruction": "Reply:\n\n{text}"})
    assert str(tmp_path) not in card and "60 pairs in 3 languages" in card
    for part in ("| davidson2017 | ", "| MIT |", "CC-BY-NC-SA-4.0", "| mine.csv |", "- responder: some/model", "- instruction: Reply: {text}",
                 "| own language | 50 | 50 | 50 |", "No person has read the pairs", "- Whether a response is fluent."):
        assert part in card, part
    assert "Whether a response is on topic" not in card
    assert not any(prompt in card for prompt in instruct_pairs(pairs)["prompt"])
    with pytest.raises(InputError, match="give hate:NAME@PATH"):
        data_card(pairs, ["hate:unknown@x"], {})


# -- real corpora

def test_real_corpora_are_collected_and_filtered(real_data, tmp_path):
    "Collection and every filter, on real prompts; the answers are the friend's, who knows none of their words"
    sources = [f"hate:{name}@{real_data}/hate_corpora" for name in ("davidson2017", "ibrohim2019")]
    corpus = data.load_data(sources, "labelled")
    found = draw_candidates(corpus, n=300)
    assert left(found, "drawn") == {"en": 300, "id": 300}
    assert left(found, "hateful") == {"en": 1430, "id": 5561}
    assert 1000 < left(found, "distinct")["en"] < 1430 and 4000 < left(found, "distinct")["id"] < 5561
    pairs = keep_pairs(filter_responses(answer_candidates(found, babel.polite_responses), hear, SCORER, represent=None), 100)
    save_instructions(pairs, tmp_path / "out", sources, {"responder": "babel"})
    assert str(real_data) not in (tmp_path / "out" / "README.md").read_text()


def test_the_sizes_of_the_paper():
    "2,000 candidates, and 1,000 that are kept"
    corpus = babel.labelled(["en", "hi"], n=2600, seed=0, toxic_share=0.9)
    pairs = make_instructions(corpus, babel.polite_responses, hear, SCORER, n=1000, represent=None)
    assert set(left(pairs, "drawn").values()) == {2000} and set(left(pairs, "kept").values()) == {1000}


def test_embeddings_may_come_from_a_model(toy_model, toy_tokenizer, answered):
    from xlingtox.representations import sentence_representations

    model = toy_model("llama")
    found = drop_off_topic(answered, partial(sentence_representations, model, toy_tokenizer, layer=1))
    assert found["topic"].between(0, 1).sum() == 150 and 0 < sum(left(found, "on topic").values()) < 150
