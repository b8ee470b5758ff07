"""What is left of a run after a full disk or a careless hand: damage is found when it is read, by `status` and before a run goes on."""
import contextlib
import io
import json
import shlex
from unittest import mock

import pandas as pd
import pytest
from xlingtox.cli import main
from xlingtox.core import InputError, check_artifact, write_json, write_manifest, write_table
from xlingtox.papers.exhibits import save_exhibit
from xlingtox.profiles.read import load_profile
from xlingtox.runfolder import damaged, load_artifact
from xlingtox.runs import select, workflow
from xlingtox.runs.doctor import can_write
from xlingtox.runs.stage import stage
from xlingtox.scorers.by_name import Unanswered


@pytest.fixture
def run(tmp_path):
    "A run with a table and an exhibit"
    folder = tmp_path / "runs/mini"
    write_json(load_profile("mini").model_dump(mode="json"), folder / "profile.json")
    table = pd.DataFrame({"model": "mgpt/base", "lang": "en", "prompt_id": "p", "sample": 0, "text": ["you are kind."]})
    write_table(table, folder / "generations/mgpt/base.parquet")
    write_manifest(folder / "generations/mgpt/base.parquet.manifest.json", {}, {}, 0, 1.0, folder / "generations/mgpt/base.parquet")
    write_json({"verdicts": []}, folder / "exhibits/li2024/fig1/exhibit.json")
    write_table(pd.DataFrame({"emt": [0.5]}), folder / "exhibits/li2024/fig1/fig1.csv")
    return folder


DAMAGE = {"generations/mgpt/base.parquet": ["cut", "flipped", "emptied"], "generations/mgpt/base.parquet.manifest.json": ["cut", "emptied"],
          "exhibits/li2024/fig1/exhibit.json": ["cut", "emptied"], "exhibits/li2024/fig1/fig1.csv": ["emptied"]}


@pytest.mark.parametrize("name, how", [(name, how) for name, hows in DAMAGE.items() for how in hows])
def test_damage_is_found_and_the_remedy_is_said(run, name, how, monkeypatch):
    raw = (run / name).read_bytes()
    half = len(raw) // 2
    (run / name).write_bytes({"cut": raw[:half], "flipped": raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1:], "emptied": b""}[how])
    (said,) = damaged(run)
    assert "remove" in said or "no such" in said or "not JSON" in said
    monkeypatch.chdir(run.parents[1])
    assert any("damaged" in line for line in workflow.status())
    with pytest.raises(InputError):
        workflow.reproduce("mini", ["li2024/fig1"], say=lambda line: None)
    if name.startswith("generations"):
        with pytest.raises(InputError):
            load_artifact(run, "generations", "mgpt")
        with pytest.raises(InputError), stage(run, "score", "mgpt", "base") as job:
            job.read("generations")


@pytest.mark.parametrize("name", ["fig1.csv", "exhibit.json"])
def test_an_exhibit_that_was_changed(run, name, monkeypatch):
    "A table with fewer rows, or the verdicts of another run: both can be read, and neither is what was made"
    exhibit = run / "exhibits/li2024/fig1"
    write_manifest(exhibit.with_name("fig1.manifest.json"), {}, {"exhibit": "li2024/fig1"}, None, 1.0, exhibit)
    assert damaged(run) == []
    (exhibit / name).write_text({"fig1.csv": "emt\n0.1\n", "exhibit.json": '{"verdicts": [1]}'}[name])
    (said,) = damaged(run)
    assert said.startswith(f"{exhibit}: is not what its manifest says") and "remove the folder" in said
    monkeypatch.chdir(run.parents[1])
    assert cli_of("report", "--profile", "mini") == (2, f"xlingtox: {said}".replace(f"{run.parents[1]}/", ""))


def cli_of(*words):
    "Status and standard error of the command in this process"
    with mock.patch("sys.argv", ["xlingtox", *words]), contextlib.redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
        main()
    return end.value.code, said.getvalue().strip()


def test_saving_an_exhibit_leaves_a_manifest_of_all_of_it(run):
    save_exhibit(run, "li2024/fig1", "c", {"fig1": pd.DataFrame({"emt": [0.5, 0.4]})}, "lexicon", "v", of_scores=False)
    assert damaged(run) == []
    csv = run / "exhibits/li2024/fig1/fig1.csv"
    csv.write_text("".join(csv.read_text().splitlines(keepends=True)[:2]))
    assert len(damaged(run)) == 1


@pytest.mark.parametrize("text", ["[]", "null", "7", '{"a": 1}', "[" * 9000, "\x00", '{"event": "run"}'])
def test_lines_of_progress_that_are_no_records(run, text, monkeypatch):
    (run / "progress.jsonl").write_text(text + "\n")
    monkeypatch.chdir(run.parents[1])
    assert any("idle" in line for line in workflow.status())


@pytest.mark.parametrize("text", ["[]", "null", "{}", "\x00"])
def test_a_report_of_a_run_whose_settings_are_gone(run, text, monkeypatch):
    (run / "profile.json").write_text(text)
    monkeypatch.chdir(run.parents[1])
    code, said = cli_of("report", "--profile", "mini")
    assert code == 2 and "profile.json" in said and "\n" not in said


def test_a_whole_run_is_whole(run):
    assert damaged(run) == [] and len(load_artifact(run, "generations", "mgpt")) == 1
    check_artifact(run / "generations/mgpt/base.parquet")
    check_artifact(run / "exhibits/li2024/fig1/fig1.csv")  # without a manifest there is nothing to compare


def test_a_stage_whose_service_failed_is_not_finished(run):
    with pytest.raises(Unanswered, match="1 score is missing: HTTP 500"), stage(run, "score", "mgpt", "base") as job:
        job.scorer("lexicon:babel").missing = {"HTTP 500": 1}
        job.write(job.read("generations").assign(toxicity=None))
    assert not (run / "scores/mgpt/base.parquet.manifest.json").exists()
    with stage(run, "score", "mgpt", "base") as job:
        job.scorer("lexicon:babel").missing = {}
        job.write(job.read("generations").assign(toxicity=0.0))
    assert json.loads((run / "scores/mgpt/base.parquet.manifest.json").read_text())["sha256"]


@pytest.mark.parametrize("place", ["My Projects", "user's folder", "a#b;c & d", "{y} 100%", "модели 猫"])
def test_a_project_in_an_odd_folder(tmp_path, monkeypatch, place):
    monkeypatch.setattr(select, "paper_dir", lambda: tmp_path / place)
    for notebook in ("stages/data.ipynb", "{params.notebook}"):
        text = select.command(tmp_path / place / "runs/mini", notebook, {"kind": "{wildcards.kind}"})
        words = shlex.split(text.replace("{log}", "x.ipynb").replace("{params.notebook}", "li2024/fig1.ipynb").replace("{wildcards.kind}", "prompts").replace(
            "{{", "{").replace("}}", "}"))
        assert words[4] == str(tmp_path / place / ("stages/data.ipynb" if "stages" in notebook else "li2024/fig1.ipynb"))
        assert words[6:9] == ["-p", "run", str(tmp_path / place / "runs/mini")] and words[-1] == "prompts"


def test_an_exhibit_by_its_bare_name():
    with pytest.raises(InputError, match=r"did you mean li2024/fig1 or beniwal2025/fig1"):
        select.select(load_profile("mini"), ["fig1"])


def test_what_can_be_written_is_tried(tmp_path):
    (tmp_path / "file").touch()
    assert can_write(tmp_path / "new/folder") and not can_write(tmp_path / "file/cache")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_save_left_is_no_damage(tmp_path):
    "The manifest of a text that was being written lies in a hidden folder beside it, without the text"
    for place in (".negation.parquet.manifest.json.lokxhb7s", "exhibits/li2024/.fig1.abcd"):
        (tmp_path / "runs/mini" / place).mkdir(parents=True)
        (tmp_path / "runs/mini" / place / "negation.parquet.manifest.json").write_text('{"sha256": "0", "bytes": 1}')
        (tmp_path / "runs/mini" / place / "exhibit.json").write_text("{")
    assert damaged(tmp_path / "runs/mini") == []
    (tmp_path / "runs/mini/negation.parquet.manifest.json").write_text('{"sha256": "0", "bytes": 1}')
    assert "negation.parquet.manifest.json: not a manifest" in damaged(tmp_path / "runs/mini")[0]
