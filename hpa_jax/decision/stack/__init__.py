"""Stacking: boosted models per class on metafeatures and the networks' probabilities."""
