"""The depthwise convolution of the CPU equals XLA's own, with its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpa_jax.models import convolution, depthwise


@pytest.mark.parametrize(
    ("size", "kernel", "strides", "padding"),
    [
        ((5, 6), 3, (1, 1), ((1, 1), (1, 1))),
        ((9, 8), 5, (2, 2), ((1, 2), (2, 2))),
        ((7, 7), 3, (2, 2), ((0, 0), (1, 0))),
    ],
)
def test_equals_xlas_convolution(size, kernel, strides, padding):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 1, 3))

    def value(way):
        def loss(x, weights):
            y = way(x, weights)
            return (jnp.sin(jnp.arange(y.size).reshape(y.shape)) * y).sum(), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, weights)

    own = value(lambda x, k: depthwise.shifted(x, k, strides, padding))
    xla = value(lambda x, k: convolution.native(x, k, strides, padding, 3))
    for ours, theirs in zip(jax.tree.leaves(own), jax.tree.leaves(xla)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_computes_in_float32_for_bfloat16():
    x = jnp.ones((1, 8, 8, 2), jnp.bfloat16) * 1.0078125
    weights = jnp.full((7, 7, 1, 2), 0.0203857421875, jnp.bfloat16)
    y = depthwise.shifted(x, weights, (1, 1), ((0, 0), (0, 0)))
    assert y.dtype == jnp.bfloat16
    exact = 49 * float(x[0, 0, 0, 0]) * float(weights[0, 0, 0, 0])
    np.testing.assert_allclose(np.float32(y), exact, rtol=2**-8)


def test_computes_in_float64_for_float64():
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 6, 7, 3), jnp.float64)
        weights = jax.random.normal(jax.random.key(1), (3, 3, 1, 3), jnp.float64)
        padding = ((1, 1), (1, 1))

        def run(way):
            y, pull = jax.vjp(way, x, weights)
            return [y, *pull(jnp.cos(y))]

        own = run(lambda x, k: depthwise.shifted(x, k, (2, 1), padding))
        xla = run(lambda x, k: convolution.native(x, k, (2, 1), padding, 3))
        for ours, theirs in zip(own, xla):
            assert ours.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_convolve_takes_it_on_cpu():
    x, weights = jnp.ones((1, 4, 4, 6)), jnp.ones((3, 3, 1, 6))
    text = str(
        jax.make_jaxpr(lambda x, k: convolution.convolve(x, k, (1, 1), ((1, 1), (1, 1)), 6))(
            x, weights
        )
    )
    assert "_shifted" in text
