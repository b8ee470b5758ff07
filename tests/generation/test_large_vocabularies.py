"""A large vocabulary is searched block by block and scored in pieces, one layer is read up to there: the numbers stay what they were."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox.generation import generate
from xlingtox.generation.sampling import sample_nucleus
from xlingtox.metrics import perplexity
from xlingtox.representations import sentence_representations
from xlingtox.tuning import adapter

SIZES = [2**11, 2**11 + 1, 6_000, 40_007, 100_000]  # around where blocks are searched, whole blocks, and any number of tokens


def plainly(logits, u, temperature, top_p):
    "The definition: sort everything, keep what comes before `top_p`, take where the share u of that is reached"
    p, ids = (logits.double() / temperature).softmax(-1).sort(descending=True)
    kept = p * (p.cumsum(-1) - p < top_p)
    rank = (kept.cumsum(-1) < u[:, None] * kept.sum(-1, keepdim=True)).sum(-1)
    return ids[torch.arange(len(ids)), rank]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sharpness", [1.0, 3.0])  # the nucleus of most of the vocabulary, and of few tokens
def test_a_large_vocabulary_gives_the_token_of_the_definition(size, sharpness):
    torch.manual_seed(size)
    logits, u = sharpness * torch.randn(12, size), torch.rand(12, dtype=torch.float64)
    found = sample_nucleus(logits, u)
    # Sums in 32 bits end in a neighbour of the token, once in many thousands: near the edge of u neither is wrong.
    same = (found == plainly(logits, u, 0.9, 0.8)).double().mean()
    assert same > 0.9


def test_the_best_tokens_may_lie_in_one_block_and_at_the_end():
    logits = torch.full((2, 40_007), -20.0)
    logits[0, 100:140] = torch.arange(40.0) / 40
    logits[1, -40:] = torch.arange(40.0) / 40
    u = torch.tensor([0.999, 0.999], dtype=torch.float64)
    assert sample_nucleus(logits, u).tolist() == plainly(logits, u, 0.9, 0.8).tolist()


def test_scores_of_tokens_in_pieces_are_those_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 7, 50), torch.randint(0, 50, (3, 7))
    labels[0, :4] = labels[2, 5:] = -100
    whole = adapter._token_scores(logits, labels)
    monkeypatch.setattr(adapter, "_AT_ONCE", 100)  # two rows at a time
    pieces = adapter._token_scores(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    assert torch.allclose(-pieces.log_probs, expected, atol=1e-5)  # logarithms of 32 bits
    for name in ("log_probs", "entropy", "mean_logits", "is_top1"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name)), name


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "llama", "cohere", "gemma3_text", "mt5"])
def test_one_layer_is_that_layer_of_all(architecture, toy_model, toy_tokenizer):
    model, texts = toy_model(architecture), ["one two", "three four five six", "seven"]
    every = sentence_representations(model, toy_tokenizer, texts)
    for layer in range(len(every)):
        alone = sentence_representations(model, toy_tokenizer, texts, layer=layer)
        assert np.allclose(alone, every[layer], atol=1e-6), layer  # the same sums, read by themselves
    assert np.allclose(sentence_representations(model, toy_tokenizer, texts, layer=-1), every[-1], atol=1e-6)


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "llama", "cohere", "gemma3_text"])
def test_a_frozen_output_layer_is_not_copied_for_each_row(architecture, toy_model, toy_tokenizer):
    "As that of a model with an adapter is: PyTorch multiplies a slice of the states by a copy of the layer for each row"
    model = toy_model(architecture).requires_grad_(False)
    prompts = pd.DataFrame({"id": list("abc"), "lang": "en", "text": ["one two", "three four five", "six"]})
    texts = prompts["text"].tolist()
    with torch.profiler.profile(record_shapes=True) as seen:
        generate(model, toy_tokenizer, prompts, "m", k=2, max_new_tokens=2)
        perplexity(model, toy_tokenizer, texts, [" seven eight", " nine", " ten"])
    batched = [event.input_shapes for event in seen.events() if event.name == "aten::bmm"]
    assert not [shapes for shapes in batched if any(len(toy_tokenizer) in shape for shape in shapes)]
