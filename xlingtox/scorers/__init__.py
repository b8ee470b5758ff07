"""Toxicity scores, and a store that never asks twice."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "archive": ["export_scores", "import_scores"],
    "archived": ["FORMAT", "COLUMNS", "contents", "read_archive", "ArchiveScorer"],
    "by_name": ["SCORERS", "load_scorer", "check_spec", "score_generations"],
    "classifier": ["KNOWN", "Labels", "toxic_label", "ClassifierScorer"],
    "distorted": ["NoisyScorer", "BiasedScorer"],
    "endpoint": ["INSTRUCTION", "CATEGORIES", "WAY_OUT", "parse_rating", "EndpointScorer"],
    "lexicon": ["fold", "pieces_pattern", "first_lengths", "longest_match", "lexicon_words", "vocabulary",
        "LexiconScorer"],
    "ngram": ["ngram_features", "pair_of", "hold_out_texts", "auc_table", "train_weights", "NgramScorer"],
    "perspective": ["ENDPOINT", "LAST_DAY", "ATTRIBUTES", "PerspectiveScorer"],
    "scorer": ["Scorer", "assess"],
    "service": ["MARGIN", "CATCH_UP", "Quota", "shared_quota", "Answer", "Fault", "Service", "error_message",
        "gather", "Asking"],
    "store": ["text_hash", "ScoreStore"],
})
