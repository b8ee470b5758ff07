"""The grid of Beniwal et al.: does twice the settings cost twice as much, do two jobs take half as long, how much memory is held.

Each part is complete, with its baseline measured in the same run, so that parts can be run one at a time on a machine that does nothing else:

    python -m benchmarks.bench_grid --only linear jobs memory --out grid.csv    # hours: `linear` alone does 126, 252 and 504 settings
    python -m benchmarks.bench_grid --only linear jobs --size short             # all settings with a third of the rows: beginnings weigh more
    python -m benchmarks.bench_grid --size tiny                                 # minutes, to see that it runs; its numbers say nothing

All roles hold the same miniature, tuned and judged in the same way, so that settings cost the same. What is timed is a run of the command line, from
base models at hand to the evaluations. `python -m benchmarks` leaves this out unless `grid` is named.
"""
import argparse
import csv
import functools
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LONG = True  # `python -m benchmarks` runs it only when it is named
ROLES = ["aya-23-8b", "aya-expanse-8b", "bloom-7b1", "mt5-large"]
MEMORY, MINUTES = 6.0, 30.0  # GiB and minutes that 504 settings may take with two jobs
SIZES = {
    "mini": {"languages": "beniwal2025", "rows": "n_train: 300\n  n_test: 100\n  judged: 100\n  shares: [0.1, 0.2, 0.3, 1.0]", "epochs": (10, 5), "tokens": 20},
    "short": {"languages": "beniwal2025", "rows": "n_train: 100\n  n_test: 34\n  judged: 34\n  shares: [0.1, 0.2, 0.3, 1.0]", "epochs": (4, 2), "tokens": 20},
    "tiny": {"languages": "[en, de]", "rows": "n_train: 8\n  n_test: 4\n  shares: [1.0]", "epochs": (1, 1), "tokens": 3},
}
PROFILE = """
extends: mini
name: grid
title: The grid of Beniwal et al., the same miniature in every role
models: {{{models}}}
beniwal2025:
  languages: {languages}
  {rows}
  judge: {{model: "mini:judge"}}
  models: {{{families}}}
"""


def profile(n_roles: int, size: str) -> str:
    "The grid of so many roles, 126 settings each in the size `mini`"
    s, roles = SIZES[size], ROLES[:n_roles]
    models = [f"{role}: {{model: 'mini:aya-23-8b', variants: null}}" for role in roles]
    family = (f"{{task: neutral, targets: [attention], epochs: {s['epochs'][0]}, epochs_shares: {s['epochs'][1]}, max_new_tokens: {s['tokens']}, "
              "min_new_tokens: 0, num_beams: 1, no_repeat_ngram_size: 0, repetition_penalty: 1.0, gradient_accumulation: 1, temperature: 0.7, top_p: 0.9}")
    families = [f"{role}: {family}" for role in roles] + [f"{role}: null" for role in ROLES[n_roles:]]
    return (PROFILE.format(models=", ".join(models), families=", ".join(families), languages=s["languages"], rows=s["rows"])
            + "neuronft2025: null\nmethods: null\n")


class Held(threading.Thread):
    "The most memory that a process and those it started hold at a time, shared pages counted once"

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.over, self.most = pid, threading.Event(), 0

    def run(self):
        import psutil

        while not self.over.wait(0.5):
            total = 0
            try:
                parent = psutil.Process(self.pid)
                processes = [parent, *parent.children(recursive=True)]
            except psutil.Error:
                return
            for process in processes:
                try:
                    total += getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
                except psutil.Error:
                    continue  # it has ended
            self.most = max(self.most, total)


@functools.cache
def measure(n_roles: int, jobs: int, size: str) -> dict:
    "Settings, wall and processor seconds, and GiB held, of a run in a new folder; measured once, whichever parts ask for it"
    from xlingtox.profiles.grid import counts
    from xlingtox.profiles.read import load_profile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.yaml"
        path.write_text(profile(n_roles, size))
        settings = counts(load_profile(str(path)).beniwal2025)[1]
        command = [str(Path(sys.executable).with_name("xlingtox")), "reproduce", "--profile", "grid.yaml", "--only", "beniwal2025/table2",
                   "--jobs", str(jobs)]
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        held = Held(run.pid)
        held.start()
        said = run.communicate()[0]
        held.over.set()
        if run.returncode:
            sys.exit(f"the run of {settings} settings failed:\n{said[-2000:]}")
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"settings": settings, "jobs": jobs, "seconds": seconds, "processor": processor, "GiB": held.most / 2**30}
    print(f"  {settings} settings, {jobs} at a time: {seconds:.0f} s, {processor:.0f} processor seconds, {found['GiB']:.2f} GiB", file=sys.stderr, flush=True)
    return found


def linear(size: str) -> list[dict]:
    "Twice and four times the settings, one job at a time, against a quarter of them"
    one, *more = (measure(n, 1, size) for n in (1, 2, 4))
    return [{"what": f"{m['settings']} settings ({m['seconds']:.0f} s)", "baseline": f"{m['settings'] // one['settings']} x {one['settings']} settings",
             "ratio": m["settings"] / one["settings"] * one["seconds"] / m["seconds"], "bar": 0.9} for m in more]


def jobs(size: str) -> list[dict]:
    "Two jobs at a time against one; it takes two cores that do nothing else"
    one, two = measure(2, 1, size), measure(2, 2, size)
    return [{"what": f"{two['settings']} settings, two jobs at a time ({two['seconds']:.0f} s)", "baseline": "one job at a time",
             "ratio": one["seconds"] / two["seconds"], "bar": 1.7}]


def memory(size: str) -> list[dict]:
    "All settings with two jobs at a time, against what they may take"
    m = measure(4, 2, size)
    what = f"{m['settings']} settings, two jobs at a time"
    return [{"what": f"{what} ({m['GiB']:.2f} GiB)", "baseline": f"{MEMORY:.0f} GiB", "ratio": MEMORY / m["GiB"], "bar": 1},
            {"what": f"{what} ({m['seconds'] / 60:.1f} min)", "baseline": f"{MINUTES:.0f} min", "ratio": 60 * MINUTES / m["seconds"], "bar": 1}]


PARTS = {"linear": linear, "jobs": jobs, "memory": memory}


def run(only=tuple(PARTS), size: str = "mini") -> list[dict]:
    "The rows of the parts that are asked for"
    return [row for part in only for row in PARTS[part](size)]


def main(arguments: list[str]) -> int:
    "Measure, print a table, write it where it is asked for, and return 1 when a ratio is below its bar"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--out", help="a CSV file that gets the rows, each part's when it is done")
    asked, rows = parser.parse_args(arguments), []
    for part in asked.only:
        rows += PARTS[part](asked.size)
        if asked.out:
            with open(asked.out, "w", newline="", encoding="utf-8") as f:
                writer = csv.DictWriter(f, ["what", "baseline", "ratio", "bar"])
                writer.writeheader()
                writer.writerows(row | {"ratio": f"{row['ratio']:.3f}"} for row in rows)
    for row in rows:
        print(f"{row['what']}: {row['ratio']:.2f}x {row['baseline']} (bar {row['bar']}x)")
    return int(any(row["ratio"] < row["bar"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
