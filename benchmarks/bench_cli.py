"""How long a user waits for the package to load, against an interpreter that does nothing.

The promise is a time: 0.3 s for `import xlingtox`, 0.6 s for `xlingtox --help`. A time says little about the next machine, so what is
shown is how often the measured time fits into the promised one; at 1 and above the promise is kept. The time itself is in the row's name.
"""
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {  # what is measured: how, and the promised seconds
    "import xlingtox": ([sys.executable, "-c", "import xlingtox"], 0.3),
    "xlingtox --help": ([str(Path(sys.executable).with_name("xlingtox")), "--help"], 0.6),
}


def seconds(
    command: list[str],  # a program and its arguments
    repeats: int = 7,  # the median of so many runs, after one that fills the disk cache
):
    "Median wall time of a command, in seconds"
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def run():
    "One row for each command"
    empty = seconds([sys.executable, "-c", "pass"])
    rows = []
    for what, (command, promised) in COMMANDS.items():
        took = seconds(command)
        name = f"{what}: {took:.2f} s, an empty Python {empty:.2f} s"
        rows.append({"what": name, "baseline": f"{promised} s", "ratio": promised / took, "bar": 1})
    return rows
