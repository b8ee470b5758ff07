"""Conditional perplexity of 25 continuations a prompt, together and one text at a time."""
import time

import numpy as np


def judge_and_texts(n_prompts=24, k=25, prompt_tokens=10, new_tokens=20, vocabulary=6000):
    "A random GPT-2 (4 layers of 128), a word-level tokenizer, and prompts with k continuations each"
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    tokenizer.add_tokens(["a"])
    model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary + 1, n_positions=128, n_embd=128, n_layer=4, n_head=4,
                                       bos_token_id=None, eos_token_id=None)).eval()

    def text(n):
        return " ".join(f"w{i}" for i in rng.integers(1, vocabulary, n))

    prompts = [p for p in [text(prompt_tokens) for _ in range(n_prompts)] for _ in range(k)]
    return model, tokenizer, prompts, [" " + text(new_tokens) for _ in prompts]


def one_pass(model, tokenizer, prompts, continuations):
    "The shortest loop: one pass a text, the library's own loss over the continuation's tokens"
    import torch

    values = []
    for prompt, continuation in zip(prompts, continuations, strict=True):
        given = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + continuation, return_tensors="pt")["input_ids"]
        labels = ids.clone()
        labels[:, :given] = -100
        values.append(torch.exp(model(input_ids=ids, labels=labels).loss).item())
    return np.array(values)


def two_passes(model, tokenizer, prompts, continuations):
    "The loop of the released script of Li et al. (2024): one pass for prompt and continuation, one for the prompt"
    import torch

    values = []
    for prompt, continuation in zip(prompts, continuations, strict=True):
        full, given = (tokenizer(t, return_tensors="pt")["input_ids"] for t in (prompt + continuation, prompt))
        n_full, n_given = full.shape[1], given.shape[1]
        loss = model(input_ids=full, labels=full).loss * (n_full - 1) - model(input_ids=given, labels=given).loss * (n_given - 1)
        values.append(torch.exp(loss / (n_full - n_given)).item())
    return np.array(values)


def run(rounds=4) -> dict:
    "Best of some rounds for each side, taken in turn"
    import torch
    from transformers.utils import logging
    from xlingtox.metrics import perplexity

    logging.set_verbosity_error()
    texts = judge_and_texts()
    ways = {"together": perplexity, "one pass a text": one_pass, "two passes a text": two_passes}
    seconds, values = dict.fromkeys(ways, np.inf), {}
    with torch.inference_mode():
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                values[name] = way(*texts)
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    for name in ways:
        np.testing.assert_allclose(values[name], values["together"], rtol=1e-4)
    ratios = {name: seconds[name] / seconds["together"] for name in ways}
    return {"what": "conditional perplexity, 25 continuations a prompt", "baseline": "one text at a time, as released",
            "ratio": ratios["two passes a text"], "bar": 8, "ratio_one_pass": ratios["one pass a text"]}


if __name__ == "__main__":
    row = run()
    print(f"{row['what']}: {row['ratio']:.1f}x {row['baseline']} (bar {row['bar']}x), {row['ratio_one_pass']:.1f}x a loop that reads each text once")
