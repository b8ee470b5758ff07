"What is pushed of an adapter, what is refused, and that the key is nowhere to be read."
import json
import subprocess
import sys
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import save_file
from xlingtox.core import InputError
from xlingtox.models import hub

KEY = "hf_" + "a1B2" * 6


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "mgpt" / "dpo-0"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../base", "r": 4}))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n\n- **Finetuned from model:** base\n")
    for name in ("tokenizer.json", "log.parquet", "optimizer.pt", "secrets.env"):
        (folder / name).write_bytes(b"x" * 10)
    save_file({"lora_A.weight": np.zeros((1, 2), "float32")}, folder / "adapter_model.safetensors")
    return folder


class Api:
    "In the place of the hub's client"

    def __init__(self, error=None):
        self.error, self.calls, self.there = error, [], SimpleNamespace(private=None, siblings=[])

    def create_repo(self, name, **options):
        self.calls.append(("create_repo", name, options))
        if self.there.private is None:  # new
            self.there.private = options["private"]
        return f"https://huggingface.co/{name}"

    def repo_info(self, name):
        return self.there

    def create_commit(self, name, operations, **options):
        if self.error:
            raise self.error
        self.calls.append(("create_commit", name, {o.path_in_repo: o.path_or_fileobj for o in operations}))


@pytest.fixture
def api(monkeypatch):
    api = Api()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda *args, **kwargs: api)
    monkeypatch.setenv("HF_TOKEN", KEY)
    return api


def test_nothing_is_sent_unless_it_is_confirmed(adapter, api):
    told = hub.push(adapter, "me/detox", base="ai-forever/mGPT")
    assert api.calls == [] and told["sent"] is False and told["url"] is None
    assert set(told["files"]) == {"adapter_config.json", "adapter_model.safetensors", "README.md", "log.parquet", "tokenizer.json"}


@pytest.mark.parametrize("private", [True, False])
def test_what_is_sent(adapter, api, private):
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    told = hub.push(adapter, "me/detox", base="ai-forever/mGPT", private=private, confirmed=True)
    (_, name, options), (_, _, files) = api.calls
    assert name == "me/detox" and options == {"private": private, "exist_ok": True} and told["url"].endswith("me/detox")
    assert set(files) == set(told["files"]) and "secrets.env" not in files
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "ai-forever/mGPT", "r": 4}
    assert b"base_model: ai-forever/mGPT" in files["README.md"] and b"from model:** ai-forever/mGPT" in files["README.md"]
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    (lambda folder: (folder / "README.md").unlink(), "has no README.md"),
    (lambda folder: (folder / "adapter_config.json").rename(folder / "config.json"), "a model of its own"),
    (lambda folder: (folder / "adapter_config.json").write_text("{"), "not JSON"),
])
@pytest.mark.parametrize("confirmed", [True, False])
def test_what_is_no_adapter_is_refused(adapter, api, change, message, confirmed):
    change(adapter)
    with pytest.raises(InputError, match=message):
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=confirmed)
    assert api.calls == []


SETTINGS, README, WEIGHTS = "adapter_config.json", "README.md", "adapter_model.safetensors"


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("name, raw, message", [
    (SETTINGS, b"[]", "not the settings of an adapter"), (SETTINGS, b'{"base_model_name_or_path": 5}', "not the settings of an adapter"),
    (README, b"---\na: [\n---\nx", "not a model card"), (README, b"---\n- a\n---\nx", "not a model card"), (README, b"caf\xe9", "not a model card"),
    (README, b"", "says nothing"), (README, f"the key is {KEY}".encode(), "names a key of the hub"),
    (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "pointer of Git LFS"), (WEIGHTS, b"\x80\x04 a pickle", "no safetensors"),
    (WEIGHTS, b"", "no safetensors")])
def test_what_nobody_could_use_is_refused_before_anything_is_asked(adapter, api, name, raw, message, confirmed):
    (adapter / name).write_bytes(raw)
    with pytest.raises(InputError, match=message) as refused:
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=confirmed)
    assert api.calls == [] and KEY not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("settings", [{"r": 4}, {"r": 4, "base_model_name_or_path": None}])
def test_settings_without_a_base_get_the_one_that_is_given(adapter, api, settings):
    (adapter / SETTINGS).write_text(json.dumps(settings))
    hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert json.loads(api.calls[-1][2][SETTINGS]) == {"base_model_name_or_path": "ai-forever/mGPT", "r": 4}
    with pytest.raises(InputError, match="--base OWNER/NAME"):
        hub.push(adapter, "me/detox", confirmed=True)


def test_folders_of_this_machine_do_not_leave_it(adapter, api, monkeypatch):
    (adapter / "tokenizer_config.json").write_text(json.dumps({"name_or_path": str(adapter), "other": "~/base", "tokenizer_class": "Fast", "sep": "/"}))
    hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert json.loads(api.calls[-1][2]["tokenizer_config.json"]) == {"tokenizer_class": "Fast", "sep": "/"}
    monkeypatch.setenv("HOME", "/home/somebody")
    (adapter / README).write_text("tuned on /home/somebody/secret.csv")
    with pytest.raises(InputError, match="names your home folder"):
        hub.push(adapter, "me/detox", base="ai-forever/mGPT")


def test_a_repository_that_is_there_stays_as_private_as_was_asked(adapter, api):
    api.there = SimpleNamespace(private=False, siblings=[SimpleNamespace(rfilename=name) for name in (SETTINGS, ".gitattributes")])
    with pytest.raises(hub.HubError, match="everyone can read it; say --public"):
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert [call[0] for call in api.calls] == ["create_repo"]
    hub.push(adapter, "me/detox", base="ai-forever/mGPT", private=False, confirmed=True)
    assert api.calls[-1][0] == "create_commit"


def test_a_repository_of_something_else_is_left_alone(adapter, api):
    api.there = SimpleNamespace(private=True, siblings=[SimpleNamespace(rfilename=name) for name in ("README.md", "model.safetensors")])
    with pytest.raises(hub.HubError, match="holds model.safetensors, not an adapter"):
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert [call[0] for call in api.calls] == ["create_repo"]


@pytest.mark.parametrize("base", [None, "../base", "/home/me/llama", "mGPT", "mini:mgpt", "a/../b"])
def test_a_base_that_is_not_on_the_hub_is_refused(adapter, api, base):
    with pytest.raises(InputError, match="--base OWNER/NAME") as error:
        hub.push(adapter, "me/detox", base=base, confirmed=True)
    assert "/home/me" not in str(error.value).replace(str(adapter), "") and api.calls == []


@pytest.mark.parametrize("repository", ["detox", "me/de tox", "../me/detox", "me/", "/detox", "me/a/b", "me/..", "x/" + "y" * 200])
def test_a_name_that_is_none_is_refused(adapter, api, repository):
    with pytest.raises(InputError, match="OWNER/NAME"):
        hub.push(adapter, repository, base="ai-forever/mGPT", confirmed=True)
    assert api.calls == []


def test_without_a_key_it_says_so(adapter, api, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="set HF_TOKEN"):
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert api.calls == []


@pytest.mark.parametrize("error", [
    HfHubHTTPError(f"401 Unauthorized for Bearer {KEY}\n(Request ID: x)", response=httpx.Response(401, request=httpx.Request("POST", "https://x"))),
    httpx.ConnectError(f"cannot reach https://user:{KEY}@huggingface.co"), OSError(f"reset {KEY}"),
    UnicodeEncodeError("ascii", KEY, 0, 1, "no letter of ASCII")])
def test_a_refusal_is_one_line_without_the_key(adapter, api, error):
    api.error = error
    with pytest.raises(hub.HubError) as raised:
        hub.push(adapter, "me/detox", base="ai-forever/mGPT", confirmed=True)
    assert KEY not in str(raised.value) and "\n" not in str(raised.value) and "me/detox: the hub did not take it" in str(raised.value)


def test_on_the_command_line(adapter, tmp_path):
    def call(*arguments):
        done = subprocess.run([sys.executable, "-m", "xlingtox.cli", *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True,
                              env={**__import__("os").environ, "HF_TOKEN": KEY, "HF_HUB_OFFLINE": "1"})
        return done.returncode, done.stdout, done.stderr

    code, out, err = call("push", adapter, "me/detox", "--base", "ai-forever/mGPT")
    assert (code, err) == (0, "") and "nothing was uploaded" in out and "adapter_model.safetensors" in out and KEY not in out
    code, out, err = call("push", adapter, "me/detox")
    assert code == 2 and err.count("\n") == 1 and "--base" in err
    code, out, err = call("push", adapter, "me/detox", "--base", "ai-forever/mGPT", "--yes")  # offline
    assert code == 1 and err.count("\n") == 1 and "the hub did not take it" in err and KEY not in out + err
