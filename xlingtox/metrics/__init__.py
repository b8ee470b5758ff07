"""Toxicity, diversity, fluency and capability, with intervals."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
