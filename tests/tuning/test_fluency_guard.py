"""The guard on fluency: what it watches, where it stops, what it keeps, that a resumed run stops at the same place; and the lean loss of a large vocabulary."""

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, models
from xlingtox.core import InputError
from xlingtox.profiles.sections import METHODS
from xlingtox.tuning import adapter, guard, preference

SETTINGS = {"learning_rate": 5e-4, "max_steps": 24, "batch_size": 4, "warmup_steps": 0, "eval_steps": 2, "max_characters": None}
NEUTRAL = babel.labelled(["en", "de"], 30, seed=5).query("toxic == 0")["text"].tolist()[:12]


@pytest.fixture(scope="module")
def base(toy_model, toy_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    models.save(toy_model("gpt2"), toy_tokenizer, folder)
    return str(folder)


def tune(base, folder, **changes):
    return preference.tune(*models.load(base, device="cpu"), babel.preference(60), folder, **SETTINGS | changes)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def guarded(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded") / "tuned"
    return folder, tune(base, folder, neutral=NEUTRAL, max_perplexity=1.3)


def test_watching_changes_no_weight_and_is_logged(base, tmp_path):
    plain, watched = tune(base, tmp_path / "plain"), tune(base, tmp_path / "watched", neutral=NEUTRAL)
    assert weights(tmp_path / "plain") == weights(tmp_path / "watched") and plain.columns.tolist() == ["step", "loss", "eval_loss"]
    assert watched["step"].tolist() == [0, *plain["step"]] and watched["neutral_perplexity"].notna().all()
    assert watched["eval_loss"].dropna().tolist() == plain["eval_loss"].tolist()
    start = guard.neutral_perplexity(*models.load(base, device="cpu"), NEUTRAL)
    assert watched["neutral_perplexity"].iloc[0] == pytest.approx(start, rel=1e-5)


def test_it_stops_at_the_line_and_keeps_the_best_from_before(guarded, base):
    folder, log = guarded
    ratio = log["neutral_perplexity"] / log["neutral_perplexity"].iloc[0]
    assert len(log) < 13 and (ratio.iloc[:-1] <= 1.3).all() and ratio.iloc[-1] > 1.3, "it ends with the first step beyond the line"
    assert pd.read_parquet(folder / "log.parquet").equals(log)
    kept = guard.neutral_perplexity(*models.load(str(folder), device="cpu"), NEUTRAL)
    best = log.iloc[1:-1].sort_values("eval_loss").iloc[0]
    assert kept == pytest.approx(best["neutral_perplexity"], rel=1e-4)
    assert log["eval_loss"].iloc[-1] < best["eval_loss"], "the loss alone would have kept what is beyond the line"


@pytest.mark.parametrize("cut", [2, 3])
def test_a_killed_run_stops_where_it_would_have(guarded, base, tmp_path, monkeypatch, cut):
    "Killed while fluency is being measured, the same call gives the same weights and the same log"
    folder, log = guarded
    seen, note = [], guard._note

    def killed(history, value):
        seen.append(value)
        if len(seen) == cut:
            raise KeyboardInterrupt
        note(history, value)
    monkeypatch.setattr(guard, "_note", killed)
    with pytest.raises(KeyboardInterrupt):
        tune(base, tmp_path / "tuned", neutral=NEUTRAL, max_perplexity=1.3)
    monkeypatch.undo()
    assert not (tmp_path / "tuned").exists() and list(tmp_path.glob(".tuned.work/checkpoint-*"))
    again = tune(base, tmp_path / "tuned", neutral=NEUTRAL, max_perplexity=1.3)
    pd.testing.assert_frame_equal(again, log)
    assert weights(tmp_path / "tuned") == weights(folder)


def test_beyond_the_line_from_the_first_is_an_error_and_nothing_is_kept(base, tmp_path):
    with pytest.raises(InputError, match="above 1.0001 times its start at the first evaluation: lower the learning rate"):
        tune(base, tmp_path / "tuned", neutral=NEUTRAL, max_perplexity=1.0001, learning_rate=2e-3, eval_steps=4)
    assert not (tmp_path / "tuned").exists()


def test_what_cannot_be_watched_is_said(base, tmp_path):
    with pytest.raises(InputError, match="max_perplexity: give neutral texts"):
        tune(base, tmp_path / "tuned", max_perplexity=1.3)
    with pytest.raises(InputError, match="none has two tokens"):
        guard.neutral_perplexity(*models.load(base, device="cpu"), [""])
    for wrong in (1.0, 0.5, "much"):
        with pytest.raises(ValueError, match="max_perplexity"):
            METHODS["dpo"].settings(max_perplexity=wrong)
    assert METHODS["dpo"].settings().max_perplexity is None


def test_neutral_texts_are_held_out():
    labelled, pairs = babel.labelled(["en", "de", "ru"], 100, seed=0), babel.preference(30, seed=0)
    neutral = labelled[labelled["toxic"] == 0]["text"].tolist()
    pairs = pairs.assign(chosen=neutral[:30], rejected=neutral[30:60])
    texts = guard.neutral_texts(labelled, pairs, n=9)
    assert set(texts) <= set(neutral[60:]) and texts == guard.neutral_texts(labelled, pairs, n=9) and len(texts) <= 9
    halves = pairs.assign(prompt="a ", chosen="b").assign(chosen=[t[3:] for t in neutral[:30]], prompt=[t[:3] for t in neutral[:30]])
    assert not set(guard.neutral_texts(labelled, halves, n=500)) & set(neutral[:30]), "a prompt and its continuation make a known sentence"


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "gemma3_text", "cohere"])
def test_the_lean_loss_is_the_full_one(architecture, toy_model, toy_tokenizer):
    "Losses, gradients and what else trl asks of a token, from the scored positions alone and from all logits"
    torch.manual_seed(0)
    ids, labels = torch.randint(3, 400, (6, 14)), torch.full((6, 14), -100)
    for row, (start, end) in enumerate([(3, 8), (1, 14), (10, 14), (5, 6), (0, 3), (9, 9)]):
        labels[row, start:end] = ids[row, start:end]
    found = []
    for score in (adapter._score_by_logits, adapter._score_where_asked):
        model = toy_model(architecture)
        score(model)
        scores = model(input_ids=ids, labels=labels, fused_lm_head=True, use_cache=False)
        scores.log_probs.sum().backward()
        found.append((scores, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
        assert model(input_ids=ids).logits.shape == (6, 14, len(toy_tokenizer)), "asked anything else, it answers as before"
    (full, full_grads), (lean, lean_grads) = found
    assert int(lean.label_mask.sum()) == 5 + 13 + 4 + 1 + 2
    for name in ("log_probs", "entropy", "mean_logits"):
        torch.testing.assert_close(lean[name], full[name], rtol=0, atol=1e-5)
    assert torch.equal(lean.is_top1, full.is_top1) and set(lean_grads) == set(full_grads)
    for name in full_grads:
        torch.testing.assert_close(lean_grads[name], full_grads[name], rtol=1e-3, atol=1e-4 * float(full_grads[name].abs().max()) + 1e-7)


@pytest.mark.parametrize("lora", [None, {"r": 4, "targets": ["attention", "mlp"]}, {"r": 4, "targets": ["attention", "head"], "dropout": 0.0}])
def test_tuning_with_a_large_vocabulary_is_the_same_tuning(base, tmp_path, monkeypatch, lora):
    "Where the vocabulary counts as large, losses stay what they were, in full and with an adapter, on the output layer too"
    how = {"tuning": "lora", "lora": lora} if lora else {"tuning": "full"}
    usual = tune(base, tmp_path / "usual", max_steps=6, early_stopping=False, **how)
    monkeypatch.setattr(adapter, "_WIDE", 100)
    asked, score = [], adapter._scores_where
    monkeypatch.setattr(adapter, "_scores_where", lambda logits, *rest: asked.append(logits.shape) or score(logits, *rest))
    lean = tune(base, tmp_path / "lean", max_steps=6, early_stopping=False, **how)
    assert asked and all(len(shape) == 2 for shape in asked)
    np.testing.assert_allclose(lean[["loss", "eval_loss"]], usual[["loss", "eval_loss"]], atol=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_frozen_embeddings_stay(base, tmp_path, tuning):
    tune(base, tmp_path / "tuned", max_steps=4, tuning=tuning, train_embeddings=False)
    before, after = (dict(models.load(str(f), device="cpu", merge=True)[0].named_parameters()) for f in (base, tmp_path / "tuned"))
    assert set(before) == set(after) and torch.equal(before["transformer.wte.weight"], after["transformer.wte.weight"])
    assert not torch.equal(before["transformer.h.0.mlp.c_fc.weight"], after["transformer.h.0.mlp.c_fc.weight"])


def test_an_adapter_keeps_off_a_large_shared_table_unless_told(toy_model, monkeypatch):
    model = toy_model("gpt2")
    assert "wte" in adapter._lora_config(model, None, "lora").target_modules
    monkeypatch.setattr(adapter, "_LARGE", 100)
    assert not {"wte", "lm_head"} & set(adapter._lora_config(model, None, "lora").target_modules)
    assert "wte" in adapter._lora_config(model, {"targets": ["embeddings"]}, "lora").target_modules
    assert {"embed_tokens", "lm_head"} <= set(adapter._lora_config(toy_model("llama"), None, "lora").target_modules), "not shared"


def test_sixteen_bits_learn_too(base, tmp_path):
    log = tune(base, tmp_path / "tuned", max_steps=6, precision="bfloat16", neutral=NEUTRAL, early_stopping=False)
    full = tune(base, tmp_path / "full", max_steps=6, neutral=NEUTRAL, early_stopping=False)
    assert log["eval_loss"].iloc[-1] < log["eval_loss"].iloc[1]
    np.testing.assert_allclose(log["eval_loss"].dropna(), full["eval_loss"].dropna(), atol=0.05)
    np.testing.assert_allclose(log["neutral_perplexity"], full["neutral_perplexity"], rtol=0.05)


def test_a_profile_that_watches_fluency_reads_neutral_texts(tmp_path):
    from xlingtox import profiles
    from xlingtox.profiles.stages import STAGES

    (tmp_path / "watched.yaml").write_text("extends: mini\nname: watched\ndpo: {max_perplexity: 1.1}\n")
    inputs = {name: STAGES["tune"].inputs(profiles.load_profile(name), "mgpt", "dpo-0") for name in ("mini", tmp_path / "watched.yaml")}
    assert inputs["mini"] == ["models/mgpt/base.manifest.json", "data/preference.parquet"]
    assert inputs[tmp_path / "watched.yaml"] == [*inputs["mini"], "data/labelled.parquet"]
    assert profiles.load_profile("mini").dpo.max_perplexity is None, "the miniature's results do not move"
