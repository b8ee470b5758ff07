"""A comparison before and after, its resamples counted from drawn indices, against the same comparison drawn by `Generator.multinomial`."""
import statistics
import time
from unittest import mock

import numpy as np
from xlingtox import stats

N_PROMPTS, N_SEEDS = 1000, 5


def by_multinomial(n: int, n_resamples: int, seed: int | np.random.Generator) -> np.ndarray:
    "The counts of `stats.resample_counts` as numpy's own generator of multinomial numbers draws them"
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), n_resamples).astype(float)


def measure(before: np.ndarray, after: np.ndarray) -> tuple[dict, float]:
    "A comparison and its seconds"
    started = time.perf_counter()
    result = stats.paired_bootstrap(before, after)
    return result, time.perf_counter() - started


def run(n_prompts: int = N_PROMPTS, rounds: int = 5) -> dict:
    "Seconds drawn by multinomial over seconds here, the median of rounds in turn"
    rng = np.random.default_rng(0)
    before, after = rng.beta(2, 2, n_prompts), rng.beta(2, 3, (N_SEEDS, n_prompts))
    ratios = []
    for _ in range(rounds):
        ours, seconds = measure(before, after)
        with mock.patch.object(stats, "resample_counts", by_multinomial):
            plain, plain_seconds = measure(before, after)
        ratios.append(plain_seconds / seconds)
    ends = [abs(ours[end] - plain[end]) / (plain["high"] - plain["low"]) for end in ("low", "high")]
    return {"what": f"comparison before and after, {n_prompts:,} prompts, {N_SEEDS} seeds", "baseline": "resamples drawn by multinomial",
            "ratio": statistics.median(ratios), "bar": 4, "difference": max(ends), "same_estimate": ours["difference"] == plain["difference"]}


if __name__ == "__main__":
    row = run()
    print(f"{row['what']}: {row['ratio']:.1f} times as fast as with {row['baseline']}; "
          f"the ends of the interval differ by at most {row['difference']:.1%} of its width")
