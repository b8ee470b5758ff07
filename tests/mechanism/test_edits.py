"""Every intervention on every architecture: nothing at strength 0, gone without a trace, the same as an edit, and carried away by save and load."""
import contextlib

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import models
from xlingtox.core import InputError
from xlingtox.mechanism import edits
from xlingtox.mechanism.directions import ablate, steer
from xlingtox.mechanism.scaling import scale_neurons, scales
from xlingtox.mechanism.subspaces import project_values
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES

RANDOM = np.random.default_rng(0)
NEURONS = pd.DataFrame({"layer": np.repeat([1, 0], 30), "neuron": np.tile(np.arange(1, 61, 2), 2), "auroc": RANDOM.uniform(0.4, 1, 60)})
DIRECTIONS = 0.3 * RANDOM.normal(size=(2, 32))
SUBSPACES = np.stack([np.linalg.qr(RANDOM.normal(size=(32, 2)))[0].T for _ in range(2)])


def outputs(model, strength, edit):
    "Scaled outputs of the map with the keys of layer 1"
    name = next(name for name, module in model.named_modules() if module is mlp_sites(model)[1].key_map)
    return scale_neurons(model, scales(NEURONS.head(30).drop(columns="layer").assign(module=name), "aura", strength), edit)


METHODS = {
    "aura": lambda model, s, edit: scale_neurons(model, scales(NEURONS, "aura", s), edit),
    "det0": lambda model, s, edit: scale_neurons(model, scales(NEURONS, "det0", s), edit),
    "aura on outputs": outputs,
    "steering": lambda model, s, edit: steer(model, DIRECTIONS, [0, 1], s, edit),
    "ablation": lambda model, s, edit: ablate(model, DIRECTIONS[1], s, edit=edit),
    "ablation in layers": lambda model, s, edit: ablate(model, DIRECTIONS[1], s, [0, 1], edit),
    "profs": lambda model, s, edit: project_values(model, SUBSPACES, strength=s, edit=edit),
}
NORMED = ("gemma2", "gemma3_text")  # what a layer writes passes a norm
NO_PLACE = {  # what no weights can do, and what is said
    **{("steering", kind): "has no bias that could hold a constant" for kind in ("cohere", "qwen2", "qwen3", "mt5")},
    **{(method, kind): "not linear in its weights" for method in ("steering", "ablation", "ablation in layers") for kind in NORMED},
    ("ablation", "bloom"): "cannot edit LayerNorm",
}
EVERYWHERE = [(method, kind) for method in METHODS for kind in ARCHITECTURES]
EDITS = [pair for pair in EVERYWHERE if pair not in NO_PLACE]


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


def state(model):
    "Everything that an intervention could leave: objects, values, hooks, and what the configuration says"
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    named = dict(model.named_parameters(remove_duplicate=False))
    return ({name: id(p) for name, p in named.items()}, {name: p.detach().clone() for name, p in named.items()},
            sum(len(getattr(m, kind)) for m in model.modules() for kind in kinds), model.config.to_dict())


def same(one, other):
    return (one[0] == other[0] and all(torch.equal(a, other[1][name]) for name, a in one[1].items()) and one[2:] == other[2:])


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("method, architecture", EVERYWHERE)
def test_strength_0_is_the_model(method, architecture, edit, toy_model):
    model = toy_model(architecture)
    before = logits(model)
    with METHODS[method](model, 0, edit) as changed:
        assert changed is model and torch.equal(logits(model), before)


@pytest.mark.parametrize("method, architecture, edit", [*[(*pair, False) for pair in EVERYWHERE], *[(*pair, True) for pair in EDITS]])
def test_nothing_is_left_also_after_an_error(method, architecture, edit, toy_model):
    model = toy_model(architecture)
    before, found = logits(model), state(model)
    with METHODS[method](model, 1, edit):
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before) and same(state(model), found)
    with contextlib.suppress(MemoryError), METHODS[method](model, 0.5, edit):
        raise MemoryError
    assert torch.equal(logits(model), before) and same(state(model), found)


@pytest.mark.parametrize("strength", [0.5, 1])
@pytest.mark.parametrize("method, architecture", EDITS)
def test_the_edit_is_the_hook(method, architecture, strength, toy_model):
    "But for rounding, since the sums come in another order: a few units of the last of 24 bits, here of what the intervention does"
    model = toy_model(architecture)
    before = logits(model)
    with METHODS[method](model, strength, False):
        by_hook = logits(model)
    with METHODS[method](model, strength, True):
        difference = (logits(model) - by_hook).abs().max()
    assert difference < 0.005 * (by_hook - before).abs().max() and difference < 1e-4 * before.abs().max()


@pytest.mark.parametrize("method, architecture", EDITS)
def test_an_edited_model_is_carried_away(method, architecture, toy_model, toy_tokenizer, tmp_path):
    model = toy_model(architecture)
    with METHODS[method](model, 1, True) as edited:
        wanted = logits(edited)
        models.save(edited, toy_tokenizer, tmp_path / "edited")
    loaded, _ = models.load(str(tmp_path / "edited"), device="cpu")
    assert torch.equal(logits(loaded), wanted) and not torch.equal(wanted, logits(model))


@pytest.mark.parametrize("method, architecture", NO_PLACE)
def test_what_no_weights_can_do_is_said(method, architecture, toy_model):
    model = toy_model(architecture)
    found = state(model)
    with pytest.raises(InputError, match=NO_PLACE[method, architecture]), METHODS[method](model, 1, True):
        raise AssertionError("not reached")
    assert same(state(model), found)


@pytest.mark.parametrize("architecture", ["gpt2", "cohere", "mt5"])
def test_a_tied_output_layer_keeps_its_matrix(architecture, toy_model, toy_tokenizer, tmp_path):
    "What is read in is edited, and what is written out with is not, in the model and in the one that is loaded"
    model = toy_model(architecture)
    written, unit = model.get_output_embeddings().weight.detach().clone(), torch.tensor(DIRECTIONS[1] / np.linalg.norm(DIRECTIONS[1])).float()
    with ablate(model, DIRECTIONS[1], edit=True):
        models.save(model, toy_tokenizer, tmp_path / "edited")
    loaded, _ = models.load(str(tmp_path / "edited"), device="cpu")
    reads = loaded.decoder.embed_tokens if architecture == "mt5" else loaded.get_input_embeddings()
    assert (reads.weight @ unit).abs().max() < 1e-5 < (written @ unit).abs().max()  # 32 terms of up to 4, in float32
    assert torch.equal(loaded.get_output_embeddings().weight, written)
    if architecture == "mt5":  # the encoder reads as before
        assert torch.equal(loaded.encoder.embed_tokens.weight, written)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight, "and here one matrix is left"


def test_outputs_of_a_tied_output_layer_are_scaled_alone(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    silent = pd.DataFrame({"module": "lm_head", "neuron": [7], "scale": 0.0})
    with scale_neurons(model, silent, edit=True):
        models.save(model, toy_tokenizer, tmp_path / "edited")
        assert not logits(model)[..., 7].any() and model.transformer.wte.weight[7].any()
    loaded, _ = models.load(str(tmp_path / "edited"), device="cpu")
    assert not logits(loaded)[..., 7].any() and loaded.transformer.wte.weight[7].any()


@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method, toy_model):
    "The type is kept. A weight that is rounded and a sum that is rounded differ by a few of the 8 bits"
    model = toy_model("gpt2").to(torch.bfloat16)
    with METHODS[method](model, 1, False):
        by_hook = logits(model)
    with METHODS[method](model, 1, True):
        by_edit = logits(model)
        assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert by_hook.dtype == by_edit.dtype == torch.bfloat16
    torch.testing.assert_close(by_edit, by_hook, rtol=0.05, atol=0.05 * float(by_hook.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_cannot_be_edited(method, toy_model):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(toy_model("gpt2"), LoraConfig(r=2, target_modules=["c_fc", "c_proj"], fan_in_fan_out=True)).eval()
    before = logits(model)
    with METHODS[method](model, 1, False):
        assert not torch.equal(logits(model), before)
    with pytest.raises(InputError, match="merge_and_unload"), METHODS[method](model, 1, True):
        raise AssertionError("not reached")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("method", METHODS)
def test_four_bits_cannot_be_edited_but_hooked(method, toy_model, toy_tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    models.save(toy_model("llama", hidden_size=64, intermediate_size=128), toy_tokenizer, tmp_path / "base")
    model, _ = models.load(str(tmp_path / "base"), quantise=True, device="cpu")
    wide = {"steering": lambda s, edit: steer(model, np.tile(DIRECTIONS, 2), [0, 1], s, edit),
            "ablation": lambda s, edit: ablate(model, np.tile(DIRECTIONS[1], 2), s, edit=edit),
            "ablation in layers": lambda s, edit: ablate(model, np.tile(DIRECTIONS[1], 2), s, [0], edit),
            "profs": lambda s, edit: project_values(model, np.tile(SUBSPACES, 2), strength=s, edit=edit)}
    way = wide.get(method, lambda s, edit: METHODS[method](model, s, edit))
    before = logits(model)
    with way(1, False):
        assert not torch.equal(logits(model), before)
    with pytest.raises(InputError, match="its weights are in 4 or 8 bits; load without quantise"), way(1, True):
        raise AssertionError("not reached")
    assert torch.equal(logits(model), before)


def test_blocks_nest(toy_model):
    model = toy_model("llama")
    before, found = logits(model), state(model)
    with METHODS["aura"](model, 1, True), METHODS["ablation"](model, 1, True), METHODS["steering"](model, 1, True):
        by_edit = logits(model)
    assert torch.equal(logits(model), before) and same(state(model), found)
    with METHODS["aura"](model, 1, False), METHODS["ablation"](model, 1, False), METHODS["steering"](model, 1, False):
        torch.testing.assert_close(by_edit, logits(model), rtol=2e-4, atol=2e-4)  # rounding


@pytest.mark.parametrize("architecture", sorted(edits.WRITERS))
def test_every_row_of_the_table_fits_its_class(architecture):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    sizes = ARCHITECTURES.get(architecture, ARCHITECTURES["llama"])
    config = AutoConfig.for_model(architecture, **({"text_config": sizes} if architecture == "gemma3" else sizes))
    with torch.device("meta"):
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)
    assert len(edits.stream_layers(model)) == 2 and len(edits.writers(model)) >= 5 and len(edits.writers(model, [1])) >= 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_writers_are_all_that_writes(architecture, toy_model):
    "Their outputs add up to what the last layer leaves"
    model, written, left = toy_model(architecture), [], []
    handles = [m.register_forward_hook(lambda module, inputs, output: written.append(output)) for m in edits.writers(model)]
    last = edits.stream_layers(model)[-1]
    handles.append(last.register_forward_hook(lambda module, inputs, output: left.append(output[0] if isinstance(output, tuple) else output)))
    logits(model)
    for handle in handles:
        handle.remove()
    scale = max(float(part.abs().max()) for part in written)  # rounding grows with the largest part
    torch.testing.assert_close(sum(written).expand_as(left[0]), left[0], rtol=1e-5, atol=1e-5 * scale)


def test_layers_and_strengths_that_are_none(toy_model):
    model = toy_model("llama")
    for layers, message in (([2], "layer 2 is not in the model, which has layers 0 to 1"), ([-1], "layer -1 is not in the model"), ([], "no layer to change"),
                            ([0.5], "layer 0.5 is not in the model")):
        for way in (lambda at=layers: steer(model, DIRECTIONS, at), lambda at=layers: ablate(model, DIRECTIONS[0], layers=at),
                    lambda at=layers: project_values(model, SUBSPACES, at)):
            with pytest.raises(InputError, match=message), way():
                raise AssertionError("not reached")
    for method in METHODS.values():
        for strength in (float("nan"), float("inf"), "1x", None):
            with pytest.raises(InputError, match="strength must be a finite number"), method(model, strength, False):
                raise AssertionError("not reached")
    with pytest.raises(InputError, match="do not know where 'llama9' keeps its MLP"):
        model.config.model_type = "llama9"
        edits.writers(model)
