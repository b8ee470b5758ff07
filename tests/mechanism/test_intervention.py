"""Offsets during generation on every architecture: equal to built-in constants, with and without a cache, and gone without a trace."""
import functools

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, generation
from xlingtox.core import InputError
from xlingtox.mechanism.intervention import control_sets, offset_activations, sweep
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES

SITES = pd.DataFrame({"layer": [1, 0, 1], "neuron": [5, 33, 4]})
OFFSET = 60.0  # enough that what a small random model writes changes


@pytest.fixture
def prompts():
    return babel.prompts(["en", "de", "zh"], n=4, seed=5)


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


def hooks(model):
    "Number of hooks of any kind on any module"
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def greedy(model, tokenizer, prompts, **kw):
    return generation.generate(model, tokenizer, prompts, "m", k=1, greedy=True, max_new_tokens=8, **kw)["text"].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_position_gets_the_offset_times_the_value_vector(architecture, toy_model):
    model = toy_model(architecture)
    seen = {}
    points = {m.layer: m for m in mlp_sites(model)}
    handles = [m.hook_point.register_forward_hook(lambda module, inputs, output, layer=layer: seen.setdefault(layer, []).append(output))
               for layer, m in points.items()]
    before = logits(model)
    with offset_activations(model, SITES, OFFSET):
        inside = logits(model)
    for handle in handles:
        handle.remove()
    shift = (seen[0][1] - seen[0][0])  # the first layer with sites: what enters it is the same
    torch.testing.assert_close(shift, (OFFSET * points[0].values[33]).expand_as(shift), rtol=1e-3, atol=1e-4)
    assert (inside - before).abs().max() > 1e-3
    for layer, neuron in SITES.to_numpy():  # a constant at each position: the same as a bias
        point = points[layer].hook_point
        point.register_forward_hook(lambda module, inputs, output, v=OFFSET * points[layer].values[neuron]: output + v)
    torch.testing.assert_close(logits(model), inside, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generation_with_a_cache_is_the_loop_without(architecture, toy_model, toy_tokenizer, prompts, written):
    model = toy_model(architecture)
    with offset_activations(model, SITES, OFFSET):
        got = greedy(model, toy_tokenizer, prompts, batch_size=5)
        for text, found in zip(prompts["text"], got, strict=True):
            ids, new = toy_tokenizer(text, return_tensors="pt")["input_ids"], []
            for _ in range(8):
                tail = torch.tensor([new], dtype=torch.long)
                with torch.no_grad():
                    if model.config.is_encoder_decoder:
                        out = model(input_ids=ids, decoder_input_ids=torch.cat([torch.tensor([[0]]), tail], 1), use_cache=False)
                    else:
                        out = model(torch.cat([ids, tail], 1), use_cache=False)
                new.append(int(out.logits[0, -1].argmax()))
                if new[-1] == toy_tokenizer.eos_token_id:
                    break
            assert found == written(toy_tokenizer, new)
    assert got != greedy(model, toy_tokenizer, prompts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_left_also_when_generation_raises(architecture, toy_model, toy_tokenizer, prompts, monkeypatch):
    model = toy_model(architecture)
    before, texts, weights = logits(model), greedy(model, toy_tokenizer, prompts), {k: v.clone() for k, v in model.state_dict().items()}

    def unchanged():
        assert hooks(model) == 0 and torch.equal(logits(model), before) and greedy(model, toy_tokenizer, prompts) == texts
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())

    with offset_activations(model, SITES, -OFFSET):
        assert hooks(model) == 2 and not torch.equal(logits(model), before)
    unchanged()
    steps, forward = [], model.forward

    @functools.wraps(forward)
    def fail(*args, **kwargs):
        steps.append(1)
        if len(steps) > 3:
            raise MemoryError("in the middle of a text")
        return forward(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", fail)
        with pytest.raises(MemoryError), offset_activations(model, SITES, OFFSET):
            greedy(model, toy_tokenizer, prompts)
    assert len(steps) == 4
    unchanged()
    with pytest.raises(InputError, match="neuron 9999 is not in layer 0"):
        with offset_activations(model, pd.DataFrame({"layer": [1, 0], "neuron": [2, 9999]}), OFFSET):
            raise AssertionError("not reached")
    unchanged()


def test_blocks_nest_and_add_up(toy_model):
    model = toy_model("gpt2")
    with offset_activations(model, SITES, 1.0), offset_activations(model, SITES, 2.0):
        both = logits(model)
    with offset_activations(model, SITES, 3.0):
        torch.testing.assert_close(logits(model), both, rtol=1e-5, atol=1e-5)
    with offset_activations(model, SITES, 1.0):
        with offset_activations(model, SITES, -1.0):
            pass
        assert hooks(model) == 2


def test_the_type_of_the_model_is_kept(toy_model):
    model = toy_model("llama").to(torch.bfloat16)
    with offset_activations(model, SITES, OFFSET):
        assert logits(model).dtype == torch.bfloat16


def test_a_sweep_has_every_set_under_every_offset(toy_model, toy_tokenizer, prompts):
    model = toy_model("gpt2")
    sets = {"actual": SITES} | control_sets(model, SITES, n=2, seed=3)
    assert list(sets) == ["actual", "random-0", "random-1", "same-layers-0", "same-layers-1"]
    assert all(sorted(sets[f"same-layers-{i}"]["layer"]) == [0, 1, 1] for i in (0, 1)) and not sets["random-0"].equals(sets["random-1"])
    table = sweep(model, toy_tokenizer, prompts, sets, [-8, 8], max_new_tokens=8)
    assert len(table) == 12 * 11 and not table.duplicated(["sites", "offset", "lang", "prompt_id"]).any()
    rows = table.set_index(["sites", "offset"])["text"]
    assert rows["none", 0.0].tolist() == greedy(model, toy_tokenizer, prompts)
    with offset_activations(model, SITES, 8):
        assert rows["actual", 8.0].tolist() == greedy(model, toy_tokenizer, prompts) != rows["actual", -8.0].tolist()
    assert hooks(model) == 0


def test_an_empty_set_is_said(toy_model, toy_tokenizer, prompts):
    model = toy_model("gpt2")
    with pytest.raises(InputError, match="no neuron to change: the set of sites is empty"), offset_activations(model, SITES.head(0), 1.0):
        raise AssertionError("not reached")
    with pytest.raises(InputError, match="the set actual is empty"):
        sweep(model, toy_tokenizer, prompts, {"actual": SITES.head(0)}, [-1])


def test_an_offset_of_zero_changes_nothing(toy_model):
    model = toy_model("cohere")
    before = logits(model)
    with offset_activations(model, SITES, 0.0):
        np.testing.assert_array_equal(logits(model), before)
