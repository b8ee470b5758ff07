"""Rehearsals: the profile that is run in place of another, its models, and a whole run of `paper`."""
import dataclasses
import json
import re

import pandas as pd
import pytest
import torch
from transformers import AutoConfig
from xlingtox import data, models, profiles
from xlingtox.core import InputError
from xlingtox.metrics import fluency
from xlingtox.models import miniatures
from xlingtox.papers import exhibits
from xlingtox.profiles import costs, estimates, shadow
from xlingtox.runs import select

from desk import Desk


@pytest.fixture
def paper():
    return profiles.load_profile("paper", here=False)


@pytest.mark.parametrize("name", ["paper", "small"])
def test_shipped_profiles_need_their_data_and_nothing_else_to_be_valid(name, tmp_path):
    profile = profiles.load_profile(name, here=False)
    assert not profile.shadow_of and set(profile.data) >= {"prompts", "preference", "multiway", "labelled"}
    with pytest.raises(InputError, match=rf"{name}.yaml: .*--data FOLDER"):
        profiles.load_profile(name)
    with pytest.raises(InputError, match=rf"{name}.yaml: data.prompts.source: no such file or folder: {tmp_path}"):
        profiles.load_profile(name, tmp_path)


def test_the_papers_models_are_those_of_the_registry(paper):
    table = models.model_registry()
    for role, model in paper.models.items():
        assert (model.model, model.revision) == (table.loc[role, "hub"], table.loc[role, "revision"])
    assert (paper.judge.model, paper.judge.revision) == (table.loc["judge", "hub"], table.loc["judge", "revision"])


def test_the_papers_settings(paper):
    assert [len(paper.models[role].seeds) for role in ("mgpt", "bloom-1b7")] == [5, 1]
    assert list(profiles.tuned(paper, "mgpt", "lr")) == ["lr-1e-07-0", "lr-5e-07-0", "lr-1e-06-0", "lr-5e-06-0"], "1e-5 is not trained twice"
    full, qlora, big = (profiles.tuned(paper, *which) for which in (("bloom-1b7", "dpo"), ("bloom-1b7", "qlora"), ("llama2-7b", "dpo")))
    assert [s["tuning"] for s in (full["dpo-0"], qlora["qlora-0"], big["dpo-0"])] == ["full", "qlora", "qlora"]
    assert (big["dpo-0"]["epochs"], big["dpo-0"]["batch_size"], big["dpo-0"]["gradient_accumulation"], big["dpo-0"]["lora"]["r"]) == (20, 1, 4, 64)
    assert full["dpo-0"]["epochs"] == qlora["qlora-0"]["epochs"] == 5


def test_a_rehearsal_makes_every_exhibit_and_changes_only_what_it_says(paper):
    rehearsed = shadow.rehearsal(paper)
    assert select.available(rehearsed) == select.available(paper)
    a, b = paper.model_dump(), rehearsed.model_dump()
    changed = {"name", "title", "shadow_of", "data", "models", "judge", "dpo", "scorer", "metrics", "capability"}
    papers = {"beniwal2025", "neuronft2025", "methods"}
    assert {key for key in a if a[key] != b[key]} == changed | papers
    assert {key for key in a["dpo"] if a["dpo"][key] != b["dpo"][key]} == {"precision"}
    for role in a["models"]:
        assert {k for k in a["models"][role] if a["models"][role][k] != b["models"][role][k]} <= {"model", "revision", "dtype", "seeds"}
        assert profiles.groups(rehearsed.models[role]) == profiles.groups(paper.models[role]), "a variant less would be an exhibit not rehearsed"
    assert rehearsed.models["mgpt"].seeds == [0, 1]
    assert b["scorer"] == "lexicon:babel", "no service is asked"
    profiles.Profile(**json.loads(rehearsed.model_dump_json()))


def test_real_data_is_sampled_and_absent_data_made(tmp_path):
    rows = pd.DataFrame([(f"r{i}", lang, f"text {i}") for lang in ("en", "de") for i in range(40)], columns=["id", "lang", "text"])
    rows.to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "mine.yaml").write_text("extends: mini\nname: mine\nlanguages: [en, de]\n"
                                        "data: {prompts: {source: 'file:{data}/p.csv', n: null}, preference: {source: 'file:{data}/none.csv', n: null}}\n")
    rehearsed = shadow.rehearsal(profiles.load_profile(tmp_path / "mine.yaml", tmp_path, here=False))
    prompts = rehearsed.data["prompts"]
    assert prompts.source == [f"file:{tmp_path}/p.csv"] and rehearsed.data["preference"].source == ["babel:preference"]
    kept = data.sample(data.load_data(prompts.source[0], "prompts"), prompts.sample)
    ids = kept.groupby("lang")["id"].agg(set)
    assert len(kept) == 2 * shadow.ROWS["prompts"] and ids["en"] == ids["de"], "translations stay together"


@pytest.mark.parametrize("name, kind", [("mgpt", "gpt2"), ("bloom-1b7", "bloom"), ("llama2-7b", "llama"), ("llama3-8b", "llama"),
                                        ("aya-23-8b", "cohere"), ("judge", "mt5")])
def test_a_shadow_has_its_models_class(name, kind, tmp_path, monkeypatch):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path))
    monkeypatch.setattr(miniatures, "_SHADOW_TEXT", {"n": 300, "vocab_size": 400, "texts": 10, "seed": 0})
    state = torch.get_rng_state()
    model, tokenizer = models.load(f"shadow:{name}", device="cpu")
    assert torch.equal(state, torch.get_rng_state()), "making a shadow leaves the caller's random numbers alone"
    assert model.config.model_type == kind and model.num_parameters() < 1e6 and len(tokenizer) == 400
    if kind == "llama":
        assert model.config.num_key_value_heads == (4 if name == "llama2-7b" else 2)
    assert AutoConfig.from_pretrained(models.shadow_folder(name)).model_type == kind
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    models.load(f"shadow:{name}", device="cpu")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == made


def test_the_shadow_of_the_judge_is_near_chance(tmp_path, monkeypatch):
    monkeypatch.setenv("XLINGTOX_CACHE", str(tmp_path))
    model, tokenizer = models.load("shadow:judge", device="cpu")
    found = fluency.perplexity(model, tokenizer, ["one two", "three"], [" four five", " six"], variant="published")
    assert ((found > len(tokenizer) / 3) & (found < 3 * len(tokenizer))).all(), "or every text is dropped as above 10,000, and no exhibit has data"


def test_every_job_of_paper_has_an_estimate(paper):
    roles = {role for name in select.available(paper) if name.startswith("li2024/") for role in exhibits.EXHIBITS[name].roles}
    for role, model in ((role, model) for role, model in paper.models.items() if role in roles):
        for variant in [v for group in profiles.groups(model) for v in profiles.tuned(paper, role, group)]:
            tuned, written = estimates.cost(paper, "tune", role, variant), estimates.cost(paper, "generate", role, variant)
            assert 0.1 < tuned.gpu_hours < 300 and 0 < tuned.gpu_gb < 80 and 0 < written.gpu_hours < 24
    free = estimates.cost(shadow.rehearsal(paper), "tune", "llama3-8b", "dpo-0")
    assert free == dataclasses.replace(costs.Cost(), disk_gb=free.disk_gb)


def test_a_dry_run_of_paper_estimates_without_the_data(tmp_path):
    desk = Desk(tmp_path)
    code, out, err = desk.call("reproduce", "--profile", "paper", "--dry-run")
    assert (code, err) == (0, "")
    assert re.search(r"roughly \d+ GPU hours .* and \d+ GB of disk", out) and "hours of waiting" in out and "notebooks would run" in out
    assert re.search(r"beniwal2025 +52 trainings +504 evaluations .* GPU hours .* GB", out)
    assert re.search(r"neuronft2025 +22 trainings +128 evaluations .* GPU hours", out)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_whole_of_paper_in_rehearsal(tmp_path):
    "Of the exhibits that one notebook makes for many cells of the grid, one for each kind of metric; all of the others"
    desk = Desk(tmp_path, "paper-shadow")
    names = select.available(shadow.rehearsal(profiles.load_profile("paper", here=False)))
    of_grid = {"table6", "table18", "fig2", "fig13", "fig25", "fig7", "fig9", "table2", "fig1"}
    names = [n for n in names if not n.startswith("beniwal2025/") or n.split("/")[1] in of_grid]
    assert {f"beniwal2025/{n}" for n in of_grid} <= set(names)
    process = desk.start("reproduce", "--profile", "paper", "--shadow", "--jobs", "2", *(x for n in names for x in ("--only", n)))
    out, err = process.communicate(timeout=7200)
    assert process.returncode == 0, out + err
    for name in names:
        found = json.loads((desk.run / "exhibits" / name / "exhibit.json").read_text())
        assert all((desk.run / "exhibits" / name / f"{stem}.svg").is_file() for stem in found["figures"])
    html = (desk.run / "report/index.html").read_text()
    assert "This is a rehearsal of the profile paper" in html and ">holds<" not in html and ">does not hold<" not in html
