"""Perplexity against the plain loop on every architecture, and what padding, batches and tokenizers must not change."""
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from xlingtox import metrics
from xlingtox.core import InputError
from xlingtox.metrics.fluency import context_and_target, longer_than_judge, perplexity

CAUSAL = ["gpt2", "bloom", "llama", "cohere"]
PROMPTS = ["The", "The old teacher", "Der alte Lehrer", "猫"]
CONTINUATIONS = [" sings.", " reads a book in the house and sings", " liest", "在家里唱歌。", " gibt dem Kind ein Buch."]


@pytest.fixture
def judge(toy_model):
    "A model of an architecture; mT5 starts out so sharp that its perplexities overflow, and is softened"
    def make(architecture):
        model = toy_model(architecture)
        for p in model.parameters() if architecture == "mt5" else []:
            p.data *= 0.3
        return model

    return make


def texts(k):
    "Every prompt k times, with continuations of different lengths"
    pairs = [(p, CONTINUATIONS[(i + j) % 5]) for i, p in enumerate(PROMPTS) for j in range(k)]
    return [p for p, _ in pairs], [c for _, c in pairs]


def conditional(model, tokenizer, prompt, continuation):
    "exp of the library's own mean loss over the continuation's tokens, one text at a time, without padding"
    if model.config.is_encoder_decoder:
        source = tokenizer(prompt, return_tensors="pt")["input_ids"]
        labels = torch.tensor([tokenizer(continuation, add_special_tokens=False)["input_ids"]])
        return model(input_ids=source, labels=labels).loss.exp().item()
    given, ids = tokenizer(prompt)["input_ids"], tokenizer(prompt + continuation)["input_ids"]
    assert ids[: len(given)] == given, "the boundary does not merge in these texts"
    return model(input_ids=torch.tensor([ids]), labels=torch.tensor([[-100] * len(given) + ids[len(given) :]])).loss.exp().item()


def released(model, tokenizer, prompt, continuation):
    "The released formula, with the library's own losses"
    def loss(text):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        return model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1), ids.shape[1]

    (full, n_full), (given, n_given) = loss(prompt + continuation), loss(prompt)
    return math.exp((full - given) / (n_full - n_given))


@pytest.mark.parametrize("k", [1, 5])  # 1: every text alone; 5: the prompt is read once
@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
@pytest.mark.parametrize("variant, plain", [("exact", conditional), ("published", released)])
def test_equals_the_plain_loop(architecture, variant, plain, k, judge, toy_tokenizer):
    model, (prompts, continuations) = judge(architecture), texts(k)
    with torch.inference_mode():
        wanted = [plain(model, toy_tokenizer, p, c) for p, c in zip(prompts, continuations, strict=True)]
    got = perplexity(model, toy_tokenizer, prompts, continuations, variant=variant, batch_size=7, max_drop=None)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)


@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
def test_batches_order_and_padding_side_do_not_matter(architecture, judge, toy_tokenizer):
    model, (prompts, continuations) = judge(architecture), texts(5)
    wanted = perplexity(model, toy_tokenizer, prompts, continuations)
    np.testing.assert_allclose(perplexity(model, toy_tokenizer, prompts, continuations, batch_size=1), wanted, rtol=1e-4)
    order = np.random.default_rng(0).permutation(len(prompts))
    shuffled = perplexity(model, toy_tokenizer, [prompts[i] for i in order], [continuations[i] for i in order], batch_size=4)
    np.testing.assert_allclose(shuffled, wanted[order], rtol=1e-4)
    side, toy_tokenizer.padding_side = toy_tokenizer.padding_side, "left"
    try:
        np.testing.assert_allclose(perplexity(model, toy_tokenizer, prompts, continuations), wanted, rtol=1e-6)
    finally:
        toy_tokenizer.padding_side = side


def test_uniform_judge_hesitates_among_the_vocabulary(judge, toy_tokenizer):
    "A judge whose logits are all equal has the size of its vocabulary as perplexity, by definition"
    model = judge("gpt2")
    for p in model.parameters():
        p.data.zero_()
    got = perplexity(model, toy_tokenizer, *texts(4))
    np.testing.assert_allclose(got, len(toy_tokenizer), rtol=1e-5)


def word_tokenizer(template=None):
    words = {w: i for i, w in enumerate(["<pad>", "<s>", "</s>", "a", "b", "c", "d"])}
    t = Tokenizer(models.WordLevel(words, unk_token="a"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template:
        t.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<pad>", eos_token="</s>", bos_token="<s>" if template else None)


@pytest.mark.parametrize("template, given, scored", [
    (None, [3, 4], [5, 6]),
    ("<s> $A", [1, 3, 4], [5, 6]),
    ("<s> $A </s>", [1, 3, 4], [5, 6]),  # the end is not scored: the continuation was cut, it has not ended
])
def test_special_tokens(template, given, scored):
    assert context_and_target(word_tokenizer(template), ["a b"], [" c d"]) == ([given], [scored])


def test_nothing_is_given():
    "With an empty prompt the first token is scored after <s>, or, where there is none, not scored"
    assert context_and_target(word_tokenizer("<s> $A"), [""], ["c d"]) == ([[1]], [[5, 6]])
    without = word_tokenizer()
    assert context_and_target(without, [""], ["c d"]) == ([[5]], [[6]])
    without.bos_token = "<s>"
    assert context_and_target(without, [""], ["c d"]) == ([[1]], [[5, 6]])


def test_merged_boundary_is_scored(toy_tokenizer):
    "However the text is cut, the given and the scored tokens together are the text's tokens"
    text = "The old teacher reads a book in the house."
    cuts = range(1, len(text))
    contexts, targets = context_and_target(toy_tokenizer, [text[:i] for i in cuts], [text[i:] for i in cuts])
    for i, context, target in zip(cuts, contexts, targets, strict=True):
        assert context + target == toy_tokenizer(text)["input_ids"]
        assert text[:i].startswith(toy_tokenizer.decode(context, skip_special_tokens=True))


@pytest.mark.parametrize("variant", ["exact", "published"])
@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_blank_is_nan_and_harms_no_other(architecture, variant, judge, toy_tokenizer):
    model = judge(architecture)
    got = perplexity(model, toy_tokenizer, ["The"] * 4, [" sings.", "", " \n", " reads"], variant=variant)
    assert np.isnan(got[[1, 2]]).all()
    np.testing.assert_allclose(got[[0, 3]], perplexity(model, toy_tokenizer, ["The"] * 2, [" sings.", " reads"], variant=variant), rtol=1e-4)
    assert np.isnan(perplexity(model, toy_tokenizer, ["The"], [""])).all()
    assert perplexity(model, toy_tokenizer, [], []).shape == (0,)


def test_large_and_non_finite_values(judge, toy_tokenizer):
    "Published: nan from 1e4 on. Exact: kept. A judge that answers nan is an error, so that it is not taken for an empty text"
    model = judge("gpt2")
    for p in model.parameters():
        p.data *= 8
    prompts, continuations = texts(4)
    raw = perplexity(model, toy_tokenizer, prompts, continuations)
    assert (raw >= 1e4).any() and not np.isnan(raw).any()
    dropped = perplexity(model, toy_tokenizer, prompts, continuations, variant="published")
    assert (np.isnan(dropped) == (raw >= 1e4)).all()
    cut = float(np.median(raw))
    assert (np.isnan(perplexity(model, toy_tokenizer, prompts, continuations, variant="published", max_drop=cut)) == (raw >= cut)).all()
    for p in model.parameters():
        p.data.fill_(float("nan"))
    with pytest.raises(InputError, match="logits that are not numbers"):
        perplexity(model, toy_tokenizer, prompts, continuations)


def test_leaves_the_judge_as_it_was(judge, toy_tokenizer):
    "A model in training mode is judged without dropout, and is in training mode afterwards"
    model = judge("gpt2").train()
    wanted = perplexity(judge("gpt2"), toy_tokenizer, *texts(1))
    np.testing.assert_allclose(perplexity(model, toy_tokenizer, *texts(1)), wanted, rtol=1e-5)
    assert model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("arguments, message", [
    ((["a"], []), "1 prompts for 0 continuations"),
    ((["a", None], [" b", " c"]), "row 1: prompt None"),
    ((["a"], [float("nan")]), "row 0: .* continuation nan; both must be texts"),
    ((["a"], [" b"], "approximate"), "there are exact and published"),
    ((["a"], [" b" * 200]), "the judge reads 128"),
    ((["a"], [" b" * 200], "published"), "the judge reads 128"),
])
def test_bad_input(arguments, message, judge, toy_tokenizer):
    with pytest.raises(InputError, match=message):
        perplexity(judge("gpt2"), toy_tokenizer, *arguments)


def test_offered_by_metrics():
    assert metrics.perplexity is perplexity and "perplexity" in metrics.__all__


def test_benchmark_compares_equal_values(monkeypatch):
    "The benchmark's three ways give the same numbers; its ratio is for `make bench`"
    bench = pytest.importorskip("benchmarks.bench_perplexity")
    make = bench.judge_and_texts
    monkeypatch.setattr(bench, "judge_and_texts", lambda: make(n_prompts=2, k=4, vocabulary=300))
    row = bench.run(rounds=1)
    assert set(row) >= {"what", "baseline", "ratio", "bar"} and row["ratio"] > 0


def test_a_text_longer_than_the_judge_is_read_in_windows(judge, toy_tokenizer):
    model, prompts = judge("gpt2"), ["The", "The old teacher", "The"]
    continuations = [" sings.", " reads a book" * 60, " and reads" * 40]
    found = perplexity(model, toy_tokenizer, prompts, continuations, windows=True)
    contexts, targets = context_and_target(toy_tokenizer, prompts, continuations)
    limit = model.config.max_position_embeddings
    assert longer_than_judge(model, toy_tokenizer, prompts, continuations).tolist() == [len(c + t) > limit for c, t in zip(
        contexts, targets, strict=True)] == [False, True, True]
    for value, context, target in zip(found, contexts, targets, strict=True):
        ids, start, total = context + target, len(context), 0.0
        while start < len(ids):  # each token once, after half a window or more of what stands before it
            stop = min(len(ids), max(limit, start + limit // 2))
            window = torch.tensor([ids[max(0, stop - limit):stop]])
            with torch.inference_mode():
                logp = model(window).logits[0].log_softmax(-1)
            total -= sum(logp[-k - 1, window[0, -k]].item() for k in range(1, stop - start + 1))
            start = stop
        assert value == pytest.approx(math.exp(total / len(target)), rel=1e-4)
    np.testing.assert_allclose(found[:1], perplexity(model, toy_tokenizer, prompts[:1], continuations[:1]), rtol=1e-6)
