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


def pair_terms(folder, pairs):
    "Log-probability of each continuation with its end, and its number of tokens: (chosen, rejected, n_chosen, n_rejected)"
    model, tokenizer = models.load(str(folder), device="cpu")
    found = {}
    for side in ("chosen", "rejected"):
        terms = []
        for prompt, text in zip(pairs["prompt"], pairs[side], strict=True):
            n, ids = len(tokenizer(prompt)["input_ids"]), torch.tensor([tokenizer(prompt + text)["input_ids"] + [tokenizer.eos_token_id]])
            with torch.no_grad():
                logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[n - 1 :]
            terms.append((float(logp.sum()), len(logp)))
        found[side], found[f"n_{side}"] = map(torch.tensor, zip(*terms, strict=True))
    return found


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge", "robust"])
def test_the_logged_loss_is_that_of_its_paper(base, tmp_path, loss_type):
    "Of the validation pairs, by the formula, from the saved model and its base"
    log = tune(base, tmp_path / "tuned", loss_type=loss_type, max_steps=4)
    _, pairs = preference.hold_out_pairs(babel.preference(60), None)
    after, before, beta = pair_terms(tmp_path / "tuned", pairs), pair_terms(base, pairs), 0.1
    ratio = {side: after[side] - before[side] for side in ("chosen", "rejected")}
    margin, logsigmoid = beta * (ratio["chosen"] - ratio["rejected"]), torch.nn.functional.logsigmoid
    each = ratio["chosen"] / after["n_chosen"] - ratio["rejected"] / after["n_rejected"]
    wanted = {"sigmoid": -logsigmoid(margin), "hinge": (1 - margin).clamp(min=0), "ipo": (each - 1 / (2 * beta)) ** 2,
              "robust": (-0.9 * logsigmoid(margin) + 0.1 * logsigmoid(-margin)) / 0.8}[loss_type]
    assert log["eval_loss"].min() == pytest.approx(float(wanted.mean()), rel=1e-3)  # single precision, in batches


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", preference.LOSSES)
def test_every_loss_trains(base, tmp_path, loss_type):
    log = tune(base, tmp_path / "tuned", loss_type=loss_type, max_steps=4)
    assert log["eval_loss"].notna().all() and weights(tmp_path / "tuned") != weights(base)


def test_what_an_objective_cannot_do_is_said(base, tmp_path):
    model, tokenizer = models.load(base, device="cpu")
    with pytest.raises(InputError, match="there is no objective 'ktoo'; there are dpo, kto"):
        preference.tune(model, tokenizer, babel.preference(60), tmp_path / "x", objective="ktoo", **SETTINGS)
    with pytest.raises(InputError, match="there is no loss_type 'ippo'; there are sigmoid, hinge, ipo"):
        preference.tune(model, tokenizer, babel.preference(60), tmp_path / "x", loss_type="ippo", **SETTINGS)
    with pytest.raises(InputError, match="loss_type 'ipo' is one of DPO's: KTO has a loss of its own"):
        preference.tune(model, tokenizer, babel.preference(60), tmp_path / "x", objective="kto", loss_type="ipo", **SETTINGS)
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


def test_early_stopping_keeps_the_best(base, tmp_path, least_at):
    "The kept model is the one with the least validation loss"
    least_at(8)
    log = tune(base, tmp_path / "tuned", max_steps=40, patience=2)
    assert log["step"].tolist() == [4, 8, 12, 16], "it stopped before its 40 steps"
    best, _ = models.load(str(tmp_path / "tuned"), device="cpu")
    again = tune(base, tmp_path / "cut", max_steps=8, early_stopping=False)
    cut, _ = models.load(str(tmp_path / "cut"), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), cut.parameters(), strict=True)), again
