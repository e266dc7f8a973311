"""Networks (flax.nnx)."""
