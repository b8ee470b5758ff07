"""What Li, Yong and Bach (2024) claim: a comparison, a rule and a verdict for each exhibit."""
