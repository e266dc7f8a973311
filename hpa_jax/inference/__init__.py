"""Checkpoints to probabilities and embeddings."""
