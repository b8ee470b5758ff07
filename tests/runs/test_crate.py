"A run as a crate: what the profile of the standard demands, whole checksums, costs, and nothing half-written."
import hashlib
import json
import zipfile

import pytest
from xlingtox.core import InputError, write_json, write_manifest
from xlingtox.progress import append_progress
from xlingtox.runs import crate as crates
from xlingtox.runs.crate import export_crate, maker_notebook, total_usage, usage

PROFILE = {"name": "mini", "title": "A toy", "models": {"mgpt": {"model": "mini:mgpt"}}, "judge": {"model": "mini:judge"},
           "data": {"prompts": {"source": ["babel:prompts"]}}}
FILES = {"data/prompts.parquet": "prompts", "generations/mgpt/base.parquet": "texts", "scores/mgpt/base.parquet": "scores",
         "models/mgpt/dpo-0/model.safetensors": "weights", "models/mgpt/dpo-0/log.parquet": "log", "exhibits/li2024/fig1/fig1.svg": "<svg/>",
         "report/index.html": "<p>", "a name with spaces & ü.csv": "x"}
STEPS = {"data/prompts.parquet": [], "generations/mgpt/base.parquet": ["data/prompts.parquet"], "scores/mgpt/base.parquet": ["generations/mgpt/base.parquet"],
         "models/mgpt/dpo-0": ["data/prompts.parquet"], "exhibits/li2024/fig1": ["scores/mgpt/base.parquet", "models/mgpt/dpo-0"]}


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "runs" / "mini"
    for name, text in FILES.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (run / ".snakemake").mkdir()
    (run / ".snakemake" / "note").write_text("hidden")
    write_json(PROFILE, run / "profile.json")
    for artifact, read in STEPS.items():
        write_manifest(run / f"{artifact}.manifest.json", {name: run / name for name in read}, {}, 0, 90.0)
    return run


def graph_of(folder):
    document = json.loads((folder / "ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in document["@graph"]}, document["@context"]


def ids(value):
    return [one["@id"] for one in (value if isinstance(value, list) else [value])]


def types(entity):
    return entity["@type"] if isinstance(entity["@type"], list) else [entity["@type"]]


@pytest.fixture
def graph(run, tmp_path):
    export_crate(run, tmp_path / "crate")
    return graph_of(tmp_path / "crate")[0]


def test_every_file_is_there_with_its_whole_sha256(run, graph, tmp_path):
    files = {path.relative_to(tmp_path / "crate").as_posix(): path for path in (tmp_path / "crate").rglob("*") if path.is_file()}
    assert not any("snakemake/note" in name for name in files) and set(FILES) <= set(files)
    listed = {crates_name: entity for crates_name, entity in graph.items() if "sha256" in entity}
    assert len(listed) == len(files) - 1  # all but the crate's own metadata
    by_name = {hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if name != "ro-crate-metadata.json"}
    assert {entity["sha256"] for entity in listed.values()} == by_name
    assert set(ids(graph["./"]["hasPart"])) == set(listed)


def test_what_the_profiles_demand(run, graph, tmp_path):
    "The musts of Process, Workflow and Provenance Run Crate 0.5 and of Workflow RO-Crate 1.0, in the words of their pages"
    root, context = graph["./"], graph_of(tmp_path / "crate")[1]
    assert context == ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"]
    assert {f"https://w3id.org/ro/wfrun/{p}/0.5" for p in ("process", "workflow", "provenance")} <= set(ids(root["conformsTo"]))
    assert all("CreativeWork" in types(graph[profile]) for profile in ids(root["conformsTo"]))
    assert root["license"]["@id"] == "https://spdx.org/licenses/Apache-2.0" and root["datePublished"] and root["name"] and root["description"]
    workflow = graph[root["mainEntity"]["@id"]]
    assert set(types(workflow)) == {"File", "SoftwareSourceCode", "ComputationalWorkflow"}
    assert "ComputerLanguage" in types(graph[workflow["programmingLanguage"]["@id"]])
    actions = [e for e in graph.values() if "CreateAction" in types(e)]
    assert workflow["@id"] in {a["instrument"]["@id"] for a in actions} and {a["@id"] for a in actions} == set(ids(root["mentions"]))
    tools = {a["instrument"]["@id"] for a in actions} - {workflow["@id"]}
    assert tools == set(ids(workflow["hasPart"])) and len(tools) == len(STEPS)
    for side in ("input", "output"):
        parameter = graph[workflow[side]["@id"]]
        assert types(parameter) == ["FormalParameter"] and parameter["additionalType"] == "File" and ids(parameter["workExample"])
    for action in actions:
        for quantity in map(graph.get, ids(action["resourceUsage"])):
            assert types(quantity) == ["PropertyValue"] and quantity["propertyID"].startswith("https://") and isinstance(quantity["value"], str)
    dangling = {i for e in graph.values() for v in e.values() for one in (v if isinstance(v, list) else [v])
                if isinstance(one, dict) for i in ids(one) if i not in graph and not i.startswith("http")}
    assert not dangling


def test_a_step_names_what_it_read_and_made_and_what_it_cost(graph):
    (step,) = [e for e in graph.values() if e.get("name") == "fig1: exhibits/li2024/fig1"]
    assert set(ids(step["object"])) == {"scores/mgpt/base.parquet", "models/mgpt/dpo-0/model.safetensors", "models/mgpt/dpo-0/log.parquet"}
    assert "exhibits/li2024/fig1/fig1.svg" in ids(step["result"])
    cost = {graph[i]["name"]: graph[i]["value"] for i in ids(step["resourceUsage"])}
    assert cost["hours"] == "0.025" and cost["gpu"] == "none" and float(cost["memory"]) > float(cost["peakMemory"]) > 0
    whole = {graph[i]["name"]: graph[i] for i in ids(graph["#run"]["resourceUsage"])}
    assert whole["hours"]["value"] == "0.125" and whole["hours"]["unitCode"].endswith("unit/HR") and whole["gpuHours"]["value"] in ("0", "0.0")


def test_gpu_hours_count_steps_with_a_gpu():
    gpu = {"seconds": 7200, "hardware": {"gpu": "NVIDIA H100 (80 GiB)", "memory_gib": 100.0, "peak_gpu_memory_gib": 40.0}}
    old = {"seconds": 3600, "hardware": {"machine": "x86_64", "cores": 2}}  # a manifest of before
    total = total_usage([gpu, old, usage_free(1800)])
    assert total["hours"] == (3.5, "h") and total["gpuHours"] == (2.0, "h") and total["gpu"] == ("NVIDIA H100 (80 GiB)", "")
    assert total["peakGpuMemory"] == (40.0, "GiB") and "gpu" not in usage(old)


def usage_free(seconds):
    return {"seconds": seconds, "hardware": {"gpu": "none"}}


def test_a_zip_holds_the_same(run, tmp_path, graph):
    export_crate(run, tmp_path / "crate.zip")
    with zipfile.ZipFile(tmp_path / "crate.zip") as z:
        names = {name for name in z.namelist() if not name.endswith("/")}
    assert names == {path.relative_to(tmp_path / "crate").as_posix() for path in (tmp_path / "crate").rglob("*") if path.is_file()}


def test_data_of_the_user_is_named_without_its_path(run, tmp_path):
    secret = tmp_path / "home" / "somebody" / "rtp.json"
    secret.parent.mkdir(parents=True)
    secret.write_text("[]")
    write_manifest(run / "data" / "prompts.parquet.manifest.json", {"source": secret}, {}, 0, 1.0)
    export_crate(run, tmp_path / "crate")
    text = (tmp_path / "crate" / "ro-crate-metadata.json").read_text()
    assert "source: rtp.json" in text and "somebody" not in text


def test_a_failed_job_is_said(run, tmp_path):
    append_progress(run, event="failed", job="generate mgpt/dpo-1", seconds=1)
    append_progress(run, event="failed", job="score mgpt/base", seconds=1)
    append_progress(run, event="finished", job="score mgpt/base", seconds=1)
    export_crate(run, tmp_path / "crate")
    action = graph_of(tmp_path / "crate")[0]["#run"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus" and action["error"] == "failed: generate mgpt/dpo-1"


@pytest.mark.parametrize("change", [{"data": {"prompts": {"source": ["rtp-lx:x"]}}}, {"models": {"mgpt": {"model": "ai-forever/mGPT"}}},
                                    {"judge": {"model": "google/mt5-xl"}}])
def test_what_rests_on_others_needs_a_licence(run, tmp_path, change):
    write_json(PROFILE | change, run / "profile.json")
    with pytest.raises(InputError, match="--license"):
        export_crate(run, tmp_path / "crate")
    export_crate(run, tmp_path / "crate", licence="https://example.org/terms")
    assert graph_of(tmp_path / "crate")[0]["./"]["license"]["@id"] == "https://example.org/terms"


def test_places_and_runs_that_will_not_do(run, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    for where, message in ((tmp_path / "taken", "is there already"), (run / "crate", "lies in the run"), (tmp_path / "no" / "crate", "no such folder")):
        with pytest.raises(InputError, match=message):
            export_crate(run, where)
    with pytest.raises(InputError, match="no such run"):
        export_crate(tmp_path / "nothing", tmp_path / "crate")
    with pytest.raises(InputError, match="no profile.json"):
        export_crate(tmp_path / "taken", tmp_path / "crate")
    monkeypatch.setattr(crates, "is_running", lambda run: True)
    with pytest.raises(InputError, match="is being made"):
        export_crate(run, tmp_path / "crate")
    assert not (tmp_path / "crate").exists()


@pytest.mark.parametrize("name", ["crate", "crate.zip"])
def test_nothing_half_written_stays(run, tmp_path, monkeypatch, name):
    import rocrate.model.metadata

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rocrate.model.metadata.Metadata, "generate", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        export_crate(run, tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_every_stage_has_a_notebook_for_what_it_makes():
    from xlingtox.profiles.stages import STAGES

    for stage in STAGES.values():
        for output in stage.outputs:
            artifact = output.removesuffix(".manifest.json").format(role="mgpt", variant="base" if stage.name == "base" else "dpo-0", kind="prompts",
                                                                    table="mgpt/lr")
            assert maker_notebook(artifact).stem == stage.name, output


ODD = ["a#b?c%20d%é.svg", "with space & 'quotes\".txt", "back\\slash.csv", "日本.csv", "two\nlines.txt"]


def test_odd_names_are_found_again(run, tmp_path):
    from urllib.parse import unquote

    for name in ODD:
        (run / "exhibits/li2024/fig1" / name).write_text(name)
    export_crate(run, tmp_path / "crate")
    graph, _ = graph_of(tmp_path / "crate")
    made = ids(graph["#run"]["result"])
    assert {f"exhibits/li2024/fig1/{name}" for name in ODD} <= set(map(unquote, made)) and set(made) <= set(graph)
    for name in made:
        assert hashlib.sha256((tmp_path / "crate" / unquote(name)).read_bytes()).hexdigest() == graph[name]["sha256"]


def seal(run):
    "Manifests that know the files they stand beside"
    for artifact, read in STEPS.items():
        write_manifest(run / f"{artifact}.manifest.json", {name: run / name for name in read}, {}, 0, 90.0, output=run / artifact)


@pytest.mark.parametrize("spoil, message", [
    (lambda run: (run / "scores/mgpt/base.parquet").write_text("changed"), "is not what its manifest says"),
    (lambda run: (run / "models/mgpt/dpo-0/log.parquet").unlink(), "is not what its manifest says"),
    (lambda run: (run / "scores/mgpt/base.parquet").unlink(), "is not there"),
    (lambda run: (run / "scores/mgpt/base.parquet.manifest.json").write_text("[]"), "not a manifest"),
    (lambda run: (run / "README.md").write_text("mine"), "something of its own by that name"),
    (lambda run: (run / "ro-crate-metadata.json").write_text("{}"), "something of its own by that name"),
    (lambda run: (run / "key").symlink_to("/etc/hostname"), "a link that leads out of the run"),
    (lambda run: (run / "more").symlink_to(run.parent), "a link that leads out of the run"),
    (lambda run: (run / "profile.json").write_text("[]"), "not the profile of a run"),
    (lambda run: (run / "profile.json").write_text('{"models": {"mgpt": 5}}'), "not the profile of a run"),
    *[(lambda run, key=key: write_json({k: v for k, v in json.loads((run / "data/prompts.parquet.manifest.json").read_text()).items() if k != key},
                                       run / "data/prompts.parquet.manifest.json"), "does not say what was read")
      for key in ("seconds", "finished", "inputs", "versions")]])
@pytest.mark.parametrize("name", ["crate", "crate.zip"])
def test_a_crate_vouches_only_for_what_it_can(run, tmp_path, spoil, message, name):
    seal(run)
    spoil(run)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as refused:
        export_crate(run, tmp_path / name)
    assert "\n" not in str(refused.value) and sorted(tmp_path.rglob("*")) == before


def test_a_run_that_was_stopped_is_not_said_to_be_complete(run, tmp_path):
    for event in ({"event": "run", "total": 5}, {"event": "end"}, {"event": "run", "total": 5}, {"event": "finished", "job": "score mgpt/base"}):
        append_progress(run, **event)
    assert export_crate(run, tmp_path / "stopped")["unfinished"] == "stopped before its end, 1 jobs after it was last started"
    action = graph_of(tmp_path / "stopped")[0]["#run"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus" and "stopped before its end" in action["error"]
    append_progress(run, event="end")
    assert export_crate(run, tmp_path / "whole")["unfinished"] == ""
    assert graph_of(tmp_path / "whole")[0]["#run"]["actionStatus"].endswith("CompletedActionStatus")


@pytest.mark.parametrize("licence", ["", " ", "x y", "Apache-2.0\n", "file:///etc", "https://a b"])
def test_a_licence_that_is_none_is_refused(run, tmp_path, licence):
    write_json(PROFILE | {"data": {"prompts": {"source": ["rtp-lx:x"]}}}, run / "profile.json")
    with pytest.raises(InputError, match="neither an SPDX name"):
        export_crate(run, tmp_path / "crate", licence=licence)


def test_what_a_name_says_is_what_is_written(run, tmp_path):
    export_crate(run, tmp_path / "crate.ZIP")
    assert zipfile.is_zipfile(tmp_path / "crate.ZIP")
    for name in ("crate.tar.gz", "crate.tgz", "crate.7z"):
        with pytest.raises(InputError, match="a crate is a .zip or a folder"):
            export_crate(run, tmp_path / name)
