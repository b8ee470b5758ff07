"""Scales of neurons: the rules by their formulas, what is scaled, and tables that name nothing or too much."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox.core import InputError
from xlingtox.mechanism.scaling import experts, scale_neurons, scales
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES

NEURONS = pd.DataFrame({"layer": [1, 0, 1, 0], "neuron": [5, 33, 4, 2], "auroc": [0.9, 0.5, 0.75, 0.2]})


def run(model):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        return model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})).logits


@pytest.mark.parametrize("rule, strength, wanted", [
    ("aura", 1, [0.2, 1, 0.5, 1]), ("aura", 0.5, [0.6, 1, 0.75, 1]), ("aura", 2, [0, 1, 0, 1]), ("aura", -1, [1.8, 1, 1.5, 1]), ("damp", 1, [0.5] * 4),
    ("damp", 0.5, [0.75] * 4), ("det0", 1, [0] * 4), ("det0", 0.25, [0.75] * 4), ("det0", 3, [0] * 4), ("aura", 0, [1] * 4), ("det0", 0, [1] * 4)])
def test_rules(rule, strength, wanted):
    assert scales(NEURONS, rule, strength)["scale"].tolist() == pytest.approx(wanted, abs=1e-12)


def test_experts_are_the_best_above_the_threshold():
    assert experts(NEURONS)["neuron"].tolist() == [5, 4] and experts(NEURONS, n=1)["neuron"].tolist() == [5]
    assert experts(NEURONS, threshold=0.8)["neuron"].tolist() == [5]
    assert experts(NEURONS.assign(auroc=0.7), n=2)["neuron"].tolist() == [5, 33], "ties stay in the order of the table"
    for n in (0, 3):
        with pytest.raises(InputError, match=f"cannot take the best {n} experts: 2 neurons"):
            experts(NEURONS, n)
    for value in (np.nan, 1.2, -0.1, "high"):
        with pytest.raises(InputError, match="row 2: auroc is .* should lie between 0 and 1"):
            experts(NEURONS.astype({"auroc": object}).assign(auroc=[0.9, value, 0.1, 0.2]))


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_leaves_the_mlp_lacks_what_was_taken_off(architecture, edit, toy_model):
    "In the first layer, whose activations nobody else has changed: the sum of (1 - scale) times activation times value vector"
    model, seen = toy_model(architecture), []
    site = mlp_sites(model)[0]

    def keep(module, inputs, output):
        seen.append((inputs[0], output))

    table, values = pd.DataFrame({"layer": [0, 0], "neuron": [33, 2], "scale": [0.25, 0.0]}), site.values.clone()
    handle = site.hook_point.register_forward_hook(keep)
    run(model)
    with scale_neurons(model, table, edit):
        run(model)
    handle.remove()
    (activations, before), (_, after) = seen
    wanted = 0.75 * activations[..., 33, None] * values[33] + activations[..., 2, None] * values[2]
    torch.testing.assert_close(before - after, wanted, rtol=1e-3, atol=1e-5 * float(before.abs().max()))  # the difference of larger numbers


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_of_a_module_are_scaled_with_their_bias(architecture, edit, toy_model):
    model, seen = toy_model(architecture), []
    point = mlp_sites(model)[0].key_map
    if getattr(point, "bias", None) is not None:
        point.bias.data += 0.5
    name = next(name for name, module in model.named_modules() if module is point)
    table = pd.DataFrame({"module": name, "neuron": [7, 3], "scale": [0.5, 0.0]})

    def outputs():
        handle = point.register_forward_hook(lambda module, inputs, output: seen.append(output))  # after the hook that scales
        run(model)
        handle.remove()
        return seen.pop()

    before = outputs()
    with scale_neurons(model, table, edit):
        after = outputs()
    wanted = before.clone()
    wanted[..., 7] /= 2
    wanted[..., 3] = 0
    torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("table, message", [
    (NEURONS.head(0).assign(scale=1.0), "no neuron to scale: the table of scales is empty"),
    (pd.DataFrame({"layer": [0, 1], "neuron": [1, 64], "scale": 0.5}), "row 2: neuron 64 is not in layer 1, which has neurons 0 to 63"),
    (pd.DataFrame({"layer": [2], "neuron": [1], "scale": 0.5}), "layer 2 is not in the model"),
    (pd.DataFrame({"layer": [0, 0], "neuron": [1, 1], "scale": 0.5}), "row 2: layer 0, neuron 1 occurs more than once"),
    (pd.DataFrame({"layer": [0], "neuron": [1], "scale": np.nan}), "not finite numbers"),
    (pd.DataFrame({"layer": [0], "neuron": [1]}), "scale"),
    (pd.DataFrame({"module": ["model.layers.0.mlp.up_pro"], "neuron": [1], "scale": 0.5}),
     "no module 'model.layers.0.mlp.up_pro' .did you mean model.layers.0.mlp.up_proj"),
    (pd.DataFrame({"module": ["model.layers.0.mlp.up_proj"], "neuron": [64], "scale": 0.5}),
     "neuron 64 is not in model.layers.0.mlp.up_proj, which has neurons 0 to 63"),
    (pd.DataFrame({"module": ["model.norm"], "neuron": [1], "scale": 0.5}), "is a LlamaRMSNorm, and not a linear map"),
])
def test_tables_that_do_not_fit(table, message, toy_model):
    with pytest.raises(InputError, match=message), scale_neurons(toy_model("llama"), table):
        raise AssertionError("not reached")


def test_an_unknown_rule():
    with pytest.raises(InputError, match="there is no rule 'det1'; there are aura, damp, det0"):
        scales(NEURONS, "det1")
