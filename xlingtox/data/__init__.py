"""Data in one of a few schemas, from any source."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
