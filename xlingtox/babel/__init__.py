"""The miniature world: a lexicon, a grammar, and data drawn from them."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "draw": ["NEUTRAL_CATEGORY", "KINDS", "corpus", "prompts", "multiway", "preference", "neutralise", "parallel",
        "labelled", "instruct", "choice", "generate_data", "world_digest"],
    "grammar": ["FULL_STOP", "UNSPACED", "SHARES", "PARALLEL_SIGN", "sample_frame", "frame_toxicity", "realise",
        "join_sentences", "sample_document"],
    "lexicon": ["SCRIPTS", "load_lexicon", "toxic_words", "combine_severities"],
})
