"""Every setting of a run, and what follows from it."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "costs": ["ASSUMPTIONS", "VALUE", "UNKNOWN", "BYTES", "ROWS", "TRAINED", "billions", "counted_billions",
        "n_rows_each", "n_rows", "Cost", "hours_of", "hours_of_writing", "quota", "hours_of_waiting"],
    "estimates": ["AT_ONCE", "cost", "parse_job", "totals", "summary", "Planned", "planned", "planned_summary",
        "resources"],
    "profile": ["STAGE_NAMES", "Profile"],
    "read": ["profile_path", "load_profile", "load_run"],
    "sections": ["LANGUAGE_SETS", "Codes", "SCHEMA", "Sources", "Spec", "Dtype", "Seeds", "Variants", "Model",
        "Data", "source_paths", "Judge", "accelerate_file", "Family", "Adapter", "Beniwal2025", "Neuronft2025"],
    "shadow": ["LOCAL", "SEEDS", "shadow_model", "shadow_data", "shadow_scorer", "rehearsal"],
    "stages": ["PATTERN", "MODEL_STAGES", "PROMPTS", "JUDGE", "TEXT_STAGES", "INSIDE_STAGES", "STAGES", "Stage",
        "log_of", "made", "tuned_group", "maker_of", "threads", "stage_settings", "settings_digest"],
    "variants": ["merge", "tuning_settings", "short_value", "group_of", "groups", "method_of", "tuned",
        "check_tuning", "check_variants"],
})
