"""Methods side by side on a random model of a few thousand weights: killed or extended, a job repeats nothing and ends equal."""
import json
import shutil

import pandas as pd
import pytest
from test_stages import random_model
from xlingtox import profiles
from xlingtox.core import InputError

from desk import Desk

pytestmark = pytest.mark.slow

PROFILE = """
extends: mini
name: tiny
title: A random model
languages: [en, de]
data:
  prompts: {{n: 4}}
  preference: {{n: 40}}
  labelled: {{n: 40, languages: [en, de]}}
models: {{mgpt: {{model: ./model, variants: null, seeds: [0]}}}}
judge: {{model: ./model}}
beniwal2025: null
dpo: {{max_steps: 2, batch_size: 4, gradient_accumulation: 1, eval_steps: 1, eval_share: 0.2, warmup_steps: 0}}
metrics: {{n_resamples: 20}}
methods:
  n_prompts: 3
  k: 2
  n_pairs: 20
  n_labelled: 20
  instructions: {{n: 8}}
  tuning: {{max_steps: 2, batch_size: 4}}
  strengths: {strengths}
"""
ALL = {name: [0.5, 1.0] for name in ("dpo", "ipo", "kto", "sft", "neurons", "negation", "aura", "damp", "det0", "profs", "steering",
                                     "ablation", "random", "self-debiasing", "dexperts")}
RUN = ("reproduce", "--profile", "tiny.yaml", "--only", "ours/methods")
KINDS = ("method_texts", "method_answers", "method_scores", "methods", "method_facts")


def write(desk, strengths=ALL):
    (desk.folder / "tiny.yaml").write_text(PROFILE.format(strengths=json.dumps(strengths)))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A desk with the finished exhibit"
    desk = Desk(tmp_path_factory.mktemp("methods"), "tiny")
    random_model(desk.folder / "model")
    write(desk)
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err + (desk.run / "workflow.log").read_text()[-3000:]
    return desk


def tables(run) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for kind in KINDS for p in (run / kind).rglob("*.parquet")}


def stamps(run) -> dict:
    return {str(p.relative_to(run)): p.stat().st_mtime_ns for p in run.glob("method_parts/mgpt/*/*/part.json")}


def test_every_setting_is_judged_on_the_same(desk):
    found = pd.read_parquet(desk.run / "methods/mgpt.parquet")
    settings = found.groupby(["method", "strength"]).size()
    assert settings.to_dict() == {("base", 0.0): 6} | {(m, s): 6 for m in ALL for s in ALL[m]}
    assert (found["n_read"] + found["n_empty"] <= found["k"]).all() and (found["k"] == 2).all()
    facts = pd.read_parquet(desk.run / "method_facts/mgpt.parquet")
    assert facts.groupby(["method", "strength"]).size().nunique() == 1
    base = found[found["method"] == "base"].set_index(["lang", "prompt_id"])["log_perplexity"]
    for method, own in found[found["strength"] == 1].groupby("method"):
        moved = (own.set_index(["lang", "prompt_id"])["log_perplexity"] - base).abs().max()
        assert moved > 0 or method in ("random", "dpo", "ipo", "kto", "neurons", "sft", "negation", "dexperts"), method  # two small steps may not


def test_the_exhibit_is_whole(desk):
    folder = desk.run / "exhibits/ours/methods"
    said = json.loads((folder / "exhibit.json").read_text())
    assert {"paths.png", "equal.png", "settings.csv", "equal.csv"} <= {p.name for p in folder.iterdir()}
    assert said["claims"] if "claims" in said else said["verdicts"] == []
    assert len(pd.read_csv(folder / "at_1.1.csv")) == 1 + len(ALL)


def test_one_strength_more_costs_itself_alone(desk):
    before, weights = stamps(desk.run), {p: p.stat().st_mtime_ns for p in desk.run.glob("models/mgpt/methods-*/log.parquet")}
    write(desk, ALL | {"sft": [0.5, 1.0, 2.0]})
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err
    after = stamps(desk.run)
    assert {name for name in after if after[name] != before.get(name)} == {"method_parts/mgpt/sft/2/part.json"}
    assert {p: p.stat().st_mtime_ns for p in weights} == weights
    write(desk)


def test_killed_in_the_middle_it_repeats_one_strength_and_ends_equal(desk, tmp_path):
    few = {"aura": [0.5, 1.0, 1.5], "negation": [0.5, 1.0]}
    again, whole = Desk(tmp_path / "a", "tiny"), Desk(tmp_path / "b", "tiny")
    for one in (again, whole):
        one.folder.mkdir()
        shutil.copytree(desk.folder / "model", one.folder / "model")
        write(one, few)
    again.kill_when(lambda: len(list(again.run.glob("method_parts/*/aura/*/part.json"))) >= 2, *RUN)
    assert again.survivors() == []
    done = stamps(again.run)
    for one in (again, whole):
        code, out, err = one.call(*RUN)
        assert code == 0, out + err
    assert {name: stamps(again.run)[name] for name in done} == done, "what was done is not done again"
    assert tables(again.run) == tables(whole.run)


@pytest.mark.parametrize("section, message", [
    ({"strengths": {"auraa": [1.0]}}, "there is no method 'auraa'"),
    ({"strengths": {"aura": []}}, "the list of aura is empty"),
    ({"models": ["bloom-1b7"]}, "methods.models: bloom-1b7 is not among the profile's models"),
    ({"at": [0.5]}, "greater than or equal to 1"),
])
def test_a_profile_that_cannot_be_is_one_line(desk, section, message):
    profile = json.loads((desk.run / "profile.json").read_text())
    profile["methods"] |= section
    with pytest.raises(ValueError, match=message):
        profiles.Profile(**profile)


def test_texts_of_one_kind_have_no_experts(desk, tmp_path):
    from xlingtox.runs.methods import run_method

    run = tmp_path / "run"
    for folder in ("data", "models"):
        shutil.copytree(desk.run / folder, run / folder)
    shutil.copy(desk.run / "profile.json", run / "profile.json")
    labelled = pd.read_parquet(run / "data/labelled.parquet")
    labelled[labelled["toxic"]].to_parquet(run / "data/labelled.parquet")
    (run / "data/labelled.parquet.manifest.json").unlink()  # which says what the file held before
    with pytest.raises(InputError, match="data.labelled: en has no toxic texts, or only those"):
        run_method(run, "mgpt", "aura")
    assert not list(run.glob("method_parts/**/part.json"))
