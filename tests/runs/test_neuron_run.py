"""The paper on targeted neurons on a random model of a few thousand weights: what is chosen is tuned, a change costs what depends on it alone."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_stages import random_model
from xlingtox import profiles
from xlingtox.core import InputError
from xlingtox.models import load

from desk import Desk

pytestmark = pytest.mark.slow

PROFILE = """
extends: mini
name: tiny
title: A random model
languages: [en, de, es]
data:
  prompts: {{n: 6}}
  detection: {{n: 24}}
  hate: {{n: 120}}
models: {{aya-23-8b: {{model: ./model, dpo: {{tuning: full}}}}}}
capability: null
beniwal2025: null
judge: {{model: ./model}}
neuronft2025:
  languages: {languages}
  out_of_scope: [es]
  n_candidates: 40
  n_instructions: 8
  fluent: false
  strategies: [full, per-language, multilingual, random, top-10]
  tuning: {{learning_rate: 1.0e-3, epochs: 1, batch_size: 4, max_length: 48}}
  decoding: {{max_new_tokens: 5, temperature: 0.0}}
  min_count: {min_count}
metrics: {{n_resamples: 20}}
"""
RUN = ("reproduce", "--profile", "tiny.yaml", "--only", "neuronft2025/table3", "--only", "neuronft2025/table2")
METHODS = ["base", "full", "per-language", "multilingual", "random", "top-10"]


def write(desk, languages="[en, de]", min_count=2):
    (desk.folder / "tiny.yaml").write_text(PROFILE.format(languages=languages, min_count=min_count))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A desk with the finished run"
    desk = Desk(tmp_path_factory.mktemp("neurons"), "tiny")
    random_model(desk.folder / "model")
    write(desk)
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err + (desk.run / "workflow.log").read_text()[-3000:]
    return desk


def table(desk, kind):
    return pd.read_parquet(desk.run / f"{kind}/aya-23-8b.parquet")


def test_every_method_answers_every_prompt(desk):
    answered, abilities = table(desk, "answered"), table(desk, "abilities")
    assert list(answered["method"].unique()) == METHODS == list(abilities["method"].unique())
    assert (answered.groupby(["method", "lang"]).size() == 6).all() and set(answered["lang"]) == {"en", "de", "es"}
    assert set(abilities["lang"]) == {"en", "de"}, "general ability is asked in the languages that are tuned on"
    assert answered["toxicity"].between(0, 1).all() and (answered["empty"] == answered["heard"].isna()).all()


def test_aurocs_are_of_every_output_and_thresholds_count_them(desk):
    aurocs, thresholds = table(desk, "aurocs"), table(desk, "thresholds")
    outputs = 2 * (48 + 16 + 64 + 16)  # of the four linear maps of two blocks
    assert (aurocs.groupby("lang").size() == outputs).all() and (thresholds["n_neurons"] == outputs).all()
    at = thresholds[thresholds["threshold"] == 0.5].set_index("lang")["n_toxic"]
    assert at.to_dict() == aurocs[aurocs["auroc"] > 0.5].groupby("lang").size().to_dict()
    mlp = table(desk, "mlp_aurocs")
    assert mlp["toxic"].notna().all() and (mlp.groupby("lang").size() == 2 * 64).all()
    assert not list((desk.run / "auroc_parts").rglob("*.npy")), "responses are not kept"


def test_only_what_is_chosen_moves(desk):
    rows = {}
    base = dict(load(str(desk.run / "models/aya-23-8b/base"), device="cpu")[0].named_parameters())
    for method in METHODS[1:]:
        tuned = dict(load(str(desk.run / f"models/aya-23-8b/nft-{method}"), device="cpu")[0].named_parameters())
        rows[method] = {name: ~np.isclose(base[name].detach(), tuned[name].detach(), rtol=0, atol=0) for name in base}
    chosen = pd.read_parquet(desk.run / "models/aya-23-8b/nft-top-10/neurons.parquet")
    for name, moved in rows["top-10"].items():
        module = name.removesuffix(".weight").removesuffix(".bias")
        mine = np.zeros(moved.shape[-1], dtype=bool)  # the outputs of a Conv1D are its columns
        mine[chosen.loc[chosen["module"] == module, "neuron"]] = True
        assert not moved[..., ~mine].any(), f"{name}: what was not chosen has moved"
    assert sum(moved.sum() for moved in rows["full"].values()) > sum(moved.sum() for moved in rows["multilingual"].values()) > 0
    tunings = table(desk, "tunings").set_index("method")
    assert tunings.loc["random", "neurons"] == tunings.loc["multilingual", "neurons"]
    assert list(tunings.loc["per-language", "part"]) == ["en", "de"]


def test_a_way_of_counting_tunes_nothing_again(desk):
    before = {p: p.stat().st_mtime_ns for p in (desk.run / "models").rglob("*.manifest.json")}
    write(desk, min_count=3)
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert json.loads((desk.run / "answered/aya-23-8b.parquet.manifest.json").read_text())["parameters"]["min_count"] == 3


@pytest.mark.parametrize("change, message", [
    ({"modules": ["mlp.up"]}, "no linear layer is called 'mlp.up'; there are transformer.h"),
    ({"n_instructions": 40}, "40 pairs of each language are wanted. en: "),
    ({"auroc": 0.999}, "neurons: the set is empty, so there is nothing to tune"),
])
def test_bad_input_is_one_line(desk, tmp_path, change, message):
    from xlingtox.runs import neurons

    run = tmp_path / "run"
    for folder in ("data", "models", "instructions", "aurocs"):
        shutil.copytree(desk.run / folder, run / folder)
    profile = json.loads((desk.run / "profile.json").read_text())
    profile["neuronft2025"] |= change
    (run / "profile.json").write_text(json.dumps(profiles.Profile(**profile).model_dump(mode="json")))
    calls = {"modules": lambda: neurons.find_toxic_neurons(run, "aya-23-8b"), "n_instructions": lambda: neurons.make_pairs(run),
             "auroc": lambda: neurons.tune_method(run, "aya-23-8b", "multilingual")}
    with pytest.raises(InputError, match=message):
        calls[next(iter(change))]()
    assert not list(run.rglob(".*.work")), "nothing half-made stays"
