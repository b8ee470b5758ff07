"""Tuning, by preference and by whatever else has a card."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
