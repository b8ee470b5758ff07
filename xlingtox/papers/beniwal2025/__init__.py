"""What Beniwal et al. (2025) claim: a grid of tunings, a rule and a verdict for each exhibit."""
