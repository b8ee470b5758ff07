"""Toxicity, diversity, fluency and capability, with intervals."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "agreement": ["change_by_scorer", "emt_fall", "scorer_table", "pair_scores", "calibration", "metrics_by_scorer"],
    "bootstrap": ["Metrics", "summary_intervals"],
    "capability": ["COLUMNS", "Capability", "loglikelihoods", "answer", "samples_table", "harness", "facts_tasks",
        "evaluate"],
    "diversity": ["distinct_n", "distinct_by_prompt", "distinct_summary"],
    "fluency": ["context_and_target", "perplexity"],
    "fluency_intervals": ["perplexity_summary"],
    "toxicity": ["THRESHOLD", "toxprob_rule", "check_scores", "prompt_scores", "toxicity_summary"],
})
