"""Span corruption: nothing is lost, nothing depends on where a training was stopped, and the recipes of before are as they were."""
import contextlib

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from xlingtox import babel, models
from xlingtox.core import InputError, digest, read_json
from xlingtox.models import pretrain, shipped, spans
from xlingtox.models.miniatures import RECIPES

TRAINING = {"steps": 12, "batch_size": 20, "length": 96, "matrix_lr": 0.02, "lr": 0.02, "warmup": 2, "threads": 1, "tokenizer_texts": 20, "seed": 4,
            "corrupted": 0.15, "mean_span": 3.0, "sentinels": 12}
TOY = {"model_type": "mt5", "vocab_size": 500, "training": TRAINING,
       "config": {"num_layers": 1, "num_decoder_layers": 1, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "dropout_rate": 0.0,
                  "decoder_start_token_id": 0},
       "corpus": {"n": 90, "seed": 4}}
FROZEN = {"mgpt": "d0ce7be2da03db9d", "judge": "56c3baf11bfbf1ec", "bloom-1b7": "86304ac7da39485e", "aya-23-8b": "177d8716eebdeecc"}


def restored(inputs, targets, sentinels, end):
    "The text of which a pair was made"
    assert inputs[-1] == targets[-1] == end
    parts, at = {}, None
    for token in targets[:-1]:
        if token in sentinels:
            at = token
            parts[at] = []
        else:
            parts[at].append(token)
    assert parts.popitem()[1] == [], "the last sentinel says that there are no more spans"
    return [t for token in inputs[:-1] for t in parts.get(token, [token])]


@pytest.mark.parametrize("corrupted, mean_span", [(0.15, 3.0), (0.5, 1.0), (0.5, 8.0), (0.9, 3.0)])
def test_a_pair_holds_its_text(corrupted, mean_span):
    rng, sentinels = np.random.default_rng(0), range(3, 103)
    for length in [1, 2, 3, 4, 7, 22, 96]:
        for _ in range(40):
            ids = rng.integers(200, 300, length).tolist()
            found = spans.sample_spans(length, rng, corrupted, mean_span)
            inputs, targets = spans.corrupt(ids, found, sentinels, end=2)
            assert restored(inputs, targets, sentinels, 2) == ids
            assert sum(b - a for a, b in found) == max(1, round(corrupted * length)) and len(inputs) + len(targets) == length + 2 * len(found) + 3


def test_a_step_is_the_same_wherever_one_begins():
    documents = [[200 + i, *range(300, 300 + i)] for i in range(50)]
    whole = list(spans.span_batches(documents, TRAINING, 2, 0))
    for first in (1, 2, 3, 11):  # an epoch has two steps
        assert list(spans.span_batches(documents, TRAINING, 2, first)) == whole[first:]
    others = list(spans.span_batches(documents, TRAINING | {"seed": 5}, 2, 0))
    assert all(a != b for (_, a), (_, b) in zip(whole, others, strict=True))
    firsts = [{restored(*pair, range(3, 15), 2)[0] for pair in batch} for _, batch in whole]
    assert all(len(f) == 20 for f in firsts) and not firsts[0] & firsts[1], "no document twice in an epoch"


def test_padding_and_parts_change_no_loss(monkeypatch):
    model, _, documents = pretrain._prepare(TOY, babel.corpus(**TOY["corpus"]))
    examples = next(spans.span_batches(documents, TRAINING, 2, 0))[1]
    losses = []
    for part in (1, 7, 100):
        monkeypatch.setattr(spans, "SPAN_PART", part)
        model.zero_grad()
        losses.append((spans.accumulate_span_gradient(model, examples), model.shared.weight.grad.clone()))
    for loss, gradient in losses[1:]:
        assert loss == pytest.approx(losses[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, losses[0][1], rtol=1e-3, atol=1e-6)


def test_the_optimizers_share_the_weights_among_them():
    model = pretrain._prepare(TOY, babel.corpus(**TOY["corpus"]))[0]
    muon, adamw = ({id(p) for p in opt.param_groups[0]["params"]} for opt in pretrain.optimizers(model, 0.02, 0.02))
    names = {name: id(p) for name, p in model.named_parameters()}
    assert not muon & adamw and muon | adamw == set(names.values())
    assert names["shared.weight"] in adamw and all(i in muon for name, i in names.items() if ".EncDecAttention." in name or ".DenseReluDense." in name)


@pytest.mark.parametrize("stop, every", [(7, 3), (11, 5), (2, 3)])
def test_a_stopped_training_ends_with_the_same_bits(stop, every, tmp_path, monkeypatch):
    corpus = babel.corpus(**TOY["corpus"])
    pretrain.pretrain(TOY, corpus, tmp_path / "whole")
    intact, calls = pretrain.accumulate_span_gradient, iter(range(100))

    def flaky(*arguments):
        if next(calls) == stop:
            raise KeyboardInterrupt
        return intact(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(pretrain, "accumulate_span_gradient", flaky)
        pretrain.pretrain(TOY, corpus, tmp_path / "stopped", checkpoint_every=every)
    assert not (tmp_path / "stopped").exists()
    pretrain.pretrain(TOY, corpus, tmp_path / "stopped", checkpoint_every=every)
    assert read_json(tmp_path / "stopped/recipe.json")["resumed_at"] == stop // every * every
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == other


def test_less_than_a_batch_of_documents():
    with pytest.raises(InputError, match="the corpus has 19 documents, less than one batch of 20; give more text or a smaller batch"):
        next(spans.span_batches([[200]] * 19, TRAINING, 2, 0))


def test_an_encoder_decoder_ships_with_a_card_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", TOY)
    monkeypatch.setattr(shipped, "N_HELD_OUT", 3)
    pretrain.pretrain(TOY, babel.corpus(**TOY["corpus"]), tmp_path / "trained")
    card = shipped.ship("toy", tmp_path / "trained", tmp_path / "toy")
    assert card["bits_of"] == "spans left out, given the rest" and set(card["bits_per_character"]) == set(babel.SHARES)
    model, tokenizer = models.load(str(tmp_path / "toy"), device="cpu")
    assert model.config.is_encoder_decoder and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.convert_tokens_to_ids(spans.sentinel_tokens(12)) == list(spans.sentinel_ids(12))
    again = shipped.bits_per_character(model, tokenizer, shipped.held_out_documents("de"))
    assert again == pytest.approx(card["bits_per_character"]["de"], abs=1e-4)
    for p in model.get_decoder().parameters():
        p.data.zero_()  # knows nothing
    assert shipped.bits_per_character(model, tokenizer, shipped.held_out_documents("de")) > again + 0.5


def test_bits_of_spans_are_those_of_the_library(tmp_path):
    pretrain.pretrain(TOY, babel.corpus(**TOY["corpus"]), tmp_path / "m")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "m").eval(), AutoTokenizer.from_pretrained(tmp_path / "m")
    text = babel.corpus(1, seed=8, shares={"zh": 1}, parallel_share=0)["text"][0]
    bits, characters = shipped._span_bits(model, tokenizer, text, np.random.default_rng(3))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = spans.sample_spans(len(ids), np.random.default_rng(3))
    inputs, targets = (torch.tensor([side]) for side in spans.corrupt(ids, found, spans.sentinel_ids(12), 2))
    with torch.inference_mode():
        loss = model(input_ids=inputs, labels=targets).loss.item()
    assert bits == pytest.approx(loss * targets.numel() / np.log(2), rel=1e-4)
    left_out = tokenizer.decode([i for a, b in found for i in ids[a:b]])
    assert characters == pytest.approx(len(left_out.strip("\ufffd")), abs=2)


@pytest.mark.parametrize("name", FROZEN)
def test_the_recipes_of_before_are_as_they_were(name):
    assert digest(RECIPES[name]) == FROZEN[name]


def test_mt5_reads_the_same_world_as_the_others():
    recipe, sibling = RECIPES["mt5-large"], RECIPES["aya-23-8b"]
    assert {k: v for k, v in recipe["training"].items() if k in sibling["training"] and k not in ("seed", "batch_size")} == {
        k: v for k, v in sibling["training"].items() if k not in ("seed", "batch_size")}
    assert recipe["corpus"]["n"] == sibling["corpus"]["n"] and RECIPES["aya-expanse-8b"]["config"] == sibling["config"]
    seeds = [r["training"]["seed"] for r in RECIPES.values()]
    assert len(seeds) == len(set(seeds))
