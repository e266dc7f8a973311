"""Initial weights are jax's to the bit, by fewer programs than a network has shapes."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.models import create, initializers

JAXS = {
    initializers.fan_out_normal: nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
    initializers.he_normal: nnx.initializers.he_normal(),
    initializers.small_normal: nnx.initializers.truncated_normal(0.02),
}
SHAPES = [(1, 1, 4, 4), (7, 7, 4, 64), (3, 3, 32, 40), (333, 77), (3, 3, 512, 96), (1, 5, 769)]


def differing() -> list[str]:
    """Which of the initializers' numbers are not jax's to the bit."""
    found = []
    for (ours, jaxs), shape in itertools.product(JAXS.items(), SHAPES):
        key = jax.random.fold_in(jax.random.key(7), shape[-1])
        if (ours(key, shape, jnp.float32) != jaxs(key, shape, jnp.float32)).any():
            found.append(f"{ours.__name__}{shape}")
    return found


def test_numbers_are_those_of_jax():
    program = "from tests.models.test_initializers import differing; print(differing())"
    environment = {**os.environ, "XLA_FLAGS": ""}  # as users compile, not as tests
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert answer.stdout.decode().strip() == "[]", answer.stderr.decode()


@pytest.mark.parametrize("ours", JAXS)
def test_inside_a_compiled_function_they_are_nearly_the_same(ours):
    arguments = jax.random.key(7), (3, 3, 8, 5), jnp.float32
    traced = jax.jit(ours, static_argnums=(1, 2))(*arguments)
    np.testing.assert_allclose(traced, ours(*arguments), rtol=1e-6)


def test_a_network_asks_for_few_sizes(monkeypatch):
    sizes, normal = set(), jax.random.normal

    def counted(key, shape, dtype):
        sizes.add(shape)
        return normal(key, shape, dtype)

    monkeypatch.setattr(jax.random, "normal", counted)
    model = create("se_resnext_tiny", num_classes=3, rngs=nnx.Rngs(0))
    kernels = {leaf.shape for leaf in jax.tree.leaves(nnx.state(model)) if leaf.ndim == 4}
    assert 0 < len(sizes) < len(kernels) / 3


def test_shapes_alone_are_those_of_the_network():
    options = dict(name="se_resnext_tiny", num_classes=3)
    made = nnx.state(create(**options, rngs=nnx.Rngs(0)))
    shapes = nnx.state(nnx.eval_shape(lambda: create(**options, rngs=initializers.ShapesOnly(0))))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )
