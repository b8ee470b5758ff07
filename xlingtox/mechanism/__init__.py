"""Inside the model: a probe, value vectors, activations, interventions."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "activations": ["Activations", "record_last", "mean_activations", "actual_sources"],
    "intervention": ["Intervention", "offset_activations", "sweep", "control_sets"],
    "probe": ["ProbeSettings", "mean_last_states", "Probe", "train_probe", "fit_probe", "save_probe", "load_probe"],
    "value_vectors": ["Sites", "probe_cosines", "token_text", "top_tokens", "token_languages", "token_script",
        "token_toxicity", "describe_tokens", "multilinguality", "truly_toxic", "precision_recall"],
})
