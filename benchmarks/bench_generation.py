"""Many samples of each prompt: xlingtox reads a prompt once, `model.generate(num_return_sequences=k)` reads it k times.

Same model (random weights at the miniature's width, the output sharpened until its entropy is that of a trained one, about 3 nats), same
prompts, k, number of new tokens, temperature and top-p, same batch size.
"""
import time

import pandas as pd


def run():
    "Samples per second of `xlingtox.generation.engine.generate` over those of plain `generate`"
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    from xlingtox import babel, generation
    from xlingtox.models import pretrain

    k, new_tokens, batch = 25, 20, 16
    texts = babel.corpus(3000, parallel_share=0.0)
    tokenizer = pretrain.train_tokenizer(texts["text"], 6000)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_layer=4, n_embd=128, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    model.transformer.ln_f.weight.data *= 10  # sharpen
    prompts = pd.DataFrame({"id": [f"p{i}" for i in range(64)], "lang": "en", "text": texts["text"].head(64)})

    def ours(prompts):
        generation.generate(model, tokenizer, prompts, "model", k=k, max_new_tokens=new_tokens, batch_size=batch)

    @torch.inference_mode()
    def plain(prompts):
        for i in range(0, len(prompts), batch):
            inputs = tokenizer(prompts["text"].tolist()[i : i + batch], return_tensors="pt", padding=True, padding_side="left",
                               return_token_type_ids=False)
            out = model.generate(**inputs, do_sample=True, temperature=0.9, top_p=0.8, top_k=0, num_return_sequences=k,
                                 max_new_tokens=new_tokens, pad_token_id=tokenizer.pad_token_id)
            tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    seconds = {}
    for name, way in (("ours", ours), ("plain", plain)):
        way(prompts.head(batch))  # the first call loads code
        start = time.perf_counter()
        way(prompts)
        seconds[name] = time.perf_counter() - start
    rate = len(prompts) * k / seconds["ours"]
    return {"what": f"generation, {k} samples a prompt ({rate:.0f} samples/s)", "baseline": f"generate(num_return_sequences={k})",
            "ratio": seconds["plain"] / seconds["ours"], "bar": 1.5}
