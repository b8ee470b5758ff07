"""The workflow around the notebooks: order, resume, faults. Every run here is of the fake paper, in processes of its own."""
import json
import os
import shutil
import signal
import subprocess
import sys

import nbformat
import pytest
from xlingtox import core, profiles
from xlingtox.progress import append_progress, read_progress
from xlingtox.runs import display, execute

import fake_paper
from desk import Desk

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file locks and signals of POSIX")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "A desk whose run is complete"
    folder = tmp_path_factory.mktemp("desk")
    fake_paper.make_paper(folder / "paper")
    desk = Desk(folder)
    desk.code, desk.out, desk.err = desk.call("reproduce", "--jobs", "2")
    return desk


@pytest.fixture
def desk(finished, tmp_path):
    "A copy of the finished desk"
    shutil.copytree(finished.folder, tmp_path / "desk", symlinks=True)
    return Desk(tmp_path / "desk")


@pytest.fixture
def fresh(tmp_path):
    "A desk on which nothing was run"
    fake_paper.make_paper(tmp_path / "paper")
    return Desk(tmp_path)


def forget(desk, *patterns):
    "Remove artifacts, and all exhibits that are made from them"
    for pattern in [*patterns, "metrics/*", "prompt_scores/*", "exhibits/*/*/exhibit.json"]:
        for path in desk.run.glob(pattern):
            path.unlink()
    (desk.run / "ran.txt").unlink()


def results(desk) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in desk.run.glob("exhibits/*/*/data.csv")}


def test_a_run_says_what_it_does(finished):
    assert (finished.code, finished.err) == (0, "")
    first, *lines, last = finished.out.splitlines()
    lines = [line for line in lines if not line.startswith("        running: ")]  # said on a slow machine, after half a minute of silence
    n = len(lines)
    assert first == f"{n} notebooks to run in runs/mini, 2 at a time"
    assert [line.split("]")[0].split("[")[1].strip() for line in lines] == [f"{i}/{n}" for i in range(1, n + 1)]
    assert any("left" in line for line in lines)
    assert last.startswith(f"{n} notebooks in") and last.endswith("Report: runs/mini/report/index.html")
    assert (finished.run / "report/index.html").is_file()
    assert sorted(finished.ran()) == sorted(set(finished.ran())), "each notebook ran once"
    assert (finished.run / "notebooks/tune/mgpt/dpo-0.ipynb").is_file() and (finished.run / "notebooks/li2024/fig1.ipynb").is_file()


def test_nothing_changed_nothing_to_do(desk):
    before = desk.ran()
    code, out, _ = desk.call("reproduce")
    assert code == 0 and out.startswith("nothing to do: 3 exhibits are up to date") and out.count("\n") == 1
    assert desk.ran() == before


EXHIBITS = {"li2024/fig1", "li2024/fig4", "li2024/table2"}
AFTER_GENERATE = {"generate", "score", "perplexity", "prompt_scores", "metrics"} | EXHIBITS


SWEEP = "seeds: [0], variants: {lr: {dpo: {learning_rate: [1.0e-6, 1.0e-5]}}}"


@pytest.mark.parametrize("old, new, planned", [
    ("title: a fake", "title: another title", set()),
    ("threads: {base: 2}", "threads: {base: 2}\ngeneration: {max_new_tokens: 7}", AFTER_GENERATE),
    ("threads: {base: 2}", "threads: {base: 2}\nretrieval: {batch_size: 8}", {"retrieval", "li2024/fig4"}),
    ("judge: {model: \"mini:judge\"}", "judge: {model: \"mini:judge\", variant: published}", {"perplexity", "metrics", "li2024/table2"}),
    ("preference\", n: 3", "preference\", n: 4", {"data", "tune"} | AFTER_GENERATE),
    ("seeds: [0]", "seeds: [0, 1]", {"tune"} | AFTER_GENERATE),
    ("seeds: [0]", SWEEP, {"tune", "generate", "score", "perplexity", "prompt_scores", "metrics", "li2024/fig11"}),
    ("threads: {base: 2}", "threads: {base: 2}\ndpo: {lora: {r: 8}}", set()),
])
def test_a_changed_setting_reruns_what_depends_on_it(desk, old, new, planned):
    desk.edit_profile(old, new)
    assert desk.planned() == planned


@pytest.mark.slow
def test_further_variants_rerun_alone(desk):
    "The rate of the profile is not trained twice, and a rate more leaves everything that does not show it"
    before = set(desk.ran())
    desk.edit_profile("seeds: [0]", SWEEP)
    assert desk.call("reproduce")[0] == 0
    assert set(desk.ran()) - before == {*(f"{stage} mgpt/lr-1e-06-0" for stage in ("tune", "generate", "score", "perplexity")),
                                        "prompt_scores mgpt/lr", "metrics mgpt/lr", "li2024/fig11"}
    desk.edit_profile("1.0e-6, ", "1.0e-6, 2.0e-6, ")
    assert desk.planned() == {"tune", "generate", "score", "perplexity", "prompt_scores", "metrics", "li2024/fig11"}
    code, out, _ = desk.call("reproduce", "--dry-run")
    assert code == 0 and "1e-06" not in out and "tune mgpt/lr-2e-06-0" in out


@pytest.mark.slow
def test_the_first_model_comes_first(fresh):
    "Tables of several models are made of one seed of the first alone, before another is touched, and again when all are there"
    profile = fresh.folder / "paper/profiles/mini.yaml"
    profile.write_text(profile.read_text().replace("seeds: [0]}", "seeds: [0, 1]}\n  bloom-1b7: {model: \"mini:mgpt\"}"))
    code, out, err = fresh.call("reproduce", "--jobs", "2")
    assert (code, err) == (0, ""), out + err
    ran = fresh.ran()
    first = ran[:next(i for i, job in enumerate(ran) if "bloom-1b7" in job)]
    assert {"li2024/fig1", "li2024/fig4", "li2024/table2"} <= set(first) and {"li2024/fig5", "li2024/fig13"} <= set(ran) - set(first)
    shown = [ran.index(name) for name in ("li2024/fig1", "li2024/fig4", "li2024/table2")]
    assert ran.index("tune mgpt/dpo-0") < min(shown) and ran.index("tune mgpt/dpo-1") > max(shown), "one seed of it comes first"
    again = {"prompt_scores mgpt", "metrics mgpt", "li2024/fig1", "li2024/fig4", "li2024/table2"}
    assert {job for job in ran if ran.count(job) > 1} == again and ran.index("metrics bloom-1b7") < len(ran) - 1 - ran[::-1].index("li2024/table2")
    assert "notebooks to run first, for li2024/fig1 li2024/fig4 li2024/table2 of one seed in runs/mini" in out and out.count("Report") == 2
    assert out.splitlines()[-1].startswith(f"{len(ran)} notebooks in")
    code, out, _ = fresh.call("reproduce")
    assert code == 0 and out.startswith("nothing to do: 5 exhibits") and fresh.ran() == ran


@pytest.mark.slow
def test_a_failure_in_the_first_pass_is_tried_again_and_counted_once(fresh):
    profile = fresh.folder / "paper/profiles/mini.yaml"
    profile.write_text(profile.read_text().replace("seeds: [0]}", "seeds: [0]}\n  bloom-1b7: {model: \"mini:mgpt\"}"))
    code, out, _ = fresh.call("reproduce", FAIL_JOB="retrieval mgpt")
    assert code == 1 and out.splitlines()[-1].startswith("failed: retrieval mgpt; ") and "Report so far" not in out
    assert fresh.ran().count("retrieval mgpt") == 2 and "li2024/fig13" in fresh.ran()


def test_a_dry_run_writes_nothing(desk, fresh):
    def files():
        return {p: p.stat().st_mtime_ns for p in desk.run.rglob("*") if p.is_file() and ".snakemake" not in p.parts}

    before = files()
    desk.edit_profile("seeds: [0]", "seeds: [0, 1]")
    assert desk.planned()
    assert files() == before
    assert len(fresh.planned()) == 12 and not (fresh.folder / "runs").exists()


def test_a_profile_without_a_name_says_whose_run_it_would_change(desk):
    whose, mine = "goes by the name mini of the profile that it extends", desk.folder / "mine.yaml"
    mine.write_text("extends: mini\n")
    assert whose not in desk.call("reproduce", "--profile", str(mine), "--dry-run")[1], "nothing differs"
    mine.write_text("extends: mini\ntitle: Of mine\n")
    assert whose in desk.call("reproduce", "--profile", str(mine), "--dry-run")[1]
    mine.write_text("extends: mini\ntitle: Of mine\nname: mine\n")
    assert whose not in desk.call("reproduce", "--profile", str(mine), "--dry-run")[1]


def test_prose_may_change_and_code_counts(desk):
    desk.edit_notebook("stages/retrieval", "markdown", "A better explanation.")
    (desk.folder / "paper/stages/tune.ipynb").touch()
    assert desk.planned() == set()
    desk.edit_notebook("stages/retrieval", "code", "1 + 1")
    assert desk.planned() == {"retrieval", "li2024/fig4"}


def test_only_makes_one_exhibit(desk):
    forget(desk, "retrieval/*")
    assert desk.call("reproduce", "--only", "li2024/fig4")[0] == 0
    assert sorted(desk.ran()) == ["li2024/fig4", "prompt_scores mgpt", "retrieval mgpt"]


def test_a_failing_notebook_is_named_and_the_others_finish(desk):
    forget(desk, "perplexity/*/*", "retrieval/*")
    code, out, err = desk.call("reproduce", FAIL_JOB="perplexity mgpt/dpo-0")
    assert (code, err) == (1, "")
    line = next(line for line in out.splitlines() if "FAILED" in line)
    copy = desk.run / "notebooks/perplexity/mgpt/dpo-0.ipynb"
    assert "perplexity mgpt/dpo-0" in line and "in cell 4: RuntimeError: this stage is broken" in line
    assert f"executed copy: {copy.resolve()}" in out and "this stage is broken" in copy.read_text()
    assert out.splitlines()[-1].startswith("failed: perplexity mgpt/dpo-0; 5 of 8 notebooks finished, 2 were not run because of it")
    assert set(desk.ran()) == {"retrieval mgpt", "prompt_scores mgpt", "perplexity mgpt/base", "perplexity mgpt/dpo-0", "li2024/fig1", "li2024/fig4"}
    assert any("failed: perplexity mgpt/dpo-0: RuntimeError" in line for line in desk.call("status")[1].splitlines())
    assert desk.call("reproduce")[0] == 0
    assert "failed" not in desk.call("status")[1]


def test_bad_input_found_by_a_notebook(desk):
    forget(desk, "retrieval/*")
    code, out, _ = desk.call("reproduce", "--only", "li2024/fig4", BAD_INPUT_JOB="retrieval mgpt")
    assert code == 2 and "FAILED in cell 4: table.csv, line 3: toxic is missing" in out and "Traceback" not in out


def test_a_full_disk_leaves_nothing_half_written(desk):
    forget(desk, "generations/mgpt/dpo-0*", "scores/mgpt/dpo-0*", "perplexity/mgpt/dpo-0*")
    code, out, _ = desk.call("reproduce", FULL_JOB="generate mgpt/dpo-0")
    assert code == 1 and "File too large" in out
    assert not list(desk.run.glob("generations/mgpt/*dpo-0*"))
    assert desk.call("reproduce")[0] == 0


@pytest.mark.parametrize("job", ["base mgpt", "generate mgpt/dpo-0", "li2024/fig1"])
def test_sigkill_takes_everything_along_and_the_next_run_continues(finished, desk, job):
    after_generate = ("scores/mgpt/dpo-0*", "perplexity/mgpt/dpo-0*")
    forgotten = {"base mgpt": ("models/mgpt/*", "generations/*/*", "scores/*/*", "perplexity/*/*", "retrieval/*"),
                 "generate mgpt/dpo-0": ("generations/mgpt/dpo-0*", *after_generate), "li2024/fig1": ()}[job]
    expected, n_all = results(finished), len(desk.ran())
    forget(desk, *forgotten)
    process = desk.start("reproduce", SLOW_JOB=job)
    desk.wait_for(job)
    assert desk.survivors(seconds=0), "the test sees the processes"
    process.kill()
    process.communicate()
    assert desk.survivors() == []
    assert "not finished" in desk.call("status")[1]
    code, out, err = desk.call("reproduce", "--jobs", "1")
    assert code == 0, out + err
    assert results(desk) == expected, "as if never interrupted, and whatever --jobs is"
    assert len(desk.ran()) < n_all
    if job == "base mgpt":
        order = desk.ran()
        assert order.index("li2024/fig1") < order.index("retrieval mgpt") < order.index("li2024/fig4"), "what figure 1 does not need waits"
    assert desk.survivors() == []


def test_ctrl_c_ends_everything_and_says_how_to_go_on(fresh):
    process = fresh.start("reproduce", SLOW_JOB="data prompts")
    fresh.wait_for("data prompts")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "the same command continues" in out and "Traceback" not in err
    assert fresh.survivors() == []


def test_two_runs_of_one_folder(fresh):
    process = fresh.start("reproduce", SLOW_JOB="data prompts")
    fresh.wait_for("data prompts")
    assert "at work, " in fresh.call("status")[1]
    code, out, err = fresh.call("reproduce")
    process.kill()
    assert (code, out) == (2, "") and f"process {process.pid} is at work here" in err


@pytest.mark.parametrize("arguments, message", [
    (["--only", "li2024/fig11111"], "unknown exhibit li2024/fig11111 (did you mean li2024/fig11?)"),
    (["--only", "beniwal2025/fig1"], "profile mini cannot make beniwal2025/fig1: it shows aya-expanse-8b"),
    (["--only", "li2024/fig10"], "profile mini cannot make li2024/fig10: there is no notebook for it yet"),
    (["--only", "li2024/fig11"], "it compares variants of mgpt; the profile lacks models.mgpt.variants.lr"),
    (["--profile", "paper"], "no profile named paper"),
    (["--profile", "mine.yaml"], "mine.yaml: no such file"),
    (["--data", "nowhere"], "--data: no such folder: nowhere"),
    (["--jobs", "none"], "Invalid value for '--jobs'"),
    (["--colour"], "No such option: --colour"),
])
def test_bad_arguments(fresh, arguments, message):
    code, out, err = fresh.call("reproduce", *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert sorted(p.name for p in fresh.folder.iterdir()) == ["paper"]


@pytest.mark.parametrize("text, message", [
    ("generation: {temprature: 1}", "mine.yaml: generation.temprature: is not a setting (did you mean temperature?)"),
    ("languages: [en, fi]", "mine.yaml: languages: xlingtox does not support fi"),
    ("data: {prompts: {source: 'file:./none.csv', n: null}}", "data.prompts.source: no such file or folder"),
    ("data: {prompts: {source: 'file:{data}/none.csv', n: null}}", "say where that is with --data FOLDER"),
    ("models: {gpt: {model: x}}", "models: gpt is not known (did you mean mgpt?)"),
])
def test_bad_profiles(fresh, text, message):
    (fresh.folder / "mine.yaml").write_text("extends: mini\n" + text)
    code, out, err = fresh.call("reproduce", "--profile", "mine.yaml")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert sorted(p.name for p in fresh.folder.iterdir()) == ["mine.yaml", "paper"]


def test_a_notebook_whose_process_dies(tmp_path):
    fake_paper.write_notebook(tmp_path / "dies.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(execute.NotebookError, match="process died"):
        execute.execute(tmp_path / "dies.ipynb", tmp_path / "out.ipynb", {})
    assert (tmp_path / "out.ipynb").exists()


def test_every_rule_has_its_notebook_and_its_settings():
    "The real folder: the stages that the workflow calls are there, cleaned, with tagged parameters"
    paper = core.paper_dir()
    if "XLINGTOX_PAPER" in os.environ:
        pytest.skip("XLINGTOX_PAPER is set")
    for stage in profiles.STAGES:
        cells = nbformat.read(paper / f"stages/{stage}.ipynb", 4).cells
        parameters = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
        assert len(parameters) == 1 and 'run = "' in parameters[0].source, stage


def test_remaining_time_counts_threads():
    took = {"base": [100.0], "generate": [10.0], "score": [1.0]}
    assert display.seconds_left({"base": 1, "generate": 2}, took, 2, {"base": 2}) == 110
    assert display.seconds_left({"perplexity": 1}, took, 1, {}) == 10, "a stage never seen counts as the median"


def test_records_survive_a_cut_off_line(tmp_path):
    (tmp_path / "progress.jsonl").write_text(json.dumps({"event": "started", "job": "a", "time": 0.0}) + '\n{"event": "fin')
    append_progress(tmp_path, event="finished", job="a")
    assert [r["event"] for r in read_progress(tmp_path)] == ["started", "finished"]


def test_everything_imports_where_there_are_no_file_locks():
    "As on Windows: only what locks fails"
    code = """import os, pandas, signal, socket, subprocess, sys
sys.modules["fcntl"] = None
for module, name in ((os, "WNOHANG"), (os, "fork"), (os, "sched_getaffinity"), (signal, "SIGKILL"), (signal, "SIGCHLD"), (socket, "AF_UNIX")):
    vars(module).pop(name, None)
from xlingtox import cli, core
from xlingtox.papers import report
from xlingtox.runs import display, execute, job, process, warm, workflow
print(display.in_words(process.n_cores() and 3))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("3 s\n", "")
