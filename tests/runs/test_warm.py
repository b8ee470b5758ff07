"""Jobs that are copies of a process with everything imported: they fail, die and are killed as other jobs are."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from xlingtox.progress import read_progress
from xlingtox.runs import warm, workflow
from xlingtox.runs.execute import job_name

import fake_paper
from desk import Desk

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")


@pytest.fixture(scope="module")
def address():
    "A server that has imported, so that what comes next are copies; on a machine with a GPU too, since nothing here speaks to it"
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("XLINGTOX_WARM", raising=False)
            patch.setattr(warm, "possible", lambda: True)
            address = stack.enter_context(warm.server())
        assert [warm.submit(address, ["--help"]) for _ in range(warm.COLD)] == [None] * warm.COLD, "the first jobs start cold"
        yield address


def start(address, run, cell, **env) -> subprocess.Popen:
    "Run a notebook of one cell as a job"
    parameters = nbformat.v4.new_code_cell("run = '.'", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(cell)]), run / "job.ipynb")
    command = [sys.executable, "-m", "xlingtox.runs.job", "job.ipynb", "notebooks/job.ipynb", "-p", "run", "."]
    return subprocess.Popen(command, cwd=run, env=os.environ | {"XLINGTOX_WARM": address, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(address, run, cell, **env):
    process = start(address, run, cell, **env)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_job_is_a_copy(address, tmp_path):
    cell = "import os, sys\nprint('trl' in sys.modules, os.getcwd(), os.environ['MINE'], os.environ['OMP_NUM_THREADS'])"
    assert finish(address, tmp_path, cell, MINE="here") == (0, "", "")
    shown = nbformat.read(tmp_path / "notebooks/job.ipynb", 4).cells[-1].outputs[0].text
    assert shown == f"True {tmp_path} here 1\n"
    assert [r["event"] for r in read_progress(tmp_path)] == ["started", "finished"]


def test_a_job_lasts_from_its_own_beginning(address, tmp_path):
    "Not from that of the process that it is a copy of, which has imported for seconds before"
    assert finish(address, tmp_path, "from xlingtox import core\nprint(core.process_seconds())") == (0, "", "")
    shown = float(nbformat.read(tmp_path / "notebooks/job.ipynb", 4).cells[-1].outputs[0].text)
    assert 0 < shown < read_progress(tmp_path)[-1]["seconds"] + 0.05, "clock ticks of a hundredth of a second"


def test_figures_are_shown(address, tmp_path):
    assert finish(address, tmp_path, "import matplotlib.pyplot as plt\nplt.plot([1, 2]);") == (0, "", "")
    assert "image/png" in nbformat.read(tmp_path / "notebooks/job.ipynb", 4).cells[-1].outputs[0].data


def test_an_error_is_told(address, tmp_path):
    code, out, err = finish(address, tmp_path, "1 / 0")
    assert (code, out) == (1, "") and "ZeroDivisionError: division by zero" in err and "in cell 3" in err


def test_a_kernel_that_dies(address, tmp_path):
    code, _, err = finish(address, tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert code == 1 and "the notebook's process died" in err and read_progress(tmp_path)[-1]["event"] == "failed"


def test_a_killed_job_takes_its_copy_along(address, tmp_path):
    process = start(address, tmp_path, "import json, os, time\njson.dump(os.getpid(), open('kernel.json', 'w'))\ntime.sleep(600)")
    end = time.monotonic() + 60
    while not ((tmp_path / "kernel.json").exists() and (tmp_path / "kernel.json").read_text()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    kernel = psutil.Process(json.loads((tmp_path / "kernel.json").read_text()))
    copy = kernel.parent()
    assert copy.pid == read_progress(tmp_path)[0]["pid"] != process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs([kernel, copy], timeout=10)
    assert not alive


def test_nobody_is_there(tmp_path):
    assert warm.submit("", []) is None and warm.submit(str(tmp_path / "none"), []) is None


@pytest.fixture
def listener(tmp_path):
    "A server that turns every job away, and the jobs that asked"
    asked = []

    def turn_away():
        while True:
            with gate.accept()[0] as connection:
                if not (message := connection.recv(1 << 20)):
                    return
                asked.append(job_name(json.loads(message)["arguments"][1]))
                connection.send(b"cold")

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gate:
        gate.bind(str(tmp_path / "jobs"))
        gate.listen()
        thread = threading.Thread(target=turn_away)
        thread.start()
        yield str(tmp_path / "jobs"), asked
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:
            last.connect(str(tmp_path / "jobs"))
        thread.join()


def test_every_job_of_a_run_asks(tmp_path, listener, monkeypatch):
    address, asked = listener
    fake_paper.make_paper(tmp_path / "paper")
    desk = Desk(tmp_path)
    monkeypatch.delenv("XLINGTOX_WARM", raising=False)
    monkeypatch.setattr(warm, "server", lambda: contextlib.nullcontext(address))
    for name, value in desk.environment(FAIL_JOB="base mgpt").items():  # most jobs wait for that one
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert workflow.reproduce("mini", ["li2024/fig1"]) == 1
    assert "base mgpt" in asked and sorted(asked) == sorted(desk.ran())


def test_where_copies_are_possible(monkeypatch):
    monkeypatch.delenv("XLINGTOX_COLD", raising=False)
    there = {"/dev/nvidiactl": False, "/dev/kfd": False}
    monkeypatch.setattr(warm, "Path", lambda path: SimpleNamespace(exists=lambda: there[path]))
    assert warm.possible()
    there["/dev/kfd"] = True
    assert not warm.possible()
    there["/dev/kfd"] = False
    monkeypatch.setenv("XLINGTOX_COLD", "1")
    assert not warm.possible()
    with warm.server() as address:
        assert address == ""
