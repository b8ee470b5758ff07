"""A model of the class Qwen2 and its byte-level tokenizer in one GGUF file, written with the package gguf."""
import json

import torch

PARTS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}


def tiny(rows: int):
    "A random model with so many rows of embeddings"
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=rows, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                                        num_key_value_heads=2, max_position_embeddings=128, rope_theta=10000.0, tie_word_embeddings=True)).eval()


def name_in_file(name: str) -> str:
    "The name in a GGUF file of a weight of Qwen2"
    *path, kind = name.removeprefix("model.").split(".")
    if path[0] == "layers":
        return f"blk.{path[1]}.{PARTS['.'.join(path[2:])]}.{kind}"
    return {"embed_tokens": "token_embd", "norm": "output_norm"}[path[0]] + f".{kind}"


def write(model, tokenizer, file, architecture="qwen2", change=lambda tokens: tokens, rename=lambda name: name, values=(), **special):
    "Write the file; `change` alters its list of tokens, `rename` names of tensors, `values` are further numbers, and `special` ids such as eos=7"
    import gguf

    c, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_name("tiny")
    for name, value in dict(values).items():
        writer.add_uint32(name, value)
    for add, value in {"context_length": c.max_position_embeddings, "block_count": c.num_hidden_layers, "embedding_length": c.hidden_size,
                       "feed_forward_length": c.intermediate_size, "head_count": c.num_attention_heads, "head_count_kv": c.num_key_value_heads,
                       "layer_norm_rms_eps": c.rms_norm_eps, "rope_freq_base": 10000.0, "vocab_size": c.vocab_size}.items():
        getattr(writer, f"add_{add}")(value)
    tokens = change(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i in tokenizer.all_special_ids else 1 for i in range(len(tokens))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for kind in ("bos", "eos", "pad"):
        getattr(writer, f"add_{kind}_token_id")(special.get(kind, getattr(tokenizer, f"{kind}_token_id")))
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(rename(name_in_file(name)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
