"""What one processor does and another does not: a model in four bits is the same on all of them."""
import pytest
import torch
from xlingtox import babel, models
from xlingtox.tuning import preference

SETTINGS = {"learning_rate": 1e-3, "max_steps": 4, "batch_size": 4, "warmup_steps": 1, "eval_steps": 2, "max_characters": None,
            "tuning": "qlora", "lora": {"r": 4}}
IDS = torch.arange(3, 30)[None]
SIZES = {"gpt2": {"n_embd": 64}, "bloom": {"hidden_size": 96}, "llama": {"hidden_size": 64, "intermediate_size": 224},
         "cohere": {}}  # widths that are no multiple of 64 among them


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def from_loading_to_merging(base, folder):
    "What is computed on the way, in its order"
    model, tokenizer = models.load(base, quantise=True, device="cpu")
    seen = {"loaded": logits(model)}
    log = preference.tune(model, tokenizer, babel.preference(40), folder, **SETTINGS)
    seen |= {"losses": torch.tensor(log.to_numpy()), "after tuning": logits(model)}
    again, _ = models.load(folder, quantise=True, device="cpu")
    seen |= {"adapter": logits(again), "adapter, once more": logits(again), "moved": logits(again.to("cpu"))}
    seen |= {f"saved {name}": value for name, value in again.state_dict().items()}
    merged, _ = models.load(folder, merge=True, device="cpu")
    return seen | {"merged": logits(merged)}


@pytest.mark.parametrize("architecture", SIZES)
def test_four_bits_are_the_same_where_the_processor_knows_bfloat16(architecture, toy_model, toy_tokenizer, tmp_path, monkeypatch):
    """bitsandbytes is told that this processor has AVX512-BF16, where its layers would rearrange themselves at the first pass without gradients.

    Loading, reading, tuning, reading, saving, loading and merging give what they give on a processor without, bit for bit.
    """
    from bitsandbytes.nn import modules

    base = str(tmp_path / "base")
    models.save(toy_model(architecture, **SIZES[architecture]), toy_tokenizer, base)
    seen = []
    for has in (False, True):
        monkeypatch.setattr(modules, "has_avx512bf16", lambda has=has: has)
        seen.append(from_loading_to_merging(base, str(tmp_path / f"tuned-{has}")))
    without, having = seen
    assert without.keys() == having.keys() and sum("quant_state" in name for name in having) >= 8
    for name, value in having.items():
        assert torch.equal(value, without[name]), name
