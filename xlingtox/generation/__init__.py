"""Many continuations of every prompt."""
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "engine": ["Generation", "generate_batch", "model_digest", "generate"],
    "sampling": ["prompt_key", "sample_uniforms", "sample_nucleus"],
    "vllm": ["open_engine", "prompt_seed", "vllm_batch"],
})
