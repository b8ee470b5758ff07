"""Every architecture at toy width through every stage that it can take part in: load, generate, perplexity, retrieval, tuning and its resumption."""
import json
import math

import numpy as np
import pytest
import torch
from xlingtox import babel, generation, models, representations
from xlingtox.core import InputError
from xlingtox.metrics import fluency
from xlingtox.tuning import preference

BEYOND = ["qwen2", "qwen3", "gemma2", "gemma3_text"]
PAPERS = ["gpt2", "bloom", "llama", "cohere"]
CAUSAL = [*PAPERS, *BEYOND]
slow = lambda names: [pytest.param(n, marks=pytest.mark.slow) for n in names]  # noqa: E731
SETTINGS = {"learning_rate": 1e-3, "max_steps": 6, "batch_size": 4, "warmup_steps": 1, "eval_steps": 3, "max_characters": None}
SMALL = {"r": 4}
_WIDE = {"hidden_size": 64, "intermediate_size": 128}
WIDE = {"gpt2": {"n_embd": 64}, "bloom": {"hidden_size": 64}, "mt5": {}, **dict.fromkeys(["llama", "cohere", *BEYOND], _WIDE)}  # blocks of four-bit weights
TEXTS = ["The old teacher reads a book.", "sings", "Der alte Lehrer liest.", "猫在家里唱歌。"]


@pytest.fixture(scope="module")
def saved(toy_model, toy_tokenizer, tmp_path_factory):
    "A function that gives the folder of a saved toy"
    folders = {}

    def folder(architecture):
        if architecture not in folders:
            folders[architecture] = str(tmp_path_factory.mktemp(architecture) / "base")
            models.save(toy_model(architecture, **WIDE[architecture]), toy_tokenizer, folders[architecture])
        return folders[architecture]

    return folder


@pytest.fixture(scope="module")
def tuned(saved):
    "A function that gives the folder and the log of a tuned toy"
    made = {}

    def tune(architecture, tuning):
        if (architecture, tuning) not in made:
            folder = f"{saved(architecture)}-{tuning}"
            model, tokenizer = models.load(saved(architecture), quantise=tuning == "qlora", device="cpu")
            lora = SMALL if tuning != "full" else None
            made[architecture, tuning] = folder, preference.tune(model, tokenizer, babel.preference(40), folder, tuning=tuning, lora=lora, **SETTINGS)
        return made[architecture, tuning]

    return tune


@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
def test_load_and_generate(architecture, saved, toy_model):
    "What was saved is loaded, and samples depend neither on the batch size, but for rounding, nor on the call"
    model, tokenizer = models.load(saved(architecture), device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(toy_model(architecture, **WIDE[architecture]).state_dict().values(), model.state_dict().values(), strict=True))
    prompts = babel.prompts(["en", "zh"], n=4, seed=5)
    one, many, again = (generation.generate(model, tokenizer, prompts, "m", k=3, max_new_tokens=6, batch_size=b) for b in (1, 8, 8))
    assert many.equals(again)
    assert (one["text"] == many["text"]).mean() > 0.9  # sums in another order: a draw that falls between two tokens goes either way, once in 10,000 tokens
    assert one.groupby(["lang", "prompt_id"])["text"].nunique().mean() > 1.2, "the samples of a prompt differ"


@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
def test_perplexity(architecture, saved):
    "The exact one equals the loss of each text alone; the published one is finite"
    model, tokenizer = models.load(saved(architecture), device="cpu")
    prompts, continuations = ["The teacher reads", "The teacher reads", "Der Hund"], [" a book.", " and sings", " liest das Buch."]
    got = fluency.perplexity(model, tokenizer, prompts, continuations)
    assert np.isfinite(fluency.perplexity(model, tokenizer, prompts, continuations, variant="published", max_drop=None)).all()
    for p, c, value in zip(prompts, continuations, got, strict=True):
        if architecture == "mt5":
            labels = tokenizer(c, add_special_tokens=False, return_tensors="pt")["input_ids"]
            loss = model(input_ids=tokenizer(p, return_tensors="pt")["input_ids"], labels=labels).loss
        else:
            (context,), (target,) = fluency.context_and_target(tokenizer, [p], [c])
            loss = model(input_ids=torch.tensor([context + target]), labels=torch.tensor([[-100] * len(context) + target])).loss
        assert value == pytest.approx(math.exp(loss.item()), rel=1e-4)


@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
def test_retrieval(architecture, saved):
    "The representation of a text in a batch is the mean over its own tokens"
    model, tokenizer = models.load(saved(architecture), device="cpu")
    got = representations.sentence_representations(model, tokenizer, TEXTS, batch_size=4)
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    for i, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = reader(input_ids=tokenizer(text, return_tensors="pt")["input_ids"], output_hidden_states=True).hidden_states
        np.testing.assert_allclose(got[:, i], torch.cat(states).mean(1).numpy(), rtol=2e-4, atol=2e-4)


def dpo_loss(tuned_model, reference, tokenizer, beta=0.1):
    "The loss on the validation pairs by its formula, one text at a time, each ended by the end-of-text token as trl does"
    def score(model, prompt, continuation):
        n = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + continuation)["input_ids"] + [tokenizer.eos_token_id]])
        with torch.inference_mode():
            log_p = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return log_p.gather(-1, ids[0, 1:, None])[n - 1 :].sum()

    _, pairs = preference.hold_out_pairs(babel.preference(40), None)
    margins = [sum(sign * (score(tuned_model, r.prompt, text) - score(reference, r.prompt, text)) for sign, text in ((1, r.chosen), (-1, r.rejected)))
               for r in pairs.itertuples()]
    return -torch.nn.functional.logsigmoid(beta * torch.stack(margins)).mean().item()


@pytest.mark.parametrize("tuning, architecture", [
    *[(t, a) for t in ("full", "lora") for a in PAPERS], *[("qlora", a) for a in CAUSAL],
    *[pytest.param(t, a, marks=pytest.mark.slow) for t in ("full", "lora") for a in BEYOND]])
def test_tuning(tuning, architecture, saved, tuned):
    """The least validation loss that was logged is the DPO loss of the saved model against its base, by the formula.

    So the reference is the base with the adapter off, every adapter counts while training, and what is saved is what was best.
    """
    folder, log = tuned(architecture, tuning)
    assert log["eval_loss"].min() != pytest.approx(math.log(2), abs=1e-5), "a model that has not moved"
    quantise = tuning == "qlora"
    reference, tokenizer = models.load(saved(architecture), quantise=quantise, device="cpu")
    model, _ = models.load(folder, quantise=quantise, device="cpu")
    assert type(model) is type(reference) and model.config.model_type == architecture
    assert dpo_loss(model, reference, tokenizer) == pytest.approx(log["eval_loss"].min(), abs=2e-4)
    if tuning == "full":
        return
    thin = {n: p for n, p in model.named_parameters() if "lora_" in n}
    for modules in models.LORA_MODULES[architecture].values():
        for module in modules:
            moved = [p for n, p in thin.items() if f".{module}." in f".{n}" and ("lora_B" in n or "embedding_A" in n)]
            assert moved and all(p.abs().max() > 0 for p in moved), f"the adapter of {module} was not trained"
    assert all(p.dtype == torch.float32 for p in thin.values())
    if quantise:
        linear = [m for m in model.modules() if type(m).__name__ == "Linear4bit" and hasattr(m, "lora_A")]
        assert len(linear) >= 8 and all(m.weight.dtype == torch.uint8 for m in linear)
    else:
        merged, _ = models.load(folder, merge=True, device="cpu")
        ids = torch.arange(3, 30)[None]
        torch.testing.assert_close(merged(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "bloom", *slow(["gpt2", "cohere", *BEYOND])])
def test_a_cut_off_qlora_tuning_continues(architecture, saved, tuned, monkeypatch):
    "Cut off after its first checkpoint, the same call gives the adapter of an uninterrupted one, bit for bit"
    import trl

    class CutOff(trl.DPOTrainer):
        def log(self, logs, *args, **kwargs):
            super().log(logs, *args, **kwargs)
            if "loss" in logs and self.state.global_step == 6:
                raise KeyboardInterrupt

    folder = f"{saved(architecture)}-resumed"
    pieces = lambda: (*models.load(saved(architecture), quantise=True, device="cpu"), babel.preference(40), folder)  # noqa: E731
    options = {"tuning": "qlora", "lora": SMALL, **SETTINGS}
    monkeypatch.setattr(trl, "DPOTrainer", CutOff)
    with pytest.raises(KeyboardInterrupt):
        preference.tune(*pieces(), **options)
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(trl.DPOTrainer, "training_step", lambda self, *a, f=trl.DPOTrainer.training_step, **kw: steps.append(1) or f(self, *a, **kw))
    log = preference.tune(*pieces(), **options)
    assert len(steps) == 3, "three of six steps were done before"
    wanted, wanted_log = tuned(architecture, "qlora")
    a, b = (open(f"{f}/adapter_model.safetensors", "rb").read() for f in (folder, wanted))
    assert a == b and log.equals(wanted_log)


def test_an_encoder_decoder_is_not_tuned_with_dpo(saved, tmp_path):
    with pytest.raises(InputError, match="DPO tunes causal models, and mt5 is an encoder-decoder"):
        preference.tune(*models.load(saved("mt5"), device="cpu"), babel.preference(40), tmp_path / "tuned", **SETTINGS)


def test_the_base_is_named_so_that_a_run_can_be_moved(tuned):
    folder, _ = tuned("llama", "qlora")
    named = json.loads(open(f"{folder}/adapter_config.json").read())
    assert named["base_model_name_or_path"] == "../base" and named["lora_alpha"] == 16 and named["r"] == 4
    assert named["target_modules"] == sorted(sum(models.LORA_MODULES["llama"].values(), []))
