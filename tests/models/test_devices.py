"""Layers on several devices: each convolves its own rows, and nothing is gathered."""

import os
import subprocess
import sys

import pytest


def run_on_four_devices(script):
    flags = "--xla_force_host_platform_device_count=4"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


CONVOLUTIONS = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from hpa_jax.models import convolution
from hpa_jax.training import distributed

assert jax.device_count() == 4
layout = distributed.layout()
draw = np.random.default_rng(0)
for groups, strides, side, padding in [(1, 2, 1, 0), (1, 1, 3, 1), (8, 2, 3, 1), (16, 1, 3, 1)]:
    x = jnp.asarray(draw.normal(size=(8, 6, 6, 16)), jnp.bfloat16)
    kernel = jnp.asarray(draw.normal(size=(side, side, 16 // groups, 16)), jnp.float32)

    def loss(x, kernel):
        edges = ((padding, padding),) * 2
        return convolution.convolve(x, kernel, (strides, strides), edges, groups).astype("f4").sum()

    gradient = jax.value_and_grad(loss, (0, 1))
    shardings = dict(in_shardings=(layout.rows, layout.replicated))
    jitted = jax.jit(distributed.in_mesh(layout.mesh, gradient), **shardings)
    program = jitted.lower(x, kernel).compile().as_text()
    assert "all-gather" not in program and "all-to-all" not in program, groups
    reduced = [line for line in program.splitlines() if " all-reduce(" in line]
    assert reduced and not any("bf16[" in line for line in reduced), reduced
    want, got = jax.jit(gradient)(x, kernel), jitted(x, kernel)
    assert got[1][1].dtype == jnp.float32
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got)):
        np.testing.assert_allclose(np.asarray(a, "f4"), np.asarray(b, "f4"), rtol=2e-2, atol=2e-1)
odd = jnp.ones((3, 6, 6, 16))  # rows that 4 devices can't share evenly
assert np.isfinite(distributed.in_mesh(layout.mesh, gradient)(odd, kernel)[0])
"""


@pytest.mark.slow
def test_four_devices_convolve_their_own_rows_and_sum_kernel_gradients_in_float32():
    run_on_four_devices(CONVOLUTIONS)


PER_DEVICE = """
import jax, jax.numpy as jnp, numpy as np
from hpa_jax.models import layers
from hpa_jax.training import distributed

layout = distributed.layout()
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3, 3, 5)) * np.arange(1, 6), jnp.float32)

def run(x):
    norm = layers.BatchNorm(5)
    norm.per_device = True
    return norm(x), norm.mean[...], norm.var[...]

jitted = jax.jit(distributed.in_mesh(layout.mesh, run), in_shardings=layout.rows)
got = jitted(x)
parts = [run(part) for part in np.split(np.asarray(x), 4)]  # no mesh in context: one device
np.testing.assert_allclose(got[0], np.concatenate([part[0] for part in parts]), atol=1e-5)
for number in (1, 2):
    want = np.mean([part[number] for part in parts], 0)
    np.testing.assert_allclose(got[number], want, rtol=1e-5)
forward = jax.jit(distributed.in_mesh(layout.mesh, lambda x: run(x)[0]), in_shardings=layout.rows)
assert "all-reduce" not in forward.lower(x).compile().as_text()
"""


def test_per_device_batch_norm_is_each_devices_own_and_asks_no_other():
    run_on_four_devices(PER_DEVICE)
