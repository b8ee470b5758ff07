"""Task negation on every architecture: by its formula, undone, saved, and models that are no pair."""
import contextlib

import pytest
import torch
from xlingtox import models
from xlingtox.core import InputError
from xlingtox.mechanism.task_vectors import negate_task

from conftest import ARCHITECTURES


@pytest.fixture(scope="module")
def pair(toy_model):
    "A function that gives a model and an anti-expert tuned from it"
    def make(architecture, **sizes):
        base, anti = toy_model(architecture, **sizes), toy_model(architecture, **sizes)
        generator = torch.Generator().manual_seed(1)
        for p in anti.parameters():
            p.data += 0.1 * torch.randn(p.shape, generator=generator)
        return base, anti
    return make


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_goes_the_other_way(architecture, pair, toy_tokenizer, tmp_path):
    base, anti = pair(architecture)
    own, toxic, before = weights(base), weights(anti), logits(base)
    names = {name: id(p) for name, p in base.named_parameters(remove_duplicate=False)}
    with negate_task(base, anti, 0.5) as changed:
        for name, p in changed.named_parameters(remove_duplicate=False):
            torch.testing.assert_close(p, own[name] - 0.5 * (toxic[name] - own[name]))
        assert {name: id(p) for name, p in changed.named_parameters(remove_duplicate=False)} == names, "what was tied is tied"
        wanted = logits(changed)
        models.save(changed, toy_tokenizer, tmp_path / "negated")
    assert torch.equal(logits(base), before) and all(torch.equal(p, own[name]) for name, p in weights(base).items())
    assert all(torch.equal(p, toxic[name]) for name, p in weights(anti).items())
    loaded, _ = models.load(str(tmp_path / "negated"), device="cpu")
    assert torch.equal(logits(loaded), wanted) and not torch.equal(wanted, before)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_at_0_and_the_anti_expert_at_minus_1(architecture, pair):
    base, anti = pair(architecture)
    before = logits(base)
    with negate_task(base, anti, 0):
        assert torch.equal(logits(base), before)
    with negate_task(base, anti, -1):
        torch.testing.assert_close(logits(base), logits(anti), rtol=1e-3, atol=1e-3 * float(logits(anti).abs().max()))  # w + (a - w) is a but for rounding
    with contextlib.suppress(KeyboardInterrupt), negate_task(base, anti, 1):
        raise KeyboardInterrupt
    assert torch.equal(logits(base), before)


def test_half_precision_is_kept(pair):
    base, anti = (m.to(torch.bfloat16) for m in pair("llama"))
    with negate_task(base, anti, 1):
        assert all(p.dtype == torch.bfloat16 for p in base.parameters())


def test_models_that_are_no_pair(pair, toy_model, toy_tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    base, anti = pair("llama")
    before, adapted = logits(base), get_peft_model(toy_model("llama"), LoraConfig(r=2, target_modules=["down_proj"]))
    for other, message in ((toy_model("llama", num_hidden_layers=3), "model.layers.2.* is not in the model; tune the anti-expert from the same base"),
                           (toy_model("llama", intermediate_size=48), r"has the shape \(.*\) in the model and \(.*\) in the anti-expert"),
                           (toy_model("gpt2"), "is not in"), (adapted, "the anti-expert carries an adapter; load it with merge=True")):
        with pytest.raises(InputError, match=message), negate_task(base, other):
            raise AssertionError("not reached")
    with pytest.raises(InputError, match="the model carries an adapter"), negate_task(adapted, anti):
        raise AssertionError("not reached")
    for strength in (float("nan"), "x", None):
        with pytest.raises(InputError, match="strength must be a finite number"), negate_task(base, anti, strength):
            raise AssertionError("not reached")
    assert torch.equal(logits(base), before)


def test_four_bits_are_refused(pair, toy_tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    base, anti = pair("llama", hidden_size=64, intermediate_size=128)
    models.save(base, toy_tokenizer, tmp_path / "base")
    packed, _ = models.load(str(tmp_path / "base"), quantise=True, device="cpu")
    for one, other, which in ((packed, anti, "model"), (base, packed, "anti-expert")):
        with pytest.raises(InputError, match=f"of the {which} is in 4 or 8 bits; load it without quantise"), negate_task(one, other):
            raise AssertionError("not reached")
