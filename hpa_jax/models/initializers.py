"""Initial weights: the numbers of jax.nn.initializers, compiled for few sizes.

jax compiles a random generator anew for each shape, a quarter of a second each on a CPU, and a
network has 20 to 100 shapes.  Threefry's numbers depend on the key and their place alone
(`jax_threefry_partitionable`), so those of a shape are the first of a longer vector's.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SMALLEST, FACTOR = 1024, 4  # of the vectors' sizes
# of a normal distribution truncated at two standard deviations
TRUNCATED = np.float32(0.87962566103423978)
_truncated = functools.partial(jax.random.truncated_normal, lower=-2.0, upper=2.0)


class ShapesOnly(nnx.Rngs):
    """One key for all weights, for `nnx.eval_shape`: there nnx.Rngs' counters take most of the time
    (flax asks each for a sharding, and jax searches the whole program for its refusal)."""

    def params(self) -> jax.Array:
        """Return the key."""
        return self.default.key[...]


def fan_out_normal(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Normal, variance 2 / (outgoing connections): torchvision's and Cadene's ResNets."""
    deviation = np.sqrt(np.float32(2.0 / (math.prod(shape[:-2]) * shape[-1])))
    return _drawn(jax.random.normal, key, shape, deviation, dtype)


def he_normal(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Truncated normal, variance 2 / (incoming connections)."""
    deviation = np.sqrt(np.float32(2.0 / math.prod(shape[:-1]))) / TRUNCATED
    return _drawn(_truncated, key, shape, deviation, dtype)


def small_normal(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype) -> jax.Array:
    """Normal of deviation .02, truncated at two of them: ViT and ConvNeXt."""
    return _drawn(_truncated, key, shape, np.float32(0.02), dtype)


def _drawn(
    draw: Callable[..., jax.Array],
    key: jax.Array,
    shape: Sequence[int],
    deviation: np.float32,
    dtype: jnp.dtype,
) -> jax.Array:
    if isinstance(key, jax.core.Tracer):  # only shapes are asked for
        return draw(key, shape=shape, dtype=dtype) * deviation.astype(dtype)
    size, longer = math.prod(shape), SMALLEST
    while longer < size:
        longer *= FACTOR
    drawn = np.asarray(draw(key, shape=(longer,), dtype=dtype))[:size]
    return jax.device_put((drawn * deviation.astype(dtype)).reshape(shape), may_alias=False)
