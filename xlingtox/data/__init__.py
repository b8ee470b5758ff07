"""Data in one of a few schemas, from any source."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "catalogue": ["SCHEMA_OF", "data_sets", "data_set", "released_files", "DownloadError", "checksum_of",
        "is_released", "download", "get", "schema_of", "compare_released", "check", "veil", "first_rows"],
    "files": ["decode", "read_text", "parse_jsonl", "read_jsonl", "read_lines_csv", "read_any", "read_file"],
    "hate": ["hate_corpora", "hate_corpus"],
    "loaders": ["LOADERS"],
    "loading": ["SOURCES", "split_source", "loader", "source_settings", "source_path", "load_data", "load_any",
        "sample"],
    "pairs": ["PAIR_SCHEMAS", "only_as", "parallel_prompts", "from_pairs", "split_rows", "released_split",
        "paradetox"],
    "schemas": ["SCHEMAS", "validate"],
    "sources": ["RTP_LX", "RTP_LX_OTHER", "PASSWORD", "locale_files", "zip_members", "rtp_lx", "preference_pairs",
        "load_hub", "hub_pairs", "read_csv", "read_labels", "from_labelled", "jigsaw", "polyglo_toxicity_prompts"],
})
