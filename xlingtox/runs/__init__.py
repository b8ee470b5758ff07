"""How a run is run."""
