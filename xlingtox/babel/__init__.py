"""The miniature world: a lexicon, a grammar, and data drawn from them."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
