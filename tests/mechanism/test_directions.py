"""Directions on every architecture: where they are read, that what is added arrives, and that what is ablated is gone."""
import numpy as np
import pytest
import torch
from xlingtox import babel, generation
from xlingtox.core import InputError
from xlingtox.mechanism.directions import ablate, mean_difference, steer, stream_means
from xlingtox.mechanism.edits import stream_layers
from xlingtox.mechanism.subspaces import project_values, toxic_subspaces
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES

RANDOM = np.random.default_rng(1)
DIRECTIONS = RANDOM.normal(size=(2, 32))
UNIT = torch.tensor(DIRECTIONS[1] / np.linalg.norm(DIRECTIONS[1]), dtype=torch.float32)
TEXTS = ["The old teacher reads a book.", "sings", "Der alte Lehrer liest.", "猫在家里唱歌。"]
EDITABLE = [a for a in ARCHITECTURES if a not in ("bloom", "gemma2", "gemma3_text")]


def streams(model):
    "The residual stream after each layer, [positions, d]"
    seen, ids = [], torch.tensor([[5, 6, 7, 8, 9]])
    handles = [layer.register_forward_hook(lambda module, inputs, output: seen.append((output[0] if isinstance(output, tuple) else output)[0]))
               for layer in stream_layers(model)]
    with torch.no_grad():
        model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_stream_of_a_text_is_the_mean_over_its_own_tokens(architecture, toy_model, toy_tokenizer):
    "In a batch with longer ones as alone, and with the state that the library calls by the next number, but for the last, which it normalises"
    model = toy_model(architecture)
    found = stream_means(model.train(), toy_tokenizer, TEXTS, batch_size=3)
    assert model.training and found.shape == (2, 4, 32)
    model.eval()
    for i, text in enumerate(TEXTS):
        ids = toy_tokenizer(text, return_tensors="pt")["input_ids"]
        given = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            out = model(input_ids=ids, **given, output_hidden_states=True)
        states = out.decoder_hidden_states if given else out.hidden_states
        np.testing.assert_allclose(found[0, i], states[1][0].mean(0), rtol=2e-4, atol=2e-4 * float(states[1].abs().max()))  # padding: other sums
        alone = stream_means(model, toy_tokenizer, [text])
        np.testing.assert_allclose(found[:, i], alone[:, 0], rtol=2e-4, atol=2e-4 * float(np.abs(alone).max()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_steering_adds_the_direction_of_its_layer_and_no_other(architecture, toy_model):
    model = toy_model(architecture)
    before = streams(model)
    with steer(model, DIRECTIONS, [1], strength=-2):
        after = streams(model)
    assert torch.equal(after[0], before[0])
    wanted = torch.tensor(-2 * DIRECTIONS[1], dtype=torch.float32).expand(5, 32)
    torch.testing.assert_close(after[1] - before[1], wanted, rtol=1e-4, atol=1e-5 * float(before[1].abs().max()))  # a difference of larger numbers


@pytest.mark.parametrize("architecture, edit", [*[(a, False) for a in ARCHITECTURES], *[(a, True) for a in EDITABLE]])
def test_an_ablated_direction_is_gone_from_the_whole_stream(architecture, edit, toy_model):
    "But for rounding, which is as large as the last digit of what is written"
    model = toy_model(architecture)
    before = streams(model)
    with ablate(model, DIRECTIONS[1], edit=edit):
        gone = streams(model)
    with ablate(model, DIRECTIONS[1], strength=0.5, edit=edit):
        half = streams(model)
    for layer in range(2):
        assert (before[layer] @ UNIT).abs().max() > 1e-3 * before[layer].abs().max()
        assert (gone[layer] @ UNIT).abs().max() < 5e-6 * gone[layer].norm(dim=1).max()
        assert (half[layer] @ UNIT).abs().max() > 1e-4 * half[layer].abs().max()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_that_are_named_no_longer_write_it(architecture, toy_model):
    "Layer 1 adds nothing to the direction, whatever is there of it"
    model = toy_model(architecture)
    with ablate(model, 7 * DIRECTIONS[1], layers=[1]):
        before, after = streams(model)
    torch.testing.assert_close(after @ UNIT, before @ UNIT, rtol=1e-4, atol=1e-5 * float(after.norm(dim=1).max()))  # rounding of a projection


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mt5"])
def test_generation_with_a_cache_is_the_loop_without(architecture, toy_model, toy_tokenizer, written):
    model, prompts = toy_model(architecture), babel.prompts(["en", "zh"], n=3, seed=5)
    with ablate(model, DIRECTIONS[1]), steer(model, DIRECTIONS, [0], 5.0):
        found = generation.generate(model, toy_tokenizer, prompts, "m", k=1, greedy=True, max_new_tokens=6, batch_size=4)["text"].tolist()
        for text, got in zip(prompts["text"], found, strict=True):
            ids = toy_tokenizer(text, return_tensors="pt")["input_ids"]
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, use_cache=False, pad_token_id=0)
            assert got == written(toy_tokenizer, out[0, (1 if architecture == "mt5" else ids.shape[1]):])


@pytest.mark.parametrize("edit", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_matrices_do_not_write_into_their_subspace(architecture, edit, toy_model):
    "In the layer that is named; what the map adds beside its weights stays"
    model, seen = toy_model(architecture), {}
    span = np.linalg.qr(RANDOM.normal(size=(32, 3)))[0].T
    point, basis = mlp_sites(model)[1].hook_point, torch.tensor(span, dtype=torch.float32)
    constant = getattr(point, "bias", None)
    if constant is not None:
        constant.data += 1.0
    with project_values(model, np.stack([span, span]), [1], edit=edit):
        handle = point.register_forward_hook(lambda module, inputs, output: seen.update(out=output))
        streams(model)
        handle.remove()
        left = [float((site.values @ basis.T).abs().max()) for site in mlp_sites(model)]
    written = seen["out"] - (0 if constant is None else constant.detach())
    assert (written @ basis.T).abs().max() < 1e-5 * max(1.0, float(written.abs().max()))  # rounding
    if edit:
        assert left[1] < 1e-6 < left[0]


def test_a_planted_subspace_is_found():
    "Chosen and rejected differ in two directions; the third, in which all texts are alike and rejected ones scatter, is kept out"
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(16, 16)))[0].T
    chosen = 0.1 * rng.normal(size=(300, 16)) + 20 * axes[0]
    rejected = chosen + rng.normal(size=(300, 1)) * 5 * axes[0] + rng.normal(size=(300, 1)) * 2 * axes[1] + 1.0 * axes[2]
    found = toxic_subspaces(chosen[None], rejected[None], rank=2)[0]
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(found @ axes[1:3].T, axis=0), [1, 1], atol=0.01)  # noise of 0.1 over 300 pairs
    assert abs(found @ axes[0]).max() < 0.01
    uncentred = toxic_subspaces(chosen[None], rejected[None], rank=1, centre=False)[0]
    assert abs(uncentred @ axes[0]).item() > 0.9


def test_a_difference_is_of_two_sets_of_one_model():
    toward, away = RANDOM.normal(size=(3, 5, 8)), RANDOM.normal(size=(3, 7, 8))
    np.testing.assert_allclose(mean_difference(toward, away), toward.mean(1) - away.mean(1))
    for wrong in (away[:2], away[..., :4], away[:, :0], away[0]):
        with pytest.raises(InputError, match="give .layers, texts, d. of one model twice"):
            mean_difference(toward, wrong)


def test_directions_that_do_not_fit(toy_model, toy_tokenizer):
    model = toy_model("llama")
    for way, message in ((lambda: ablate(model, np.zeros(32)), "length 0"),
                         (lambda: ablate(model, DIRECTIONS), r"shape \(2, 32\), and the model takes \(32,\)"),
                         (lambda: ablate(model, np.full(32, np.nan)), "not finite"), (lambda: steer(model, DIRECTIONS[:1], [0]), r"takes \(2, 32\)"),
                         (lambda: project_values(model, DIRECTIONS), "shape"), (lambda: project_values(model, np.zeros((2, 1, 16))), r"takes \(2, 1, 32\)")):
        with pytest.raises(InputError, match=message), way():
            raise AssertionError("not reached")
    with pytest.raises(InputError, match="no texts, and so no direction"):
        stream_means(model, toy_tokenizer, [])
    for rank in (0, 6):
        with pytest.raises(InputError, match=f"rank {rank} of 6 pairs"):
            toxic_subspaces(np.zeros((2, 6, 32)), np.ones((2, 6, 32)), rank)
