"Responses of every architecture against hooks by hand, one text at a time; what is left out; and what a failed collection leaves."
import signal
import subprocess
import sys
from fnmatch import fnmatchcase

import numpy as np
import pytest
import torch
from xlingtox import models
from xlingtox.core import InputError
from xlingtox.mechanism import responses as room
from xlingtox.mechanism.responses import load_responses, neuron_responses
from xlingtox.models.sites import mlp_sites
from xlingtox.neurons import neuron_index

from conftest import ARCHITECTURES

TEXTS = ["The old teacher reads a book.", "sings", "Der alte Lehrer liest.", "猫在家里唱歌。", "the the the"]
LINEAR = {"gpt2": 4, "bloom": 4, "mt5": 7 + 11, **dict.fromkeys(["llama", "cohere", "qwen2", "qwen3", "gemma2", "gemma3_text"], 7)}  # in a layer


def outputs_by_hand(model, tokenizer, text, module, before=False):
    "What a module gives (or gets) at each token of a text that is read alone, [length, d]"
    kept = []
    hook = (lambda m, inputs: kept.append(inputs[0])) if before else (lambda m, inputs, output: kept.append(output))
    handle = module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    start = torch.tensor([[0]])
    with torch.no_grad():
        model(input_ids=ids, **({"decoder_input_ids": torch.cat([start, ids], 1)} if model.config.is_encoder_decoder else {}))
    handle.remove()
    return kept[0][0].float(), ids[0]


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_linear_layer(architecture, pooling, toy_model, toy_tokenizer, tmp_path):
    model = toy_model(architecture)
    found = neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r", pooling=pooling, batch_size=2)
    assert len(found) == 2 * LINEAR[architecture]
    head = model.get_output_embeddings()
    for name, values in found.items():
        module = model.get_submodule(name)
        assert module is not head and values.dtype == np.float16 and len(values) == len(TEXTS)
        for text, got in zip(TEXTS, values, strict=True):
            outputs, _ = outputs_by_hand(model, toy_tokenizer, text, module)
            counted = outputs[1:] if architecture == "mt5" and len(outputs) > len(toy_tokenizer(text)["input_ids"]) else outputs
            expected = counted.amax(0) if pooling == "max" else counted.mean(0)
            np.testing.assert_allclose(got.astype(float), expected, rtol=2e-3, atol=2e-3)  # half precision has 11 bits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_activations_of_each_mlp(architecture, toy_model, toy_tokenizer, tmp_path):
    model = toy_model(architecture)
    found = neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r", modules="mlp", batch_size=3)
    sites = mlp_sites(model)
    assert [v.shape[1] for v in found.values()] == [s.n_neurons for s in sites]
    assert neuron_index(found)["layer"].unique().tolist() == [0, 1]
    for values, site in zip(found.values(), sites, strict=True):
        for text, got in zip(TEXTS, values, strict=True):
            inputs, _ = outputs_by_hand(model, toy_tokenizer, text, site.hook_point, before=True)
            np.testing.assert_allclose(got.astype(float), inputs[1 if architecture == "mt5" else 0 :].amax(0), rtol=2e-3, atol=2e-3)


def test_special_tokens_are_left_out(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("llama")
    found = neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r", "*.0.mlp.up_proj", special_tokens=False)["model.layers.0.mlp.up_proj"]
    for text, got in zip(TEXTS, found, strict=True):
        outputs, ids = outputs_by_hand(model, toy_tokenizer, text, model.model.layers[0].mlp.up_proj)
        keep = ~torch.isin(ids, torch.tensor(toy_tokenizer.all_special_ids))
        assert not keep.all()
        np.testing.assert_allclose(got.astype(float), outputs[keep].amax(0), rtol=2e-3, atol=2e-3)


def test_batches_and_order_do_not_matter(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    a, b = (neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / str(n), batch_size=n) for n in (1, 5))
    c = neuron_responses(model, toy_tokenizer, TEXTS[::-1], tmp_path / "back", batch_size=2)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=4e-3)
        np.testing.assert_allclose(a[name], c[name][::-1], atol=4e-3)
    cut = neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "cut", max_tokens=3)
    again = neuron_responses(model, toy_tokenizer, [toy_tokenizer.decode(toy_tokenizer(t)["input_ids"][:3], skip_special_tokens=True) for t in TEXTS[:1]],
                             tmp_path / "again")
    assert all(np.allclose(cut[name][:1], again[name], atol=4e-3) for name in cut)


@pytest.mark.parametrize("pattern, n", [("*.mlp.*", 4), (["*.0.mlp.c_fc", "*.1.attn.c_proj"], 2), ("lm_head", 1), ("transformer.h.1.*", 4)])
def test_patterns(pattern, n, toy_model, toy_tokenizer, tmp_path):
    found = neuron_responses(toy_model("gpt2"), toy_tokenizer, TEXTS, tmp_path / "r", pattern)
    assert len(found) == n and all(any(fnmatchcase(name, p) for p in ([pattern] if isinstance(pattern, str) else pattern)) for name in found)


def test_an_adapter_counts_with_its_layer(toy_model, toy_tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(toy_model("llama"), LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False)).eval()
    found = neuron_responses(tuned, toy_tokenizer, TEXTS, tmp_path / "adapter")
    merged = neuron_responses(tuned.merge_and_unload(), toy_tokenizer, TEXTS, tmp_path / "merged")
    assert list(found) == list(merged) and len(found) == 14
    for name in found:
        np.testing.assert_allclose(found[name], merged[name], atol=2e-2, rtol=2e-2)


def test_four_bit_layers(toy_model, toy_tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    models.save(toy_model("llama", hidden_size=64, intermediate_size=128), toy_tokenizer, tmp_path / "base")
    model, tokenizer = models.load(str(tmp_path / "base"), quantise=True, device="cpu")
    found = neuron_responses(model, tokenizer, TEXTS, tmp_path / "r")
    assert len(found) == 14 and found["model.layers.1.mlp.up_proj"].shape == (5, 128)
    mlp = neuron_responses(model, tokenizer, TEXTS, tmp_path / "m", modules="mlp")
    assert [v.shape[1] for v in mlp.values()] == [128, 128]


def test_the_model_is_as_it_was(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2").train()
    before = torch.get_rng_state()
    neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r")
    assert model.training and torch.equal(before, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- what goes wrong


@pytest.mark.parametrize("change, message", [
    ({"modules": "*.up_proj"}, r"no linear layer is called '\*.up_proj'; there are transformer.h.\*.attn.c_attn \(2\), .*lm_head \(1\)"),
    ({"modules": []}, "no module is chosen"), ({"pooling": "median"}, "no pooling 'median'"), ({"texts": []}, "no texts"), ({"texts": "text"}, "no texts"),
    ({"texts": ["a", 3]}, "text 2 is 3, not a text"), ({"texts": ["a", ""], "special_tokens": False}, "text 2 has no token that counts")])
def test_bad_input_leaves_nothing(change, message, toy_model, toy_tokenizer, tmp_path):
    given = {"texts": TEXTS, "out": tmp_path / "r"} | change
    with pytest.raises(InputError, match=message):
        neuron_responses(toy_model("gpt2"), toy_tokenizer, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_not_replaced(toy_model, toy_tokenizer, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("x")
    with pytest.raises(InputError, match="is there and holds no responses"):
        neuron_responses(toy_model("gpt2"), toy_tokenizer, TEXTS, tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").exists()


def test_outputs_that_are_not_numbers(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    model.transformer.h[1].mlp.c_fc.bias.data[3] = float("nan")
    with pytest.raises(InputError, match=r"transformer.h.1.mlp.c_fc: its outputs for text \d are not finite numbers"):
        neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_large_outputs_keep_their_order(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    model.transformer.h[0].mlp.c_fc.weight.data[:, 0] *= 1e8
    found = neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r", "*.0.mlp.c_fc")["transformer.h.0.mlp.c_fc"]
    assert np.isfinite(found).all() and np.abs(found[:, 0].astype(float)).max() == 65504


def test_a_layer_that_sees_some_tokens_only(toy_model, toy_tokenizer, tmp_path):
    "As in a mixture of experts: the layer is given the tokens that were sent to it"
    model = toy_model("gpt2")
    mlp = model.transformer.h[0].mlp

    class Expert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Linear(32, 32)

        def forward(self, x):
            x = x.clone()
            x.view(-1, 32)[:3] = self.gate(x.view(-1, 32)[:3])
            return x

    model.transformer.h[0].mlp = torch.nn.Sequential(Expert(), mlp)
    with pytest.raises(InputError, match="mlp.0.gate: outputs of the shape .* choose other modules"):
        neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r")
    assert len(neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r", "*.attn.*")) == 4


def test_modules_that_no_text_reaches_are_left_out(toy_model, toy_tokenizer, tmp_path):
    model = toy_model("gpt2")
    model.vision = torch.nn.Linear(4, 4)
    assert len(neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "r")) == 8
    with pytest.raises(InputError, match="vision: no text, or not every one, passes through it"):
        neuron_responses(model, toy_tokenizer, TEXTS, tmp_path / "none", "vision")


def test_a_damaged_folder(toy_model, toy_tokenizer, tmp_path):
    neuron_responses(toy_model("gpt2"), toy_tokenizer, TEXTS, tmp_path / "r", "*.c_fc")
    (tmp_path / "r/transformer.h.1.mlp.c_fc.npy").unlink()
    with pytest.raises(InputError, match="transformer.h.1.mlp.c_fc.npy: no such file"):
        load_responses(tmp_path / "r")
    with pytest.raises(InputError, match="no such file"):
        load_responses(tmp_path / "nowhere")


KILLED = """
import sys, time
import torch
from xlingtox import models
from xlingtox.mechanism import responses
model, tokenizer = models.load(sys.argv[1], device="cpu")
write = responses._write
def slowly(folder, n_texts, rows, name, values):
    write(folder, n_texts, rows, name, values)
    print(name, flush=True)
    time.sleep(60)
responses._write = slowly
responses.neuron_responses(model, tokenizer, ["one", "two", "three"], sys.argv[2], batch_size=1)
"""


def test_a_killed_collection_is_not_read_and_the_next_one_is_whole(toy_model, toy_tokenizer, tmp_path):
    models.save(toy_model("gpt2"), toy_tokenizer, tmp_path / "base")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "base"), str(tmp_path / "r")], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().startswith("transformer.h.0")
        child.send_signal(signal.SIGKILL)
    assert not (tmp_path / "r").exists()
    found = neuron_responses(toy_model("gpt2"), toy_tokenizer, ["one", "two", "three"], tmp_path / "r")
    assert len(found) == 8 and all(np.isfinite(v).all() for v in found.values())


def test_memory_does_not_grow_with_the_file(tmp_path):
    "What is written leaves the process: 64 modules of 4 MiB in rows, less than a quarter of that stays"
    code = """
import resource, sys
import torch
from pathlib import Path
from xlingtox.mechanism.responses import _write
folder, rows = Path(sys.argv[1]), list(range(64))
def one(name):
    for start in range(0, 512, 64):
        _write(folder, 512, [start + i for i in rows], name, torch.ones(64, 4096))
one("first")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(64):
    one(f"m{i}")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    grown = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert float(grown) < 64, grown
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) > 64 * 4 * 2**20


def test_names(toy_model):
    assert room.module_kind("model.layers.12.mlp.up_proj") == "model.layers.*.mlp.up_proj" and room.module_kind("x.wi_0") == "x.wi_0"
