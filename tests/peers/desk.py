"""A place to call `xlingtox` from, and to see what it leaves behind."""
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import psutil
from xlingtox.progress import read_progress


class Desk:
    "A working folder, perhaps with a paper of its own, in which `xlingtox` is called"

    def __init__(self, folder: Path, profile: str = "mini"):
        self.folder, self.run = folder, folder / "runs" / profile
        self.mark = uuid.uuid4().hex

    def environment(self, **extra):
        paper = {"XLINGTOX_PAPER": str(self.folder / "paper")} if (self.folder / "paper").is_dir() else {}
        return {**os.environ, **paper, "XLINGTOX_CACHE": str(self.folder / "cache"), "DESK": self.mark, **extra}

    def start(self, *arguments, **env):
        return subprocess.Popen([sys.executable, "-m", "xlingtox.cli", *arguments], cwd=self.folder, env=self.environment(**env), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # tests in the background ignore it

    def call(self, *arguments, **env):
        "Exit status and what was written"
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=1500)  # only so that nothing hangs for ever
        return process.returncode, out, err

    def ran(self) -> list[str]:
        "The jobs of the fake paper that started, in order"
        file = self.run / "ran.txt"
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, job: str, seconds: float = 60, process: subprocess.Popen | None = None):
        end = time.monotonic() + seconds
        while job not in self.ran():
            assert time.monotonic() < end, f"{job} did not start; {self.ran()}"
            assert process is None or process.poll() is None, process.communicate()
            time.sleep(0.05)

    def kill_in_one_of(self, jobs: dict[str, float], *arguments, seconds: float = 300) -> str:
        "Start a run, and kill it so many seconds after the first of these jobs has begun; which of them it was"
        begun, end = time.time(), time.monotonic() + seconds
        process = self.start(*arguments)
        while not (first := [r["job"] for r in read_progress(self.run) if r.get("job") in jobs and r["event"] == "started" and r["time"] > begun][:1]):
            assert time.monotonic() < end and process.poll() is None, f"none of {sorted(jobs)} started"
            time.sleep(0.1)
        time.sleep(jobs[first[0]])
        process.kill()
        process.communicate()
        return first[0]

    def kill_when(self, there, *arguments, seconds: float = 300):
        "Start a run, and kill it as soon as something is there"
        end, process = time.monotonic() + seconds, self.start(*arguments)
        while not there():
            assert time.monotonic() < end and process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.kill()
        process.communicate()

    def survivors(self, seconds: float = 3) -> list[str]:
        "Processes of this desk that are still there after some seconds"
        end = time.monotonic() + seconds
        while True:
            alive = [p for p in psutil.process_iter() if self._mine(p)]
            if not alive or time.monotonic() > end:
                return [" ".join(p.cmdline()) for p in alive]
            time.sleep(0.1)

    def _mine(self, process) -> bool:
        "Started here, or a warm copy that works here: a copy has the environment of the process that it is a copy of"
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            return process.environ().get("DESK") == self.mark or Path(process.cwd()).is_relative_to(self.folder)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            return False

    def edit_profile(self, old: str, new: str):
        file = self.folder / "paper/profiles/mini.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def edit_notebook(self, name: str, cell_type: str, text: str):
        file = self.folder / f"paper/{name}.ipynb"
        nb = nbformat.read(file, 4)
        nb.cells.append(nbformat.v4.new_code_cell(text) if cell_type == "code" else nbformat.v4.new_markdown_cell(text))
        nbformat.write(nb, file)

    def planned(self) -> set[str]:
        "Stages and exhibits that a run would make"
        code, out, err = self.call("reproduce", "--dry-run")
        assert code == 0, err
        return {line[:30].strip() if "/" in line.split()[0] else line.split()[0] for line in out.splitlines()[:-1]}
