"""What a user's program sees of the types: checked by mypy (`make lint`), not run.

A face of a wing that hides its rooms from type checkers, an annotation that says something else than what is promised, or a promised parameter
that is gone, is an error here.
"""
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from xlingtox import babel, core, generation, metrics, models, neurons, retrieval, scorers, stats, tuning


def measure(scores: Any, texts: list[str], tokenizer: Any, model: Any) -> None:
    metrics.toxicity_summary(scores, threshold=0.5)
    assert_type(metrics.distinct_n(texts, tokenizer, n=(1, 2, 3)), dict[int, float])
    assert_type(metrics.perplexity(model, tokenizer, texts, texts, variant="exact", batch_size=8), np.ndarray)
    assert_type(neurons.auroc(np.zeros((4, 2)), np.array([0, 1, 0, 1])), np.ndarray)
    assert_type(retrieval.retrieval_accuracy(np.zeros((4, 2)), np.zeros((4, 2))), float)
    assert_type(retrieval.mean_cosine(np.zeros((4, 2)), np.zeros((4, 2))), float)


def score(folder: Path) -> None:
    scorers.LexiconScorer(babel.load_lexicon())
    scorer = scorers.load_scorer("lexicon:babel")
    assert_type(scorer.score(["you are kind."], "en"), np.ndarray)
    assert_type(scorer.name, str)
    scorers.PerspectiveScorer("key", endpoint="https://example.org", qps=1.0)
    scorers.ScoreStore(folder / "scores.sqlite").close()


def tune(model: Any, tokenizer: Any, pairs: Any, folder: Path) -> None:
    tuning.tune(model, tokenizer, pairs, folder, seed=0, tuning="lora", report_to="none")
    generation.generate(model, tokenizer, pairs, "mine", k=2)
    models.mlp_sites(model)
    models.load("ai-forever/mGPT", adapters=["me/detox"])
    assert_type(models.push(folder, "me/detox"), dict[Any, Any])
    assert_type(core.slug("ai-forever/mGPT"), str)
    assert issubclass(core.InputError, ValueError) and stats
