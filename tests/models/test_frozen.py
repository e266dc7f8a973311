"""A head on a frozen network's embedding, and the same head on stored embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.models.heads import create_head


def head(hidden=0):
    options = {"hidden": hidden} if hidden else {}
    made = create_head(
        "mlp" if hidden else "linear", 4, 3, dropout=0.0, rngs=nnx.Rngs(0), **options
    )
    made.eval()
    return made


@pytest.mark.parametrize("hidden", [0, 5])
def test_the_formula_of_a_head(hidden):
    """In numpy: batch norm by stored statistics, dense, ReLU, batch norm, dense."""
    rng = np.random.default_rng(0)
    top = head(hidden)

    def norm(layer, x):
        mean, var = rng.standard_normal(x.shape[1]), rng.random(x.shape[1]) + 0.5
        layer.mean[...], layer.var[...] = jnp.asarray(mean), jnp.asarray(var)
        return (x - mean) / np.sqrt(var + 1e-5)

    x = rng.standard_normal((6, 2, 1, 4)).astype(np.float32)
    y = x.mean((1, 2))
    if hidden:
        y = norm(top.bn1, y) @ np.asarray(top.fc1.kernel[...]) + np.asarray(top.fc1.bias[...])
        y = np.maximum(y, 0)
    y = norm(top.bn, y) @ np.asarray(top.fc.kernel[...]) + np.asarray(top.fc.bias[...])
    logits, pooled = top.embed(jnp.asarray(x))
    np.testing.assert_allclose(logits, y, atol=1e-4)
    np.testing.assert_allclose(pooled, x.mean((1, 2)), atol=1e-6)
