"""Generation, loss and hidden states are those of transformers itself, on tiny models of Gemma's classes and on the real one where there is a file."""
import os

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, generation, metrics, models
from xlingtox.mechanism.activations import activations
from xlingtox.models.sites import mlp_sites
from xlingtox.representations import sentence_representations

LANGS = ["en", "de", "zh"]


@pytest.fixture(scope="module", params=["gemma2", "gemma3_text", "the real one"])
def model_and_tokenizer(request, toy_model, toy_tokenizer):
    if request.param != "the real one":
        model = toy_model(request.param)
        for name, p in model.named_parameters():
            if "layernorm" in name:
                p.data = torch.rand(p.shape, generator=torch.Generator().manual_seed(len(name)))  # gains as unlike as in a trained model
        return model, toy_tokenizer
    if not os.environ.get("XLINGTOX_GGUF"):
        pytest.skip("no real model here: set XLINGTOX_GGUF to a GGUF file of Gemma 3 270M")
    return models.load(os.environ["XLINGTOX_GGUF"], device="cpu", progress=False)


@pytest.fixture(scope="module")
def prompts():
    return babel.prompts(LANGS, n=2, seed=3)


def read(tokenizer, text):
    return tokenizer(text, return_tensors="pt", return_token_type_ids=False)


def test_greedy_texts_are_those_of_generate(model_and_tokenizer, prompts, written):
    model, tokenizer = model_and_tokenizer
    ours = generation.generate(model, tokenizer, prompts, "m", k=1, greedy=True, max_new_tokens=8)["text"].tolist()
    theirs = []
    for text in prompts["text"]:
        ids = read(tokenizer, text)
        out = model.generate(**ids, do_sample=False, max_new_tokens=8, pad_token_id=tokenizer.pad_token_id)[0]
        theirs.append(written(tokenizer, out[ids["input_ids"].shape[1]:]))
    assert ours == theirs


def test_the_loss_is_that_of_the_model(model_and_tokenizer, prompts):
    model, tokenizer = model_and_tokenizer
    continuations = babel.prompts(LANGS, n=2, seed=9)["text"].tolist()
    ours = np.log(metrics.perplexity(model, tokenizer, prompts["text"].tolist(), [f" {c}" for c in continuations]))
    for prompt, continuation, found in zip(prompts["text"], continuations, ours, strict=True):
        ids = read(tokenizer, f"{prompt} {continuation}")["input_ids"]
        labels = ids.clone()
        labels[0, : len(os.path.commonprefix([tokenizer(prompt)["input_ids"], ids[0].tolist()]))] = -100
        with torch.inference_mode():
            assert found == pytest.approx(float(model(input_ids=ids, labels=labels).loss), abs=1e-4)


@pytest.mark.parametrize("bos", [True, False])
def test_representations_are_means_of_the_hidden_states(model_and_tokenizer, prompts, bos):
    model, tokenizer = model_and_tokenizer
    texts = prompts["text"].tolist()
    ours = sentence_representations(model, tokenizer, texts, batch_size=4, bos=bos)
    for i, text in enumerate(texts):
        with torch.inference_mode():
            states = model(**read(tokenizer, text), output_hidden_states=True).hidden_states
        begins = int(tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id)
        theirs = torch.stack([h[0, 0 if bos else begins:].mean(0) for h in states]).numpy()
        np.testing.assert_allclose(ours[:, i], theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    assert begins, "each of these tokenizers puts a mark before a text"


def test_what_a_layer_adds_is_the_sum_over_its_neurons(model_and_tokenizer):
    "Of the real model too: activations times value vectors, divided by the length before the norm"
    model, tokenizer = model_and_tokenizer
    for site in mlp_sites(model)[:: max(len(mlp_sites(model)) // 3, 1)]:
        seen = {}
        handles = [site.hook_point.register_forward_hook(lambda module, inputs, output, to=seen: to.update(m=inputs[0], u=output)),
                   site.norm.register_forward_hook(lambda module, inputs, output, to=seen: to.update(added=output))]
        with torch.inference_mode():
            model(**read(tokenizer, "The house is old."))
        for handle in handles:
            handle.remove()
        length = (seen["u"].pow(2).mean(-1, keepdim=True) + site.norm.eps).sqrt()
        by_hand = seen["m"].double() @ site.values.double() / length
        np.testing.assert_allclose(by_hand, seen["added"], rtol=1e-3, atol=1e-4 * float(seen["added"].abs().max()))
        raw = seen["m"].double() @ (site.values / site.gain).double() / length
        assert (raw - seen["added"]).abs().max() > 0.01 * seen["added"].abs().max(), "the raw columns do not explain it"


def test_activations_are_what_enters_the_value_map(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    sites = pd.DataFrame({"layer": [0, 1], "neuron": [3, 5]})
    prompts = pd.DataFrame({"id": ["0"], "lang": ["en"], "text": ["The house"]})
    assert np.isfinite(np.asarray(activations(model, tokenizer, prompts, sites, max_new_tokens=3), dtype=float)).all()
