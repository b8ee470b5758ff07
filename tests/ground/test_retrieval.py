"""Representations on every architecture, retrieval against brute force, and texts that are not parallel."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox.core import InputError
from xlingtox.representations import sentence_representations
from xlingtox.retrieval import mean_cosine, retrieval_accuracy, retrieval_table

ARCHITECTURES = ["gpt2", "bloom", "llama", "cohere", "mt5"]
TEXTS = ["The old teacher reads a book.", "sings", "Der alte Lehrer liest.", "猫在家里唱歌。", "The child in the house sings and the cat sings."]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mean_over_tokens_of_each_text_alone(architecture, toy_model, toy_tokenizer):
    model = toy_model(architecture)
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    got = sentence_representations(model, toy_tokenizer, TEXTS, batch_size=3)
    assert got.shape == (3, 5, model.config.hidden_size) and got.dtype == np.float32  # two layers and the embeddings
    for i, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = reader(**{"input_ids": toy_tokenizer(text, return_tensors="pt")["input_ids"]}, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(got[:, i], torch.cat(states).mean(1).numpy(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batches_and_padding_side_do_not_matter(architecture, toy_model, toy_tokenizer):
    model = toy_model(architecture).train()
    wanted = sentence_representations(model, toy_tokenizer, TEXTS)
    assert model.training
    np.testing.assert_allclose(sentence_representations(model, toy_tokenizer, TEXTS, batch_size=1), wanted, rtol=2e-4, atol=2e-4)
    side, toy_tokenizer.padding_side = toy_tokenizer.padding_side, "left"
    try:
        np.testing.assert_allclose(sentence_representations(model, toy_tokenizer, TEXTS), wanted, rtol=1e-6)
    finally:
        toy_tokenizer.padding_side = side


def test_a_text_without_tokens(toy_model):
    class Silent:
        def __call__(self, texts):
            return {"input_ids": [[3], []]}

    with pytest.raises(InputError, match="text 1 has no tokens"):
        sentence_representations(toy_model("gpt2"), Silent(), ["a", ""])


def test_accuracy_against_brute_force():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(60, 8))
    b = a + rng.normal(size=(60, 8))
    hits = []
    for i in range(60):
        cosines = [a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) for j in range(60)]
        hits.append(int(np.argmax(cosines)) == i)
    assert retrieval_accuracy(a, b) == pytest.approx(np.mean(hits)) and 0.2 < np.mean(hits) < 0.95
    assert mean_cosine(a, b) == pytest.approx(np.mean([a[i] @ b[i] / np.linalg.norm(a[i]) / np.linalg.norm(b[i]) for i in range(60)]))


def test_what_retrieval_must_not_depend_on():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40, 8))
    b += a
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    for x, y in ((5 * a, b), (a @ rotation, b @ rotation), (a * rng.uniform(1, 2, (40, 1)), b), (a.astype("float32"), b.astype("float32"))):
        assert retrieval_accuracy(x, y) == retrieval_accuracy(a, b)
        assert mean_cosine(x, y) == pytest.approx(mean_cosine(a, b), abs=1e-6)


def test_ties_are_misses():
    a = np.random.default_rng(0).normal(size=(41, 16)).astype("float32")
    assert retrieval_accuracy(a, a) == 1
    twice = a.copy()
    twice[7] = 3 * a[3]  # the same direction: neither 3 nor 7 can be told from the other
    assert retrieval_accuracy(twice, twice) == pytest.approx(39 / 41)
    assert retrieval_accuracy(np.zeros((5, 3)), np.zeros((5, 3))) == 0 and mean_cosine(np.zeros((5, 3)), np.zeros((5, 3))) == 0


@pytest.mark.parametrize("a, b, message", [
    (np.ones((3, 2)), np.ones((4, 2)), r"\(3, 2\) and \(4, 2\)"),
    (np.ones((3, 2)), np.ones((3, 4)), r"\(3, 2\) and \(3, 4\)"),
    (np.ones(3), np.ones(3), r"\(3,\) and \(3,\)"),
    (np.ones((0, 2)), np.ones((0, 2)), r"\(0, 2\)"),
    (np.array([[np.nan, 1.0]]), np.ones((1, 2)), "not finite"),
])
@pytest.mark.parametrize("function", [retrieval_accuracy, mean_cosine])
def test_bad_representations(function, a, b, message):
    with pytest.raises(InputError, match=message):
        function(a, b)


@pytest.fixture
def parallel():
    rows = [(f"s{i}", lang, f"{word} {text}") for lang, word in {"de": "Der", "en": "The", "zh": "猫"}.items() for i, text in enumerate(TEXTS)]
    return pd.DataFrame(rows, columns=["id", "lang", "text"])


def test_table(parallel, toy_model, toy_tokenizer):
    model = toy_model("gpt2")
    got = retrieval_table(model, toy_tokenizer, parallel)
    assert got.columns.tolist() == ["lang", "layer", "accuracy", "cosine"] and got["layer"].tolist() == [-1, 0, 1, 2] * 2
    a, b = (sentence_representations(model, toy_tokenizer, parallel.loc[parallel["lang"] == lang, "text"]) for lang in ("de", "en"))
    german = got[got["lang"] == "de"].set_index("layer")
    assert german.loc[1, "accuracy"] == retrieval_accuracy(a[1], b[1]) and german.loc[2, "cosine"] == pytest.approx(mean_cosine(a[2], b[2]))
    np.testing.assert_allclose(german.loc[-1, ["accuracy", "cosine"]].astype(float), german.loc[0:, ["accuracy", "cosine"]].mean())
    shuffled = retrieval_table(model, toy_tokenizer, parallel.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(shuffled, got, rtol=1e-4)
    assert retrieval_table(model, toy_tokenizer, parallel, source="zh")["lang"].unique().tolist() == ["de", "en"]


@pytest.mark.parametrize("change, message", [
    (lambda t: t.iloc[1:], "4 in de for 5 in en; de lacks id s0"),
    (lambda t: t[(t["lang"] != "en") | (t["id"] != "s2")], "5 in de for 4 in en; en lacks id s2"),
    (lambda t: t.assign(id=t["id"].where(t.index != 0, "x")), "id (s0|x)"),
    (lambda t: pd.concat([t, t.head(1)]), "parallel texts, de: id s0 occurs more than once"),
    (lambda t: t[t["lang"] != "en"], "nothing in the source language en; there is de zh"),
    (lambda t: t.drop(columns="id"), "lacks the columns id"),
])
def test_texts_that_are_not_parallel(change, message, parallel, toy_model, toy_tokenizer):
    with pytest.raises(InputError, match=message):
        retrieval_table(toy_model("gpt2"), toy_tokenizer, change(parallel))
