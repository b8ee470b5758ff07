"""Generation on every architecture, and what a crash or another batch size must not change."""
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from xlingtox import babel, generation, mechanism
from xlingtox.core import InputError
from xlingtox.generation import engine
from xlingtox.generation.cache import cache_name

CAUSAL = ["gpt2", "bloom", "llama", "cohere"]


@pytest.fixture
def prompts():
    return babel.prompts(["en", "de", "zh"], n=6, seed=5)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_sharing_the_prompt_changes_nothing(architecture, toy_model, toy_tokenizer, prompts, written):
    "Samples drawn from the shared cache equal those drawn token by token, one text at a time, without a cache"
    model = toy_model(architecture)
    k, n = 3, 6
    got = generation.generate(model, toy_tokenizer, prompts, "m", k=k, max_new_tokens=n, batch_size=5)
    for row in got.sample(8, random_state=0).itertuples():
        prompt = prompts[(prompts["lang"] == row.lang) & (prompts["id"] == row.prompt_id)]["text"].item()
        ids = toy_tokenizer(prompt)["input_ids"]
        uniforms = generation.sample_uniforms(0, row.lang, row.prompt_id, k, n)[row.sample]
        new = []
        for u in uniforms:
            with torch.no_grad():
                logits = model(torch.tensor([ids + new])).logits[:, -1]
            new.append(generation.sample_nucleus(logits, torch.tensor([u], dtype=torch.float32)).item())
            if new[-1] == toy_tokenizer.eos_token_id:
                break
        assert row.text == written(toy_tokenizer, new)


@pytest.mark.parametrize("architecture", [*CAUSAL, "mt5"])
def test_batch_size_and_order_do_not_matter(architecture, toy_model, toy_tokenizer, prompts):
    model = toy_model(architecture)
    one = generation.generate(model, toy_tokenizer, prompts, "m", k=4, max_new_tokens=8, batch_size=1)
    many = generation.generate(model, toy_tokenizer, prompts, "m", k=4, max_new_tokens=8, batch_size=18)
    shuffled = generation.generate(model, toy_tokenizer, prompts.sample(frac=1, random_state=0), "m", k=4, max_new_tokens=8, batch_size=7)
    keys = ["lang", "prompt_id", "sample"]
    shuffled = one[keys].merge(shuffled, on=keys)  # in the order of the first
    for other in (many, shuffled):  # sums in another order: a draw that falls between two tokens goes either way, once in 10,000 tokens
        assert one[keys].equals(other[keys]) and (one["text"] == other["text"]).mean() > 0.95
    assert one.groupby(["lang", "prompt_id"])["text"].nunique().mean() > 1.2, "the samples of a prompt differ"


def test_seeds_differ(toy_model, toy_tokenizer, prompts):
    model = toy_model("gpt2")
    a, b = (generation.generate(model, toy_tokenizer, prompts, "m", k=4, max_new_tokens=8, seed=s)["text"] for s in (0, 1))
    assert (a != b).mean() > 0.9


def test_interrupted_run_continues(toy_model, toy_tokenizer, prompts, tmp_path, monkeypatch):
    "What was finished is not made again, and the result is that of an uninterrupted run"
    model = toy_model("gpt2")
    whole = generation.generate(model, toy_tokenizer, prompts, "m", k=3, batch_size=4)
    done, original = [], generation.generate_batch

    def flaky(*args, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(engine, "generate_batch", flaky)
    with pytest.raises(KeyboardInterrupt):
        generation.generate(model, toy_tokenizer, prompts, "m", k=3, batch_size=4, parts=tmp_path / "parts")
    calls = []
    monkeypatch.setattr(engine, "generate_batch", lambda *a, **kw: calls.append(1) or original(*a, **kw))
    resumed = generation.generate(model, toy_tokenizer, prompts, "m", k=3, batch_size=4, parts=tmp_path / "parts")
    assert len(calls) == 3, "five batches, two of them finished before"
    assert resumed.equals(whole)


def test_parts_of_another_job_are_not_used(toy_model, toy_tokenizer, prompts, tmp_path):
    model = toy_model("gpt2")
    generation.generate(model, toy_tokenizer, prompts, "m", k=3, parts=tmp_path / "parts")
    other_seed = generation.generate(model, toy_tokenizer, prompts, "m", k=3, seed=1, parts=tmp_path / "parts")
    assert other_seed.equals(generation.generate(model, toy_tokenizer, prompts, "m", k=3, seed=1))
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] += 1
    other_weights = generation.generate(model, toy_tokenizer, prompts, "m", k=3, seed=1, parts=tmp_path / "parts")
    assert other_weights.equals(generation.generate(model, toy_tokenizer, prompts, "m", k=3, seed=1))


@pytest.mark.parametrize("dtype, bits", [(torch.float32, torch.int32), (torch.bfloat16, torch.int16)])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mt5"])
def test_a_model_is_known_by_every_weight(toy_model, architecture, dtype, bits):
    model = toy_model(architecture).to(dtype)
    before = engine.model_digest(model)
    assert engine.model_digest(toy_model(architecture).to(dtype)) == before != engine.model_digest(toy_model(architecture).double())
    for p in model.parameters():
        middle = p.data.view(bits).flatten()[p.numel() // 2 :][:1]
        middle ^= 1  # the last bit of one number in the middle, the smallest change that there is
        assert engine.model_digest(model) != before
        middle ^= 1
    assert engine.model_digest(model) == before


def test_where_a_weight_stands_counts(toy_model):
    model = toy_model("gpt2")
    before, block = engine.model_digest(model), model.transformer.h[0].mlp.c_fc
    block.weight.data = block.weight.data.flip(1)  # the same numbers in another order
    turned = engine.model_digest(model)
    block.weight.data = block.weight.data.flip(1)
    model.transformer.h[0], model.transformer.h[1] = model.transformer.h[1], model.transformer.h[0]
    assert len({before, turned, engine.model_digest(model)}) == 3


def test_hooks_are_seen_and_their_parts_never_used_again(toy_model, toy_tokenizer, prompts, tmp_path):
    model, options = toy_model("gpt2"), {"k": 1, "greedy": True, "parts": tmp_path / "parts"}
    scales = [pd.DataFrame({"layer": 0, "neuron": range(64), "scale": scale}) for scale in (0.0, 0.5)]
    make = lambda: generation.generate(model, toy_tokenizer, prompts, "m", **options)  # noqa: E731
    plain, digests = make(), [engine.model_digest(model)]
    for scale in [*scales, scales[0]]:
        with mechanism.scale_neurons(model, scale):
            digests.append(engine.model_digest(model))
            assert make().equals(generation.generate(model, toy_tokenizer, prompts, "m", k=1, greedy=True)) and not make().equals(plain)
        with mechanism.scale_neurons(model, scale, edit=True):
            assert engine.model_digest(model) not in digests
            assert make().equals(generation.generate(model, toy_tokenizer, prompts, "m", k=1, greedy=True))
        assert make().equals(plain)
    assert len(set(digests)) == 4 and engine.model_digest(model) == digests[0], "hooks: never the same twice; without them again as it was"


def test_edited_weights_have_a_digest_of_their_own_each_time_the_same(toy_model):
    model = toy_model("llama")
    scale = pd.DataFrame({"layer": [1], "neuron": [40], "scale": [0.5]})
    found = [engine.model_digest(model)]
    for _ in range(2):
        with mechanism.scale_neurons(model, scale, edit=True):
            found.append(engine.model_digest(model))
    assert found[0] != found[1] == found[2]


def test_nucleus_against_its_definition():
    "For each row: the drawn token is in the smallest set that reaches p, and frequencies follow the renormalised probabilities"
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 40, generator=generator) * 2
    draws = generation.sample_nucleus(logits.expand(50000, 40), torch.rand(50000, generator=generator), temperature=0.7, top_p=0.6, width=4)
    p = (logits[0] / 0.7).softmax(-1).numpy()
    order = np.argsort(-p)
    size = int(np.searchsorted(np.cumsum(p[order]), 0.6) + 1)
    expected = np.zeros(40)
    expected[order[:size]] = p[order[:size]] / p[order[:size]].sum()
    assert np.abs(np.bincount(draws, minlength=40) / 50000 - expected).max() < 0.012, "about five standard errors of 50,000 draws"


ADVERSARIAL = {
    "uniform": torch.zeros(700),
    "nearly uniform": torch.linspace(0, 1e-6, 700),
    "ties": torch.arange(700.0).floor_divide(70),
    "one-hot": torch.zeros(700).index_fill(0, torch.tensor([350]), 50.0),
    "one token left": torch.full((700,), -torch.inf).index_fill(0, torch.tensor([3]), 0.0),
    "half is -inf": torch.cat([torch.full((350,), -torch.inf), torch.linspace(-3, 3, 350)]),
}


@pytest.mark.parametrize("top_p", [0.05, 0.8, 1.0])
def test_a_shared_row_is_drawn_from_as_if_alone(top_p):
    "Numbers that share rows, many rows at once: each draw is that of its number and its row alone, and lies in the nucleus of a full sort"
    generator = torch.Generator().manual_seed(0)
    logits = torch.cat([torch.stack(list(ADVERSARIAL.values())), torch.randn(60, 700, generator=generator) * 3])
    rows = torch.randint(len(logits), (400,), generator=generator)
    u = torch.rand(400, generator=generator)
    u[:20], u[20:40] = 0.0, torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    drawn = generation.sample_nucleus(logits, u, top_p=top_p, rows=rows)
    alone = [generation.sample_nucleus(logits[r, None], n[None], top_p=top_p).item() for r, n in zip(rows, u, strict=True)]
    assert drawn.tolist() == alone
    p = (logits / 0.9).softmax(-1)[rows].double()
    more_probable = (p * (p > p.gather(-1, drawn[:, None]))).sum(-1)
    assert (more_probable < top_p + 1e-6).all() and (p.gather(-1, drawn[:, None]) > 0).all()


class Drawn:
    "A logits processor that leaves the library's `generate` the token that is drawn, and nothing else to choose"

    def __init__(self, uniforms, **nucleus):
        self.uniforms, self.nucleus, self.step = uniforms, nucleus, 0

    def __call__(self, input_ids, scores):
        chosen = generation.sample_nucleus(scores, self.uniforms[:, self.step], **self.nucleus)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen[:, None], 0.0)


@pytest.mark.parametrize("nucleus", [{"temperature": 0.9, "top_p": 0.8}, {"temperature": 0.3, "top_p": 0.3}, {"temperature": 2.0, "top_p": 1.0}])
@pytest.mark.parametrize("architecture", [*CAUSAL, "qwen3", "gemma2", "gemma3_text", "mt5"])
def test_the_tree_of_samples_writes_what_the_library_writes(architecture, nucleus, toy_model, toy_tokenizer, prompts, written):
    "Rows that branch and leave change no text: the library's `generate`, with k rows for each prompt until all have finished, writes the same"
    model, tokenizer = toy_model(architecture), copy.deepcopy(toy_tokenizer)
    k, n, texts = 5, 12, prompts["text"].tolist()[:7]
    keys = list(zip(prompts["lang"], prompts["id"], strict=True))[:7]
    uniforms = np.stack([generation.sample_uniforms(0, *key, k, n) for key in keys])
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)

    @torch.inference_mode()
    def library():
        drawn = Drawn(torch.tensor(uniforms.reshape(-1, n), dtype=torch.float32), **nucleus)
        read = {}
        if not model.config.is_encoder_decoder:  # the last token read by itself, or rounding differs
            read[name := cache_name(model)] = engine._prompt_cache(model, inputs)
            read[name].batch_repeat_interleave(k)
        out = model.generate(**{name: t.repeat_interleave(k, 0) for name, t in inputs.items()}, **read, max_new_tokens=n, do_sample=False,
                             logits_processor=[drawn], pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
        return out[:, 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]:]

    common = library().flatten().bincount()[1:].topk(3).indices[-1].item() + 1
    for end in (common, tokenizer.pad_token_id):  # an end that many samples meet early; an end that is the padding, too
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        rows = [[i for i in row if i != end] for row in library().tolist()]
        expected = [written(tokenizer, row) for row in rows]
        assert sum(generation.generate_batch(model, tokenizer, texts, uniforms, n, **nucleus), []) == expected


def test_bad_input(toy_model, toy_tokenizer):
    model = toy_model("gpt2")
    with pytest.raises(InputError, match="lacks the columns text"):
        generation.generate(model, toy_tokenizer, pd.DataFrame({"id": ["a"], "lang": ["en"]}), "m")
    with pytest.raises(InputError, match="en a occurs more than once"):
        generation.generate(model, toy_tokenizer, pd.DataFrame({"id": ["a", "a"], "lang": ["en", "en"], "text": ["x", "y"]}), "m")


def test_a_prompt_that_does_not_fit_is_named(toy_model, toy_tokenizer, prompts):
    prompts.loc[3, "text"] = "long " * 200
    with pytest.raises(InputError, match=r"prompt en p3 has \d+ tokens, and 20 new ones exceed the model's context of 128"):
        generation.generate(toy_model("gpt2"), toy_tokenizer, prompts, "m")
