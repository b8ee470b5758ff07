"""Several readers as one model on every architecture: the formulas, the loops of generation and perplexity, and what cannot be combined."""
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, generation, metrics
from xlingtox.core import InputError
from xlingtox.generation.cache import cache_name, output_cache
from xlingtox.mechanism.decoding import TOXICITY, debiased, dexperts, self_debiasing
from xlingtox.metrics.fluency import context_and_target

from conftest import ARCHITECTURES

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
PREFIXES = ["The old teacher sings:", "Der Hund"]


def logits(model, ids=IDS, decoder_ids=None):
    given = {"decoder_input_ids": IDS if decoder_ids is None else decoder_ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **given).logits


@pytest.fixture(scope="module")
def three(toy_model):
    "A function that gives a model of an architecture, an expert that is narrower in its MLP, and an anti-expert"
    def make(architecture):
        base, anti = toy_model(architecture), toy_model(architecture)
        expert = toy_model(architecture, **({"n_inner": 48} if architecture == "gpt2" else {"d_ff": 48} if architecture == "mt5" else
                                            {} if architecture == "bloom" else {"intermediate_size": 48}))
        for seed, model in enumerate((expert, anti), 1):
            generator = torch.Generator().manual_seed(seed)
            for p in model.parameters():
                p.data += 0.3 * p.data.std() * torch.randn(p.shape, generator=generator) if p.numel() > 1 else 0
        return base, expert, anti
    return make


def by_hand(ensemble, tokenizer, text, n, written, prefixes=()):
    "Greedy tokens of an ensemble by whole passes over one prompt, without cache or padding; prefixes are read as text"
    models, (base, *rest) = [reader.model for reader in ensemble.readers], tokenizer(text)["input_ids"]
    heads = [[base, *rest], *([base, *tokenizer(p)["input_ids"][1:], *rest] for p in prefixes)]
    heads = heads if prefixes else heads * len(models)
    new = []
    for _ in range(n):
        found = []
        for model, head in zip(models, heads, strict=True):
            seq2seq = model.config.is_encoder_decoder
            ids = torch.tensor([head if seq2seq else head + new])
            found.append(logits(model, ids, torch.tensor([[0, *new]]))[:, -1].float())
        new.append(int(ensemble.combine(found).argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    return written(tokenizer, new)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dexperts_is_its_formula(architecture, three):
    base, expert, anti = three(architecture)
    z, plus, minus = map(logits, (base, expert, anti))
    for alpha in (0.5, 2.0, -1.0):
        torch.testing.assert_close(logits(dexperts(base, expert, anti, alpha)), z + alpha * (plus - minus))
        torch.testing.assert_close(logits(dexperts(base, expert, strength=alpha)), z + alpha * (plus - z))
        torch.testing.assert_close(logits(dexperts(base, antiexpert=anti, strength=alpha)), z + alpha * (z - minus))
    assert torch.equal(logits(dexperts(base, expert, expert, 5.0)), z), "an expert that is its own anti-expert says nothing"
    assert torch.equal(logits(dexperts(base, expert, anti, 0)), z)
    assert len(dexperts(base, expert).readers) == 2, "the model is read once though it stands in two places"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_is_the_loop_without_cache_or_padding(architecture, three, toy_tokenizer, written):
    base, expert, anti = three(architecture)
    prompts = pd.concat([babel.prompts(["en", "zh"], n=3, seed=5), pd.DataFrame({"id": ["one"], "lang": "en", "text": ["a"]})])
    options = {"k": 1, "greedy": True, "max_new_tokens": 7, "batch_size": 5}
    ways = {"dexperts": (dexperts(base, expert, anti, 3.0), ()), "self-debiasing": (self_debiasing(base, toy_tokenizer, PREFIXES, 1e6, 1e-6), PREFIXES)}
    plain = generation.generate(base, toy_tokenizer, prompts, "m", **options)["text"].tolist()
    for name, (ensemble, prefixes) in ways.items():
        found = generation.generate(ensemble, toy_tokenizer, prompts, "m", **options)["text"].tolist()
        assert found == [by_hand(ensemble, toy_tokenizer, text, 7, written, prefixes) for text in prompts["text"]], name
        assert found != plain or (architecture, name) == ("mt5", "self-debiasing"), name  # this toy ends at once whatever it hears
    for neutral in (dexperts(base, expert, anti, 0), dexperts(base, expert, expert, 2.0), self_debiasing(base, toy_tokenizer, PREFIXES, 0)):
        assert generation.generate(neutral, toy_tokenizer, prompts, "m", **options)["text"].tolist() == plain


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_samples_depend_neither_on_the_batch_nor_on_the_call(architecture, three, toy_tokenizer):
    base, expert, anti = three(architecture)
    prompts = babel.prompts(["en", "zh"], n=3, seed=5)
    for ensemble in (dexperts(base, expert, anti, 0.5), self_debiasing(base, toy_tokenizer, PREFIXES, 20)):
        one, many, again = (generation.generate(ensemble, toy_tokenizer, prompts, "m", k=3, max_new_tokens=5, batch_size=b) for b in (1, 6, 6))
        assert many.equals(again)
        assert (one["text"] == many["text"]).mean() > 0.9  # a draw that falls between two tokens goes either way by rounding


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_perplexity_is_that_of_the_combined_logits(architecture, three, toy_tokenizer):
    base, expert, anti = three(architecture)
    prompts = ["The teacher reads"] * 5 + ["Der Hund", "a"]  # a prompt that comes often is read once
    texts = [" a book.", " and sings", " the", " old", " it", " liest das Buch.", " b"]
    for ensemble in (dexperts(base, expert, anti, 0.7), self_debiasing(base, toy_tokenizer, PREFIXES, 20)):
        found = metrics.perplexity(ensemble, toy_tokenizer, prompts, texts)
        for prompt, text, value in zip(prompts, texts, found, strict=True):
            if architecture == "mt5":
                labels = toy_tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                z = logits(ensemble, toy_tokenizer(prompt, return_tensors="pt")["input_ids"], ensemble.prepare_decoder_input_ids_from_labels(labels))[0]
            else:
                (context,), (target,) = context_and_target(toy_tokenizer, [prompt], [text])
                labels, z = torch.tensor([target]), logits(ensemble, torch.tensor([context + target]))[0, len(context) - 1 : -1]
            nll = -z.log_softmax(-1).gather(1, labels[0, :, None]).mean()
            assert value == pytest.approx(math.exp(nll), rel=1e-3)  # single precision, and in batches other sums
    same = metrics.perplexity(dexperts(base, expert, expert), toy_tokenizer, prompts, texts)
    np.testing.assert_array_equal(same, metrics.perplexity(base, toy_tokenizer, prompts, texts))
    assert np.isfinite(metrics.perplexity(ensemble, toy_tokenizer, prompts, texts, variant="published", max_drop=None)).all()


def test_self_debiasing_is_its_formula():
    p, q, r = (torch.tensor(x).softmax(-1) for x in ([1.0, 0.0, -1.0, 0.5], [0.0, 2.0, -1.0, 0.5], [1.0, 0.0, 3.0, 0.5]))
    likelier = torch.maximum(q, r) - p
    wanted = p * torch.where(likelier > 0, torch.exp(-10 * likelier), 1).clamp(min=0.05)
    torch.testing.assert_close(debiased(p.log(), [q.log(), r.log()], 10, 0.05).softmax(-1), wanted / wanted.sum())
    assert torch.equal(debiased(p.log(), [q.log()], 0), p.log())
    torch.testing.assert_close(debiased(p.log(), [p.log()], 50), p.log())  # a description that changes nothing


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mt5"])
def test_texts_of_another_strength_are_not_taken_for_its_own(architecture, three, toy_tokenizer, tmp_path):
    base, expert, anti = three(architecture)
    prompts, options = babel.prompts(["en"], n=4, seed=5), {"k": 2, "max_new_tokens": 5}
    ways = [base, dexperts(base, expert, anti, 1), dexperts(base, expert, anti, 5), dexperts(base, anti, expert, 5), dexperts(base, expert, strength=5),
            self_debiasing(base, toy_tokenizer, PREFIXES, 100), self_debiasing(base, toy_tokenizer, PREFIXES[:1], 100),
            self_debiasing(base, toy_tokenizer, PREFIXES, 100, floor=0.5)]
    for way in ways:
        fresh = generation.generate(way, toy_tokenizer, prompts, "m", **options)
        assert generation.generate(way, toy_tokenizer, prompts, "m", parts=tmp_path / "parts", **options).equals(fresh)


@pytest.mark.parametrize("called, named", [("cache", True), ("past_key_values", True), ("past_key_values", False)])
def test_a_cache_of_any_name_is_remembered(called, named, three, toy_tokenizer, monkeypatch):
    "transformers 5.24 has renamed it, and a wrapper such as peft's takes it without naming it"
    base, expert, _ = three("llama")
    ensembles = [dexperts(base, expert), self_debiasing(base, toy_tokenizer, PREFIXES, 50.0)]
    prompts = babel.prompts(["en", "de"], 3)
    write = lambda: [generation.generate(e, toy_tokenizer, prompts, "m", k=2, max_new_tokens=6)["text"].tolist() for e in ensembles]  # noqa: E731
    expected, forward, own = write(), type(base).forward, cache_name(base)

    def renamed(model, **given):
        out = forward(model, **{own if name == called else name: value for name, value in given.items()})
        return SimpleNamespace(logits=out.logits, **{called: output_cache(out)})

    known = inspect.signature(forward)
    renamed.__signature__ = known.replace(parameters=[
        p.replace(name=called) if p.name == own else p for p in known.parameters.values() if named or p.name != own])
    monkeypatch.setattr(type(base), "forward", renamed)
    assert write() == expected


def test_beams_and_completions_run_on_it(three, toy_tokenizer):
    from xlingtox.generation.completions import Decoding, complete

    base, expert, anti = three("gpt2")
    prompts = babel.prompts(["en"], n=3, seed=5)
    for how in (Decoding(max_new_tokens=4, temperature=0.7, repetition_penalty=1.2), Decoding(max_new_tokens=4, temperature=0, num_beams=2)):
        plain, neutral, changed = (complete(m, toy_tokenizer, prompts, how) for m in (base, dexperts(base, expert, expert), dexperts(base, expert, anti, 5)))
        assert plain == neutral != changed


def test_the_context_is_what_is_left_by_the_longest_prefix(toy_model, toy_tokenizer):
    model = toy_model("gpt2")
    long = " ".join(["book"] * 15)
    taken = len(toy_tokenizer(long, add_special_tokens=False)["input_ids"])
    warned = self_debiasing(model, toy_tokenizer, [long])
    assert warned.config.max_position_embeddings == 128 - taken and model.config.max_position_embeddings == 128
    prompts = babel.prompts(["en"], n=1, seed=5)
    room = 128 - taken - len(toy_tokenizer(prompts["text"][0])["input_ids"])
    generation.generate(warned, toy_tokenizer, prompts, "m", k=1, max_new_tokens=room)
    with pytest.raises(InputError, match=f"exceed the model's context of {128 - taken}"):
        generation.generate(warned, toy_tokenizer, prompts, "m", k=1, max_new_tokens=room + 1)


def test_what_cannot_be_combined_is_said(toy_model, toy_tokenizer):
    from xlingtox.models import pretrain

    model, wider = toy_model("llama"), toy_model("llama")
    wider.resize_token_embeddings(len(toy_tokenizer) + 1)
    with pytest.raises(InputError, match=f"different vocabularies, of {len(toy_tokenizer)} and {len(toy_tokenizer) + 1} tokens"):
        dexperts(model, wider)
    with pytest.raises(InputError, match="some models are encoder-decoders and some are not"):
        dexperts(model, toy_model("mt5"))
    with pytest.raises(InputError, match="neither an expert nor an anti-expert"):
        dexperts(model)
    other = pretrain.train_tokenizer(babel.corpus(300, shares={"fr": 1}, parallel_share=0)["text"], len(toy_tokenizer))
    with pytest.raises(InputError, match="the tokenizers have different vocabularies; they differ at"):
        dexperts(model, toy_model("qwen2"), tokenizers=[toy_tokenizer, other])
    for wrong in ([], [""], [None], " "):
        with pytest.raises(InputError, match="takes descriptions that are texts"):
            self_debiasing(model, toy_tokenizer, wrong)
    for floor in (0, -1, 2):
        with pytest.raises(InputError, match="floor of self-debiasing"):
            self_debiasing(model, toy_tokenizer, floor=floor)
    for strength in (float("nan"), "x"):
        with pytest.raises(InputError, match="strength must be a finite number"):
            dexperts(model, model, strength=strength)
        with pytest.raises(InputError, match="strength must be a finite number"):
            self_debiasing(model, toy_tokenizer, strength=strength)
    one, same = (self_debiasing(model, toy_tokenizer, prefixes).readers[1].prefix for prefixes in (TOXICITY, [TOXICITY]))
    assert one == same, "one text is a list of one"


def test_half_precision_is_combined_in_single(three):
    base, expert, anti = (m.to(torch.bfloat16) for m in three("llama"))
    assert logits(dexperts(base, expert, anti)).dtype == torch.float32 and logits(dexperts(base, expert, anti, 0)).dtype == torch.bfloat16
