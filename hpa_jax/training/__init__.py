"""Training: from batches and a network to checkpoints."""
