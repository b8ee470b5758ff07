"""What a model is given and what it wrote: ends, beginnings, spaces, and letters cut in two, with several kinds of tokenizers."""
import json

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from xlingtox import babel, generation
from xlingtox.core import InputError
from xlingtox.generation.tokens import continuation_text, mark_ids, token_rows
from xlingtox.metrics import distinct_n, perplexity


def corpus():
    return babel.corpus(300, shares={"en": 1, "de": 1, "zh": 1}, parallel_share=0)["text"].tolist()


def byte_level(ends=False):
    "As GPT-2's: one token begins and ends a text, nothing stands before a text"
    made = Tokenizer(kinds.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=500, special_tokens=["<|end|>", "<|pad|>"], show_progress=False,
                                                           initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ends:
        made.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|end|>", eos_token="<|end|>", pad_token="<|pad|>")


@pytest.fixture(scope="module")
def llama():
    "As Llama 2's, which drops the space that a text begins with"
    made = Tokenizer(kinds.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    made.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=700, show_progress=False,
                                                           special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]))
    found = json.loads(made.to_str())["model"]
    return LlamaTokenizer(vocab=found["vocab"], merges=[tuple(m) for m in found["merges"]])


def prompts(*texts):
    return pd.DataFrame({"id": [f"p{i}" for i in range(len(texts))], "lang": "en", "text": texts})


def test_an_end_that_the_tokenizer_adds_is_left_out(toy_model):
    plain, ends = byte_level(), byte_level(ends=True)
    assert plain("The dog")["input_ids"] + [plain.eos_token_id] == ends("The dog")["input_ids"]
    model = toy_model("gpt2")
    written = [generation.generate(model, t, prompts("The dog", "The old teacher reads"), "m", k=3)["text"].tolist() for t in (plain, ends)]
    assert written[0] == written[1]
    for variant in ("exact", "published"):
        of = [perplexity(model, t, ["The dog", "A"], [" sings", " b"], variant=variant, max_drop=None) for t in (plain, ends)]
        np.testing.assert_allclose(*of)
    assert token_rows(ends, ["The dog"], ends=True)[0][-1] == ends.eos_token_id, "an encoder reads whole texts"


@pytest.mark.parametrize("text", ["street", "Der alte Lehrer", "贼"])
def test_prompt_and_continuation_are_what_the_model_wrote(llama, text):
    for after in (" f^", " in the garden", " 在家", "ing", "\n x"):
        prompt, whole = (llama(t, add_special_tokens=False)["input_ids"] for t in (text, text + after))
        if whole[: len(prompt)] == prompt:
            assert text + continuation_text(llama, prompt, whole[len(prompt):], mark_ids(llama)) == text + after


def test_half_a_letter_at_the_end_is_left_off(llama):
    for tokenizer in (byte_level(), llama):
        ids = tokenizer("猫在家里唱歌" * 4, add_special_tokens=False)["input_ids"]
        for n in range(1, len(ids)):
            text = continuation_text(tokenizer, [], ids[:n], mark_ids(tokenizer))
            assert "\ufffd" not in text and ("猫在家里唱歌" * 4).startswith(text)


@pytest.mark.parametrize("text", ["x 鑫鑫鑫", "감사합니다", "a\U0001f408\U0001f408", "ሰላም"])
def test_whole_letters_before_the_half_one_stay(llama, text):
    "Where the tokens are bytes, and the library decodes a row of them that is no text as nothing but replacement characters"
    for tokenizer in (byte_level(), llama):
        ids, stages = tokenizer(text, add_special_tokens=False)["input_ids"], {text[:n] for n in range(len(text) + 1)}
        texts = [continuation_text(tokenizer, [], ids[:n], mark_ids(tokenizer)) for n in range(1, len(ids) + 1)]
        assert set(texts) <= stages and texts[-1] == text and all(len(a) <= len(b) for a, b in zip(texts, texts[1:], strict=False))
        assert len(set(texts)) >= len(text) - 1


def test_what_is_no_part_of_a_letter_is_what_the_model_wrote(llama):
    names = {byte_level(): ["Ģ", "è", "Į", "Į"], llama: ["<0x80>", "<0xE8>", "<0x8C>", "<0x8C>"]}  # a middle alone; three bytes of a letter
    for tokenizer, tokens in names.items():
        stray, *letter = tokenizer.convert_tokens_to_ids(tokens)
        new = [*tokenizer("kind", add_special_tokens=False)["input_ids"]]
        of = lambda *more: continuation_text(tokenizer, [], [*new, *more], mark_ids(tokenizer))  # noqa: B023, E731
        assert [of(stray), of(stray, stray), of(letter[0]), of(*letter[:2]), of(*letter)] == ["kind\ufffd", "kind\ufffd\ufffd", "kind", "kind", "kind茌"]
        assert of(stray, *letter[:2]) == "kind\ufffd"


def test_ids_without_a_token_say_nothing(llama):
    "An output layer may be wider than the vocabulary"
    for tokenizer, half in ((byte_level(), "è"), (llama, "<0xE8>")):
        kind, beyond = tokenizer("kind", add_special_tokens=False)["input_ids"], len(tokenizer) + 3
        begun = tokenizer.convert_tokens_to_ids(half)
        for new in ([*kind, beyond], [beyond, *kind], [*kind, begun, beyond], [*kind, beyond, begun], [*kind, begun]):
            assert continuation_text(tokenizer, [], new, mark_ids(tokenizer)) == "kind"
        assert continuation_text(tokenizer, kind, [beyond], mark_ids(tokenizer)) == ""


def test_half_a_letter_is_not_judged(toy_model, toy_tokenizer):
    model = toy_model("gpt2")
    whole, cut = (perplexity(model, toy_tokenizer, ["The dog"], [f" sings{end}"]) for end in ("", "\ufffd\ufffd"))
    assert whole == cut and distinct_n([" sings\ufffd"], toy_tokenizer) == distinct_n([" sings"], toy_tokenizer)


def test_nothing_to_go_on_from(toy_model):
    tokenizer, model = byte_level(), toy_model("gpt2")
    for texts in (["", "The dog"], ["The dog", ""]):
        with pytest.raises(InputError, match=f"prompt en p{texts.index('')} has no token"):
            generation.generate(model, tokenizer, prompts(*texts), "m", k=2)
    alone, among = (generation.generate(model, tokenizer, prompts(*texts), "m", k=2)["text"].tolist()[:2] for texts in (["   "], ["   ", "The dog"]))
    assert alone == among


def test_a_model_without_keys_and_values_is_refused_in_one_line(toy_tokenizer):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=1, state_size=8, vocab_size=len(toy_tokenizer))
    model = AutoModelForCausalLM.from_config(config).eval()
    for text in ("The dog", ""):
        with pytest.raises(InputError, match="mamba keeps no keys and values"):
            generation.generate(model, toy_tokenizer, prompts(text), "m", k=2)
    with pytest.raises(InputError, match="mamba keeps no keys and values"):
        perplexity(model, toy_tokenizer, ["The dog"] * 5, [" sings", " b", " c", " d", " e"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("greedy", [True, False])
def test_no_text_is_drawn_from_what_is_no_number(toy_model, toy_tokenizer, value, greedy):
    import torch

    model = toy_model("gpt2")
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = value
    with pytest.raises(InputError, match="gives logits that are not numbers"):
        generation.generate(model, toy_tokenizer, prompts("The dog"), "m", k=1 if greedy else 2, greedy=greedy)
    with pytest.raises(InputError, match="the judge gives logits that are not numbers"):
        perplexity(model, toy_tokenizer, ["The dog"], [" sings"])
