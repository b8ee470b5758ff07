"""Checkpoints that lack something: each is refused in one line, by generators and classifiers alike, and no pickle is opened."""
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification
from xlingtox import models
from xlingtox.core import InputError
from xlingtox.models.weights import INDEX, check_loaded
from xlingtox.scorers.classifier import ClassifierScorer


@pytest.fixture(scope="module")
def whole(tmp_path_factory, toy_model, toy_tokenizer):
    folder = tmp_path_factory.mktemp("whole") / "gpt2"
    models.save(toy_model("gpt2"), toy_tokenizer, folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "electra"])
def test_an_encoder_is_not_asked_to_write(kind, toy_tokenizer, tmp_path):
    "The library would put a head on it that reads to both sides; as a decoder the same class is fine"
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    for decoder, auto in ((False, AutoModelForMaskedLM), (True, AutoModelForCausalLM)):
        config = AutoConfig.for_model(kind, **size, vocab_size=len(toy_tokenizer), **({"is_decoder": True} if decoder else {}))
        auto.from_config(config).save_pretrained(folder := tmp_path / str(decoder))
        toy_tokenizer.save_pretrained(folder)
    with pytest.raises(InputError, match=f"{kind} is an encoder, which fills gaps"):
        models.load(str(tmp_path / "False"), device="cpu")
    model, _ = models.load(str(tmp_path / "True"), device="cpu")
    a, b = (model(torch.tensor([[5, 6, last]])).logits[0, :2] for last in (7, 8))
    assert torch.equal(a, b), "what follows is not seen"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, toy_tokenizer):
    config = AutoConfig.for_model("bert", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=len(toy_tokenizer),
                                  max_position_embeddings=40, id2label={0: "ok", 1: "toxic"}, label2id={"ok": 0, "toxic": 1})
    folder = tmp_path_factory.mktemp("whole") / "bert"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    toy_tokenizer.save_pretrained(folder)
    return folder


def weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def drop_some(tensors):
    for name in [n for n in tensors if ".1." in n or "layer.0" in n]:
        del tensors[name]


def spoil(value):
    def change(tensors):
        name = next(n for n in tensors if tensors[n].is_floating_point() and tensors[n].numel() > 3)
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[2] = value
    return change


def into_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "weights.bin")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(folder / "model-1.safetensors"), "weights.bin")}))


def elsewhere(folder):
    shutil.copy(folder / "model.safetensors", folder.parent / "other.safetensors")
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "../other.safetensors")}))


def cut(folder):
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[: len(raw) // 2])


FAULTS = {
    "lacks tensors": (lambda f: weights(f, drop_some), "lacks the tensors|has no weights for"),
    "has more": (lambda f: weights(f, lambda t: t.update({"something.else": torch.zeros(3)})), "no place in the model: something.else"),
    "nan": (lambda f: weights(f, spoil(float("nan"))), "values that are not numbers"),
    "inf": (lambda f: weights(f, spoil(float("inf"))), "values that are not numbers"),
    "a decoy beside a pickle": (into_pickle, "names 'weights.bin', which is no safetensors file"),
    "an index that leads elsewhere": (elsewhere, "names '../other.safetensors'"),
    "an index of nothing": (
        lambda f: (f / "model.safetensors").rename(f / "model-1.safetensors") and (f / INDEX).write_text("[]"), "not the index of a checkpoint"),
    "cut": (cut, "cut short or no safetensors"),
    "a pointer": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n"), "pointer of Git LFS"),
    "pickle alone": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "has no safetensors weights"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("*token*")] and [p.unlink() for p in f.glob("special*")], "cannot load"),
    "no settings": (lambda f: (f / "config.json").unlink(), "cannot load|no such file"),
    "broken settings": (lambda f: (f / "config.json").write_text("{"), "cannot load"),
    "settings of another kind": (lambda f: (f / "config.json").write_text("[]"), "cannot load"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["generator", "classifier"])
def test_what_is_not_whole_is_refused(whole, classifier, tmp_path, fault, kind):
    folder = tmp_path / "m"
    shutil.copytree(whole if kind == "generator" else classifier, folder)
    spoil_it, said = FAULTS[fault]
    spoil_it(folder)
    with pytest.raises(InputError, match=said) as caught:
        models.load(str(folder), device="cpu") if kind == "generator" else ClassifierScorer(str(folder), "toxic").score(["we"], "en")
    assert "\n" not in str(caught.value)


def test_what_is_whole_is_loaded(whole, classifier, tmp_path):
    for base in (whole, classifier):
        shutil.copytree(base, tmp_path / base.name)
        names = load_file(tmp_path / base.name / "model.safetensors")
        (tmp_path / base.name / "model.safetensors").rename(tmp_path / base.name / "model-1.safetensors")
        (tmp_path / base.name / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model-1.safetensors")}))
    models.load(str(tmp_path / "gpt2"), device="cpu")
    assert len(ClassifierScorer(str(tmp_path / "bert"), "toxic").score(["we", "we sing " * 90], "en")) == 2


def test_old_buffers_are_no_fault(whole):
    check_loaded("m", torch.nn.Linear(1, 1), {"unexpected_keys": {"h.0.attn.masked_bias", "model.rotary_emb.inv_freq"}, "missing_keys": set()})


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(InputError, match="is a file; give the folder of a model"):
        models.load(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("base", ["self", "ring"])
def test_an_adapter_that_stands_on_itself(tmp_path, base):
    for name, on in {"self": "self", "ring": "other", "other": "ring"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / on), "peft_type": "LORA"}))
    with pytest.raises(InputError, match="stands on itself"):
        models.load(str(tmp_path / base))


def test_settings_of_sampling_stay_behind(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    (tmp_path / "m/generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3, "top_k": 1, "do_sample": True, "eos_token_id": 2}))
    model, _ = models.load(str(tmp_path / "m"), device="cpu")
    assert model.generation_config.eos_token_id == 2
    assert getattr(model.generation_config, "repetition_penalty", None) in (None, 1.0) and model.generation_config.do_sample in (None, False)


def test_a_padding_token_without_a_row(whole, tmp_path, toy_tokenizer):
    shutil.copytree(whole, tmp_path / "m")
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(tmp_path / "m")
    model, tokenizer = models.load(str(tmp_path / "m"), device="cpu")
    assert tokenizer.pad_token_id < model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "mpnet", "distilbert", "electra", "gpt2"])
def test_what_a_classifier_can_read_is_asked_of_it(tmp_path, toy_tokenizer, kind):
    sizes = {"distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
             "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 66}}.get(
        kind, {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32})
    if kind == "electra":
        sizes["embedding_size"] = 32
    if kind != "gpt2":
        sizes["max_position_embeddings"] = 66
    pad = None if kind == "gpt2" else 1 if "roberta" in kind or kind == "mpnet" else 0
    config = AutoConfig.for_model(kind, **sizes, vocab_size=len(toy_tokenizer), pad_token_id=pad,
                                  id2label={0: "ok", 1: "toxic"}, label2id={"ok": 0, "toxic": 1})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path / "m")
    toy_tokenizer.save_pretrained(tmp_path / "m")
    scorer, texts = ClassifierScorer(str(tmp_path / "m"), "toxic"), ["the dog sings " * 60, "the king", "a dog"]
    together = scorer.score(texts, "en")
    assert scorer.truncated == 1
    assert together[1:].tolist() == pytest.approx([scorer.score([t], "en")[0] for t in texts[1:]], abs=1e-5)
