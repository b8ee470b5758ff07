"""Run every benchmark in this folder and print one table: `python -m benchmarks [NAME ...]`.

A benchmark is a file `bench_*.py` with a function `run()`. In the environment of a run's job, it measures the same work done two ways,
side by side on the same machine, and returns `what` was measured, the `baseline` it is set against, the `ratio` and the `bar`: the least
ratio that the project promises.
"""
import importlib
import os
import sys
from pathlib import Path

from xlingtox.runs.process import n_cores, numeric_environment

HERE = Path(__file__).parent
COLUMNS = ["what", "baseline", "ratio", "bar", ""]


def names(wanted):
    "The benchmarks of this folder, or those of them that are `wanted`"
    found = [path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py"))]
    unknown = sorted(set(wanted) - set(found))
    if unknown:
        sys.exit(f"unknown benchmark {', '.join(unknown)}: choose from {', '.join(found)}")
    return [name for name in found if name in wanted or (not wanted and not getattr(_module(name), "LONG", False))]


def _module(name):
    "The program of a benchmark; one with `LONG` takes hours, and is run when it is named"
    return importlib.import_module(f"benchmarks.bench_{name}")


def results(name):
    "The rows of one benchmark: `run()` gives one, or a list of them"
    outcome = _module(name).run()
    return outcome if isinstance(outcome, list) else [outcome]


def table(rows):
    "Rows of text in aligned columns"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(wanted):
    "Measure, print the table, and return 1 when a ratio is below its bar"
    rows, below = [COLUMNS], 0
    for name in names(wanted):
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in results(name):
            ok = row["ratio"] >= row["bar"]
            below += not ok
            rows.append([row["what"], str(row["baseline"]), f"{row['ratio']:.2f}", f"{row['bar']:g}", "ok" if ok else "below"])
    print(table(rows))
    return int(below > 0)


if __name__ == "__main__":
    as_a_job = os.environ | numeric_environment(n_cores())
    if as_a_job != os.environ:  # libraries read it when they load
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]], as_a_job)
    sys.exit(main(sys.argv[1:]))
