"""Pictures on disk to batches on the host."""
