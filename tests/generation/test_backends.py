"""Generation behind vLLM's documented interface (a stand-in: vLLM itself is not installed), and tuning in several processes under accelerate."""
import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from xlingtox import babel, generation, models, profiles
from xlingtox.core import InputError, read_json, read_table, write_json, write_table
from xlingtox.generation.vllm import open_engine
from xlingtox.runs import tune
from xlingtox.tuning import adapter, preference


@dataclass
class SamplingParams:
    "The arguments that are used; vLLM's own defaults"

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None


class LLM:
    "Samples with transformers on the side: a request's samples depend on its seed alone, as vLLM documents"

    made: list = []

    def __init__(self, model, **options):
        self.made.append((model, options, sorted(p.name for p in Path(model).iterdir())))
        self.model, self.tokenizer = models.load(model, device="cpu")
        self.requests = 0

    def generate(self, prompts, sampling_params, *, use_tqdm=True):
        import torch

        answers = []
        for prompt, p in zip(prompts, sampling_params, strict=True):
            self.requests += 1
            ids = torch.tensor([prompt["prompt_token_ids"]])
            ids = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            torch.manual_seed(p.seed or 0)
            how = {"do_sample": True, "temperature": p.temperature, "top_p": p.top_p, "top_k": 0} if p.temperature else {"do_sample": False}
            out = self.model.generate(**ids, **how, num_return_sequences=p.n, max_new_tokens=p.max_tokens, pad_token_id=0, eos_token_id=2)
            new = [row[ids["input_ids"].shape[1]:].tolist() for row in out]
            outputs = [types.SimpleNamespace(index=i, text="(not used)", token_ids=tuple(t)) for i, t in enumerate(new)]
            answers.append(types.SimpleNamespace(prompt=prompt, outputs=outputs[::-1]))
        return answers


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__spec__ = LLM, SamplingParams, importlib.machinery.ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(LLM, "made", [])
    return module


@pytest.fixture
def base(toy_model, toy_tokenizer, tmp_path):
    models.save(toy_model("gpt2"), toy_tokenizer, tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def prompts():
    return babel.prompts(["en", "zh"], n=4, seed=5)


def test_one_contract(vllm, base, prompts, tmp_path):
    "Columns, order and keys are those of the other backend; samples depend on seed and prompt, not on the batch; parts are resumed"
    tokenizer = models.load_tokenizer(base)
    make = lambda **kw: generation.generate(base, tokenizer, prompts, "m", k=3, max_new_tokens=6, **{"backend": "vllm"} | kw)  # noqa: E731
    one, many = make(batch_size=1), make(batch_size=5, parts=tmp_path / "parts")
    hf = generation.generate(*models.load(base, device="cpu"), prompts, "m", k=3, max_new_tokens=6)
    keys = ["model", "lang", "prompt_id", "sample"]
    assert one.equals(many) and one[keys].equals(hf[keys]) and one.columns.equals(hf.columns)
    assert not one["text"].str.contains("not used").any() and one.groupby(["lang", "prompt_id"])["text"].nunique().mean() > 1.2
    assert (make(seed=1)["text"] != one["text"]).mean() > 0.5
    started = len(LLM.made)
    (tmp_path / "parts" / "000001.parquet").unlink()
    assert make(batch_size=5, parts=tmp_path / "parts").equals(one) and len(LLM.made) == started + 1
    assert make(batch_size=5, parts=tmp_path / "parts").equals(one) and len(LLM.made) == started + 1, "no engine where nothing is left to do"


def test_greedy_is_that_of_the_other_backend(vllm, base, prompts):
    ours = generation.generate(*models.load(base, device="cpu"), prompts, "m", k=1, greedy=True, max_new_tokens=6)
    assert generation.generate(base, models.load_tokenizer(base), prompts, "m", k=1, greedy=True, max_new_tokens=6, backend="vllm").equals(ours)


def test_an_adapter_is_merged_for_vllm(vllm, base, prompts, tmp_path):
    preference.tune(*models.load(base, device="cpu"), babel.preference(40), tmp_path / "tuned", tuning="lora", lora={"r": 4}, max_steps=4, batch_size=4,
             learning_rate=1e-2, eval_steps=2, warmup_steps=0, max_characters=None)
    tuned = str(tmp_path / "tuned")
    got = generation.generate(tuned, models.load_tokenizer(tuned), prompts, "m", k=1, greedy=True, max_new_tokens=6, backend="vllm")
    assert got.equals(generation.generate(*models.load(tuned, merge=True, device="cpu"), prompts, "m", k=1, greedy=True, max_new_tokens=6))
    folder, options, files = LLM.made[0]
    assert "adapter_config.json" not in files and "model.safetensors" in files and not Path(folder).exists()
    assert options["trust_remote_code"] is False and options["load_format"] == "safetensors" and options["tensor_parallel_size"] >= 1


def test_what_the_engine_is_asked(vllm, base):
    open_engine(base, dtype="bfloat16", n_gpus=4, quantise=True, max_length=300)
    (_, options, _), = LLM.made
    assert options == {"revision": None, "dtype": "bfloat16", "tensor_parallel_size": 4, "load_format": "bitsandbytes", "quantization": "bitsandbytes",
                       "trust_remote_code": False, "max_model_len": 300}


def test_bad_input(base, prompts):
    tokenizer = models.load_tokenizer(base)
    with pytest.raises(InputError, match=r"vLLM is not installed \(pip install xlingtox\[vllm\]\)"):
        generation.generate(base, tokenizer, prompts, "m", backend="vllm")
    with pytest.raises(InputError, match="no generation backend 'vlm'; there are hf and vllm"):
        generation.generate(base, tokenizer, prompts, "m", backend="vlm")
    prompts.loc[3, "text"] = "long " * 200
    with pytest.raises(InputError, match=r"prompt en p3 has \d+ tokens, and 20 new ones exceed the model's context of 128"):
        generation.generate(base, tokenizer, prompts, "m", backend="vllm")


MINE = """
extends: mini
name: mine
models: {mgpt: null, bloom-7b1: {model: BASE, revision: null, seeds: [0], dtype: bfloat16}}
"""


def profile(tmp_path, base, more=""):
    (tmp_path / "mine.yaml").write_text(MINE.replace("BASE", base) + more)
    return profiles.load_profile(tmp_path / "mine.yaml")


def test_tuning_in_a_profile(tmp_path, base):
    "How a model is tuned is the published way except in a miniature; the adapter's settings belong to the stage that tunes, and to no full tuning"
    mini, mine = profiles.load_profile("mini"), profile(tmp_path, base, "dpo: {lora: {r: 8}}")
    settings = profiles.stage_settings(mine, "tune", "bloom-7b1", "dpo-0")
    assert settings["tuning"] == "qlora" and settings["lora"] == adapter.LORA | {"r": 8, "targets": None} and settings["accelerate"] is None
    assert profiles.stage_settings(mini, "tune", "mgpt", "dpo-0")["tuning"] == "full" and "lora" not in profiles.stage_settings(mini, "tune", "mgpt", "dpo-0")
    assert profiles.stage_settings(mine, "base", "bloom-7b1")["dtype"] == "bfloat16"
    wider = profile(tmp_path, base, "dpo: {lora: {r: 16}}")
    changed = [s for s in ("base", "tune", "generate") if profiles.settings_digest(mine, s, "bloom-7b1", "dpo-0")
               != profiles.settings_digest(wider, s, "bloom-7b1", "dpo-0")]
    assert changed == ["tune"]
    for slip, answer in [("dpo: {lora: {rank: 8}}", "dpo.lora.rank: is not a setting; dpo.lora takes r, alpha"),
                         ("accelerate: dpp", r"no configuration dpp \(did you mean ddp\?\); there are ddp, fsdp"),
                         ("generation: {backend: vlm}", "generation.backend")]:
        with pytest.raises(InputError, match=answer):
            profile(tmp_path, base, slip)


def test_what_a_model_changes_lies_on_the_common_settings(tmp_path, base):
    "A model's adapter keeps what the section dpo says and it does not; a variant stands on the model; `dpo.tuning` holds for all that do not say otherwise"
    text = """
extends: mini
dpo: {tuning: lora, lora: {dropout: 0.0, alpha: 8}}
models:
  mgpt: {dpo: {lora: {r: 8}}, seeds: [0], variants: {q: {dpo: {tuning: qlora, lora: {r: 4}}}, r: {dpo: {learning_rate: [1.0e-4, 1.0e-3]}}}}
  bloom-7b1: {model: BASE, dpo: {tuning: full}, seeds: [0]}
"""
    (tmp_path / "mine.yaml").write_text(text.replace("BASE", base))
    mine = profiles.load_profile(tmp_path / "mine.yaml")
    found = {v: (s["tuning"], s["lora"]["r"], s["lora"]["alpha"], s["lora"]["dropout"])
             for g in ("dpo", "q", "r") for v, s in profiles.tuned(mine, "mgpt", g).items()}
    assert found == {"dpo-0": ("lora", 8, 8, 0.0), "q-0": ("qlora", 4, 8, 0.0), "r-0.0001-0": ("lora", 8, 8, 0.0), "r-0.001-0": ("lora", 8, 8, 0.0)}
    assert profiles.tuned(mine, "bloom-7b1")["dpo-0"]["tuning"] == "full"


def test_ready_configurations_are_accelerates():
    "Every key of the files is one that accelerate knows"
    from accelerate.commands.config.config_args import load_config_from_file

    for name, kind in (("ddp", "MULTI_GPU"), ("fsdp", "FSDP")):
        file = profiles.accelerate_file(name)
        config = load_config_from_file(str(file))
        assert config.distributed_type == kind and config.mixed_precision == "no" and yaml.safe_load(file.read_text())["num_processes"] > 1


@pytest.fixture
def run(tmp_path, base):
    "A run folder with a base model, pairs and a profile that tunes it"
    def make(accelerate, **dpo_settings):
        folder = tmp_path / f"run-{accelerate is not None}"
        settings = {"learning_rate": 1e-3, "max_steps": 4, "batch_size": 4, "warmup_steps": 0, "eval_steps": 2, **dpo_settings}
        mini = profiles.load_profile("mini").model_dump(mode="json")
        settings |= {"tuning": "lora", "lora": {"r": 4, "dropout": 0.0}}
        alone = {"models": {"bloom-7b1": {"model": base}}, "beniwal2025": None, "neuronft2025": None, "methods": None}
        mine = mini | alone | {"dpo": settings, "accelerate": accelerate}
        write_json(profiles.Profile(**mine).model_dump(mode="json"), folder / "profile.json")
        write_table(babel.preference(60), folder / "data/preference.parquet")
        (folder / "models/bloom-7b1").mkdir(parents=True)
        (folder / "models/bloom-7b1/base").symlink_to(base)
        return folder

    return make


def launcher(tmp_path):
    "A configuration of accelerate for one process"
    file = tmp_path / "one.yaml"
    file.write_text("compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\nmixed_precision: 'no'\nuse_cpu: true\n")
    return str(file)


def in_two_processes(folder):
    "What accelerate does for several GPUs: the same module, started twice by torch, here on the CPU"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "xlingtox.runs.tune",
               str(folder), "bloom-7b1", "dpo-0"]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}, timeout=600)


def test_a_stage_in_one_process(run):
    folder = run(None)
    log = tune.tune_variant(folder, "bloom-7b1", "dpo-0")
    out = folder / "models/bloom-7b1/dpo-0"
    assert read_table(out / "log.parquet").equals(log) and models.has_adapter(models.load(str(out), device="cpu")[0])
    assert read_json(f"{out}.manifest.json")["parameters"]["tuning"] == "lora"


@pytest.mark.slow
def test_accelerate_starts_the_tuning(run, tmp_path):
    alone = tune.tune_variant(run(None), "bloom-7b1", "dpo-0")
    folder = run(launcher(tmp_path))
    assert tune.tune_variant(folder, "bloom-7b1", "dpo-0").equals(alone) and (folder / "models/bloom-7b1/dpo-0.manifest.json").exists()


@pytest.mark.slow
def test_two_processes_share_each_step(run):
    "A step has the same pairs in all, so the losses are those of one process"
    start = run(None)
    alone, folder = tune.tune_variant(start, "bloom-7b1", "dpo-0"), start / "models/bloom-7b1/dpo-0"
    shutil.rmtree(folder)
    (folder.parent / "dpo-0.manifest.json").unlink()
    done = in_two_processes(start)
    assert done.returncode == 0, done.stderr
    log = read_table(folder / "log.parquet")
    assert (folder.parent / "dpo-0.manifest.json").exists() and not list(folder.parent.glob(".*"))
    assert log["step"].tolist() == alone["step"].tolist()
    assert log["loss"].to_numpy() == pytest.approx(alone["loss"].to_numpy(), rel=1e-3)  # sums in another order
    # accelerate fills the last batch of validation up with pairs that were read already, so some of these three count twice
    assert log["eval_loss"].to_numpy() == pytest.approx(alone["eval_loss"].to_numpy(), rel=0.1)


@pytest.mark.slow
def test_processes_that_fail_say_why(run, tmp_path):
    done = in_two_processes(run(None, batch_size=3))
    assert done.returncode and "3 pairs a step cannot be shared by 2 processes" in done.stderr


def test_the_benchmark_without_a_gpu_says_so():
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", "import json; from benchmarks import bench_gpu; print(json.dumps(bench_gpu.run()))"], env=env,
                          capture_output=True, text=True)
    assert json.loads(done.stdout) == [] and "no GPU here" in done.stderr
