"A tracker is told of a training, changes nothing of it, and an unusable one is said before anything is computed."
import importlib.util
import os
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from xlingtox import babel, models
from xlingtox.core import InputError
from xlingtox.profiles.read import load_profile
from xlingtox.runs import treated
from xlingtox.tuning import neurons, preference, supervised, trainer
from xlingtox.tuning.methods import METHODS
from xlingtox.tuning.trainer import TRACKERS

FEW = {"max_steps": 2, "batch_size": 2, "eval_steps": 1, "warmup_steps": 0}


@pytest.fixture(scope="module")
def base(toy_model, toy_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    models.save(toy_model("gpt2"), toy_tokenizer, folder)
    return str(folder)


@pytest.fixture
def tracker(monkeypatch):
    "A tracker in the place of wandb: what it was told"
    told = []

    class Noting(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            told.append(("begin", args.report_to, args.run_name))

        def on_log(self, args, state, control, logs=None, **kwargs):
            told.append(("log", state.global_step, logs.get("eval_loss")))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Noting)
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["wandb"])
    return told


def tuned(base, folder, **options):
    model, tokenizer = models.load(base, device="cpu")
    preference.tune(model, tokenizer, babel.preference(40), folder, **FEW, max_characters=None, eval_share=0.2, **options)
    return (folder / "model.safetensors").read_bytes()


def test_it_is_told_and_the_weights_are_the_same(base, tmp_path, tracker):
    silent = tuned(base, tmp_path / "mgpt" / "dpo-0")
    assert tracker == []
    assert tuned(base, tmp_path / "mgpt" / "dpo-1", report_to="wandb") == silent
    assert tracker[0] == ("begin", ["wandb"], "mgpt/dpo-1")
    assert [step for kind, step, loss in tracker[1:] if loss is not None] == [1, 2]


def test_a_checkpoint_fits_with_and_without_a_tracker():
    given = dict.fromkeys(("seed", "precision", "optimizer", "learning_rate", "max_steps", "epochs", "batch_size", "gradient_accumulation",
                           "warmup_steps", "eval_steps", "patience", "min_improvement", "early_stopping", "max_grad_norm", "max_length", "progress"), 1)
    objective = trainer._Objective("DPO", object, object, {}, {})
    assert len({trainer._job(objective, trainer._Training(**given, report_to=name), "weights", None) for name in ("none", "wandb")}) == 1
    assert "report_to" in {field.name for field in fields(trainer._Training)}


@pytest.mark.parametrize("name, message", [("wandbb", r"no tracker 'wandbb' \(did you mean wandb\?\)"),
                                           ("mlflow", "mlflow is not installed; pip install mlflow")])
def test_an_unusable_one_is_said_before_anything_is_computed(base, tmp_path, tracker, monkeypatch, name, message):
    monkeypatch.setattr(trainer, "_weights_digest", lambda model: pytest.fail("too late"))
    with pytest.raises(InputError, match=message):
        tuned(base, tmp_path / "tuned", report_to=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", [preference.tune, supervised.finetune, neurons.tune_neurons])
def test_every_tuning_takes_one(function):
    import inspect

    assert inspect.signature(function).parameters["report_to"].default == "none"


@pytest.mark.parametrize("name", sorted(treated._TUNINGS))
def test_every_training_of_the_methods_exhibit_is_told(name, tmp_path, monkeypatch):
    "From the profile's setting to the trainer, those of the anti-expert and of the neurons included"
    from types import SimpleNamespace

    from xlingtox.profiles.method_stages import _method_settings
    from xlingtox.runs.methods import _bench

    told = []
    for method in ("dpo", "kto"):
        monkeypatch.setitem(METHODS, method, SimpleNamespace(tune=lambda *args, report_to="none", **settings: told.append(report_to)))
    monkeypatch.setattr(treated, "tune_neurons", lambda *args, report_to="none", **settings: told.append(report_to))
    monkeypatch.setattr(treated, "_aurocs", lambda *args: None)
    monkeypatch.setattr(treated, "top_neurons", lambda *args: None)
    (tmp_path / "model").write_text("weights")
    tables = {"prompts": babel.prompts(["en"], n=2), "preference": babel.preference(20), "labelled": babel.labelled(["en"], n=20)}
    for tracker in ("none", "wandb"):
        profile = load_profile("mini").model_copy(update={"report_to": tracker})
        settings = _method_settings(profile, "mgpt", "ipo") | {"own": None, "instructions": None}
        job = SimpleNamespace(run=tmp_path, role="mgpt", variant={"antiexpert": "negation"}.get(name, name), settings=settings, profile=profile,
                              folder=lambda *args, **kwargs: tmp_path / "model", read=lambda kind: tables.get(kind, tables["prompts"]))
        bench = _bench(job)
        bench.data |= tables
        treated._TUNINGS[name](bench, name, None, None, tmp_path / "tuned")
    assert told == ["none", "wandb"]


def test_no_stage_tunes_without_telling():
    "Each call of a tuning in the stages hands the setting on"
    import ast

    calls = {}
    for file in Path(treated.__file__).parent.glob("*.py"):
        for call in (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if name in ("tune", "finetune", "tune_neurons"):
                calls[f"{file.name}, line {call.lineno}"] = "report_to" in [keyword.arg for keyword in call.keywords]
    assert len(calls) >= 7 and all(calls.values()), calls


def test_tensorboards_files_stay_beside_the_model_unless_the_user_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(integration_utils, "get_available_reporting_integrations", lambda: ["tensorboard"])
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    training = trainer._Training(*[1] * 16, report_to="tensorboard")
    for name in ("dpo-0", "dpo-1"):  # one after the other in a process
        training.tracking(tmp_path / f".{name}.work")
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / f"{name}.tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    training.tracking(tmp_path / ".dpo-2.work")
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "/elsewhere"


def test_the_trackers_are_those_of_transformers():
    assert set(TRACKERS) == set(integration_utils.INTEGRATION_TO_CALLBACK) - {"flyte"}  # which is of jobs on a cluster of its own


def test_a_profile_names_it(tmp_path):
    (tmp_path / "p.yaml").write_text("extends: mini\nname: p\nreport_to: tensorboard\n")
    assert load_profile(tmp_path / "p.yaml", here=False).report_to == "tensorboard" and load_profile("mini").report_to == "none"
    if not importlib.util.find_spec("tensorboard") and not importlib.util.find_spec("tensorboardX"):
        with pytest.raises(InputError, match="report_to: the tracker tensorboard is not installed; pip install tensorboard"):
            load_profile(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text("extends: mini\nname: p\nreport_to: tensorbord\n")
    with pytest.raises(InputError, match="report_to.*tensorbord.*did you mean tensorboard"):
        load_profile(tmp_path / "p.yaml")


def test_a_tracker_re_makes_nothing(tmp_path):
    from xlingtox.profiles.stages import settings_digest

    profile = load_profile("mini")
    digests = [settings_digest(p, "tune", "mgpt", "dpo-0") for p in (profile, profile.model_copy(update={"report_to": "wandb"}))]
    assert len(set(digests)) == 1
