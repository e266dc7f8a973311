"""Probabilities to labels."""
