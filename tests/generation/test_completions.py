"""Completions: what is drawn, what is cut off, and that neither neighbours nor a model's own settings have a say in it."""
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.generation import RepetitionPenaltyLogitsProcessor
from xlingtox import babel, generation
from xlingtox.core import InputError
from xlingtox.generation import completions
from xlingtox.generation.completions import Decoding, complete, is_empty, prompted

NUCLEUS = {"temperature": 0.9, "top_p": 0.9}


@pytest.fixture
def prompts():
    return babel.prompts(["en", "de", "zh"], n=4, seed=5)


def inputs_of(tokenizer, texts):
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)


def spelt_out(model, tokenizer, text, uniforms, penalty):
    "Token by token, without a cache, by the library's own penalty"
    hold_down, ids, new = RepetitionPenaltyLogitsProcessor(penalty), tokenizer(text, return_tensors="pt")["input_ids"], []
    for u in uniforms:
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                before = torch.tensor([[0, *new]])
                logits = model(input_ids=ids, decoder_input_ids=before).logits[:, -1]
            else:
                before = torch.cat([ids, torch.tensor([new], dtype=torch.long)], 1)
                logits = model(before).logits[:, -1]
        logits = hold_down(before, logits)
        new.append(generation.sample_nucleus(logits, torch.tensor([u], dtype=torch.float32), **NUCLEUS).item())
        if new[-1] == tokenizer.eos_token_id:
            break
    return new


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "cohere", "mt5"])
def test_a_penalty_is_the_librarys_whatever_stands_beside(architecture, toy_model, toy_tokenizer, prompts):
    model, k, n = toy_model(architecture), 3, 8
    texts = prompts["text"].tolist()
    uniforms = np.stack([generation.sample_uniforms(0, "x", str(i), k, n) for i in range(len(texts))])
    ours = generation.continue_tokens(model, toy_tokenizer, inputs_of(toy_tokenizer, texts), uniforms, n, repetition_penalty=1.7, **NUCLEUS)
    plain = generation.continue_tokens(model, toy_tokenizer, inputs_of(toy_tokenizer, texts), uniforms, n, **NUCLEUS)
    assert (ours != plain).any()
    for i, text in enumerate(texts):
        for sample in range(k):
            new = spelt_out(model, toy_tokenizer, text, uniforms[i, sample], 1.7)
            assert ours[i * k + sample, : len(new)].tolist() == new


def test_no_text_ends_before_it_may(toy_model, toy_tokenizer, prompts):
    model, tokenizer = toy_model("gpt2"), copy.deepcopy(toy_tokenizer)
    rows = completions.prompt_tokens(tokenizer, prompts, ends=False)
    keys = list(zip(prompts["lang"], prompts["id"], strict=True))

    def written(shortest):
        how = Decoding(max_new_tokens=12, min_new_tokens=shortest, temperature=0.3)
        return completions._sampled(model, tokenizer, rows, keys, how, 42)

    common = int(pd.Series(sum(written(0), [])).mode()[0])
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(common)  # an end that texts meet early
    ends = {shortest: min(new.index(common) if common in new else 12 for new in written(shortest)) for shortest in (0, 7)}
    assert ends[0] < 7 <= ends[7] < 12


@pytest.mark.parametrize("settings", [{}, {"no_repeat_ngram_size": 2, "min_new_tokens": 6}, {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3},
                                      {"num_beams": 2, "no_repeat_ngram_size": 1}])
@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "cohere", "mt5"])
def test_beams_without_draws_are_the_librarys(architecture, settings, toy_model, toy_tokenizer, prompts):
    model, settings = toy_model(architecture), {"num_beams": 4} | settings
    how = GenerationConfig(max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=2, **settings)
    beams = settings.pop("num_beams")
    for text in prompts["text"][::3]:  # one at a time: the library's penalty takes padding for a token
        inputs = inputs_of(toy_tokenizer, [text])
        with torch.inference_mode():
            wanted = model.generate(**inputs, generation_config=how)
        wanted = wanted[0, 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]:].tolist()
        ours = generation.beam_tokens(model, toy_tokenizer, inputs, None, 10, beams, **settings)[0].tolist()
        assert ours[: len(wanted)] == wanted and set(ours[len(wanted):]) <= {0}


@pytest.mark.parametrize("how", [Decoding(max_new_tokens=8, **NUCLEUS), Decoding(max_new_tokens=8, repetition_penalty=1.2, **NUCLEUS),
                                 Decoding(max_new_tokens=8, num_beams=4, no_repeat_ngram_size=2, min_new_tokens=4, **NUCLEUS)], ids=str)
@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "mt5"])
def test_neighbours_order_and_batches_do_not_matter(architecture, how, toy_model, toy_tokenizer, prompts):
    model = toy_model(architecture)
    if architecture == "mt5":
        model.shared.weight.data *= 0.1  # or there is nothing to draw
    texts = complete(model, toy_tokenizer, prompts, how, batch_size=12)
    again = prompts.sample(frac=1, random_state=1)
    others = complete(model, toy_tokenizer, again, how, batch_size=5)
    same = [texts[i] == other for i, other in zip(again.index, others, strict=True)]
    assert np.mean(same) > 0.9, "sums in another order may move a draw"
    assert complete(model, toy_tokenizer, prompts, how, seed=43) != texts and len(set(texts)) > 6


def test_settings_that_a_model_brings_are_not_taken(toy_model, toy_tokenizer, prompts):
    for architecture, how in {"gpt2": Decoding(max_new_tokens=6, **NUCLEUS), "mt5": Decoding(max_new_tokens=6, num_beams=3, **NUCLEUS)}.items():
        model = toy_model(architecture)
        texts = complete(model, toy_tokenizer, prompts, how)
        model.generation_config.update(repetition_penalty=3.0, top_k=1, suppress_tokens=list(range(3, 400)), temperature=0.1, do_sample=False,
                                       bad_words_ids=[[5]], no_repeat_ngram_size=1, max_length=3)
        assert complete(model, toy_tokenizer, prompts, how) == texts


def test_a_prompt_never_ends_in_eos(toy_model, toy_tokenizer, prompts):
    ending = copy.deepcopy(toy_tokenizer)
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    assert ending("a")["input_ids"][-1] == 2
    model, how = toy_model("llama"), Decoding(max_new_tokens=6, **NUCLEUS)
    assert complete(model, ending, prompts, how) == complete(model, toy_tokenizer, prompts, how)


def metaspace(words):
    "A tokenizer that marks spaces on words and drops the first when it decodes, as those of Llama and mT5"
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   clean_up_tokenization_spaces=False)


def test_the_first_space_of_a_completion_stays():
    tokenizer = metaspace(["▁the", "▁street", "▁<extra_id_0>", "▁<extra_id_17>"])
    the, street, first, last = (tokenizer.convert_tokens_to_ids(t) for t in ("▁the", "▁street", "▁<extra_id_0>", "▁<extra_id_17>"))
    assert tokenizer.decode([street]) == "street"
    marks = completions.mark_ids(tokenizer)
    assert {first, last} <= marks and not {the, street} & marks, "sentinels that are not called special"
    assert completions.continuation_text(tokenizer, [the], [street, 2, 0], marks) == " street"
    assert completions.continuation_text(tokenizer, [], [first, street, last, 2], marks) == "street"


@pytest.mark.parametrize("lang", ["zh", "ja", "ko", "am", "hi"])
def test_half_a_letter_is_left_off(lang, toy_tokenizer):
    text = babel.prompts([lang], n=1, seed=2)["text"][0]
    ids = toy_tokenizer(text, add_special_tokens=False)["input_ids"]  # the toy knows hardly a letter of these: bytes
    marks, seen = completions.mark_ids(toy_tokenizer), set()
    for n in range(1, len(ids)):
        cut = completions.continuation_text(toy_tokenizer, ids[:1], ids[1 : n + 1], marks)
        assert "\ufffd" not in cut.removeprefix("\ufffd") or n == 1, (n, cut)
        seen.add(len(cut))
    assert completions.continuation_text(toy_tokenizer, [], ids, marks) == text and len(seen) > 2


def test_empty_completions_are_kept_and_counted(toy_model, toy_tokenizer, prompts):
    model, tokenizer, how = toy_model("gpt2"), copy.deepcopy(toy_tokenizer), Decoding(max_new_tokens=1, temperature=0)
    rows = completions.prompt_tokens(tokenizer, prompts, ends=False)
    first = [new[0] for new in completions._sampled(model, tokenizer, rows, [()] * len(rows), how, 42)]
    before = complete(model, tokenizer, prompts, how)
    end = next(i for i, text in zip(first, before, strict=True) if text)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    texts = complete(model, tokenizer, prompts, how)
    assert texts == ["" if i == end else text for i, text in zip(first, before, strict=True)]
    assert is_empty(texts).sum() == sum(i == end or not text.strip() for i, text in zip(first, before, strict=True)) > 0
    assert is_empty([" ", "\n", "."]).tolist() == [True, True, False] and len(is_empty([])) == 0


def test_bad_input_and_no_input(toy_model, toy_tokenizer, prompts):
    model, how = toy_model("gpt2"), Decoding(max_new_tokens=20)
    assert complete(model, toy_tokenizer, prompts.head(0), how) == []
    with pytest.raises(InputError, match="prompts: lacks the columns id"):
        complete(model, toy_tokenizer, prompts[["lang", "text"]], how)
    with pytest.raises(InputError, match=r"prompt en p1 has \d+ tokens, and 20 new ones exceed the model's context of 128"):
        complete(model, toy_tokenizer, prompts.assign(text=["a", "long " * 200, *["a"] * 10]), how)
    with pytest.raises(InputError, match="no_repeat_ngram_size: only beams"):
        complete(model, toy_tokenizer, prompts, Decoding(max_new_tokens=5, no_repeat_ngram_size=2))
    with pytest.raises(InputError, match=r"must have \{text\} once"):
        prompted(["a"], "{text} {text}")


def test_the_family_of_a_profile_will_do(toy_model, toy_tokenizer, prompts):
    from xlingtox.profiles import Family

    family = Family(task="completion", targets=["attention"], epochs=1, max_new_tokens=5, temperature=0.7, top_p=0.9, repetition_penalty=1.2)
    model = toy_model("bloom")
    assert complete(model, toy_tokenizer, prompts, family) == complete(
        model, toy_tokenizer, prompts, Decoding(max_new_tokens=5, temperature=0.7, top_p=0.9, repetition_penalty=1.2))
    assert prompted(["{x}"], "{text} ..") == ["{x} .."]
