"""AUROC of neurons, against scikit-learn's `roc_auc_score` per neuron on two processes; and what a large model's neurons take.

Same responses, with ties, the same values to 1e-9. Then 10,000 texts and 100,000 neurons in files, as `neuron_responses` leaves them: seconds and memory,
in a process of its own, with what 1.4 million neurons (every linear layer of a model of eight billion parameters) would take.
"""
import json
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

N_TEXTS, N_NEURONS = 2_000, 4_096
LARGE, WIDTH, ALL = (10_000, 100_000), 12_500, 1_400_000  # texts and neurons, neurons in a file, neurons of a model
MEMORY, SECONDS = 4.0, 300.0  # GiB and seconds that the large case may take
MEASURE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from xlingtox.neurons import auroc
labels = np.load(Path(sys.argv[1]) / "labels.npy")
started = time.perf_counter()
found = np.concatenate([auroc(np.load(path, mmap_mode="r"), labels) for path in sorted(Path(sys.argv[1]).glob("module*.npy"))])
print(json.dumps({"seconds": time.perf_counter() - started, "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "n": len(found)}))
"""


def responses(n_texts: int, n_neurons: int) -> tuple[np.ndarray, np.ndarray]:
    "Responses with many ties, some of which know the labels, and the labels"
    rng = np.random.default_rng(0)
    labels = rng.random(n_texts) < 0.5
    return np.round(rng.normal(size=(n_texts, n_neurons)) + labels[:, None] * rng.random(n_neurons), 1).astype(np.float32), labels


def one_by_one(task) -> list[float]:
    "scikit-learn's value of each neuron"
    from sklearn.metrics import roc_auc_score

    columns, labels = task
    return [roc_auc_score(labels, column) for column in columns]


def fast(rounds: int = 3) -> dict:
    "Least seconds of scikit-learn on two processes over least seconds here"
    from xlingtox.neurons import auroc

    values, labels = responses(N_TEXTS, N_NEURONS)
    tasks = [(np.ascontiguousarray(part.T), labels) for part in np.array_split(values, 16, axis=1)]
    ours, theirs = [], []
    with get_context("spawn").Pool(2) as pool:
        pool.map(one_by_one, [(columns[:4], labels) for columns, _ in tasks])  # imports
        auroc(values[:, :64], labels)
        for i in range(rounds):
            started = time.perf_counter()
            found = auroc(values, labels)
            ours.append(time.perf_counter() - started)
            if i < 2:
                started = time.perf_counter()
                expected = np.concatenate(pool.map(one_by_one, tasks, chunksize=1))
                theirs.append(time.perf_counter() - started)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    return {"what": f"AUROC of {N_NEURONS:,} neurons on {N_TEXTS:,} texts, with ties ({min(ours):.2f} s)",
            "baseline": "roc_auc_score on two processes", "ratio": min(theirs) / min(ours), "bar": 8}


def large() -> list[dict]:
    "Memory and time of many neurons in files, as shares of what they may take"
    rng = np.random.default_rng(0)
    n_texts, n_neurons = LARGE
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "labels.npy", rng.random(n_texts) < 0.5)
        for i in range(n_neurons // WIDTH):
            file = np.lib.format.open_memmap(Path(folder) / f"module{i}.npy", "w+", np.float16, (n_texts, WIDTH))
            for start in range(0, n_texts, 500):
                file[start : start + 500] = rng.standard_normal((500, WIDTH), dtype=np.float32)
            del file
        run = subprocess.run([sys.executable, "-c", MEASURE, folder], check=True, capture_output=True, text=True)
    used = json.loads(run.stdout)
    assert used["n"] == n_neurons
    minutes = used["seconds"] / n_neurons * ALL / 60
    what = f"AUROC of {n_neurons:,} neurons on {n_texts:,} texts, from files"
    return [{"what": f"{what} ({used['seconds']:.0f} s; {ALL:,} neurons: {minutes:.1f} min)", "baseline": f"{SECONDS:.0f} s",
             "ratio": SECONDS / used["seconds"], "bar": 1},
            {"what": f"{what} ({used['GiB']:.2f} GiB; no more with more files)", "baseline": f"{MEMORY:.0f} GiB", "ratio": MEMORY / used["GiB"], "bar": 1}]


def run() -> list[dict]:
    "Speed, then time and memory of the large case"
    return [fast(), *large()]


if __name__ == "__main__":
    for row in run():
        print(f"{row['what']}: {row['ratio']:.1f}x {row['baseline']} (bar {row['bar']}x)")
