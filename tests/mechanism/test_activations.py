"""Activations over generated tokens against the loop without a cache, on every architecture."""
import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel
from xlingtox.core import InputError
from xlingtox.mechanism.activations import activations, actual_sources, mean_activations, record_last
from xlingtox.models.sites import mlp_sites

from conftest import ARCHITECTURES

SITES = pd.DataFrame({"layer": [1, 0, 1, 0], "neuron": [5, 33, 4, 5]})


@pytest.fixture
def prompts():
    return babel.prompts(["en", "de", "zh"], n=4, seed=5)


def without_cache(model, tokenizer, text, n):
    "Mean activation over the next n greedy tokens, the whole sequence read again for each"
    ids, new, seen, kept = tokenizer(text, return_tensors="pt")["input_ids"], [], [], {}
    handles = [m.hook_point.register_forward_pre_hook(lambda module, inputs, m=m: kept.update({m.layer: inputs[0][0, -1].clone()}))
               for m in mlp_sites(model)]
    seq2seq = model.config.is_encoder_decoder
    for _ in range(n):
        tail = torch.tensor([new], dtype=torch.long)
        with torch.no_grad():
            if seq2seq:
                start = torch.tensor([[model.config.decoder_start_token_id]])
                logits = model(input_ids=ids, decoder_input_ids=torch.cat([start, tail], 1), use_cache=False).logits
            else:
                logits = model(torch.cat([ids, tail], 1), use_cache=False).logits
        seen.append([float(kept[layer][neuron]) for layer, neuron in SITES.to_numpy()])
        new.append(int(logits[0, -1].argmax()))
        if new[-1] == tokenizer.eos_token_id:
            break
    for handle in handles:
        handle.remove()
    return np.mean(seen, axis=0), new


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equal_to_the_loop_without_a_cache(architecture, toy_model, toy_tokenizer, prompts):
    model = toy_model(architecture)
    got = activations(model, toy_tokenizer, prompts, SITES, max_new_tokens=7, batch_size=5)
    wanted = np.stack([without_cache(model, toy_tokenizer, t, 7)[0] for t in prompts["text"]])
    assert got.shape == (12, 4) and wanted.std(0).min() > 1e-5
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    assert not any(m.hook_point._forward_pre_hooks for m in mlp_sites(model))


@pytest.fixture
def other_end(toy_tokenizer):
    "A function that makes another token the end of text; the tokenizer, which all tests share, gets its own back"
    own = toy_tokenizer.eos_token
    yield lambda token: setattr(toy_tokenizer, "eos_token", token)
    toy_tokenizer.eos_token = own


def test_a_text_that_ends_early_counts_its_own_steps(toy_model, toy_tokenizer, prompts, other_end):
    "The end of text is made a token that the model does write"
    model = toy_model("gpt2")
    written = [without_cache(model, toy_tokenizer, t, 6)[1] for t in prompts["text"]]
    other_end(toy_tokenizer.convert_ids_to_tokens(written[0][2]))
    assert toy_tokenizer.eos_token_id == written[0][2]
    lengths = [len(without_cache(model, toy_tokenizer, t, 6)[1]) for t in prompts["text"]]
    assert len(set(lengths)) > 1, "some end early and some do not"
    got = activations(model, toy_tokenizer, prompts, SITES, max_new_tokens=6, batch_size=12)
    np.testing.assert_allclose(got, np.stack([without_cache(model, toy_tokenizer, t, 6)[0] for t in prompts["text"]]), atol=1e-4)


def test_only_what_is_asked_for_is_kept(toy_model, toy_tokenizer, prompts):
    model = toy_model("llama")
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with record_last(model, SITES) as steps:
        assert sum(len(m.hook_point._forward_pre_hooks) for m in mlp_sites(model)) == 2
        for _ in range(3):
            model(ids)
    assert [tuple(s.shape) for s in steps] == [(2, 4)] * 3
    alone = np.concatenate([activations(model, toy_tokenizer, prompts, SITES.iloc[[i]], max_new_tokens=4) for i in range(4)], axis=1)
    np.testing.assert_allclose(activations(model, toy_tokenizer, prompts, SITES, max_new_tokens=4), alone, atol=1e-6)


def test_hooks_go_when_the_model_raises(toy_model, toy_tokenizer, prompts, monkeypatch):
    model = toy_model("bloom")

    def broken(*args, **kwargs):
        model(torch.tensor([[3, 4]]))
        raise RuntimeError("out of memory")
    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        activations(model, toy_tokenizer, prompts, SITES)
    assert not any(m.hook_point._forward_pre_hooks for m in mlp_sites(model))


def test_actual_sources_are_positive_in_english(prompts):
    values = np.zeros((12, 4)) + [-1, 1, 0, 0.5]
    values[prompts["lang"] == "zh"] *= -1
    means = mean_activations(prompts, SITES, values)
    assert means.groupby("lang")["n_prompts"].first().to_dict() == {"en": 4, "de": 4, "zh": 4}
    assert actual_sources(means).to_numpy().tolist() == [[0, 33], [0, 5]]
    assert actual_sources(means, "zh").to_numpy().tolist() == [[1, 5]]
    assert actual_sources(mean_activations(prompts, SITES, -np.ones((12, 4)))).empty
    with pytest.raises(InputError, match="no activations in fr; there are en de zh"):
        actual_sources(means, "fr")


def test_no_sites_and_sites_of_another_model(toy_model, toy_tokenizer, prompts):
    with pytest.raises(InputError, match="no site to record"):
        activations(toy_model("gpt2"), toy_tokenizer, prompts, SITES.head(0))
    with pytest.raises(InputError, match="layer 13 is not in the model"):
        activations(toy_model("gpt2"), toy_tokenizer, prompts, pd.DataFrame({"layer": [13], "neuron": [2337]}))
