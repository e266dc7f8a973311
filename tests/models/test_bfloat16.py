"""Gradients in bfloat16 are finite in the families of inception modules, separable convolutions and
cells (those of the ResNets and DenseNets: in their files).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.models import create

SMALL = {
    "inception_v3": dict(width=1 / 16, depth=(1, 1, 1)),
    "inception_v4": dict(width=1 / 32, depth=(1, 1, 1)),
    "bn_inception": dict(width=1 / 32, depth=(1, 1, 1)),
    "xception": dict(width=1 / 16, depth=(1,)),
    "nasnet_a_large": dict(width=1 / 14, depth=(1, 1, 1)),
}
# Half a minute of compiling each; bn_inception has the same blocks.
SLOW = ("inception_v3", "inception_v4", "nasnet_a_large")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SMALL],
)
def test_gradients_are_finite(name):
    model = create(
        name, num_classes=3, dropout=0.0, dtype=jnp.bfloat16, rngs=nnx.Rngs(0), **SMALL[name]
    )
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    images = jax.random.normal(jax.random.key(1), (2, 107, 107, 4))

    def loss(params):
        model = nnx.merge(graph, params, rest, copy=True)
        if name == "inception_v3":
            logits, aux = model.logits_and_aux(images)
            return jnp.square(logits).sum() + jnp.square(aux).sum()
        return jnp.square(model(images)).sum()

    # Compiling is most of the time, and the numbers don't depend on how well it is done.
    fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = None if name == "nasnet_a_large" else fast
    value, gradient = jax.jit(jax.value_and_grad(loss)).lower(params).compile(options)(params)
    assert value.dtype == jnp.float32 and jnp.isfinite(value)
    for path, leaf in nnx.to_flat_state(gradient):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(np.asarray(leaf[...])).all(), path
