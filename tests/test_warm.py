"""Jobs that are copies of a process with everything imported: they fail, die and are killed as other jobs are."""
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from xlingtox import warm
from xlingtox.execute import read_progress

pytestmark = pytest.mark.skipif(not warm.possible(), reason="processes cannot be copied here")


@pytest.fixture(scope="module")
def address():
    "A server that has imported, so that what comes next are copies"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLINGTOX_WARM", raising=False)
        yield from served()


def served():
    with warm.server() as address:
        for _ in range(200):
            if os.path.exists(address) and warm.submit(address, ["--help"]) is not None:
                break
            time.sleep(0.05)
        yield address


def start(address, run, cell, **env) -> subprocess.Popen:
    "Run a notebook of one cell as a job"
    parameters = nbformat.v4.new_code_cell("run = '.'", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(cell)]), run / "job.ipynb")
    command = [sys.executable, "-m", "xlingtox.execute", "job.ipynb", "notebooks/job.ipynb", "-p", "run", "."]
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
