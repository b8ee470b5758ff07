"""Inside the model: a probe, value vectors, activations, interventions."""
from ..faces import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
