"""Neuron tuning: frozen weights to the bit, gradients and optimizer of the chosen rows alone, resumed equals uninterrupted, order, and bad input."""
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, models, tuning
from xlingtox.core import InputError
from xlingtox.generation.engine import model_digest
from xlingtox.models.sites import mlp_sites
from xlingtox.tuning import neurons as neuron_tuning
from xlingtox.tuning import rows, supervised
from xlingtox.tuning.trainer import _Training

from conftest import ARCHITECTURES

CAUSAL = [name for name in ARCHITECTURES if name != "mt5"]
SETTINGS = {"learning_rate": 1e-2, "max_steps": 3, "batch_size": 4, "eval_steps": 2, "max_length": 64}
OPTIMIZERS = {"plain": {"optimizer": "sgd"}, "momentum": {"optimizer": "sgd", "optimizer_args": "momentum=0.9", "weight_decay": 0.1},
              "rmsprop": {"optimizer": "rmsprop", "optimizer_args": "momentum=0.9", "weight_decay": 0.1}, "adamw": {}, "decay": {"weight_decay": 0.1}}
SCRIPT = """
import json, os, signal, sys
import pandas as pd
from xlingtox import babel, models, tuning
model, tokenizer = models.load(sys.argv[1], device="cpu")
passes = iter(range(int(sys.argv[4])))
model.register_forward_pre_hook(lambda *given: None if next(passes, None) is not None else os.kill(os.getpid(), signal.SIGKILL))
tuning.tune_neurons(model, tokenizer, babel.instruct(["de", "en"], 12), pd.read_parquet(sys.argv[3]), sys.argv[2], **json.loads(sys.argv[5]))
"""
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def instructions():
    return babel.instruct(["de", "en"], 12)


@pytest.fixture(scope="module")
def bases(toy_model, toy_tokenizer, tmp_path_factory):
    "Folders of models, by architecture"
    folder = tmp_path_factory.mktemp("bases")
    for architecture in ARCHITECTURES:
        models.save(toy_model(architecture), toy_tokenizer, folder / architecture)
    return {architecture: str(folder / architecture) for architecture in ARCHITECTURES}


def load(bases, architecture="gpt2", **options):
    return models.load(bases[architecture], device="cpu", **options)


def some_neurons(model, each=2, langs=(), seed=0):
    "Some neurons of every linear layer, the output layer too; for each language others"
    draw = np.random.default_rng(seed)
    layers = {name: m for name, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    sizes = {name: m.weight.shape[type(m).__name__ == "Conv1D"] for name, m in layers.items()}
    sets = [pd.DataFrame([(name, i) for name, n in sizes.items() for i in sorted(draw.choice(n, each, replace=False))], columns=["module", "neuron"])
            for _ in langs or [None]]
    return pd.concat([own.assign(lang=lang) for own, lang in zip(sets, langs, strict=True)], ignore_index=True) if langs else sets[0]


def masks(model, neurons):
    "By parameter, which of its entries make the chosen neurons; a tied one has one mask"
    found = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in model.parameters()}
    for module, neuron in zip(neurons["module"], neurons["neuron"], strict=True):
        layer = model.get_submodule(module)
        found[id(layer.weight)][(slice(None), neuron) if type(layer).__name__ == "Conv1D" else neuron] = True
        if layer.bias is not None:
            found[id(layer.bias)][neuron] = True
    return {name: found[id(p)] for name, p in model.named_parameters()}


def check_only_these_moved(tuned, base, neurons, share=1.0):
    "All entries outside the rows are the same to the bit, and every row is another, or a share of them"
    words = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    for name, mask in masks(base, neurons).items():
        now, before = tuned.get_parameter(name), base.get_parameter(name)
        assert now.dtype == before.dtype
        assert torch.equal(now.data.view(words[now.dtype])[~mask], before.data.view(words[now.dtype])[~mask]), name
    assert {name: b.tolist() for name, b in tuned.named_buffers()} == {name: b.tolist() for name, b in base.named_buffers()}
    moved = []
    for module, neuron in zip(neurons["module"], neurons["neuron"], strict=True):
        axis = int(type(base.get_submodule(module)).__name__ == "Conv1D")
        moved.append(not torch.equal(*(m.get_submodule(module).weight.select(axis, neuron) for m in (tuned, base))))
    assert np.mean(moved) >= share, neurons[~np.array(moved)]


def same_weights(one, other):
    return all(torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())


def parts(model):
    "All that can be seen of a model beside its weights' values"
    return {**{f"module {name}": (type(m), m.training, sorted(vars(m)), len(m._forward_hooks)) for name, m in model.named_modules()},
            **{f"weight {name}": (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()},
            "config": model.config.to_dict(), "generation": model.generation_config.to_dict(), "checkpointing": model.is_gradient_checkpointing}


def logits(model):
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        return model.eval()(input_ids=ids, **({"labels": ids} if model.config.is_encoder_decoder else {})).logits


# --- the rows, and nothing else


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_chosen_rows_move(bases, instructions, tmp_path, architecture, optimizer):
    model, tokenizer = load(bases, architecture)
    base, neurons, before = load(bases, architecture)[0], some_neurons(model), parts(model)
    tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS | OPTIMIZERS[optimizer])
    tiny = optimizer == "plain" and architecture == "mt5"  # its queries and keys have gradients below the spacing of their weights
    check_only_these_moved(model, base, neurons, share=0.5 if tiny else 1.0)
    assert parts(model) == before, "the model in memory is an ordinary one again"
    saved, _ = models.load(str(tmp_path / "tuned"), device="cpu")
    assert type(saved) is type(base) and same_weights(saved, model) and torch.equal(logits(saved), logits(model))
    assert pd.read_parquet(tmp_path / "tuned" / "neurons.parquet")[["module", "neuron"]].equals(neurons)
    assert not list(tmp_path.glob(".*")), "no working folder is left"


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gradient_is_that_of_the_whole_model_at_the_rows(toy_model, architecture, again):
    "With activations computed once or, as on a GPU, again; of a tied matrix both uses count"
    model, ids = toy_model(architecture), torch.arange(3, 15)[None]
    neurons = some_neurons(model)
    model(input_ids=ids, labels=ids).loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with rows._rows_alone(model, neurons):
        if again:
            model.train().gradient_checkpointing_enable()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            if model.config.model_type == "mt5":
                pytest.skip("its dropout is also where no module is")
        model(input_ids=ids, labels=ids).loss.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        frozen = [p.grad for p in model.parameters() if not p.requires_grad]
    assert frozen and not any(grad is not None for grad in frozen)
    wanted = torch.cat([grad[mask] for grad, mask in zip(whole.values(), masks(model, neurons).values(), strict=True)])
    got = torch.cat([grad.flatten() for grad in found.values()])
    assert got.numel() == wanted.numel()
    torch.testing.assert_close(got.sort().values, wanted.sort().values, rtol=1e-3, atol=1e-5 * wanted.abs().max().item())  # sums in another order


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mt5"])
def test_the_optimizer_holds_what_is_trained(bases, instructions, tmp_path, architecture):
    told = {}
    for name, strategy in (("chosen", "multilingual"), ("all", "full")):
        model, tokenizer = load(bases, architecture)
        neurons = some_neurons(model)
        tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / name, strategy=strategy, **SETTINGS)
        told[name] = json.loads((tmp_path / name / "trained.json").read_text())["parts"][0]
    numbers = sum(int(mask.sum()) for mask in masks(model, neurons).values())
    assert told["chosen"]["numbers"] == numbers and told["all"]["numbers"] == model.num_parameters()
    tensors = neurons["module"].nunique() * 2
    assert 8 * numbers < told["chosen"]["optimizer_bytes"] <= 8 * numbers + 4 * tensors  # two moments in 32 bits; the number of steps of each tensor
    assert told["all"]["optimizer_bytes"] >= 8 * model.num_parameters()


@pytest.mark.parametrize("architecture", ["gpt2", "cohere", "gemma2"])
def test_a_tied_output_layer_stays_tied(bases, instructions, tmp_path, architecture):
    model, tokenizer = load(bases, architecture)
    neurons = pd.DataFrame({"module": "lm_head", "neuron": [5, 9]})
    assert model.lm_head.weight is model.get_input_embeddings().weight
    tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS)
    check_only_these_moved(model, load(bases, architecture)[0], neurons)
    for tuned in (model, models.load(str(tmp_path / "tuned"), device="cpu")[0]):
        assert tuned.lm_head.weight is tuned.get_input_embeddings().weight
    assert json.loads((tmp_path / "tuned" / "trained.json").read_text())["parts"][0]["numbers"] == 2 * 32, "each row is one row"


@pytest.mark.parametrize("architecture", CAUSAL)
def test_the_trainers_own_loss_teaches_the_same(bases, instructions, tmp_path, architecture, monkeypatch):
    "trl takes the output layer's weight and not its output: its rows are tuned there too"
    tuned = {}
    for few in (supervised._FEW, 0):
        monkeypatch.setattr(supervised, "_FEW", few)
        model, tokenizer = load(bases, architecture)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        neurons = some_neurons(model)
        tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / str(few), **SETTINGS | {"optimizer": "sgd", "max_grad_norm": 0.1})
        tuned[few] = model
    check_only_these_moved(tuned[0], load(bases, architecture)[0], neurons)
    for name, p in tuned[0].named_parameters():
        torch.testing.assert_close(p, tuned[max(tuned)].get_parameter(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_activations_computed_again_change_nothing(bases, instructions, tmp_path, architecture, monkeypatch):
    hardware, found = _Training.hardware, {}
    for again in (False, True):
        monkeypatch.setattr(_Training, "hardware", lambda self, cpu, again=again: hardware(self, cpu) | {"gradient_checkpointing": again})  # as on a GPU
        model, tokenizer = load(bases, architecture)
        tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / str(again), **SETTINGS)
        found[again] = model
    assert same_weights(found[True], found[False])


def test_sixteen_bits_stay_sixteen_bits(bases, instructions, tmp_path):
    model, tokenizer = load(bases, "llama", dtype="bfloat16")
    base, neurons = load(bases, "llama", dtype="bfloat16")[0], some_neurons(model)
    tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS)
    check_only_these_moved(model, base, neurons)
    saved, _ = models.load(str(tmp_path / "tuned"), device="cpu", dtype="auto")
    assert saved.dtype == torch.bfloat16 and same_weights(saved, model)


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_arithmetic_in_sixteen_bits(bases, instructions, tmp_path, architecture):
    model, tokenizer = load(bases, architecture)
    neurons = some_neurons(model)
    tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS | {"precision": "bfloat16"})
    check_only_these_moved(model, load(bases, architecture)[0], neurons)


def test_small_steps_add_up_in_sixteen_bits(bases, instructions, tmp_path):
    "Each step is too small for bfloat16; the rows are kept in 32 bits, so they arrive"
    model, tokenizer = load(bases, "llama", dtype="bfloat16")
    neurons = pd.DataFrame({"module": ["model.layers.0.mlp.up_proj"], "neuron": [3]})
    before = model.get_submodule(neurons["module"][0]).weight[3].clone()
    step = 1e-3 * before.float().abs().median().item()  # bfloat16 has steps of 1/256
    tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned",
                        **SETTINGS | {"learning_rate": step, "max_steps": 40, "eval_steps": 40, "schedule": "constant"})
    assert (model.get_submodule(neurons["module"][0]).weight[3] != before).float().mean() > 0.5


# --- strategies


def test_per_language_is_one_tuning_after_another(bases, instructions, tmp_path):
    model, tokenizer = load(bases)
    sets = some_neurons(model, langs=["de", "en"])
    log = tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "both", strategy="per-language", order=["en", "de"], **SETTINGS)
    assert log["part"].unique().tolist() == ["en", "de"] and pd.read_parquet(tmp_path / "both" / "log.parquet").equals(log)
    where = bases["gpt2"]
    for lang in ("en", "de"):
        by_hand, tokenizer = models.load(where, device="cpu")
        where = str(tmp_path / lang)
        tuning.tune_neurons(by_hand, tokenizer, instructions[instructions["lang"] == lang], sets[sets["lang"] == lang], where, **SETTINGS)
    assert same_weights(by_hand, model)
    check_only_these_moved(model, load(bases)[0], tuning.union(sets))


def test_the_order_matters(bases, instructions, tmp_path):
    found = {}
    for order in (["de", "en"], ["en", "de"], ["de", "en", "de"], None):
        model, tokenizer = load(bases)
        sets = some_neurons(model, langs=["de", "en"])
        tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "tuned", strategy="per-language", order=order, **SETTINGS)
        found[str(order)] = model_digest(model)
    assert len(set(found.values())) == 3 and found["None"] == found["['de', 'en']"], "unless said otherwise as the instructions come"


def test_multilingual_is_the_union_on_all(bases, instructions, tmp_path):
    model, tokenizer = load(bases)
    sets = some_neurons(model, langs=["de", "en"])
    sets = pd.concat([sets, sets[sets["lang"] == "de"].head(5).assign(lang="en")]).drop_duplicates()  # some are of both
    log = tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "sets", **SETTINGS)
    other, tokenizer = load(bases)
    tuning.tune_neurons(other, tokenizer, instructions, tuning.union(sets), tmp_path / "union", **SETTINGS)
    assert same_weights(model, other) and log["part"].unique().tolist() == ["all"]
    assert json.loads((tmp_path / "sets" / "trained.json").read_text())["parts"][0]["examples"] == 24


def test_full_moves_every_weight(bases, instructions, tmp_path):
    model, tokenizer = load(bases, "llama")
    log = tuning.tune_neurons(model, tokenizer, instructions, None, tmp_path / "tuned", strategy="full", **SETTINGS)
    saved, base = models.load(str(tmp_path / "tuned"), device="cpu")[0], load(bases, "llama")[0]
    assert same_weights(saved, model) and not any(torch.equal(p, saved.get_parameter(name)) for name, p in base.named_parameters())
    assert pd.read_parquet(tmp_path / "tuned" / "log.parquet").equals(log) and log["part"].unique().tolist() == ["all"]


def test_seed_decides_and_the_callers_randomness_does_not(bases, instructions, tmp_path):
    found, states = [], []
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        random.seed(len(found)), np.random.seed(len(found)), torch.manual_seed(len(found))
        wanted = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        model, tokenizer = load(bases)
        tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / name, seed=seed, **SETTINGS)
        found.append(model_digest(model))
        states.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == wanted)
    assert found[0] == found[1] != found[2] and all(states)


def test_early_stopping_keeps_the_best(bases, instructions, tmp_path, least_at):
    least_at(4)
    changes = {"max_steps": 40, "early_stopping": True, "eval_share": 0.2, "patience": 2, "schedule": "constant"}
    model, tokenizer = load(bases)
    log = tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / "tuned", **SETTINGS | changes)
    assert log["step"].tolist() == [2, 4, 6, 8]
    cut, tokenizer = load(bases)
    tuning.tune_neurons(cut, tokenizer, instructions, some_neurons(cut), tmp_path / "cut",
                        **SETTINGS | changes | {"early_stopping": False, "max_steps": 4})
    assert same_weights(cut, model)


def test_zero_steps_save_the_model_as_it_is(bases, instructions, tmp_path):
    for strategy in ("full", "multilingual"):
        model, tokenizer = load(bases)
        log = tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / strategy, strategy=strategy, max_steps=0)
        assert log.empty and same_weights(models.load(str(tmp_path / strategy), device="cpu")[0], load(bases)[0])


# --- controls and sets


def test_random_neurons_are_as_many_of_each_layer(bases):
    model, _ = load(bases, "llama")
    sets = pd.concat([some_neurons(model, 3).assign(lang="de"), some_neurons(model, 10, seed=1).assign(lang="en")])
    drawn = tuning.random_neurons(model, sets, seed=3)
    key = ["lang", "module"]
    assert drawn.groupby(key).size().equals(sets.groupby(key).size()) and not drawn.duplicated().any()
    assert drawn.equals(tuning.random_neurons(model, sets, seed=3)) and not drawn.equals(tuning.random_neurons(model, sets, seed=4))
    whole = pd.DataFrame({"module": "model.layers.0.self_attn.q_proj", "neuron": range(32)})
    assert tuning.random_neurons(model, whole).equals(whole)


def test_top_neurons_are_those_with_the_largest_auroc():
    rising = np.linspace(0, 1, 20)
    aurocs = pd.DataFrame({"lang": ["de"] * 20 + ["en"] * 20, "module": "m", "neuron": [*range(20)] * 2, "auroc": [*rising, *rising[::-1]]})
    assert tuning.top_neurons(aurocs, 0.1)["neuron"].tolist() == [18, 19, 0, 1]
    tied = aurocs.head(20).assign(auroc=[np.nan, *[0.5] * 19])
    assert tuning.top_neurons(tied, 0.1)["neuron"].tolist() == [1, 2], "a missing AUROC is not a large one; of equal ones the first"
    for share in (0, 0.01, 1.5, -0.1):
        with pytest.raises(InputError, match="cannot be taken of 20 neurons: it must be above 0, at most 1"):
            tuning.top_neurons(aurocs, share)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neurons_of_the_mlp_are_the_rows_that_make_them(toy_model, architecture):
    model, ids, seen = toy_model(architecture), torch.arange(3, 9)[None], []
    site = mlp_sites(model)[1]
    site.hook_point.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    read = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    found = tuning.mlp_neurons(model, pd.DataFrame({"layer": [1], "neuron": [5]}))
    assert len(found) == (1 if architecture in ("gpt2", "bloom") else 2)
    model(**read)
    for module, neuron in found.itertuples(index=False):
        layer = model.get_submodule(module)
        with torch.no_grad():
            layer.weight.select(int(type(layer).__name__ == "Conv1D"), neuron).mul_(3).add_(0.1)
        model(**read)
        differ = (seen[-1] != seen[-2]).flatten(0, 1).any(0)
        assert differ.nonzero().flatten().tolist() == [5]


def test_layer_and_neuron_are_taken_too(bases, instructions, tmp_path):
    model, tokenizer = load(bases, "llama")
    sites = pd.DataFrame({"layer": [0, 1], "neuron": [3, 7]})
    tuning.tune_neurons(model, tokenizer, instructions, sites, tmp_path / "tuned", **SETTINGS)
    check_only_these_moved(model, load(bases, "llama")[0], tuning.mlp_neurons(model, sites))


# --- what is learnt


@pytest.mark.parametrize("response_only", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_the_model_is_given_these_labels(bases, instructions, tmp_path, architecture, response_only):
    model, tokenizer = load(bases, architecture)
    seen = []
    model.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / "tuned",
                        **SETTINGS | {"response_only": response_only, "max_steps": 6, "separator": " "})  # all 24 examples, once
    learnt = [[label for label in labels.tolist() if label != -100] for given in seen for labels in given["labels"]]
    before = "" if response_only or architecture == "mt5" else instructions["prompt"]
    texts = (before + (" " if architecture == "gpt2" else "") + instructions["response"] + tokenizer.eos_token).tolist()
    assert sorted(tokenizer.decode(ids) for ids in learnt) in (sorted(texts), sorted(tokenizer.bos_token + text for text in texts))


def test_a_chat_template_starts_once(bases, instructions):
    model, tokenizer = load(bases, "llama")
    tokenizer.chat_template = ("{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
                               "{% if add_generation_prompt %}[assistant]{% endif %}")
    made = neuron_tuning._as_tokens(model, tokenizer, instructions, {"chat": True, "separator": "\n", "response_only": True, "max_length": 128})
    for row, prompt, response in zip(made.itertuples(), instructions["prompt"], instructions["response"], strict=True):
        assert tokenizer.decode(row.input_ids) == f"{tokenizer.bos_token}[user]{prompt}[assistant]{response}{tokenizer.eos_token}"
        assert tokenizer.decode([label for label in row.labels if label != -100]).endswith(f"{response}{tokenizer.eos_token}")
        assert "[user]" not in tokenizer.decode([label for label in row.labels if label != -100])


# --- when it is killed, or goes wrong


@pytest.mark.parametrize("architecture, strategy, passes", [("gpt2", "multilingual", 3), ("gpt2", "per-language", 7), ("mt5", "per-language", 7)])
def test_sigkill_then_the_same_call(bases, tmp_path, instructions, architecture, strategy, passes):
    "Killed between a checkpoint and the end of its last part, the call continues from there to the same weights"
    settings = SETTINGS | {"strategy": strategy, "max_steps": 4}
    model, tokenizer = load(bases, architecture)
    sets = some_neurons(model, langs=["de", "en"])
    whole = tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "whole", **settings)
    sets.to_parquet(tmp_path / "sets.parquet")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, bases[architecture], str(tmp_path / "tuned"), str(tmp_path / "sets.parquet"),
               str(passes), json.dumps(settings)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "tuned").exists() and (tmp_path / ".tuned.work").exists(), "nothing half-written"
    again, tokenizer = load(bases, architecture)
    steps = []
    again.register_forward_pre_hook(lambda *given: steps.append(1))
    log = tuning.tune_neurons(again, tokenizer, instructions, sets, tmp_path / "tuned", **settings)
    assert same_weights(again, model) and log.equals(whole)
    assert len(steps) == 2, "what was done is not done again"
    told = [json.loads((tmp_path / name / "trained.json").read_text()) for name in ("whole", "tuned")]
    assert told[0] == told[1] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("changes", [{"max_steps": 4}, {"max_steps": 40, "early_stopping": True, "eval_share": 0.2, "patience": 2}])
def test_killed_when_it_was_trained_but_not_saved(bases, instructions, tmp_path, monkeypatch, least_at, changes):
    "A trainer that goes on from its last step, or from where its patience had run out, takes no step more"
    least_at(4)
    settings = SETTINGS | {"schedule": "constant"} | changes
    model, tokenizer = load(bases)
    whole = tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / "whole", **settings)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr(neuron_tuning, "_save", lambda *given: (_ for _ in ()).throw(OSError("the disk is full")))
        killed, _ = load(bases)
        tuning.tune_neurons(killed, tokenizer, instructions, some_neurons(model), tmp_path / "tuned", **settings)
    assert same_weights(killed, load(bases)[0])
    log = tuning.tune_neurons(killed, tokenizer, instructions, some_neurons(model), tmp_path / "tuned", **settings)
    assert log.equals(whole) and same_weights(killed, model)


def test_another_job_begins_anew(bases, tmp_path, instructions):
    "What is left of a killed call is not taken up where a neuron, a row of the base or an example differs"
    model, tokenizer = load(bases)
    sets, settings = some_neurons(model), SETTINGS | {"max_steps": 4}
    changed = load(bases)[0]
    with torch.no_grad():
        changed.transformer.h[1].mlp.c_fc.weight[20, sets.query("module == 'transformer.h.1.mlp.c_fc'")["neuron"].iloc[0]] += 1
    others = ((load(bases)[0], some_neurons(model, seed=1), instructions), (changed, sets, instructions), (load(bases)[0], sets, instructions[1:]))
    for other, neurons, texts in others:
        killed = load(bases)[0]
        passes = iter(range(3))
        handle = killed.register_forward_pre_hook(lambda *given, passes=passes: (next(passes), None)[1])
        with pytest.raises((StopIteration, RuntimeError)):
            tuning.tune_neurons(killed, tokenizer, instructions, sets, tmp_path / "tuned", **settings)
        handle.remove()
        steps = []
        other.register_forward_pre_hook(lambda *given, steps=steps: steps.append(1))
        tuning.tune_neurons(other, tokenizer, texts, neurons, tmp_path / "tuned", **settings)
        assert len(steps) == 4


def test_an_interrupted_call_leaves_the_model_as_it_was(bases, tmp_path, instructions):
    model, tokenizer = load(bases)
    before, sets = parts(model), some_neurons(model, langs=["de", "en"])
    calls = []

    def interrupt(*given):
        calls.append(1)
        if len(calls) == 5:  # in the second language
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "tuned", strategy="per-language", **SETTINGS)
    handle.remove()
    assert same_weights(model, load(bases)[0]) and parts(model) == before and not (tmp_path / "tuned").exists()


def test_nan_stops_with_the_step(bases, instructions, tmp_path):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match=r"SFT: (loss|train_loss) is nan at step \d; lower the learning rate"):
        tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model), tmp_path / "tuned",
                            **SETTINGS | {"learning_rate": 1e30, "max_grad_norm": 1e30, "schedule": "constant"})
    assert not (tmp_path / "tuned").exists() and same_weights(model, load(bases)[0])


# --- bad input


C_FC = "transformer.h.0.mlp.c_fc"


@pytest.mark.parametrize("neurons, problem", [
    (pd.DataFrame({"module": [], "neuron": []}), "neurons: the set is empty, so there is nothing to tune"),
    (pd.DataFrame({"module": [C_FC, "transformer.h.0.mlp.c_fx"], "neuron": [1, 2]}),
     "neurons, row 2: the model has no linear layer 'transformer.h.0.mlp.c_fx' .did you mean transformer.h..*mlp.c_fc.*; it has 9, such as"),
    (pd.DataFrame({"module": ["transformer.wte"], "neuron": [1]}), "row 1: the model has no linear layer 'transformer.wte'"),
    (pd.DataFrame({"module": C_FC, "neuron": [1, 128]}), "neurons, row 2: transformer.h.0.mlp.c_fc has no neuron 128; it has 0 to 127"),
    (pd.DataFrame({"module": C_FC, "neuron": [-1]}), "neurons, row 1: transformer.h.0.mlp.c_fc has no neuron -1"),
    (pd.DataFrame({"module": C_FC, "neuron": [1, 2, 1]}), "neurons, row 3: transformer.h.0.mlp.c_fc 1 occurs more than once"),
    (pd.DataFrame({"module": C_FC, "neuron": [1.5]}), "the column neuron must hold whole numbers, it holds float64"),
    (pd.DataFrame({"module": C_FC, "neuron": [1, None]}), "the column neuron must hold whole numbers"),
    (pd.DataFrame({"module": [C_FC]}), "neurons: lacks the columns neuron; it has module"),
    (pd.DataFrame({"layer": [7], "neuron": [1]}), "sites, row 1: layer 7 is not in the model"),
    (None, "multilingual tuning needs neurons"),
])
def test_neurons_that_cannot_be_tuned(bases, instructions, tmp_path, neurons, problem):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match=problem) as error:
        tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes, problem", [
    ({"strategy": "random"}, "there is no strategy 'random'; there are full, per-language, multilingual"),
    ({"order": ["en"]}, "order is of per-language tuning alone; the strategy is multilingual"),
    ({"strategy": "per-language", "order": ["en", "fr"]}, "instructions: there are none in fr; the order is en fr"),
    ({"early_stopping": True}, "early_stopping needs examples to validate on: give eval_share"),
    ({"eval_share": 0.01}, "24 instructions are too few to train and to validate on 1% of them"),
    ({"max_length": 3}, "instructions, de i0: nothing of the response is within the 3 tokens"),
    ({"chat": True}, "chat: the tokenizer has no chat template"),
])
def test_what_cannot_be_done_is_said(bases, instructions, tmp_path, changes, problem):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match=problem) as error:
        tuning.tune_neurons(model, tokenizer, instructions, some_neurons(model, langs=["de", "en"]), tmp_path / "tuned", **SETTINGS | changes)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_models_and_instructions_that_will_not_do(bases, instructions, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load(bases)
    neurons = some_neurons(model)
    quantised, _ = load(bases, "llama", quantise=True)
    adapted = get_peft_model(load(bases)[0], LoraConfig(r=2, target_modules=["c_fc"], fan_in_fan_out=True))
    for other, texts, problem in ((quantised, instructions, "the weights of a quantised model cannot be tuned: load it without quantise"),
                                  (adapted, instructions, "has an adapter inside; load it with merge=True"),
                                  (model, instructions.drop(columns="response"), "instructions: lacks the columns response"),
                                  (model, instructions.head(0), "instructions: has no rows")):
        with pytest.raises(InputError, match=problem):
            tuning.tune_neurons(other, tokenizer, texts, neurons, tmp_path / "tuned", **SETTINGS)
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="the tokenizer has no end token"):
        tuning.tune_neurons(model, tokenizer, instructions, neurons, tmp_path / "tuned", **SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_tune_the_same_rows(bases, instructions, tmp_path):
    "Each with the whole model; only the first writes"
    model, tokenizer = load(bases, "llama")  # which has no dropout
    sets, settings = some_neurons(model, langs=["de", "en"]), SETTINGS | {"strategy": "per-language", "optimizer": "sgd"}
    tuning.tune_neurons(model, tokenizer, instructions, sets, tmp_path / "alone", **settings)
    sets.to_parquet(tmp_path / "sets.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "script.py"), bases["llama"],
                    str(tmp_path / "both"), str(tmp_path / "sets.parquet"), "1000", json.dumps(settings)], check=True, capture_output=True, env=os.environ)
    both, _ = models.load(str(tmp_path / "both"), device="cpu")
    check_only_these_moved(both, load(bases, "llama")[0], tuning.union(sets))
    for name, p in both.named_parameters():
        torch.testing.assert_close(p, model.get_parameter(name), rtol=1e-4, atol=1e-5)  # sums in another order
