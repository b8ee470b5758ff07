"""Tuning of a tenth of all neurons, and of as many as the paper found toxic at most (36 of a hundred), against full tuning: what the optimizer holds,
and how long a step takes.

Same model (Llama, random weights, wide enough that a step is arithmetic), same instructions, AdamW, 32 bits, one process. A step is timed from one
forward pass to the next; the median counts. Neurons are drawn at random from all linear layers but the output layer.
"""
import statistics
import tempfile
import time
from pathlib import Path

STEPS, SHARES = 8, (0.01, 0.1, 0.36)
BARS = {0.01: (60, 1.1), 0.1: (8, 1.0), 0.36: (2.5, 0.75)}  # of memory and of time


def prepare():
    "Tokenizer, instructions and a function that makes the model"
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from xlingtox import babel
    from xlingtox.models import pretrain

    instructions = babel.instruct(["de", "en", "fr", "ru"], 60)
    tokenizer = pretrain.train_tokenizer(instructions["response"], 2000)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8,
                         num_key_value_heads=4, bos_token_id=1, eos_token_id=2, pad_token_id=0)

    def model():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()

    return tokenizer, instructions, model


def some(model, share):
    "A share of the neurons of all linear layers but the output layer"
    import pandas as pd
    from xlingtox.tuning.rows import _sizes

    every = pd.DataFrame([(name, i) for name, n in _sizes(model).items() if name != "lm_head" for i in range(n)], columns=["module", "neuron"])
    return every.sample(frac=share, random_state=0).sort_index()


def measure(model, tokenizer, instructions, neurons):
    "Bytes of the optimizer's state and seconds of a step"
    from xlingtox.core import read_json
    from xlingtox.tuning.neurons import tune_neurons

    begun = []
    model.register_forward_pre_hook(lambda *given: begun.append(time.perf_counter()))
    with tempfile.TemporaryDirectory() as folder:
        tune_neurons(model, tokenizer, instructions, neurons, Path(folder) / "tuned", strategy="full" if neurons is None else "multilingual",
                     max_steps=STEPS, eval_steps=STEPS)
        told = read_json(Path(folder) / "tuned" / "trained.json")["parts"][0]
    return told["optimizer_bytes"], statistics.median(b - a for a, b in zip(begun, begun[1:], strict=False))


def run():
    "Two rows for each share: memory and time"
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer, instructions, make = prepare()
    full_bytes, full_seconds = measure(make(), tokenizer, instructions, None)
    rows = []
    for share in SHARES:
        model = make()
        held, seconds = measure(model, tokenizer, instructions, some(model, share))
        for what, ratio, bar in zip(("memory of the optimizer", "a step"), (full_bytes / held, full_seconds / seconds), BARS[share], strict=True):
            rows.append({"what": f"{what}, {share:.0%} of the neurons tuned", "baseline": "full tuning", "ratio": ratio, "bar": bar})
    return rows
