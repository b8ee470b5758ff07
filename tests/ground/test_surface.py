"""The names that others build on, as the design promises them, and how quickly the package is there."""
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import xlingtox
from xlingtox import babel, metrics, models, neurons, retrieval, scorers

WINGS = ["babel", "data", "generation", "mechanism", "metrics", "models", "profiles", "scorers", "tuning"]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "sklearn")


@pytest.mark.parametrize("function, parameters", [
    (metrics.toxicity_summary, ["scores", "threshold"]),
    (metrics.distinct_n, ["texts", "tokenizer", "n"]),
    (metrics.perplexity, ["model", "tokenizer", "prompts", "continuations", "variant", "batch_size"]),
    (neurons.auroc, ["responses", "labels"]),
    (retrieval.retrieval_accuracy, ["a", "b"]),
    (retrieval.mean_cosine, ["a", "b"]),
    (models.load, ["name"]),
    (models.mlp_sites, ["model"]),
    (scorers.PerspectiveScorer, ["api_key", "endpoint", "qps"]),
    (scorers.ClassifierScorer, ["model"]),
    (scorers.LexiconScorer, ["lexicon"]),
    (scorers.ScoreStore, ["path"]),
])
def test_public_names(function, parameters):
    known = list(inspect.signature(function).parameters)
    assert [p for p in known if p in parameters] == parameters, known


def test_a_scorer_is_what_the_protocol_says():
    scorer = scorers.LexiconScorer(babel.load_lexicon())
    assert isinstance(scorer.name, str) and "en" in scorer.languages
    assert scorer.score(["you are kind."], "en").tolist() == [0.0]


@pytest.mark.parametrize("wing", WINGS)
def test_the_face_of_a_wing_shows_what_its_rooms_define(wing):
    "Each public name of a room can be had from the wing, unless a room or another definition is called the same"
    face, folder = importlib.import_module(f"xlingtox.{wing}"), Path(xlingtox.__file__).parent / wing
    rooms = {p.stem: importlib.import_module(f"xlingtox.{wing}.{p.stem}") for p in folder.glob("*.py") if p.stem != "__init__"}
    for name, room in rooms.items():
        for public in getattr(room, "__all__", ()):
            if public not in rooms and sum(public in getattr(r, "__all__", ()) for r in rooms.values()) == 1:
                assert getattr(face, public) is getattr(room, public), f"{wing}.{public} of {name}"


@pytest.mark.parametrize("wing", WINGS)
def test_a_type_checker_sees_every_room_of_a_wing(wing):
    folder = Path(xlingtox.__file__).parent / wing
    stub = (folder / "__init__.pyi").read_text().splitlines()
    assert stub[1:] == [f"from .{p.stem} import *" for p in sorted(folder.glob("[!_]*.py"))]
    assert (folder.parent / "py.typed").is_file()


def test_a_wing_is_there_before_its_libraries():
    command = f"import sys, xlingtox; from xlingtox import {', '.join(WINGS)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_science_is_there_where_there_are_no_file_locks():
    "As on Windows: every room of every wing below the run imports, and what takes no lock works"
    code = f"""import importlib, pathlib, sys
sys.modules["fcntl"] = None
import xlingtox
here = pathlib.Path(xlingtox.__file__).parent
rooms = [p for wing in {WINGS + ["papers"]!r} for p in (here / wing).glob("[a-z]*.py")] + list(here.glob("[a-z]*.py"))
for room in rooms:
    importlib.import_module(".".join(("xlingtox", *room.relative_to(here).with_suffix("").parts)))
print(xlingtox.metrics.distinct_n.__name__, xlingtox.scorers.load_scorer("lexicon:babel").score(["you are kind."], "en"))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("distinct_n [0.]\n", "")
