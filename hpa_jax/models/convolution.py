"""One convolution, four ways to compute it: the only place where the way is chosen.

In: x [N, H, W, I], kernel [h, w, I / groups, O].  Out: [N, H', W', O].

- 1x1: a matrix product (XLA's CPU convolution takes 2 to 3 times as long; on GPU and TPU XLA itself
  turns one into the other).
- grouped, on CPU: slices of channels, each a small dense convolution with a block-diagonal kernel.
  XLA's own grouped convolution needs seconds for the backward pass there.
- depthwise, on CPU: shifted multiply-adds (depthwise.py).
- everything else: `lax.conv_general_dilated`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from hpa_jax.models import depthwise

Sides = tuple[tuple[int, int], tuple[int, int]]

# Channels of one slice; measured by scripts/bench, see slice_groups.
SLICE_CHANNELS = 32


def convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """Cross-correlation with zero padding ((top, bottom), (left, right)), as torch.nn.Conv2d."""
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
    if groups == 1:
        return dense(x, kernel, strides, padding)
    if groups == x.shape[-1] == kernel.shape[-1]:
        on_cpu = functools.partial(_depthwise, strides=strides, padding=padding)
    else:
        on_cpu = functools.partial(sliced, strides=strides, padding=padding, groups=groups)
    return lax.platform_dependent(
        x,
        kernel,
        cpu=on_cpu,
        default=functools.partial(native, strides=strides, padding=padding, groups=groups),
    )


def _depthwise(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides
) -> jax.Array:
    # custom_vjp takes what it doesn't differentiate by place only
    return depthwise.shifted(x, kernel, strides, padding)


def dense(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides) -> jax.Array:
    """A convolution of one group."""
    return native(x, kernel, strides, padding, 1)


def native(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """XLA's convolution, cuDNN's on GPU."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def sliced(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """The grouped convolution as dense ones over slices of neighbouring groups."""
    together = slice_groups(x.shape[-1], groups)
    count = groups // together
    if together > 1:
        kernel = block_diagonal(kernel, groups, together)
    width = x.shape[-1] // count
    parts = zip(jnp.split(x, count, axis=-1) if width else [], jnp.split(kernel, count, axis=-1))
    return jnp.concatenate([dense(a, k, strides, padding) for a, k in parts], axis=-1)


def slice_groups(features: int, groups: int) -> int:
    """How many groups one slice takes: the most that divide evenly within SLICE_CHANNELS."""
    fitting = [
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and n * features // groups <= SLICE_CHANNELS
    ]
    return max(fitting, default=1)


def block_diagonal(kernel: jax.Array, groups: int, together: int) -> jax.Array:
    """[h, w, i, groups * o] -> [h, w, together * i, groups * o], zero between different groups."""
    h, w, i, features = kernel.shape
    split = kernel.reshape(h, w, 1, i, groups // together, together, features // groups)
    same = jnp.eye(together, dtype=kernel.dtype)[:, None, None, :, None]
    return (split * same).reshape(h, w, together * i, features)
