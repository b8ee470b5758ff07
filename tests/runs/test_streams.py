"""Standard output that is not UTF-8: no command ends in a traceback, and JSON stays JSON."""
import io
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from xlingtox.papers import archive, evidence
from xlingtox.runs import stored

NAME = "модель é 模型 \U0001f600"


def call(encoding, *arguments):
    "The command in this process, with standard output of an encoding: status, what it wrote there, standard error"
    from xlingtox import cli

    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, (sys.stdout, sys.stderr) = ["xlingtox", *map(str, arguments)], streams
    try:
        cli.main()
    except SystemExit as e:
        code = e.code or 0
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow")
    rng = np.random.default_rng(0)
    for name, shift in {"a": 0.3, "b": 0.0}.items():
        rows = [(NAME, lang, f"p{p}", s, NAME, min(1, shift + 0.5 * rng.random())) for lang in ("en", "ja") for p in range(160) for s in range(2)]
        table = pd.DataFrame(rows, columns=["model", "lang", "prompt_id", "sample", "scorer", "toxicity"])
        table.to_csv(folder / f"{name}.csv", index=False)
        table.assign(scorer="substitut é", toxicity=table["toxicity"] ** 2).to_csv(folder / f"{name}2.csv", index=False)
    pd.DataFrame({"id": ["é"], "lang": ["ja"], "text": ["日本語"]}).to_csv(folder / "prompts é.csv", index=False)
    return folder


COMMANDS = [("metrics", "--in", "a.csv"), ("compare", "a.csv", "b.csv", "--metric", "emt"), ("data", "list"), ("data", "check", "prompts é.csv"),
            ("scorers", "list"), ("miniatures", "list"), ("scores", "bridge", "fit", "--reference", "a.csv", "--substitute", "a2.csv", "--out", "bridge.json")]


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(c[:2]) for c in COMMANDS])
def test_a_table_and_json_on_any_stream(here, monkeypatch, command):
    monkeypatch.chdir(here)
    wide = json.loads(call("utf-8", *command, "--json")[1])
    for encoding in ("ascii", "latin-1") if command[0] != "compare" else ("latin-1",):
        code, said, _ = call(encoding, *command, "--json")
        assert code in (0, 1) and wide and json.loads(said) == wide, "the same rows, letter for letter"
    code, shown, said = call("ascii", *command)
    assert code in (0, 1) and shown and "Traceback" not in said


def test_json_keeps_its_letters_where_they_can_be_written(here, monkeypatch):
    monkeypatch.chdir(here)
    assert NAME in call("utf-8", "metrics", "--in", "a.csv", "--json")[1]
    assert call("ascii", "metrics", "--in", "a.csv", "--json")[1].isascii()


@pytest.mark.parametrize("command", [("--help",), ("scores", "--help"), ("status",), ("metrics", "--in", "ничего.csv"), ("nöthing",)])
def test_help_and_errors_on_ascii(here, monkeypatch, command):
    monkeypatch.chdir(here)
    code, out, err = call("ascii", *command)
    assert code in (0, 2) and (err.count("\n") == 1 if code else out) and "Traceback" not in err


C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["ascii", "C"])
def test_in_a_process_of_its_own(here, env):
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONIOENCODING", "PYTHONUTF8") and not k.startswith("LC_")}
    done = subprocess.run([sys.executable, "-m", "xlingtox.cli", "metrics", "--in", "a.csv", "--json"], capture_output=True, cwd=here, env=kept | env)
    assert done.returncode == 0, done.stderr
    assert {row["model"] for row in json.loads(done.stdout)} == {NAME}


@pytest.mark.parametrize("module, function", [(evidence, "keep_evidence"), (archive, "keep"), (stored, "store")])
def test_the_commands_of_modules(monkeypatch, module, function):
    monkeypatch.setattr(module, function, lambda *_: [NAME] if function == "store" else NAME)
    monkeypatch.setattr(evidence, "read_json", lambda _: {"missing": [], "exhibits": {}})
    monkeypatch.setattr(evidence, "_archived", lambda *_: set())
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert module.main(["store", "runs/é"] if function == "store" else ["runs/é"]) == 0
    stream.flush()
    assert rb"\u043c" in stream.buffer.getvalue()
