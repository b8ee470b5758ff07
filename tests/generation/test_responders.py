"""Responders: chats as real templates write them, where an answer ends, and models of every architecture."""
import copy
from pathlib import Path

import pandas as pd
import pytest
import trl
from transformers import AddedToken, GenerationConfig
from xlingtox import babel
from xlingtox.core import InputError
from xlingtox.generation import complete, instructed, load_responder, respond, whole_sentences
from xlingtox.generation.completions import Decoding
from xlingtox.generation.responses import _chat_tokens, _for_chats, _turn_end

from conftest import ARCHITECTURES

TEMPLATES = Path(trl.__file__).parent / "chat_templates"  # as published with the models
ENDS = {"qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "gemma": "<end_of_turn>",
        "gemma3": "<end_of_turn>", "phi3": "<|end|>", "cohere": "<|END_OF_TURN_TOKEN|>"}
MARKS = [*set(ENDS.values()), "<|im_start|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|user|>",
         "<|assistant|>", "<|system|>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"]
GREEDY = Decoding(max_new_tokens=12, temperature=0)


def prompts_of(*texts, lang="en"):
    return pd.DataFrame({"id": [f"p{i}" for i in range(len(texts))], "lang": lang, "text": texts})


@pytest.fixture(scope="module")
def chat(toy_tokenizer):
    "The toy tokenizer with the marks of several families of chat models, and a function that gives it one's template"
    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS], special_tokens=True)

    def take(template):
        tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text()
        return tokenizer

    return take


@pytest.mark.parametrize("template", ENDS)
def test_real_templates_begin_an_answer_and_say_how_it_ends(chat, template):
    tokenizer = chat(template)
    plain, tricky = _chat_tokens(tokenizer, ["you are kind", f"you are kind{ENDS[template]}<|im_start|>"])
    asked = tokenizer("you are kind", add_special_tokens=False)["input_ids"]
    assert any(plain[i : i + len(asked)] == asked for i in range(len(plain))), "the request is there, token by token"
    assert plain.count(tokenizer.bos_token_id) <= 1
    marks = {tokenizer.convert_tokens_to_ids(mark) for mark in MARKS}
    assert [i for i in plain if i in marks] == [i for i in tricky if i in marks] and len(tricky) > len(plain), "a mark in a message is text"
    assert tokenizer.convert_ids_to_tokens(_turn_end(tokenizer)) == ENDS[template]
    before = tokenizer.eos_token
    assert _for_chats(tokenizer).eos_token == ENDS[template] and tokenizer.eos_token == before


def test_a_model_that_could_think_aloud_is_asked_to_answer(chat):
    tokenizer = chat("qwen3")
    assert tokenizer.decode(_chat_tokens(tokenizer, ["hello"])[0]).endswith("<think>\n\n</think>\n\n")


def test_a_template_that_refuses_is_named(toy_tokenizer):
    tokenizer = copy.deepcopy(toy_tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(InputError, match="the responder's chat template refuses a request: no users here"):
        _chat_tokens(tokenizer, ["hello"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_chat_a_response_is_a_completion_of_the_request(toy_model, toy_tokenizer, architecture):
    model, prompts = toy_model(architecture), babel.labelled(["en", "de"], n=4, seed=1)[["id", "lang", "text"]]
    how = Decoding(max_new_tokens=12, temperature=0.7, top_p=0.8)
    request = "Answer in {language}: {text}\nAnswer:"
    asked = prompts.assign(text=instructed(prompts, request))
    expected = [text.strip() for text in complete(model, toy_tokenizer, asked, how, seed=3)]
    found = respond(model, toy_tokenizer, prompts, request, how, seed=3, batch_size=3)
    assert all(one.startswith(two) for one, two in zip(expected, found, strict=True)) and any(found)
    assert respond(model, toy_tokenizer, prompts[::-1], request, how, seed=3)[::-1] == found


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mt5"])
def test_an_answer_in_a_chat_is_what_the_library_writes(toy_model, chat, architecture, written):
    "Greedy, with the ends that the model's own settings name besides the template's"
    tokenizer = chat("qwen2_5")
    model = toy_model(architecture)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    prompts = prompts_of("you are kind.", "doctor sees banana today and tomorrow.", "hm")
    rows = _chat_tokens(tokenizer, instructed(prompts, "{text}"))

    def library(ids, ends):
        import torch

        how = GenerationConfig(max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0)
        with torch.inference_mode():
            return model.generate(torch.tensor([ids]), generation_config=how)[0, len(ids):].tolist()

    free = [library(ids, None) for ids in rows]
    whole = tokenizer.decode(free[1]).strip()
    said = [tokenizer.decode(free[1][:n]).strip() for n in range(len(free[1]))]
    cut = max((n for n in range(6) if len(said[n]) < len(whole)), default=5)  # something is said from there on, whatever the rounding
    ends = [tokenizer.eos_token_id, free[1][cut]]
    model.generation_config.eos_token_id = ends
    stops = {*ends, tokenizer.pad_token_id, _turn_end(tokenizer)}
    expected = []
    for new in free:
        end = next((i for i, token in enumerate(new) if token in stops), None)
        text = written(tokenizer, new[:end]).strip()
        expected.append(text if end is not None else whole_sentences(text))
    assert respond(model, tokenizer, prompts, "{text}", GREEDY, batch_size=2) == expected
    assert len(expected[1]) < len(whole) or not whole


@pytest.mark.parametrize("text, whole", [
    ("One. Two. Thr", "One. Two."), ("No end", "No end"), ("Is it? Yes", "Is it?"), ("एक। दो", "एक।"), ("好。不", "好。"), ("እሺ። ደ", "እሺ።"),
    ("«Oui.» Et", "«Oui.»"), ("One.\nTwo", "One."), ("", ""), ("هل؟ لا", "هل؟"),
])
def test_what_is_cut_off_ends_with_a_whole_sentence(text, whole):
    assert whole_sentences(text) == whole


def test_requests_by_language():
    prompts = pd.concat([prompts_of("Hallo {welt}", lang="de"), prompts_of("hi {language}")])
    assert instructed(prompts, {"de": "Antworte auf {language}: {text}", "en": "{text}!"}) == ["Antworte auf German: Hallo {welt}", "hi {language}!"]
    assert "Reply in German" in instructed(prompts)[0] and "Reply in English" in instructed(prompts)[1]
    for wrong in ("kind", "{text} {text}"):
        with pytest.raises(InputError, match="must have {text} once"):
            instructed(prompts, wrong)
    with pytest.raises(InputError, match="the instruction does not support de; it supports en"):
        instructed(prompts, {"en": "{text}"})
    with pytest.raises(InputError, match="lacks the columns lang"):
        instructed(prompts.drop(columns="lang"))


def test_a_prompt_that_does_not_fit_is_named(toy_model, toy_tokenizer):
    with pytest.raises(InputError, match="prompt en p1 has .* tokens, and 12 new ones exceed the model's context of 128"):
        respond(toy_model("gpt2"), toy_tokenizer, prompts_of("short", "long " * 200), "{text}", GREEDY)
    assert respond(toy_model("gpt2"), toy_tokenizer, prompts_of(), "{text}", GREEDY) == []


def test_responders_by_name(tmp_path, toy_model, toy_tokenizer):
    from xlingtox.models import save

    save(toy_model("llama"), toy_tokenizer, tmp_path / "model")
    prompts = prompts_of("you are kind.", "hm")
    found = load_responder(str(tmp_path / "model"), instruction="{text}", family=GREEDY)(prompts)
    assert found == respond(toy_model("llama"), toy_tokenizer, prompts, "{text}", GREEDY)
    assert load_responder("babel", seed=2)(prompts) == babel.polite_responses(prompts, seed=2)
    with pytest.raises(InputError):
        load_responder(str(tmp_path / "none"))
