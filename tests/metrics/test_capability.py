"""Multiple-choice questions: right where the model's own probabilities say so, and the same as the harness."""
import sys

import numpy as np
import pytest
import torch
from xlingtox import babel, profiles
from xlingtox.core import InputError
from xlingtox.metrics import capability

from conftest import ARCHITECTURES


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "mt5"])
def test_log_likelihood_is_the_sum_over_tokens(toy_model, toy_tokenizer, architecture):
    model, texts = toy_model(architecture), ["you are good.", "the cat is small. the dog is big.", "a"]
    start = toy_tokenizer.bos_token_id if toy_tokenizer.bos_token_id is not None else toy_tokenizer.eos_token_id
    expected = []
    for text in texts:
        ids = torch.tensor([[start, *toy_tokenizer.encode(text, add_special_tokens=False)]])
        with torch.no_grad():
            p = model(ids).logits.log_softmax(-1)
        expected.append(sum(p[0, i, ids[0, i + 1]].item() for i in range(ids.shape[1] - 1)))
    for batch_size in (1, 3):
        assert np.allclose(capability.loglikelihoods(model, toy_tokenizer, texts, batch_size), expected, atol=1e-3)


def test_the_likeliest_answer_is_taken(monkeypatch):
    questions = babel.choice(["en"]).head(2).assign(answer=[1, 0], choices=[["aa", "b"], ["cccc", "d"]])
    monkeypatch.setattr(capability, "loglikelihoods", lambda *_: np.array([-4.0, -1.0, -4.0, -2.0]))
    table = capability.answer(None, None, questions)
    assert table["correct"].tolist() == [1, 0] and table["correct_norm"].tolist() == [1, 1], "per character the second first answer is likelier"
    assert table["chance"].tolist() == [0.5, 0.5] and table["lang"].tolist() == ["en", "en"]


def test_an_encoder_decoder_is_refused(toy_model, toy_tokenizer):
    with pytest.raises(InputError, match="encoder-decoder"):
        capability.loglikelihoods(toy_model("mt5"), toy_tokenizer, ["a"])


def test_without_the_harness_one_line_says_what_to_do(toy_model, toy_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"pip install 'xlingtox\[capability\]'"):
        capability.evaluate(toy_model("gpt2"), toy_tokenizer, ["arc_de"])
    (tmp_path / "mine.yaml").write_text("extends: mini\ncapability: {tasks: [arc_de]}\n")
    with pytest.raises(InputError, match=r"capability.tasks: arc_de takes the lm-eval harness; pip install"):
        profiles.load_profile(tmp_path / "mine.yaml")


def test_the_facts_are_a_task_of_the_harness(toy_model, toy_tokenizer, tmp_path):
    facts = babel.choice(["en", "de"])
    ours = capability.answer(toy_model("gpt2"), toy_tokenizer, facts).set_index(["lang", "id"]).sort_index()
    theirs = capability.harness(toy_model("gpt2"), toy_tokenizer, capability.facts_tasks(facts, tmp_path)).set_index(["lang", "id"]).sort_index()
    assert ours[["correct", "correct_norm", "chance"]].equals(theirs[["correct", "correct_norm", "chance"]])
