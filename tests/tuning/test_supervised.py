"""Supervised tuning: what the labels are, resumed equals uninterrupted, one model for many tunings, and bad input."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from xlingtox import babel, models, tuning
from xlingtox.core import InputError
from xlingtox.tuning import preference, supervised
from xlingtox.tuning.trainer import _Training

CAUSAL, SEQ2SEQ = ["gpt2", "bloom", "llama", "cohere"], ["mt5"]
SETTINGS = {"learning_rate": 1e-2, "max_steps": 12, "batch_size": 4, "gradient_accumulation": 2, "eval_steps": 4, "task": "neutral", "learn_to_stop": True}
BROKEN = {"learning_rate": 1e30, "max_grad_norm": 1e30, "schedule": "constant"}
SCRIPT = """
import json, sys
from xlingtox import babel, models, tuning
model, tokenizer = models.load(sys.argv[1], device="cpu")
tuning.finetune(model, tokenizer, babel.parallel(["en"], 40, 4), sys.argv[2], **json.loads(sys.argv[3]))
"""
pytestmark = pytest.mark.filterwarnings("ignore:there is no paged optimizer")


@pytest.fixture(scope="module")
def pairs():
    return babel.parallel(["en"], 40, 4)


@pytest.fixture(scope="module")
def bases(toy_model, toy_tokenizer, tmp_path_factory):
    "Folders of models, by architecture"
    folder = tmp_path_factory.mktemp("bases")
    for architecture in (*CAUSAL, *SEQ2SEQ):
        calm = {"initializer_factor": 0.05} if architecture == "mt5" else {}  # else its logits are too large to learn from in twelve steps
        models.save(toy_model(architecture, **calm), toy_tokenizer, folder / architecture)
    return {architecture: str(folder / architecture) for architecture in (*CAUSAL, *SEQ2SEQ)}


def load(bases, architecture="gpt2", **options):
    return models.load(bases[architecture], device="cpu", **options)


def weights(folder):
    return (Path(folder) / "adapter_model.safetensors").read_bytes()


def whole_json(file):
    "Whether a file is there and written to its end"
    try:
        return bool(json.loads(file.read_text()))
    except (OSError, ValueError):
        return False


def logits(model):
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        given = {"labels": ids} if model.config.is_encoder_decoder else {}
        return model.eval()(input_ids=ids, **given).logits


# --- what is learnt


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("seq2seq", [False, True])
@pytest.mark.parametrize("task", supervised.TASKS)
def test_the_loss_is_on_what_the_format_says(pairs, toy_tokenizer, task, seq2seq, stop):
    table = supervised.tokenise(pairs, toy_tokenizer, task, learn_to_stop=stop, seq2seq=seq2seq)
    train = pairs[pairs["split"] == "train"]
    assert len(table) == len(train) == 40
    request = "Complete the neutral version of this sentence: {}\nNeutral completion:"
    bos, end = [toy_tokenizer.bos_token_id], [toy_tokenizer.eos_token_id] * stop
    for made, toxic, neutral in zip(table.to_dict("records"), train["toxic"], train["neutral"], strict=True):
        words = neutral.split()
        half = " ".join(words[: len(words) // 2])
        if seq2seq:
            read, written = {"neutral": (half, neutral.removeprefix(half)), "completion": (request.format(toxic), " " + neutral),
                             "rewrite": (toxic, neutral)}[task]
            assert made == {"input_ids": bos + plain(toy_tokenizer, read), "labels": plain(toy_tokenizer, written) + end}
        else:
            known, learnt = {"neutral": ("", neutral), "completion": ("", request.format(toxic) + " " + neutral), "rewrite": (toxic + "\n", neutral)}[task]
            known, learnt = bos + plain(toy_tokenizer, known), plain(toy_tokenizer, learnt) + end
            assert made == {"input_ids": known + learnt, "labels": [-100] * len(known) + learnt}


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("architecture, task", [("gpt2", "rewrite"), ("cohere", "completion"), ("mt5", "rewrite"), ("mt5", "neutral")])
def test_the_model_is_given_these_labels_and_no_others(bases, pairs, tmp_path, monkeypatch, architecture, task, few):
    monkeypatch.setattr(supervised, "_FEW", supervised._FEW if few else 0)
    model, tokenizer = load(bases, architecture)
    seen = []
    model.register_forward_pre_hook(lambda module, args, given: seen.append(given), with_kwargs=True)
    tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | {"task": task, "max_steps": 5})  # all 40 examples, once
    rows = [(ids[: len(ids) if mask is None else int(mask.sum())].tolist(), [label for label in labels.tolist() if label != -100])
            for given in seen for ids, mask, labels in zip(given["input_ids"], given["attention_mask"], given["labels"], strict=True)]
    table = supervised.tokenise(pairs, tokenizer, task, learn_to_stop=True, seq2seq=architecture == "mt5")
    wanted = [(made["input_ids"], [label for label in made["labels"] if label != -100]) for made in table.to_dict("records")]
    assert sorted(rows) == sorted(wanted)
    assert len(seen) == (5 if few else 10)


def test_both_ways_to_take_the_loss_agree(bases, pairs, tmp_path, monkeypatch):
    logs = {}
    for few in (2**23, 0):
        monkeypatch.setattr(supervised, "_FEW", few)
        model, tokenizer = load(bases, "cohere")  # which scales its logits
        logs[few] = tuning.finetune(model, tokenizer, pairs, tmp_path / str(few), **SETTINGS | {"lora": {"dropout": 0.0}, "eval_share": 0.1})
    pd.testing.assert_frame_equal(*logs.values(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", ["cohere", "mt5"])
def test_a_batch_read_in_parts_is_the_same_step(bases, pairs, tmp_path, monkeypatch, architecture):
    "Texts of unequal length: the mean is over the tokens of the step, not over the parts"
    monkeypatch.setattr(supervised, "_FEW", 0)
    logs, rows = {}, []
    for many in (2**27, 0):
        monkeypatch.setattr(supervised, "_MANY", many)
        model, tokenizer = load(bases, architecture)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0  # it draws by batch
            if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
                layer.dropout = 0.0  # of the attention
        model.register_forward_pre_hook(lambda module, args, given: rows.append((many, len(given["input_ids"]))), with_kwargs=True)  # noqa: B023
        logs[many] = tuning.finetune(model, tokenizer, pairs, tmp_path / str(many), **SETTINGS | {"lora": {"dropout": 0.0}})
    assert max(n for many, n in rows if many == 0) == 1 < max(n for many, n in rows if many)
    pd.testing.assert_frame_equal(*logs.values(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("architecture", [*CAUSAL, *SEQ2SEQ])
def test_every_architecture_learns_and_what_it_learnt_is_saved(bases, pairs, tmp_path, architecture):
    model, tokenizer = load(bases, architecture)
    before = logits(model)
    log = tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | {"task": None, "learn_to_stop": None})
    assert log.columns.tolist() == ["step", "loss", "eval_loss"] and log["step"].tolist() == [4, 8, 12]
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    assert pd.read_parquet(tmp_path / "tuned" / "log.parquet").equals(log)
    assert not list(tmp_path.glob(".*")), "no working folder is left"
    saved, _ = models.load(str(tmp_path / "tuned"), device="cpu")
    assert torch.equal(logits(saved), logits(model)) and not torch.equal(logits(model), before)
    again, _ = load(bases, architecture)
    folded = logits(tuning.put_on(again, tmp_path / "tuned"))
    torch.testing.assert_close(folded, logits(model), rtol=1e-4, atol=1e-4)  # one product in the place of two


@pytest.mark.parametrize("architecture, targets", [("gpt2", ["attn.c_attn", "attn.c_proj"]),
                                                   ("bloom", ["dense_4h_to_h", "dense_h_to_4h", "query_key_value", "self_attention.dense"]),
                                                   ("cohere", ["k_proj", "o_proj", "q_proj", "v_proj"]), ("mt5", ["q", "v"])])
def test_the_adapter_is_the_familys(bases, pairs, tmp_path, architecture, targets):
    model, tokenizer = load(bases, architecture)
    tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", max_steps=0)
    config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    assert (config["target_modules"], config["r"], config["lora_alpha"], config["lora_dropout"]) == (targets, 16, 32, 0.05)


def test_who_learns_the_end_stops(bases, pairs, tmp_path):
    chances = {}
    for stop in (False, True):
        model, tokenizer = load(bases)
        tuning.finetune(model, tokenizer, pairs, tmp_path / str(stop),
                        **SETTINGS | {"learn_to_stop": stop, "max_steps": 60, "eval_steps": 60, "tuning": "full"})
        ids = tokenizer(pairs["neutral"].iloc[0], return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            chances[stop] = model(**ids).logits[0, -1].softmax(-1)[tokenizer.eos_token_id].item()
    assert chances[True] > 0.5 > 0.1 > chances[False]


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_an_adapter_goes_to_every_part(bases, pairs, tmp_path, architecture):
    model, tokenizer = load(bases, architecture)
    targets = ["attention", "mlp", "embeddings", "head"]
    log = tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | {"lora": {"targets": targets}})
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]
    head = [p for name, p in model.named_parameters() if "lm_head" in name and "lora_B" in name]
    assert head and all(p.abs().max() > 0 for p in head)


def test_tokens_made_before_are_the_same(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    table = supervised.tokenise(pairs, tokenizer, "neutral", learn_to_stop=True)
    for name, data in (("pairs", pairs), ("tokens", table)):
        with tuning.as_it_was(model):
            tuning.finetune(model, tokenizer, data, tmp_path / name, **SETTINGS)
    assert weights(tmp_path / "pairs") == weights(tmp_path / "tokens")


def test_seed_and_share_decide(bases, pairs, tmp_path):
    found = []
    for name, changes in {"one": {}, "same": {}, "seed": {"seed": 1}, "held": {"eval_share": 0.1}}.items():
        model, tokenizer = load(bases)
        log = tuning.finetune(model, tokenizer, pairs, tmp_path / name, **SETTINGS | changes)
        found.append(weights(tmp_path / name))
        assert log["eval_loss"].notna().all() == (name == "held")
    assert found[0] == found[1] and len(set(found)) == 3


def test_early_stopping_keeps_the_best(bases, pairs, tmp_path, least_at):
    least_at(8)
    model, tokenizer = load(bases)
    changes = {"max_steps": 60, "early_stopping": True, "eval_share": 0.2, "patience": 2, "schedule": "constant"}
    log = tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | changes)
    assert log["step"].tolist() == [4, 8, 12, 16], "one evaluation before the best, and as many after it as there is patience"
    model, tokenizer = load(bases)
    tuning.finetune(model, tokenizer, pairs, tmp_path / "cut", **SETTINGS | changes | {"early_stopping": False, "max_steps": 8})
    assert weights(tmp_path / "cut") == weights(tmp_path / "tuned")


# --- when it is killed, or goes wrong


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_sigkill_then_the_same_call(bases, pairs, tmp_path, architecture):
    "Killed after its first checkpoint, the call continues from there to the same weights"
    model, tokenizer = load(bases, architecture)
    whole = tuning.finetune(model, tokenizer, pairs, tmp_path / "whole", **SETTINGS)
    target = tmp_path / "tuned"
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, bases[architecture], str(target), json.dumps(SETTINGS)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / ".tuned.work" / "checkpoint-4" / "trainer_state.json"
    deadline = time.monotonic() + 120
    while not whole_json(checkpoint) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert checkpoint.exists() and not target.exists(), "nothing half-written"
    (tmp_path / ".tuned.work" / "checkpoint-8").mkdir(exist_ok=True)  # a checkpoint whose writing was cut short
    for state in (tmp_path / ".tuned.work" / "checkpoint-8").glob("trainer_state.json"):
        state.unlink()
    model, tokenizer = load(bases, architecture)
    steps = []
    model.register_forward_pre_hook(lambda *given: steps.append(1))
    log = tuning.finetune(model, tokenizer, pairs, target, **SETTINGS)
    assert weights(target) == weights(tmp_path / "whole") and log.equals(whole)
    assert len(steps) == 8, "the first four steps are not done again"


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_nan_stops_with_the_step(bases, pairs, tmp_path, architecture):
    model, tokenizer = load(bases, architecture)
    with pytest.raises(InputError, match=r"SFT: loss is nan at step (4|8); lower the learning rate"):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | BROKEN)
    assert not (tmp_path / "tuned").exists()


def test_nan_after_the_last_record_is_seen_too(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match=r"SFT: train_loss is nan at step 7; lower the learning rate"):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | BROKEN | {"eval_steps": 50, "max_steps": 7})
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_zero_steps_save_the_model_as_it_is(bases, pairs, tmp_path, architecture):
    for how in ("full", "lora"):
        model, tokenizer = load(bases, architecture)
        log = tuning.finetune(model, tokenizer, pairs, tmp_path / how, max_steps=0, tuning=how)
        assert log.empty
        assert torch.equal(logits(models.load(str(tmp_path / how), device="cpu")[0]), logits(load(bases, architecture)[0]))


def test_full_tuning_moves_the_weights(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | {"tuning": "full"})
    saved, _ = models.load(str(tmp_path / "tuned"), device="cpu")
    assert torch.equal(logits(saved), logits(model)) and not torch.equal(logits(saved), logits(load(bases)[0]))


# --- one model, many tunings


def parts(model):
    "All that can be seen of a model"
    return {**{f"module {name}": (type(m), m.training, sorted(vars(m)), getattr(m, "p", None), len(m._forward_hooks), len(m._forward_pre_hooks))
               for name, m in model.named_modules()},
            **{f"weight {name}": (id(p), p.requires_grad, p.grad) for name, p in model.named_parameters()},
            "config": model.config.to_dict(), "generation": model.generation_config.to_dict(), "forward": "forward" in vars(model),
            "checkpointing": model.is_gradient_checkpointing}


def tune_again(bases, pairs, tmp_path, architecture, how, quantise=False):
    "After a tuning within `as_it_was` the model is as it was, and a second tuning does not know of the first"
    model, tokenizer = load(bases, architecture, quantise=quantise)
    state, before, was = {k: v.clone() for k, v in model.state_dict().items()}, parts(model), logits(model)
    settings = SETTINGS | {"tuning": how}
    with tuning.as_it_was(model):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "first", **settings | {"seed": 5})
        assert not torch.equal(logits(model), was)
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[k], v) for k, v in state.items())
    assert parts(model) == before and torch.equal(logits(model), was)
    with tuning.as_it_was(model):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "second", **settings)
    fresh, tokenizer = load(bases, architecture, quantise=quantise)
    tuning.finetune(fresh, tokenizer, pairs, tmp_path / "fresh", **settings)
    assert weights(tmp_path / "second") == weights(tmp_path / "fresh") != weights(tmp_path / "first")


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "cohere", "mt5"])
def test_the_base_is_restored_to_the_bit(bases, pairs, tmp_path, architecture):
    tune_again(bases, pairs, tmp_path, architecture, "lora")


@pytest.mark.parametrize("architecture", ["llama", "mt5"])
def test_so_is_one_in_four_bits(bases, pairs, tmp_path, architecture):
    tune_again(bases, pairs, tmp_path, architecture, "qlora", quantise=True)


@pytest.mark.parametrize("architecture", ["gpt2", "mt5"])
def test_so_is_one_that_computes_its_activations_again(bases, pairs, tmp_path, architecture, monkeypatch):
    hardware = _Training.hardware
    monkeypatch.setattr(_Training, "hardware", lambda self, cpu: hardware(self, cpu) | {"gradient_checkpointing": True})  # as on a GPU
    tune_again(bases, pairs, tmp_path, architecture, "lora")


def test_so_is_one_after_preference_tuning_or_an_error(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    before, was = parts(model), logits(model)
    with tuning.as_it_was(model):
        preference.tune(model, tokenizer, babel.preference(60), tmp_path / "dpo", tuning="lora", max_steps=2, learning_rate=1e-2, max_characters=None)
    assert parts(model) == before and torch.equal(logits(model), was)
    with pytest.raises(InputError, match="loss is nan"), tuning.as_it_was(model):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | BROKEN)
    assert parts(model) == before and torch.equal(logits(model), was)


def test_what_cannot_be_restored_is_said(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match="the weights themselves were tuned: load the model again, or tune with lora or qlora"), tuning.as_it_was(model):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | {"tuning": "full"})


# --- bad input


@pytest.mark.parametrize("changes, problem", [
    ({"lora": {"targets": ["query_key_value"]}},
     "gpt2 has no module 'query_key_value' for an adapter; give names of its modules or of the groups attention, mlp"),
    ({"lora": {"rank": 4}}, "lora: rank is not a setting; there are r, alpha, dropout, targets"),
    ({"variant": "paper"}, "there is no variant 'paper'; there are published and exact"),
    ({"task": "detox"}, "there is no task 'detox'; there are neutral, completion, rewrite"),
    ({"tuning": "qlora"}, "qlora tunes a model in 4 bits: load it with quantise=True"),
    ({"early_stopping": True}, "early_stopping needs examples to validate on: give eval_share"),
    ({"eval_share": 0.001}, "40 parallel pairs are too few to train and to validate on 0% of them"),
    ({"eval_share": 0.99}, "40 parallel pairs are too few to train and to validate on 99% of them"),
    ({"task": "rewrite", "max_length": 4}, "parallel pairs, row 1: no token is left to learn"),
])
def test_what_cannot_be_done_is_said(bases, pairs, tmp_path, changes, problem):
    model, tokenizer = load(bases)
    with pytest.raises(InputError, match=problem) as error:
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS | changes)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_pairs_that_cannot_be_learnt_from(bases, pairs, tmp_path):
    model, tokenizer = load(bases)
    train = pairs[pairs["split"] == "train"]
    empty = train.assign(neutral=["", *train["neutral"][1:]]).iloc[::-1]
    for data, problem in ((pairs[pairs["split"] == "test"], "none of 4 rows is of split train"), (pairs.drop(columns="neutral"), "lacks the columns neutral"),
                          (empty, "row 40: no token is left to learn; its neutral text is empty")):
        with pytest.raises(InputError, match=problem):
            tuning.finetune(model, tokenizer, data, tmp_path / "tuned", **SETTINGS | {"learn_to_stop": False})
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="the tokenizer has no end token"):
        tuning.finetune(model, tokenizer, pairs, tmp_path / "tuned", **SETTINGS)


def test_long_texts_are_cut_to_what_the_model_reads(bases, pairs, tmp_path):
    model, tokenizer = load(bases)  # 128 positions
    long = pairs.assign(neutral=[" ".join([text] * 30) for text in pairs["neutral"]])
    log = tuning.finetune(model, tokenizer, long, tmp_path / "tuned", **SETTINGS | {"max_steps": 4})
    assert log["loss"].notna().all()
    table = supervised.tokenise(long, tokenizer, "neutral", learn_to_stop=True, max_length=128)
    assert {len(ids) for ids in table["input_ids"]} == {128} and tokenizer.eos_token_id not in table["labels"].explode().tolist()
    read = supervised.tokenise(long.assign(toxic=long["neutral"]), tokenizer, "rewrite", learn_to_stop=True, seq2seq=True, max_length=20)
    assert {(len(row.input_ids), len(row.labels)) for row in read.itertuples()} == {(20, 20)}


def test_the_paged_optimizer_is_replaced_on_a_processor_alone():
    with pytest.warns(UserWarning, match="there is no paged optimizer on a processor: adamw_torch stands for paged_adamw_32bit"):
        assert supervised._available("paged_adamw_32bit", cpu=True) == "adamw_torch"
    assert supervised._available("paged_adamw_32bit", cpu=False) == "paged_adamw_32bit"
    assert supervised._available("rmsprop", cpu=True) == "rmsprop"
