"""The papers' models, their miniatures, and loading them."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
