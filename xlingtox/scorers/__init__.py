"""Toxicity scores, and a store that never asks twice."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
