"""Notebooks as jobs of SLURM. The last tests start a SLURM of one machine, with munge, and need root and Debian's slurm-wlm and munge."""
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import yaml
from xlingtox import core
from xlingtox.core import InputError
from xlingtox.runs import snakemake, workflow

import fake_paper
from desk import Desk

SLURM = "snakemake_executor_plugin_slurm"

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo", "srun")
CONFIG = """
ClusterName=one
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MinJobAge=600
SlurmdParameters=config_overrides
KillWait=2
NodeName={host} CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(n: int) -> list[int]:
    "Ports that nobody listens on"
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    "A running SLURM of this one machine: the environment that reaches it"
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if missing := [p for p in PROGRAMS if not shutil.which(p, path=path)]:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("starting SLURM takes root")
    if not importlib.util.find_spec(SLURM):
        pytest.skip("pip install 'xlingtox[slurm]'")
    at = tmp_path_factory.mktemp("slurm")
    (at / "state").mkdir()
    (at / "spool").mkdir()
    (at / "key").write_bytes(os.urandom(128))
    for file in (at, at / "key"):
        file.chmod(0o700 if file.is_dir() else 0o600)
    (at / "bin").mkdir()
    (at / "bin/srun").write_text(f'#!/bin/sh\nSLURM_CONF={at}/slurm.conf exec {shutil.which("srun", path=path)} "$@"\n')
    (at / "bin/srun").chmod(0o755)  # the plugin's job steps forget SLURM_CONF; a real cluster has its configuration in its place
    path = f"{at}/bin:{path}"
    host = socket.gethostname().split(".")[0]
    (at / "slurm.conf").write_text(CONFIG.format(host=host, at=at, ports=free_ports(2)))
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(at / "slurm.conf")}
    daemons = []

    def start(*command):
        with open(at / f"{command[0]}.out", "w") as out:
            daemons.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))

    try:
        start("munged", "--foreground", "--force", f"--key-file={at}/key", f"--socket={at}/munge.socket", f"--pid-file={at}/munge.pid",
              f"--log-file={at}/munge.log", f"--seed-file={at}/munge.seed")
        wait_until(lambda: (at / "munge.socket").exists(), "munged", at)
        start("slurmctld", "-D", "-f", f"{at}/slurm.conf")
        start("slurmd", "-D", "-f", f"{at}/slurm.conf", "-N", host)
        wait_until(lambda: "idle" in ask(env, "sinfo", "--noheader", "-o", "%t"), "slurmctld and slurmd", at)
        yield {"PATH": path, "SLURM_CONF": str(at / "slurm.conf")}
    finally:
        ask(env, "scancel", "--user=root")
        end = time.monotonic() + 30  # a job outlives the daemons that watch it
        while time.monotonic() < end and ask(env, "squeue", "--noheader", "-t", "PD,R,CG", "-o", "%i").strip():
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()


def ask(env, *command) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True).stdout


def wait_until(condition, what: str, at, seconds: float = 120):
    end = time.monotonic() + seconds
    while not condition():
        logs = {p.name: p.read_text(errors="replace")[-1500:] for p in [*at.glob("*.log"), *at.glob("*.out")]} if time.monotonic() > end else {}
        assert time.monotonic() < end, f"{what} did not come up: {logs}"
        time.sleep(0.2)


@pytest.fixture
def desk(tmp_path, slurm):
    "A desk with the fake paper whose jobs go to that SLURM"
    fake_paper.make_paper(tmp_path / "paper")
    shipped = yaml.safe_load((core.paper_dir() / "slurm/config.yaml").read_text())
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster/config.yaml").write_text(yaml.safe_dump(
        shipped | {"slurm-no-account": True, "slurm-status-command": "squeue", "slurm-init-seconds-before-status-checks": 2, "latency-wait": 5}))
    desk, environment, start, started = Desk(tmp_path), Desk.environment, Desk.start, []
    desk.environment = lambda **extra: environment(desk, **slurm, SNAKEMAKE_PROFILE=str(tmp_path / "cluster"), **extra)
    desk.start = lambda *arguments, **env: started.append(start(desk, *arguments, **env)) or started[-1]
    yield desk
    for process in started:  # of a test that failed
        process.kill()


def results(desk) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in desk.run.glob("exhibits/*/*/data.csv")}


@pytest.mark.slow
def test_one_exhibit_through_sbatch_with_a_job_cancelled(desk, tmp_path):
    process = desk.start("reproduce", "--only", "li2024/fig1", "--executor", "slurm", SLOW_ONCE="generate mgpt/dpo-0")
    env = desk.environment()
    desk.wait_for("generate mgpt/dpo-0", 600, process)
    listed = [line.split(" ", 1) for line in ask(env, "squeue", "--noheader", "-o", "%i %k").splitlines()]
    job = next(number for number, comment in listed if "generate" in comment and "dpo-0" in comment)
    ask(env, "scancel", job)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert desk.ran().count("generate mgpt/dpo-0") == 2 and "tried again: generate mgpt/dpo-0" in out
    assert len(set(desk.ran())) == len(desk.ran()) - 1, "nothing else ran twice"
    fake_paper.make_paper(tmp_path / "here/paper")
    here = Desk(tmp_path / "here")
    assert here.call("reproduce", "--only", "li2024/fig1")[0] == 0
    assert results(desk) == results(here) and results(here)
    assert desk.call("reproduce", "--only", "li2024/fig1", "--executor", "slurm")[1].startswith("nothing to do")


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs(desk):
    process = desk.start("reproduce", "--only", "li2024/fig1", "--executor", "slurm", SLOW_ONCE="data prompts")
    desk.wait_for("data prompts", 600, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    env, end = desk.environment(), time.monotonic() + 60
    while ask(env, "squeue", "--noheader", "-t", "PD,R,CG", "-o", "%i").strip():
        assert time.monotonic() < end, "jobs are left in the queue"
        time.sleep(0.5)


def test_an_unknown_executor():
    with pytest.raises(InputError, match=r"--executor slrum: unknown \(did you mean slurm\?\); there are local, slurm"):
        workflow.reproduce("mini", executor="slrum")


def test_without_slurm_one_line_says_what_is_missing(monkeypatch, without):
    without(SLURM)
    with pytest.raises(InputError, match=r"pip install 'xlingtox\[slurm\]'"):
        snakemake.cluster_arguments()
    without(SLURM, found=SLURM)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch here"):
        snakemake.cluster_arguments()


def test_the_ready_profile(monkeypatch, without):
    without(SLURM, found=SLURM)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    folder = core.paper_dir() / "slurm"
    assert snakemake.cluster_arguments() == ["--profile", str(folder)]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"executor": "slurm", "jobs": 50, "retries": 2, "latency-wait": 60}
    monkeypatch.setenv("SNAKEMAKE_PROFILE", "/mine")
    assert snakemake.cluster_arguments() == ["--profile", "/mine"]
