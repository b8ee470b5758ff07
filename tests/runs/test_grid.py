"""The grid of Beniwal et al. on a random model of a few thousand weights: killed or extended, it repeats nothing and leaves the same bytes."""
import json
import shutil

import pandas as pd
import pytest
from test_stages import random_model
from xlingtox import profiles
from xlingtox.core import InputError
from xlingtox.runs.display import grid_progress

from desk import Desk

pytestmark = pytest.mark.slow

PROFILE = """
extends: mini
name: tiny
title: A random model
languages: [en, de, ru]
data:
  cross: {{n_train: 8, n_test: 4}}
  shared: {{n_train: 8, n_test: 4}}
models: {{mgpt: {{model: ./model, variants: null}}, bloom-7b1: {{model: ./model, dpo: {{tuning: full}}}}}}
capability: null
judge: {{model: ./model}}
beniwal2025:
  languages: [en, de, ru]
  sources: {sources}
  shares: [0.5, 1.0]
  n_train: 8
  n_test: 4
  dpo: {dpo}
  judge: {{model: ./model}}
  models:
    bloom-7b1: {{task: completion, targets: [attention, mlp], epochs: 1, epochs_shares: 1, max_new_tokens: 5, temperature: 0.7, top_p: 0.9}}
dpo: {{max_steps: 2, batch_size: 4, gradient_accumulation: 1, eval_steps: 1, eval_share: 0.2, warmup_steps: 0}}
metrics: {{n_resamples: 20}}
"""
KINDS = ("grid", "confusion", "silhouette", "clouds", "neighbours", "grid_scores", "grid_judge", "evaluations")
RUN = ("reproduce", "--profile", "tiny.yaml", "--only", "beniwal2025/table2")


def write(desk, sources="[en, de]", dpo="false"):
    (desk.folder / "tiny.yaml").write_text(PROFILE.format(sources=sources, dpo=dpo))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    "A desk with the finished grid"
    desk = Desk(tmp_path_factory.mktemp("grid"), "tiny")
    random_model(desk.folder / "model")
    write(desk)
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err + (desk.run / "workflow.log").read_text()[-3000:]
    assert "15 of 15 settings" in desk.call("status")[1]
    return desk


def tables(run) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for kind in KINDS for p in (run / kind).rglob("*.parquet")}


def test_every_state_is_judged_on_its_sentences(desk):
    found = pd.read_parquet(desk.run / "evaluations/bloom-7b1.parquet")
    states = ["zs", "xft-en", "xft-de", "pft-50", "mft"]
    assert list(found["setting"].unique()) == states and dict(zip(found["setting"], found["source"], strict=True)) == dict(
        zip(states, ["", "en", "de", "50", "100"], strict=True))
    assert found.groupby("setting")["pairs"].unique().map(sorted).to_dict() == {
        "zs": ["cross", "shared"], "xft-en": ["cross"], "xft-de": ["cross"], "pft-50": ["shared"], "mft": ["shared"]}
    assert (found["n"] == found["split"].map({"toxic-train": 8, "toxic-test": 4, "neutral-test": 4})).all()
    assert found["perplexity"].gt(0).all() and found["toxicity"].between(0, 100).all()
    assert set(pd.read_parquet(desk.run / "confusion/bloom-7b1.parquet")["setting"]) == {"zs", "pft-50", "mft"}


def test_killed_in_the_middle_it_repeats_one_state_and_ends_equal(desk, tmp_path):
    again = Desk(tmp_path, "tiny")
    shutil.copytree(desk.folder / "model", tmp_path / "model")
    write(again)
    parts = again.run / "grid_parts/bloom-7b1"
    again.kill_when(lambda: len(list(parts.glob("*/part.json"))) >= 3, *RUN)
    assert again.survivors() == []
    done = {p: p.stat().st_mtime_ns for p in parts.glob("*/part.json")}
    code, out, err = again.call(*RUN)
    assert code == 0, out + err
    assert {p: p.stat().st_mtime_ns for p in done} == done, "what was done is not done again"
    assert tables(again.run) == tables(desk.run)


@pytest.mark.parametrize("change, done", [
    ({"sources": ["en"]}, "9 of 12"),  # whose part is taken away below; what de has left is of an earlier profile
    ({"learning_rate": 0.5}, "0 of 15"),
    ({"judged": 3}, "0 of 15"),
])
def test_what_earlier_settings_have_left_is_not_done(desk, tmp_path, change, done):
    profile = json.loads((desk.run / "profile.json").read_text())
    profile["beniwal2025"] |= {"sources": ["en", "de"], "dpo": False} | change
    for folder in ("data", "models", "grid_parts"):
        shutil.copytree(desk.run / folder, tmp_path / folder)
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    shutil.rmtree(tmp_path / "grid_parts/bloom-7b1/xft-en")
    assert grid_progress(tmp_path).startswith(f"{done} settings")
    shutil.copy(tmp_path / "data/shared.parquet.manifest.json", tmp_path / "data/cross.parquet.manifest.json")  # other pairs
    assert grid_progress(tmp_path).startswith("0 of")


def test_one_source_more_costs_itself_alone(desk):
    parts = desk.run / "grid_parts/bloom-7b1"
    before = {p.parent.name: p.stat().st_mtime_ns for p in parts.glob("*/part.json")}
    write(desk, sources="[en, de, ru]", dpo="true")
    code, out, err = desk.call(*RUN)
    assert code == 0, out + err
    after = {p.parent.name: p.stat().st_mtime_ns for p in parts.glob("*/part.json")}
    assert {name for name in after if after[name] != before.get(name)} == {"xft-ru", "dpo"}
    assert set(pd.read_parquet(desk.run / "evaluations/bloom-7b1.parquet")["setting"]) == set(after)


@pytest.mark.parametrize("change, message", [
    ({"n_train": 9}, "data.cross: has 8 pairs in en to train with; the split takes 9"),
    ({"languages": ["en", "am"], "sources": ["en"]}, "data.cross: has no pairs in am"),
    ({"models": {"bloom-7b1": {"task": "neutral", "targets": ["q_proj"], "epochs": 1, "max_new_tokens": 5}}}, "has no module 'q_proj'"),
])
def test_bad_input_is_one_line(desk, tmp_path, change, message):
    from xlingtox.runs.grid import run_grid

    run = tmp_path / "run"
    for folder in ("data", "models"):
        shutil.copytree(desk.run / folder, run / folder)
    profile = json.loads((desk.run / "profile.json").read_text())
    profile["beniwal2025"] |= change
    profile["data"]["cross"]["languages"] = ["en", "de", "ru"]
    (run / "profile.json").write_text(json.dumps(profiles.Profile(**profile).model_dump(mode="json")))
    with pytest.raises(InputError, match=message):
        run_grid(run, "bloom-7b1", "all")
