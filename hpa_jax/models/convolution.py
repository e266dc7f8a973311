"""One convolution, four ways to compute it: the only place where the way is chosen.

In: x [N, H, W, I], kernel [h, w, I / groups, O].  Out: [N, H', W', O].

- 1x1: a matrix product of two-dimensional arrays with its own gradient.  XLA's CPU convolution
  takes 5 times as long for the kernel's gradient, autodiff of the four-dimensional product 2 to 3
  times (64 x 64, 256 -> 128, batch 8, CPU time: 182, 56, 35 ms).
- grouped, on CPU: slices of channels, each a small dense convolution with a block-diagonal kernel.
  XLA's own grouped convolution needs seconds for the backward pass there.
- depthwise, on CPU: shifted multiply-adds (depthwise.py).
- everything else: `lax.conv_general_dilated`, which on CPU reaches 80 to 100 % of the matrix units'
  peak forward and in both gradients (32 to 256 channels at 64 x 64 to 8 x 8).

All figures here are of 2 CPU cores in float32.  Not measured on a GPU: there a grouped or depthwise
convolution is XLA's own, and the matrix product of 1x1 was chosen by its CPU time alone.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from hpa_jax.models import depthwise
from hpa_jax.models.pooling import Sides

# Channels of one slice on CPU; see slice_groups.  CPU time in ms, forward and both gradients, 3x3,
# 32 groups, batch 8, float32, 2 shared cores, by the most channels that a slice may have:
#                    8    16    32    64   128
#   64 x 64 x 128  145   141   135   210   456
#   32 x 32 x 256   77    69    70   107   187
#   16 x 16 x 512         28    27    44    81
#    8 x 8 x 1024               16    27    50
# 16 is no faster than 32, and twice the slices take about twice as long to compile.
SLICE_CHANNELS = 32


def convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """Cross-correlation with zero padding ((top, bottom), (left, right)), as torch.nn.Conv2d."""
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        x = x[:, :: strides[0], :: strides[1]]
        flat = matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0])
        return flat.reshape(*x.shape[:-1], kernel.shape[-1])
    if groups == 1:
        return native(x, kernel, strides, padding, 1)
    return grouped(x, kernel, strides, padding, groups)


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[M, I] @ [I, O], whose kernel gradient contracts the rows of both without a transpose."""
    return x @ kernel


def _matmul_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return gradient @ kernel.T, lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def grouped(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """Slices on CPU, XLA's grouped convolution elsewhere; chosen when the program is lowered.

    The gradient makes the choice anew: differentiating through `platform_dependent` would keep the
    intermediate values of both ways.
    """
    ways = _ways(x, kernel, strides, padding, groups)
    return lax.platform_dependent(x, kernel, cpu=ways["cpu"], default=ways["default"])


def _grouped_forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return grouped(x, kernel, strides, padding, groups), (x, kernel)


def _grouped_backward(
    strides: tuple[int, int],
    padding: Sides,
    groups: int,
    saved: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def pull(way: object) -> object:
        return lambda x, kernel, gradient: jax.vjp(way, x, kernel)[1](gradient)

    ways = {name: pull(way) for name, way in _ways(*saved, strides, padding, groups).items()}
    return lax.platform_dependent(*saved, gradient, cpu=ways["cpu"], default=ways["default"])


grouped.defvjp(_grouped_forward, _grouped_backward)


def _ways(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> dict[str, functools.partial]:
    options = dict(strides=strides, padding=padding, groups=groups)
    one_each = groups == x.shape[-1] == kernel.shape[-1]
    return {
        "cpu": functools.partial(_depthwise if one_each else sliced, **options),
        "default": functools.partial(native, **options),
    }


def _depthwise(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    del groups  # one for each channel
    return depthwise.shifted(x, kernel, strides, padding)


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
    kernel = block_diagonal(kernel, groups, together)
    parts = zip(jnp.split(x, count, axis=-1), jnp.split(kernel, count, axis=-1))
    return jnp.concatenate([native(a, k, strides, padding, 1) for a, k in parts], axis=-1)


def slice_groups(features: int, groups: int) -> int:
    """How many groups one slice takes: the most that divide evenly within SLICE_CHANNELS."""
    return max(
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and (n == 1 or n * features // groups <= SLICE_CHANNELS)
    )


def block_diagonal(kernel: jax.Array, groups: int, together: int) -> jax.Array:
    """[h, w, i, groups * o] -> [h, w, together * i, groups * o], zero between different groups."""
    if together == 1:
        return kernel
    h, w, i, features = kernel.shape
    split = kernel.reshape(h, w, 1, i, groups // together, together, features // groups)
    same = jnp.eye(together, dtype=kernel.dtype)[:, None, None, :, None]
    return (split * same).reshape(h, w, together * i, features)
