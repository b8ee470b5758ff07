"""What several test files need: small models of each architecture, made on the spot, and the folder of real data where there is one."""
import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: a second thread only waits for the first
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_LLAMA = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
_GEMMA = _LLAMA | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
ARCHITECTURES = {  # those of the papers, and beyond them Qwen and Gemma
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128},
    "bloom": {"n_layer": 2, "hidden_size": 32, "n_head": 2},
    "llama": _LLAMA,
    "cohere": _LLAMA | {"num_key_value_heads": 2},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 16},
    "gemma2": _GEMMA | {"final_logit_softcapping": 5.0},
    "gemma3_text": _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
    "mt5": {"num_layers": 2, "num_decoder_layers": 2, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2, "decoder_start_token_id": 0},
}


@pytest.fixture
def without(monkeypatch):
    "A function that hides one package; the others must be found, since transformers keeps for good what it finds"
    import importlib.util

    def hide(package: str, found=None):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: found if name == package else find(name, *rest))
    return hide


@pytest.fixture
def least_at(monkeypatch):
    "A function after which the validation loss of any training is least at one step: where a training overshoots hangs on the processor"
    from transformers import Trainer

    evaluate = Trainer.evaluation_loop

    def script(best: int):
        def loop(self, *given, metric_key_prefix="eval", **options):
            found = evaluate(self, *given, metric_key_prefix=metric_key_prefix, **options)
            return found._replace(metrics=found.metrics | {f"{metric_key_prefix}_loss": 1 + abs(self.state.global_step - best) / 100})
        monkeypatch.setattr(Trainer, "evaluation_loop", loop)
    return script


@pytest.fixture(scope="session", autouse=True)
def warm_server():
    "Runs share one process whose copies their jobs are; it imports nothing until a second job asks"
    from xlingtox.runs import warm

    with warm.server() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLINGTOX_WARM", address)
        yield


@pytest.fixture(scope="session")
def toy_tokenizer():
    "A byte-level BPE of 500 tokens over English, German and Chinese sentences"
    from xlingtox import babel
    from xlingtox.models import pretrain

    texts = babel.corpus(400, shares={"en": 1, "de": 1, "zh": 1}, parallel_share=0)["text"]
    return pretrain.train_tokenizer(texts, 500)


@pytest.fixture(scope="session")
def toy_model(toy_tokenizer):
    "A function that makes a randomly initialised model of an architecture, always the same"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    def make(architecture: str, **sizes):
        config = AutoConfig.for_model(architecture, **ARCHITECTURES[architecture] | sizes, vocab_size=len(toy_tokenizer), pad_token_id=0, bos_token_id=1,
                                      eos_token_id=2)
        torch.manual_seed(0)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = auto.from_config(config).eval()
        for p in model.parameters():
            p.data *= 2  # sharp enough that a sample depends on what was read
        return model

    return make


@pytest.fixture(scope="session")
def written():
    "A function from tokens to what they say, without half a letter at the end; of byte-level ones from their bytes, by Python's own decoder"
    import codecs

    from xlingtox.generation.tokens import whole_letters

    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    byte = {chr(b): b for b in kept} | {chr(256 + n): b for n, b in enumerate(others)}

    def text(tokenizer, ids):
        special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
        names = [tokenizer.convert_ids_to_tokens(int(i)) for i in ids if int(i) not in special]
        if not all(c in byte for name in names for c in name):
            return whole_letters(tokenizer.decode(ids, skip_special_tokens=True))
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(byte[c] for name in names for c in name))

    return text


@pytest.fixture(scope="session")
def real_data():
    "The folder of real data: $XLINGTOX_DATA, or shared/data beside the checkout; tests that need it skip without it"
    places = [os.environ.get("XLINGTOX_DATA"), Path(__file__).parents[2] / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "parallel_prompts").is_dir():
            return Path(place)
    pytest.skip("no real data here: set XLINGTOX_DATA to a folder with parallel_prompts/ and paradetox_splits/")
