"""DPO: resumed equals uninterrupted, SIGKILL, NaN, and zero steps."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from xlingtox import babel, models
from xlingtox.core import InputError
from xlingtox.tuning import preference
from xlingtox.tuning.methods import METHODS

SETTINGS = {"learning_rate": 1e-3, "max_steps": 12, "batch_size": 4, "warmup_steps": 2, "eval_steps": 4, "max_characters": None}
SCRIPT = """
import json, sys
from xlingtox import babel, models, tuning
model, tokenizer = models.load(sys.argv[1])
tuning.tune(model, tokenizer, babel.preference(60), sys.argv[2], **json.loads(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def base(toy_model, toy_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    models.save(toy_model("gpt2"), toy_tokenizer, folder)
    return str(folder)


def tune(base, folder, **changes):
    model, tokenizer = models.load(base, device="cpu")
    return preference.tune(model, tokenizer, babel.preference(60), folder, **{**SETTINGS, **changes})


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    log = tune(base, folder)
    return folder, log


def test_it_learns_and_logs(uninterrupted, base):
    folder, log = uninterrupted
    assert log.columns.tolist() == ["step", "loss", "eval_loss"]
    assert log["eval_loss"].iloc[-1] < log["eval_loss"].iloc[0]
    assert pd.read_parquet(folder / "log.parquet").equals(log)
    assert weights(folder) != weights(base)
    assert not list(folder.parent.glob(".*")), "no working folder is left"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_prefers_the_chosen(base, tmp_path, method):
    pairs = babel.preference(60)
    model, tokenizer = models.load(base, device="cpu")
    METHODS[method].tune(model, tokenizer, pairs, tmp_path / method, **SETTINGS)

    def margin(folder):
        "How much likelier the chosen continuations are than the rejected ones, in nats a text"
        model, _ = models.load(str(folder), device="cpu")
        read = {side: tokenizer((pairs["prompt"] + pairs[side]).tolist(), return_tensors="pt", padding=True) for side in ("chosen", "rejected")}
        with torch.no_grad():
            logp = {side: -model(input_ids=t["input_ids"], attention_mask=t["attention_mask"], labels=t["input_ids"].masked_fill(
                t["attention_mask"] == 0, -100)).loss * t["attention_mask"][:, 1:].sum() for side, t in read.items()}
        return float(logp["chosen"] - logp["rejected"]) / len(pairs)
    assert margin(tmp_path / method) > margin(base) + 1


def test_what_an_objective_cannot_do_is_said(base, tmp_path):
    model, tokenizer = models.load(base, device="cpu")
    with pytest.raises(InputError, match="there is no objective 'ktoo'; there are dpo, kto"):
        preference.tune(model, tokenizer, babel.preference(60), tmp_path / "x", objective="ktoo", **SETTINGS)
    for odd in (1, 3):  # of an even number of examples one would be left alone
        with pytest.raises(InputError, match=f"KTO compares the examples of a batch: batch_size must be a multiple of 2, is {odd}"):
            preference.tune(model, tokenizer, babel.preference(60), tmp_path / "x", objective="kto", **SETTINGS | {"batch_size": odd})
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_seed_decides(uninterrupted, base, tmp_path):
    tune(base, tmp_path / "same")
    tune(base, tmp_path / "other", seed=1)
    assert weights(tmp_path / "same") == weights(uninterrupted[0])
    assert weights(tmp_path / "other") != weights(uninterrupted[0])


def test_sigkill_then_the_same_call(uninterrupted, base, tmp_path):
    "Killed after its first checkpoint, the call continues from there to the same weights"
    target = tmp_path / "tuned"
    command = [sys.executable, "-c", SCRIPT, base, str(target), json.dumps({**SETTINGS})]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / ".tuned.work" / "checkpoint-4" / "trainer_state.json"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists(), "nothing half-written"
    (tmp_path / ".tuned.work" / "checkpoint-8").mkdir(exist_ok=True)  # a checkpoint whose writing was cut short
    for state in (tmp_path / ".tuned.work" / "checkpoint-8").glob("trainer_state.json"):
        state.unlink()
    tune(base, target)
    assert weights(target) == weights(uninterrupted[0])


def test_zero_steps_save_the_model_as_it_is(base, tmp_path):
    log = tune(base, tmp_path / "tuned", max_steps=0)
    assert log.empty
    before, after = (models.load(str(f), device="cpu")[0].state_dict() for f in (base, tmp_path / "tuned"))
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_nan_stops_with_the_step(base, tmp_path):
    with pytest.raises(InputError, match=r"DPO: .*loss is nan at step \d+; lower the learning rate"):
        tune(base, tmp_path / "tuned", learning_rate=1e30, max_grad_norm=1e30)
    assert not (tmp_path / "tuned").exists()


def test_early_stopping_keeps_the_best(base, tmp_path):
    "At a rate that soon overshoots, the kept model is the one with the least validation loss"
    log = tune(base, tmp_path / "tuned", learning_rate=3e-2, max_steps=40, patience=2)
    assert len(log) < 10, "it stopped before its 40 steps"
    best, _ = models.load(str(tmp_path / "tuned"), device="cpu")
    again = tune(base, tmp_path / "cut", learning_rate=3e-2, max_steps=int(log.loc[log["eval_loss"].idxmin(), "step"]), early_stopping=False)
    cut, _ = models.load(str(tmp_path / "cut"), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), cut.parameters(), strict=True)), again
