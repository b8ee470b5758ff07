"""The papers' models, their miniatures, and loading them."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "adapters": ["adapter_base", "has_adapter"],
    "loading": ["load_tokenizer", "load_config", "keep_layout", "load", "save"],
    "miniatures": ["RECIPES", "SHADOWS", "mini_folder", "shadow_config", "shadow_folder"],
    "pretrain": ["PART", "train_tokenizer", "balanced_texts", "pack", "causal_loss", "accumulate_gradient",
        "orthogonalise", "Muon", "optimizers", "learning_rate_factor"],
    "registry": ["ROLES", "LORA_MODULES", "model_registry", "lora_modules"],
    "sites": ["ARCHITECTURES", "MlpSite", "mlp_sites", "check_sites", "random_sites"],
})
