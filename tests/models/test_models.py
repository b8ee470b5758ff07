"""The registry, adapters that stand on other models, and each way in which a model may refuse to be loaded."""
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import pandas as pd
import pytest
import torch
from xlingtox import babel, models
from xlingtox.core import InputError
from xlingtox.tuning import preference

SETTINGS = {"learning_rate": 1e-3, "max_steps": 2, "batch_size": 4, "warmup_steps": 0, "eval_steps": 1, "max_characters": None, "lora": {"r": 2}}


@pytest.fixture
def base(toy_model, toy_tokenizer, tmp_path):
    models.save(toy_model("llama"), toy_tokenizer, tmp_path / "run" / "base")
    return tmp_path / "run" / "base"


def tune(start, folder, **changes):
    return preference.tune(*models.load(str(start), device="cpu", merge=True), babel.preference(40), folder, tuning="lora", **SETTINGS | changes)


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 30)[None]).logits


def test_registry_is_complete():
    table = models.model_registry()
    wanted = {"mgpt", "bloom-1b7", "bloom-7b1", "llama2-7b", "llama3-8b", "aya-23-8b", "aya-expanse-8b", "mt5-large", "llama3.1-8b"}
    assert set(models.ROLES) == wanted and {"judge"} <= set(table.index)
    assert table["hub"].str.fullmatch(r"[\w.-]+/[\w.-]+").all() and table["gated"].isin(["yes", "no"]).all()
    assert (table["revision"].str.fullmatch("[0-9a-f]{40}") | (table["revision"].eq("main") & table["note"].str.contains("not pinned"))).all()
    assert table["model_type"].isin([*models.LORA_MODULES]).all() and pd.to_numeric(table["billions"]).gt(0).all()
    for role in wanted:
        assert models.ROLES[role]["tuning"] in ("full", "qlora") and models.ROLES[role]["hub"] == table.loc[role, "hub"]
    groups = table[table["beniwal2025_lora"] != ""]
    assert all(set(t.split()) <= {*models.LORA_MODULES[m]} | set(sum(models.LORA_MODULES[m].values(), []))
               for t, m in zip(groups["beniwal2025_lora"], groups["model_type"], strict=True))


def test_a_moved_run_opens_and_an_adapter_alone_says_what_it_lacks(base, tmp_path):
    tune(base, base.parent / "dpo-0")
    wanted = logits(models.load(str(base.parent / "dpo-0"), device="cpu")[0])
    shutil.move(base.parent, tmp_path / "moved")
    assert torch.equal(logits(models.load(str(tmp_path / "moved/dpo-0"), device="cpu")[0]), wanted)
    shutil.move(tmp_path / "moved/dpo-0", tmp_path / "alone")
    with pytest.raises(InputError, match=r"alone: the base model \.\./base of this adapter is not there; correct base_model_name_or_path"):
        models.load(str(tmp_path / "alone"))


def test_a_base_elsewhere_is_named_by_its_path(base, tmp_path):
    tune(base, tmp_path / "elsewhere" / "tuned")
    assert json.loads((tmp_path / "elsewhere/tuned/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert models.has_adapter(models.load(str(tmp_path / "elsewhere/tuned"), device="cpu")[0])


def test_adapters_add_up(base):
    "Two adapters of one base change it by the sum of their changes; an adapter on an adapter finds its way down"
    one, two, upon = (base.parent / n for n in ("one", "two", "upon"))
    tune(base, one, **{"lora": {"r": 2, "targets": ["head"]}})
    tune(base, two, seed=1, **{"lora": {"r": 3, "targets": ["head"]}})
    plain, a, b = (logits(models.load(str(f), device="cpu")[0]) for f in (base, one, two))
    both, _ = models.load(str(base), adapters=[str(one), str(two)], device="cpu")
    torch.testing.assert_close(logits(both), a + b - plain, rtol=1e-4, atol=1e-5)
    assert (a - plain).abs().max() > 1e-3 < (b - plain).abs().max()
    merged, _ = models.load(str(base), adapters=[str(one), str(two)], merge=True, device="cpu")
    torch.testing.assert_close(logits(merged), logits(both), rtol=1e-4, atol=1e-5)
    shutil.copytree(two, upon)
    config = json.loads((upon / "adapter_config.json").read_text()) | {"base_model_name_or_path": "../one"}
    (upon / "adapter_config.json").write_text(json.dumps(config))
    assert torch.equal(logits(models.load(str(upon), device="cpu")[0]), logits(both))


def test_zero_steps_save_an_adapter_that_does_nothing(base):
    tune(base, base.parent / "dpo-0", max_steps=0)
    assert torch.equal(logits(models.load(str(base.parent / "dpo-0"), device="cpu")[0]), logits(models.load(str(base), device="cpu")[0]))


@pytest.mark.parametrize("tuning, load, message", [
    ("qlora", {}, "qlora tunes a model in 4 bits: load it with quantise=True"),
    ("full", {"quantise": True}, "a model in 4 bits cannot be tuned in full"),
    ("prefix", {}, "no tuning 'prefix'; there are full, lora and qlora"),
])
def test_tuning_that_does_not_fit(tuning, load, message, base):
    with pytest.raises(InputError, match=message):
        preference.tune(*models.load(str(base), device="cpu", **load), babel.preference(40), base.parent / "x", tuning=tuning)
    assert not (base.parent / "x").exists() and not (base.parent / ".x.work").exists()


def test_other_bad_input(base, without):
    tune(base, base.parent / "dpo-0", max_steps=0)
    with pytest.raises(InputError, match="the model to tune has an adapter inside; load it with merge=True"):
        preference.tune(*models.load(str(base.parent / "dpo-0"), device="cpu"), babel.preference(40), base.parent / "x", tuning="lora")
    with pytest.raises(InputError, match="a model with an adapter is saved by what tuned it"):
        models.save(*models.load(str(base.parent / "dpo-0"), device="cpu"), base.parent / "x")
    with pytest.raises(InputError, match="lora: rank is not a setting; there are r, alpha, dropout, targets"):
        tune(base, base.parent / "x", lora={"rank": 2})
    with pytest.raises(InputError, match="llama has no module 'c_attn' for an adapter; .* of the groups attention, mlp, embeddings, head"):
        tune(base, base.parent / "x", lora={"targets": ["c_attn"]})
    with pytest.raises(InputError, match="float16 arithmetic needs a GPU"):
        tune(base, base.parent / "x", precision="float16")
    with pytest.raises(InputError, match="cannot merge an adapter into .* in 4 bits"):
        models.load(str(base.parent / "dpo-0"), quantise=True, merge=True)
    without("bitsandbytes")
    with pytest.raises(InputError, match=r"in 4 bits: that needs bitsandbytes \(pip install bitsandbytes\)"):
        models.load(str(base), quantise=True)
    assert not (base.parent / "x").exists()


def test_an_adapter_that_does_not_fit_and_one_that_is_a_pickle(base, toy_model, toy_tokenizer, tmp_path):
    tune(base, base.parent / "dpo-0", max_steps=0)
    models.save(toy_model("gpt2"), toy_tokenizer, tmp_path / "gpt2")
    with pytest.raises(InputError, match="the adapter .*dpo-0 does not fit the model .*gpt2"):
        models.load(str(tmp_path / "gpt2"), adapters=[str(base.parent / "dpo-0")], device="cpu")
    (base.parent / "dpo-0/adapter_model.safetensors").rename(base.parent / "dpo-0/adapter_model.bin")
    with pytest.raises(InputError, match=r"dpo-0: it has no adapter_model.safetensors \(a pickle is not read\)"):
        models.load(str(base.parent / "dpo-0"), device="cpu")


class Hub(http.server.BaseHTTPRequestHandler):
    "A hub with a gated repository, one with a pickle, one with code of its own; any other is unknown"

    files = {
        "some/pickle": {"config.json": b'{"model_type": "gpt2"}', "pytorch_model.bin": b"not to be trusted"},
        "some/code": {"config.json": json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}).encode(),
                      "own.py": b"open('RAN', 'w')"},
    }

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        repository, file = "/".join(parts[:2]), "/".join(parts[4:])
        if "some/gated" in self.path:
            return self.answer(403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model some/gated is restricted"})
        if repository in self.files and parts[2:3] == ["resolve"]:
            if content := self.files[repository].get(file):
                return self.answer(200, {"ETag": '"1"', "X-Repo-Commit": "a" * 40}, content)
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        self.answer(404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def test_what_a_hub_may_refuse(tmp_path):
    "Gated, pickle, code of its own, unknown: one line each, and none of that code is run"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = """
import json, sys
from xlingtox import models
from xlingtox.core import InputError
said = {}
for name in sys.argv[1:]:
    try:
        models.load(name)
    except InputError as e:
        said[name] = str(e)
print(json.dumps(said))
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "http", "HTTP"))}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*",
            "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run([sys.executable, "-c", script, "some/gated", "some/pickle", "some/code", "some/nothing"], env=env, cwd=tmp_path,
                              capture_output=True, text=True, timeout=300)
    finally:
        server.shutdown()
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["some/gated"] == "cannot load some/gated: it is gated: ask for access at https://huggingface.co/some/gated and set HF_TOKEN to your key"
    assert said["some/pickle"] == "cannot load some/pickle: it has no safetensors weights; a pickle checkpoint is only read with allow_pickle=True, from Python"
    assert said["some/code"] == "cannot load some/code: it brings its own Python code, which is only run with allow_remote_code=True, from Python"
    assert said["some/nothing"] == "cannot load some/nothing: it is neither a folder nor a repository of the hub that you can see"
    assert not (tmp_path / "RAN").exists()


def test_two_who_want_the_same_miniature_train_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path))
    begun, both = [], threading.Event()

    def pretrain(recipe, corpus, folder, progress):
        begun.append(folder)
        if len(begun) > 1:
            both.set()
        both.wait(0.5)  # time for the other to begin, if nothing holds it back
        folder.mkdir(exist_ok=True)

    monkeypatch.setattr("xlingtox.models.pretrain.pretrain", pretrain)
    corpus, found = babel.corpus(5), []
    threads = [threading.Thread(target=lambda: found.append(models.mini_folder("mgpt", corpus))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1 and found == begun * 2
