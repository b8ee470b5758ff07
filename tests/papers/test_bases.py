"""Claims over several trainings of one base model, and what is archived of them."""
import json

import numpy as np
import pandas as pd
import pytest
from xlingtox import profiles
from xlingtox.core import InputError, write_json
from xlingtox.languages import LI2024
from xlingtox.models.registry import bases_of
from xlingtox.papers import archive
from xlingtox.papers.exhibits import EXHIBITS
from xlingtox.papers.li2024 import bases
from xlingtox.runs import select

from synthetic_run import make_run, run_cells, write_capability, write_mechanism

LANGS = LI2024[:5]  # those that are reached best
NAME = "ours/transfer_mgpt"


@pytest.fixture(scope="module")
def four_of_five(tmp_path_factory):
    "Five bases; tuning does nothing to the last"
    run = make_run(tmp_path_factory.mktemp("bases"), 0.95, LANGS, n_prompts=150, roles=bases_of("mgpt")[:4], seeds=1)
    return make_run(run, 0, LANGS, n_prompts=150, roles=bases_of("mgpt")[4:], seeds=1)


def exhibit(run, name=NAME):
    run_cells(name, run, name=name)
    return json.loads((run / "exhibits" / name / "exhibit.json").read_text())


def test_a_claim_holds_over_bases_when_it_holds_in_four_of_five(four_of_five):
    found = {v["claim"]: v for v in exhibit(four_of_five)["verdicts"]}
    assert set(found) == {"L1", "L13", "L14"}
    assert found["L1"]["holds"] is True and "4 of 5 bases" in found["L1"]["reproduced"] and found["L1"]["n"] == 5
    low, high = found["L1"]["interval"]
    rows = pd.read_csv(four_of_five / "exhibits" / NAME / "by_base.csv")
    falls = rows.loc[rows["claim"] == "L1", "value"]
    assert low < falls.mean() < high and high - low > 50, "one base that does not move widens the interval over bases"


def test_where_no_toxicity_falls_no_four_languages_are_the_least_reduced(tmp_path):
    "A number for them would be that of the languages that happen to come first"
    run = make_run(tmp_path, 0, LI2024[:8], roles=bases_of("mgpt")[:3], seeds=1)
    rows = bases.verdicts_by_base(run, "mgpt", ["L1", "L13", "L14"], NAME).set_index("claim")
    assert rows.loc["L1", "value"].eq(0).all() and rows.loc[["L13", "L14"], "value"].isna().all()
    assert not rows["holds"].any()


def test_three_of_five_are_too_few(four_of_five, tmp_path):
    rows = bases.verdicts_by_base(four_of_five, "mgpt", ["L1"], NAME)
    rows["holds"] = [True, True, True, None, False]
    assert bases.judge_over_bases("L1", rows, NAME)["holds"] is False
    assert bases.judge_over_bases("L1", rows.head(2), NAME)["holds"] is None


def test_a_base_is_judged_on_its_first_seed_alone(tmp_path):
    run = make_run(tmp_path, 0.9, LANGS, roles=bases_of("mgpt")[:3], seeds=1)
    alone = bases.verdicts_by_base(run, "mgpt", ["L1"], NAME)
    make_run(run, 0.9, LANGS, roles=["mgpt"], seeds=3)
    assert bases.verdicts_by_base(run, "mgpt", ["L1"], NAME)["value"].tolist() == alone["value"].tolist()


def test_two_bases_are_not_compared():
    mini = profiles.load_profile("mini")
    few = mini.model_copy(update={"leave_out": [], "models": {r: m for r, m in mini.models.items() if r in ("mgpt", "mgpt-1")}})
    assert "3 bases or more, and the profile has 2" in select.lacks(few, EXHIBITS[NAME])
    assert select.lacks(mini.model_copy(update={"leave_out": []}), EXHIBITS[NAME]) == ""
    assert "leaves it out" in select.lacks(mini, EXHIBITS[NAME])


def test_an_archive_is_read_as_long_as_its_miniatures_are_those_of_this_version(four_of_five, tmp_path, monkeypatch):
    write_json({"models": {role: {"model": f"mini:{role}"} for role in bases_of("mgpt")}}, four_of_five / "profile.json")
    exhibit(four_of_five)
    archive.keep(four_of_five, tmp_path / "bases")
    over = archive.archived("bases", "over_bases", tmp_path)
    assert over.set_index("claim").loc["L1", ["n", "held"]].tolist() == [5, 4]
    assert set(archive.archived("bases", "transfer", tmp_path)["base"]) == set(bases_of("mgpt"))
    assert "L1 in 4 of 5" in archive.said_over_bases(("L1",), "mgpt", over)
    monkeypatch.setattr(archive, "recipe_digest", lambda recipe: "another world")
    assert archive.archived("bases", "over_bases", tmp_path) is None


def test_what_is_archived_of_another_exhibit_stays_while_its_world_does(four_of_five, tmp_path, monkeypatch):
    write_json({"models": {role: {"model": f"mini:{role}"} for role in bases_of("mgpt")}}, four_of_five / "profile.json")
    exhibit(four_of_five)
    first = archive.keep(four_of_five, tmp_path / "bases")
    for table in archive.TABLES:  # as if these rows were of a model that was run on another day
        renamed = archive.read_table(first / f"{table}.csv").assign(exhibit="ours/bases_llama2")
        archive.write_table(renamed, first / f"{table}.csv")
    archive.keep(four_of_five, tmp_path / "bases")
    over = archive.archived("bases", "over_bases", tmp_path)
    assert over["exhibit"].unique().tolist() == ["ours/bases_llama2", NAME]
    archive.keep(four_of_five, tmp_path / "bases")
    assert len(archive.archived("bases", "over_bases", tmp_path)) == len(over), "kept twice, there once"
    monkeypatch.setattr(archive, "recipe_digest", lambda recipe: "another world")
    archive.keep(four_of_five, tmp_path / "bases")
    assert archive.archived("bases", "over_bases", tmp_path)["exhibit"].unique().tolist() == [NAME]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "One base of two models with all that a claim may ask for"
    rates = {f"lr-{rate:.0e}-0": (strength, {"learning_rate": rate}) for rate, strength in ((1e-6, 0.2), (5e-5, 0.95))}
    run = write_mechanism(tmp_path_factory.mktemp("whole"), langs=LANGS, seeds=1)
    make_run(run, 0.9, LANGS, seeds=1, further={"lr": rates})
    make_run(run, 0.9, LANGS, roles=("bloom-1b7",), seeds=1, further={"qlora": {"qlora-0": (0.3, {"tuning": "qlora"})}})
    return write_capability(run, "mgpt", langs=LANGS, seeds=1)


@pytest.mark.parametrize("claim", bases.JUDGED)
def test_every_claim_has_a_verdict_and_a_number_on_one_base(whole, claim):
    verdict, number = bases.JUDGED[claim].judge(whole, "bloom-1b7" if claim == "L3" else "mgpt", NAME)
    assert verdict["claim"] == claim and np.isfinite(number)
    if claim == "L11":
        assert 0 < number <= 100, "a fall in percent"


def said(folder, name, answers, exhibit="neuronft2025/fig1", model=None, **settings):
    "A finished run as far as its verdicts: claim -> whether it holds"
    run = folder / name
    models = {"mt5-large": {"model": model or f"mini:mt5-large{name[4:]}"}}
    write_json({"name": name, "models": models, "beniwal2025": {"models": {"mt5-large": {}}}} | settings, run / "profile.json")
    verdicts = [{"exhibit": exhibit, "claim": claim, "holds": holds, "reproduced": f"{claim} in {name}"} for claim, holds in answers.items()]
    write_json({"verdicts": verdicts}, run / "exhibits" / exhibit / "exhibit.json")
    write_json({"finished": "2026", "versions": {}, "hardware": {}, "parameters": {}}, run / "exhibits" / f"{exhibit}.manifest.json")
    return run


def test_what_several_runs_say_is_counted(tmp_path, monkeypatch):
    runs = [said(tmp_path, f"mini{end}", {"N1": holds, "N4": True}) for end, holds in {"": False, "-1": True, "-2": None}.items()]
    monkeypatch.setattr(archive, "assets", lambda: tmp_path / "package")
    assert archive.main([str(run) for run in runs[:2]]) == 2, "two are too few"
    kept = archive.keep_verdicts(runs, tmp_path / "base")
    counts = archive.archived("base", "verdicts", tmp_path).set_index("claim")
    assert counts.loc["N1", ["yes", "no", "cannot tell", "n"]].tolist() == [1, 1, 1, 3] and counts.loc["N4", "yes"] == 3
    assert archive.said_over_runs("neuronft2025/fig1", counts.reset_index()).endswith("N1 in 1 of 3 (1 cannot be told); N4 in 3 of 3")
    assert pd.read_csv(kept / "by_run.csv").query("claim == 'N1'")["holds"].tolist() == ["no", "yes", "cannot tell"]
    monkeypatch.setattr(archive, "recipe_digest", lambda recipe: "another world")
    assert archive.archived("base", "verdicts", tmp_path) is None


def test_a_run_is_kept_beside_those_of_other_days(tmp_path, monkeypatch):
    "As if all had been kept at once; a run kept again replaces what it said, and one that differs in more than bases changes nothing"
    runs = [said(tmp_path, f"mini{end}", {"N1": holds}) for end, holds in {"": True, "-1": False, "-2": None, "-3": True}.items()]
    at_once = archive.keep_verdicts(runs, tmp_path / "at_once")
    monkeypatch.setattr(archive, "assets", lambda: tmp_path)
    one_by_one = archive.keep_verdicts(runs[:3])
    assert archive.main([str(runs[3])]) == 2, "has no exhibit over bases"
    assert archive.main(["--beside", str(runs[3])]) == 0
    for name in ("by_run.csv", "verdicts.csv", "manifest.json"):
        assert (one_by_one / name).read_text() == (at_once / name).read_text()
    archive.keep_verdicts([said(tmp_path, "mini-1", {"N1": True})])
    assert pd.read_csv(one_by_one / "verdicts.csv").loc[0, ["yes", "no", "cannot tell", "n"]].tolist() == [3, 0, 1, 4]
    before = {file.name: file.read_bytes() for file in one_by_one.iterdir()}
    for i, (change, why) in enumerate([
            ({"scorer": "another"}, "settings are not those of what is archived"),
            ({"exhibit": "neuronft2025/fig2"}, "is not both there and in the archive"),
            ({"model": "mini:mt5-large-1"}, "as in mini-1; each run takes other bases")]):
        with pytest.raises(InputError, match=why):
            archive.keep_verdicts([said(tmp_path, f"mini-4{i}", {"N1": True}, **change)])
        assert {file.name: file.read_bytes() for file in one_by_one.iterdir()} == before
    archive.keep_verdicts([said(tmp_path, "mini-4", {"N1": True}, generation={"batch_size": 1})])
    assert pd.read_csv(one_by_one / "verdicts.csv").loc[0, "n"] == 5, "how many prompts at once is no other setting"


@pytest.mark.parametrize("change, why", [
    ({"scorer": "another"}, "its settings are not those of .*scorer.*only bases may differ"),
    ({"exhibit": "neuronft2025/fig2"}, "is not both there and in"),
    ({"model": "mini:mt5-large"}, "mini-2: its mt5-large is mini:mt5-large, as in .*mini; each run takes other bases"),
    ({"model": "google/mt5-large"}, "its mt5-large is google/mt5-large, and no miniature"),
    ({"model": "mini:bloom-7b1-2"}, "its mt5-large is mini:bloom-7b1-2, and no miniature of it"),
    ({"answers": {"N1": True}}, "neuronft2025/fig1, N4 is not both there and in")])
def test_runs_that_differ_in_more_than_their_bases_are_refused(tmp_path, change, why):
    runs = [said(tmp_path, f"mini{end}", {"N1": True, "N4": True}) for end in ("", "-1")]
    with pytest.raises(InputError, match=why):
        archive.keep_verdicts([*runs, said(tmp_path, "mini-2", **{"answers": {"N1": True, "N4": True}} | change)], tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_an_archive_rests_on_the_bases_that_it_counts_and_on_the_judge(tmp_path, monkeypatch):
    "Not on another model of the profile; a run kept again with another base, or called by a number, is itself"
    monkeypatch.setattr(archive, "assets", lambda: tmp_path)
    settings = {"judge": {"model": "mini:judge"}}
    for name, end in {"1": "", "2": "-1", "3": "-2"}.items():
        run = said(tmp_path, name, {"N1": True}, model=f"mini:mt5-large{end}", **settings)
        models = json.loads((run / "profile.json").read_text())
        write_json(models | {"models": models["models"] | {"mgpt": {"model": "mini:mgpt"}}}, run / "profile.json")
    archive.keep_verdicts([tmp_path / name for name in "123"])
    archive.keep_verdicts([said(tmp_path, "3", {"N1": False}, model="mini:mt5-large-3", **settings)])
    manifest = json.loads((tmp_path / "archive/base/manifest.json").read_text())
    assert sorted(manifest["recipes"]) == ["judge", "mt5-large", "mt5-large-1", "mt5-large-3"]
    assert archive.archived("base", "verdicts").loc[0, ["yes", "no", "n"]].tolist() == [2, 1, 3]
    (tmp_path / "3/exhibits/neuronft2025/fig1.manifest.json").unlink()
    with pytest.raises(InputError, match="fig1: has no manifest; run the exhibit again"):
        archive.keep_verdicts([tmp_path / "3"])


def test_an_archive_is_changed_whole_or_not_at_all_and_never_from_a_changed_run(tmp_path, monkeypatch):
    runs = [said(tmp_path, f"mini{end}", {"N1": True}) for end in ("", "-1", "-2")]
    kept = archive.keep_verdicts(runs, tmp_path / "base")
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    said(tmp_path, "mini-1", {"N1": False})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(archive, "write_json", lambda *a: (_ for _ in ()).throw(OSError("no space")))
        archive.keep_verdicts(runs, tmp_path / "base")
    manifest = runs[0] / "exhibits/neuronft2025/fig1.manifest.json"
    write_json(json.loads(manifest.read_text()) | {"sha256": "of something else", "bytes": 1}, manifest)
    with pytest.raises(InputError, match="fig1: is not what its manifest says"):
        archive.keep_verdicts(runs, tmp_path / "base")
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before


def test_the_profiles_of_other_bases_are_mini_with_other_miniatures():
    mini = profiles.load_profile("mini").model_dump()
    for k in range(1, 5):
        other = profiles.load_profile(f"base-{k}").model_dump()
        roles = {*mini["beniwal2025"]["models"], *mini["neuronft2025"]["models"]}
        assert other["models"] == {role: mini["models"][role] | {"model": f"mini:{role}-{k}"} for role in roles}
        assert {key for key in mini if mini[key] != other[key]} == {"name", "title", "models", "methods"}
