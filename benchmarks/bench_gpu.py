"""Models of the papers' sizes with random weights on a GPU: DPO and QLoRA steps, and 25 samples a prompt, at the paper's settings.

`python -m benchmarks gpu` measures; without a GPU it says so and measures nothing. A GPT-2 of 1.3 billion parameters stands for mGPT, a Llama of 8
billion for the larger models. Each row counts tokens a second and the peak memory; the generation rows are set beside plain `generate`. Nothing is
downloaded: the weights are random, so the texts mean nothing and only the speed does.
"""
import functools
import gc
import sys
import tempfile
import time
from pathlib import Path

GPT2_1B = {"n_layer": 24, "n_embd": 2048, "n_head": 16, "n_positions": 2048, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LLAMA_8B = {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
            "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
MODELS = {  # architecture, configuration, vocabulary, how the paper tunes it, type of the weights
    "GPT-2 1.3B": ("gpt2", GPT2_1B, 100_000, "full", "float32"),
    "Llama 8B": ("llama", LLAMA_8B, 128_256, "qlora", "bfloat16"),
}
STEPS = 8
PAIRS = {"full": {"batch_size": 4}, "qlora": {"batch_size": 1, "gradient_accumulation": 4}}  # Li et al. 2024, section 3.1.2


def make(architecture, config, vocabulary, dtype, folder):
    "Save a model with random weights and a tokenizer that uses the first few thousand of its tokens"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from xlingtox import babel, models
    from xlingtox.models import pretrain

    tokenizer = pretrain.train_tokenizer(babel.corpus(3000, parallel_share=0.0)["text"], 6000)
    config = AutoConfig.for_model(architecture, **config, vocab_size=vocabulary, pad_token_id=0, bos_token_id=1, eos_token_id=2, dtype=dtype)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    models.save(model, tokenizer, folder)


def measured(work):
    "Seconds and peak memory (GB) of a piece of work on the GPU"
    import torch

    gc.collect()  # a trainer holds itself in a circle
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e9


def tuning(title, folder, how):
    "Tokens a second of training steps with the paper's settings: the time of 3 x STEPS steps less that of STEPS"
    from xlingtox import babel, models
    from xlingtox.tuning import preference

    pairs, seconds = babel.preference(200), {}
    precision = "float16" if how == "full" else "bfloat16"

    def steps_of(model, tokenizer, steps):
        settings = {"tuning": how, "precision": precision, "max_steps": steps, "warmup_steps": 0, "eval_steps": steps, "early_stopping": False}
        with tempfile.TemporaryDirectory() as out:
            preference.tune(model, tokenizer, pairs, Path(out) / "tuned", **settings, **PAIRS[how])

    for steps in (STEPS, 3 * STEPS):
        loaded = models.load(folder, dtype="auto", quantise=how == "qlora")
        seconds[steps], memory = measured(functools.partial(steps_of, *loaded, steps))
        tokenizer = loaded[1]
        del loaded
    train, _ = preference.hold_out_pairs(pairs)
    ids = tokenizer((train["prompt"] + train["chosen"]).tolist() + (train["prompt"] + train["rejected"]).tolist())["input_ids"]
    per_step = (seconds[3 * STEPS] - seconds[STEPS]) / (2 * STEPS)
    rate = 4 * 2 * sum(map(len, ids)) / len(ids) / per_step  # 4 pairs a step, two texts each
    return {"what": f"{title}: DPO, {how}, 4 pairs a step ({rate:.0f} tokens/s, {per_step:.2f} s a step, {memory:.1f} GB)", "baseline": "none",
            "ratio": 1.0, "bar": 0.0}


def generation(title, folder):
    "New tokens a second at 25 samples a prompt over those of plain `generate`"
    import pandas as pd
    import torch
    from xlingtox import babel, generation, models

    k, new, batch = 25, 20, 16
    model, tokenizer = models.load(folder, dtype="bfloat16")
    texts = babel.corpus(200, parallel_share=0.0)["text"].head(4 * batch)
    prompts = pd.DataFrame({"id": [f"p{i}" for i in range(len(texts))], "lang": "en", "text": texts})
    model.generation_config.eos_token_id = tokenizer.eos_token_id = None  # or random weights would stop at random

    @torch.inference_mode()
    def plain(prompts):
        for i in range(0, len(prompts), batch):
            inputs = tokenizer(prompts["text"].tolist()[i : i + batch], return_tensors="pt", padding=True, padding_side="left",
                               return_token_type_ids=False).to(model.device)
            model.generate(**inputs, do_sample=True, temperature=0.9, top_p=0.8, top_k=0, num_return_sequences=k, max_new_tokens=new,
                           pad_token_id=tokenizer.pad_token_id)

    ours = lambda prompts: generation.generate(model, tokenizer, prompts, "m", k=k, max_new_tokens=new, batch_size=batch)  # noqa: E731
    seconds = {}
    for name, way in (("ours", ours), ("plain", plain)):
        way(prompts.head(batch))  # the first call loads code
        seconds[name], memory = measured(lambda: way(prompts))  # noqa: B023
    rate = len(prompts) * k * new / seconds["ours"]
    return {"what": f"{title}: generation, {k} samples a prompt ({rate:.0f} tokens/s, {memory:.1f} GB)",
            "baseline": f"generate(num_return_sequences={k})", "ratio": seconds["plain"] / seconds["ours"], "bar": 1.0}


def run():
    "The rows of every model, or none without a GPU"
    import torch

    if not torch.cuda.is_available():
        print("no GPU here: the benchmark of the papers' sizes is not run", file=sys.stderr)
        return []
    print(torch.cuda.get_device_name(0), file=sys.stderr)
    rows = []
    for title, (architecture, config, vocabulary, how, dtype) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            make(architecture, config, vocabulary, dtype, f"{folder}/model")
            rows += [tuning(title, f"{folder}/model", how), generation(title, f"{folder}/model")]
    return rows
