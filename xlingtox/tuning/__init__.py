"""Tuning, by preference and by whatever else has a card."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "adapter": ["LORA"],
    "loss": ["preference_loss"],
    "methods": ["METHODS", "MAIN", "Method"],
    "preference": ["OBJECTIVES", "Lora", "Dpo", "Kto", "hold_out_pairs", "tune"],
})
