"""Look-ups and writes of the score store a second, by one process and by two at once, against the promised rates."""
import multiprocessing
import tempfile
import time
from pathlib import Path

LOOK_UPS, WRITES, N, BATCH = 20_000, 5_000, 20_000, 1000  # promised a second; texts a process; texts a transaction


class Judge:
    name, version, languages = "bench", "1", None


def write_and_read(path: Path, who: str) -> tuple[float, float]:
    "Seconds that one process needs to write its scores, and to look them up"
    from xlingtox.scorers.store import ScoreStore

    store, judge, texts = ScoreStore(path), Judge(), [f"{who}: a comment of ordinary length, number {i}" for i in range(N)]
    started = time.perf_counter()
    for i in range(0, N, BATCH):
        store.put(judge, texts[i:i + BATCH], "en", [0.5] * BATCH)
    written = time.perf_counter()
    _, known = store.get(judge, texts, "en")
    ended = time.perf_counter()
    store.close()
    assert known.all(), "a score was lost"
    return written - started, ended - written


def run() -> list[dict]:
    "Rates over the promised ones; of two processes, their rates added up"
    rows = []
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(n) as pool:
            pool.map(len, [""] * n)  # both are up
            seconds = pool.starmap(write_and_read, [(Path(folder) / "s.sqlite", str(i)) for i in range(n)], chunksize=1)
        for what, bar, took in (("writes", WRITES, [w for w, _ in seconds]), ("look-ups", LOOK_UPS, [r for _, r in seconds])):
            rows.append({"what": f"score store, {what}, {n} process{'es at once' * (n > 1)}", "baseline": f"{bar:,} a second",
                         "ratio": sum(N / t for t in took) / bar, "bar": 1})
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row['what']}: {row['ratio']:.1f} times {row['baseline']}")
