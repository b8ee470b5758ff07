"An adapter's card is peft's, filled in: nothing open, nothing of the machine, the same bytes each time."
import pytest
from huggingface_hub import ModelCard
from xlingtox import babel, models
from xlingtox.tuning import preference
from xlingtox.tuning.card import without_open_fields

SETTINGS = {"max_steps": 2, "batch_size": 2, "eval_steps": 1, "warmup_steps": 0, "max_characters": None, "eval_share": 0.2, "tuning": "lora",
            "lora": {"r": 4}, "learning_rate": 3e-4}


@pytest.fixture(scope="module")
def adapters(toy_model, toy_tokenizer, tmp_path_factory):
    run = tmp_path_factory.mktemp("mgpt")
    models.save(toy_model("gpt2"), toy_tokenizer, run / "base")
    for name, changes in {"dpo-0": {}, "dpo-1": {}, "zero": {"max_steps": 0}}.items():
        model, tokenizer = models.load(str(run / "base"), device="cpu")
        preference.tune(model, tokenizer, babel.preference(40), run / name, **SETTINGS | changes)
    return run


def card(folder):
    return ModelCard.load(folder / "README.md")


def test_it_says_what_was_done(adapters):
    text = card(adapters / "dpo-0").text
    for said in ("DPO", "32 examples in en", "8 more decided", "learning rate | 0.0003", "LoRA r | 4", "2 steps were taken, best validation loss", "PEFT"):
        assert said in text, said
    assert "No step was taken" in card(adapters / "zero").text


def test_nothing_is_open_and_nothing_is_of_the_machine(adapters):
    whole = (adapters / "dpo-0" / "README.md").read_text()
    assert "More Information Needed" not in whole and "[optional]" not in whole and "<!--" not in whole
    assert str(adapters) not in whole and str(adapters.parent) not in whole
    lines = [line for line in whole.splitlines() if line]
    empty = [a for a, b in zip(lines, lines[1:] + ["# end"], strict=True) if a.startswith("#") and b.startswith("#") and len(a.split()[0]) >= len(b.split()[0])]
    assert not empty


def test_its_head_is_what_the_hub_reads(adapters):
    data = card(adapters / "dpo-0").data
    assert data.library_name == "peft" and data.language == ["en"] and {"detoxification", "lora", "dpo"} <= set(data.tags)
    assert data.base_model is None and not any("base_model:" in tag for tag in data.tags)  # it is a folder here


def test_the_same_adapter_has_the_same_card(adapters):
    first, second = [(adapters / name / "README.md").read_text() for name in ("dpo-0", "dpo-1")]
    assert first == second.replace("dpo-1", "dpo-0")


@pytest.mark.parametrize("open_, closed", [
    ("# A\n\n## B\n\n[More Information Needed]\n", ""),
    ("# A\n\n## B [optional]\n\n### C\n\nsaid\n", "# A\n\n## B\n\n### C\n\nsaid\n"),
    ("# A\n\n## B\n\n### C\n\n<!-- hint\nof two lines -->\n\n## D\n\nsaid\n", "# A\n\n## D\n\nsaid\n"),
    ("# A\n\nsaid # not a heading\n", "# A\n\nsaid # not a heading\n"),
])
def test_what_is_open_goes(open_, closed):
    assert without_open_fields(open_).strip() == closed.strip()
