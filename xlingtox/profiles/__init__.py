"""Every setting of a run, and what follows from it."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
