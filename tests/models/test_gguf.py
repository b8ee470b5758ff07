"""A model in one GGUF file: what is loaded is what was written, and each way in which a file may refuse to be read.

The real file is needed by the last tests alone: they skip unless XLINGTOX_GGUF names a GGUF file of Gemma 3 270M."""
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from xlingtox import babel, models, profiles
from xlingtox.core import InputError
from xlingtox.languages import LANGUAGES
from xlingtox.models import gguf
from xlingtox.profiles.costs import billions
from xlingtox.profiles.sections import Model

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
import tiny_gguf  # noqa: E402

pytest.importorskip("gguf", reason="pip install xlingtox[gguf]")
IDS = torch.arange(3, 30)[None]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(toy_tokenizer, tmp_path):
    model = tiny_gguf.tiny(len(toy_tokenizer) + 8)
    tiny_gguf.write(model, toy_tokenizer, tmp_path / "tiny.gguf")
    return model, str(tmp_path / "tiny.gguf")


def test_what_is_loaded_is_what_was_written(tiny, toy_tokenizer, tmp_path):
    model, file = tiny
    loaded, tokenizer = models.load(file, device="cpu", progress=False)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, rtol=1e-4, atol=1e-5)
    for text in babel.multiway(list(LANGUAGES.index), 2, toxic_share=0.0)["text"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == toy_tokenizer(text, add_special_tokens=False)["input_ids"] and tokenizer.decode(ids) == text
    models.save(loaded, tokenizer, tmp_path / "run" / "base")
    source = json.loads((tmp_path / "run" / "base" / "source.json").read_text())
    assert source["file"] == "tiny.gguf" and len(source["sha256"]) == 64 and (tmp_path / "run" / "base" / "model.safetensors").is_file()
    again, _ = models.load(str(tmp_path / "run" / "base"), device="cpu")
    with torch.inference_mode():
        assert torch.equal(again(IDS).logits, loaded(IDS).logits)


def test_a_file_is_read_once_and_another_file_is_another_model(tiny, toy_tokenizer, monkeypatch):
    model, file = tiny
    first = gguf.gguf_folder(file)
    read = []
    monkeypatch.setattr(gguf, "_from_gguf", lambda file, header: read.append(file))
    monkeypatch.setattr(gguf, "_check_memory", lambda *a: pytest.fail("nothing large is read"))
    assert gguf.gguf_folder(file) == first and not read
    with torch.no_grad():
        model.model.norm.weight *= 2
    os.remove(file)
    tiny_gguf.write(model, toy_tokenizer, file)
    monkeypatch.undo()
    assert gguf.check_gguf(file) and gguf._sha256(Path(file)) not in str(first)


@pytest.mark.parametrize("keep, message", [(-100, r"cut: it has [\d,]+ bytes of [\d,]+; get the file again"), (2000, "cut or damaged in its head"),
                                           (3, "not a GGUF file"), (10, "cut or damaged in its head")])
def test_a_cut_file_is_one_error(tiny, keep, message, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(Path(tiny[1]).read_bytes()[:keep])
    with pytest.raises(InputError, match=message):
        models.load(str(tmp_path / "cut.gguf"))
    assert not (tmp_path / "cache").exists(), "nothing is written"


def test_a_damaged_head_is_one_error(tiny, tmp_path):
    "A length that is as large as a number can be, and a type of value that there is not"
    whole = Path(tiny[1]).read_bytes()
    for at, value in ((24, b"\xff" * 8), (24 + 8 + len("general.architecture"), b"\x63\x00\x00\x00")):
        (tmp_path / "bad.gguf").write_bytes(whole[:at] + value + whole[at + len(value):])
        with pytest.raises(InputError, match="cut or damaged in its head"):
            models.load(str(tmp_path / "bad.gguf"))


def test_a_file_of_zeros_after_the_first_letters_is_damaged(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(InputError, match="names no architecture; the file is damaged"):
        models.load(str(tmp_path / "empty.gguf"))


def test_a_file_that_lacks_a_tensor_is_refused(tiny, toy_tokenizer, tmp_path):
    tiny_gguf.write(tiny[0], toy_tokenizer, tmp_path / "hole.gguf", rename=lambda name: name.replace("1.ffn_down", "1.ffn_dowm"))
    with pytest.raises(InputError, match=r"hole\.gguf: it lacks the tensors model\.layers\.1\.mlp\.down_proj\.weight"):
        models.load(str(tmp_path / "hole.gguf"))
    assert not list((tmp_path / "cache/models").glob("gguf*")), "no half model is kept"


def test_a_profile_opens_the_file_before_anything_runs(tiny, tmp_path, monkeypatch):
    "What is cut or of another kind is said by a dry run; the memory is another machine's, perhaps"
    monkeypatch.setattr(gguf, "_check_memory", lambda *a: pytest.fail("this machine may be the cluster's front door"))
    for name in ("parallel-prompts", "paradetox-splits", "hate-corpora"):
        (tmp_path / name).mkdir()
    assert profiles.load_profile("laptop", tmp_path, model=tiny[1]).judge.model == tiny[1]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(Path(tiny[1]).read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"laptop\.yaml: .*cut\.gguf: cut: it has"):
        profiles.load_profile("laptop", tmp_path, model=str(cut))


@pytest.mark.parametrize("values, message", [({"split.count": 3}, "is one of 3 files of a model"), ({"general.alignment": 0}, "alignment 0")])
def test_a_part_of_a_model_and_an_alignment_of_nothing_are_refused(tiny, toy_tokenizer, tmp_path, values, message):
    tiny_gguf.write(tiny[0], toy_tokenizer, tmp_path / "odd.gguf", values=values)
    with pytest.raises(InputError, match=message):
        models.load(str(tmp_path / "odd.gguf"))


def test_a_folder_with_the_name_of_a_file_is_refused(tmp_path):
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        models.load(str(tmp_path / "folder.gguf"))


def test_an_unknown_architecture_is_named(tiny, toy_tokenizer, tmp_path):
    tiny_gguf.write(tiny[0], toy_tokenizer, tmp_path / "new.gguf", architecture="hyena")
    with pytest.raises(InputError, match="cannot read the architecture 'hyena' from a GGUF file; it can read .*gemma3"):
        models.load(str(tmp_path / "new.gguf"))


@pytest.mark.parametrize("change, special, message", [
    (lambda tokens: [*tokens[:100], tokens[101], tokens[100], *tokens[102:]], {}, "its tokenizer does not fit"),
    (lambda tokens: [*tokens, *(f"<more{i}>" for i in range(20))], {}, "tokens, and the model embeds"),
])
def test_a_tokenizer_that_does_not_fit_is_said(tiny, toy_tokenizer, tmp_path, change, special, message):
    file, made = tmp_path / "odd.gguf", tiny_gguf.tiny(len(toy_tokenizer) + 8)
    tiny_gguf.write(made, toy_tokenizer, file, change=change, **special)
    header = gguf.gguf_header(file)
    tokenizer = toy_tokenizer
    gguf.check_gguf_tokenizer(tokenizer, gguf.gguf_header(tiny[1]), tiny[1])
    if "embeds" in message:
        _, tokenizer = models.load(tiny[1], device="cpu")
        tokenizer.add_tokens([f"<more{i}>" for i in range(20)])
        header["values"]["tokenizer.ggml.tokens"] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    with pytest.raises(InputError, match=message):
        gguf.check_gguf_tokenizer(tokenizer, header, file)


def test_too_little_memory_is_said_before_anything_is_read(tiny, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5e8))
    monkeypatch.setattr(gguf, "_from_gguf", lambda *a: pytest.fail("it was read"))
    with pytest.raises(InputError, match=r"takes about 1\.0 GB of memory, and 0\.5 GB are free"):
        models.load(tiny[1])


def test_without_the_package_it_says_what_to_install(tiny, without):
    without("gguf")
    with pytest.raises(InputError, match=r"pip install xlingtox\[gguf\]"):
        models.load(tiny[1])


def test_a_profile_may_name_a_file(tiny, tmp_path):
    assert Model(model=tiny[1]).model == tiny[1] and billions(tiny[1]) == pytest.approx(tiny[0].num_parameters() / 1e9)
    with pytest.raises(ValueError, match="no such file"):
        Model(model=str(tmp_path / "none.gguf"))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    file = os.environ.get("XLINGTOX_GGUF")
    if not file:
        pytest.skip("no real model here: set XLINGTOX_GGUF to a GGUF file of Gemma 3 270M")
    return models.load(file, device="cpu", progress=False)


def test_the_real_tokenizer_has_the_known_ids(gemma):
    model, tokenizer = gemma
    assert tokenizer("The capital of France is")["input_ids"] == [2, 818, 5279, 529, 7001, 563]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id) == (0, 1, 2, 3)
    for text in babel.multiway(list(LANGUAGES.index), 5, toxic_share=0.0)["text"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
