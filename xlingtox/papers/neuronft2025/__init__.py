"""What the paper on targeted neurons (2025) claims: detection, tuning, a rule and a verdict for each exhibit."""
