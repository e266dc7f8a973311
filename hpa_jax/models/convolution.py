"""Convolution with several implementations, chosen here by platform.

In: x [N, H, W, I], kernel [h, w, I / groups, O].  Out: [N, H', W', O].

| | CPU | CUDA | TPU |
|---|---|---|---|
| 1x1 | matrix product | native | native |
| grouped | dense slices of 32 channels | native | dense slices of 128 channels |
| depthwise | shifted multiply-adds (depthwise.py) | native | native |
| everything else | native | native | native |

`native` is `lax.conv_general_dilated`, cuDNN's on CUDA.

CPU, 2 cores, float32.  1x1: XLA's convolution takes 5 times as long for the kernel's gradient as a
product of two-dimensional arrays, autodiff of the four-dimensional product 2 to 3 times (64 x 64,
256 -> 128, batch 8, CPU time: 182, 56, 35 ms).  Grouped: XLA's own needs seconds for the backward
pass.  Native (32 to 256 channels, 64 x 64 to 8 x 8): 80 to 100 % of the matrix units' peak.

CUDA.  The strided 1x1 as slice, reshape, product aborts the compiler in its kernel gradient
(openxla/xla#47381), so 1x1 is native.

TPU, estimates of the compiler for v5e, bfloat16, forward and both gradients, 3x3, batch 32:

| | native | slices of 128 channels | whole, block-diagonal | shifted |
|---|---|---|---|---|
| 128 x 128 x 128, 32 groups | 33.8 ms, 6.5 GB | 4.7 ms, 1.4 GB | | |
| 64 x 64 x 256, 32 groups | 11.2 ms, 3.2 GB | 3.3 ms, 1.5 GB | | |
| 32 x 32 x 512, 32 groups | 5.7 ms, 1.6 GB | 1.8 ms, .8 GB | 3.2 ms, .7 GB | |
| 32 x 32 x 728, depthwise | 1.4 ms, .8 GB | 2.3 ms, 1.4 GB | 5.8 ms, .9 GB | 2.7 ms, .7 GB |

The native grouped convolution becomes a 5-dimensional array with the batch in the 128 lanes.

Several devices.  Each convolves its own rows of the batch inside `shard_map`: the partitioner
gathers the whole batch for the kernel gradient of a grouped convolution (openxla/xla#47945).  The
kernel's gradient is rounded to the compute type once on each device, as on a single one, and summed
over the devices in the parameter's float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from hpa_jax.models import depthwise
from hpa_jax.models.pooling import Sides

Way = Callable[[jax.Array, jax.Array], jax.Array]

# The most channels of one dense slice of a grouped convolution.  TPU: the width of its matrix unit.
# CPU time in ms, forward and both gradients, 3x3, 32 groups, batch 8, float32, 2 shared cores:
#                    8    16    32    64   128
#   64 x 64 x 128  145   141   135   210   456
#   32 x 32 x 256   77    69    70   107   187
#   16 x 16 x 512         28    27    44    81
#    8 x 8 x 1024               16    27    50
# 16 is no faster than 32, and twice the slices take about twice as long to compile.
SLICE_CHANNELS = {"cpu": 32, "tpu": 128}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """Cross-correlation with zero padding ((top, bottom), (left, right)), as torch.nn.Conv2d.

    Computes in x's type; the kernel may be float32, and its gradient is then float32.
    """

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _by_platform(lambda way: way, x, kernel.astype(x.dtype), strides, padding, groups)

    return _on_each_device(forward, (x,), (kernel,))


def _forward(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, strides, padding, groups), (x, kernel)


def _backward(
    strides: tuple[int, int],
    padding: Sides,
    groups: int,
    saved: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    # Chooses again: differentiating through `platform_dependent` would keep the
    # intermediate values of every implementation.
    def pull(way: Way) -> Callable:
        return lambda x, kernel, gradient: jax.vjp(way, x, kernel)[1](gradient)

    def backward(x: jax.Array, gradient: jax.Array, kernel: jax.Array) -> tuple:
        arguments = (x, kernel.astype(x.dtype))
        to_x, to_kernel = _by_platform(pull, *arguments, strides, padding, groups, gradient)
        return to_x, to_kernel.astype(kernel.dtype)

    return _on_each_device(backward, (saved[0], gradient), (saved[1],), sums=True)


convolve.defvjp(_forward, _backward)


def _by_platform(
    build: Callable[[Way], Callable],
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Sides,
    groups: int,
    *more: jax.Array,
) -> jax.Array:
    """Return `build(way)(x, kernel, *more)`; the way is chosen when the program is lowered."""
    options = dict(strides=strides, padding=padding)
    ways: dict[str, Way] = {"default": functools.partial(native, **options, groups=groups)}
    if kernel.shape[:2] == (1, 1) and groups == 1 and padding == ((0, 0), (0, 0)):
        ways["cpu"] = functools.partial(pointwise, strides=strides)
    elif groups > 1 and groups == x.shape[-1] == kernel.shape[-1]:
        ways["cpu"] = functools.partial(depthwise.shifted, **options)
    elif groups > 1:
        for platform, channels in SLICE_CHANNELS.items():
            ways[platform] = functools.partial(sliced, **options, groups=groups, channels=channels)
    if len(ways) == 1:
        return build(ways["default"])(x, kernel, *more)
    return lax.platform_dependent(
        x, kernel, *more, **{platform: build(way) for platform, way in ways.items()}
    )


def _on_each_device(
    function: Callable,
    rows: tuple[jax.Array, ...],
    whole: tuple[jax.Array, ...],
    sums: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Call `function(*rows, *whole)` on each device's share of the rows of the mesh in context.

    sums: the function returns (rows, whole); the latter is summed over the devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or len(rows[0]) % mesh.size:
        return function(*rows, *whole)
    split, replicated = PartitionSpec(mesh.axis_names), PartitionSpec()

    def on_device(*arguments: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        out = function(*arguments)
        return (out[0], lax.psum(out[1], mesh.axis_names)) if sums else out

    return jax.shard_map(
        on_device,
        in_specs=(split,) * len(rows) + (replicated,) * len(whole),
        out_specs=(split, replicated) if sums else split,
        check_vma=False,  # summed over the devices by psum above
    )(*rows, *whole)


def pointwise(x: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Compute the 1x1 convolution as a product of two-dimensional arrays."""
    x = x[:, :: strides[0], :: strides[1]]
    flat = matmul(x.reshape(-1, x.shape[-1]), kernel[0, 0])
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute [M, I] @ [I, O]; its kernel gradient contracts rows without a transpose."""
    return x @ kernel


def _matmul_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return gradient @ kernel.T, lax.dot_general(x, gradient, (((0,), (0,)), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


def native(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: Sides, groups: int
) -> jax.Array:
    """Compute XLA's convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def sliced(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    padding: Sides,
    groups: int,
    channels: int,
) -> jax.Array:
    """Compute the grouped convolution as dense ones over slices of neighbouring groups."""
    together = slice_groups(x.shape[-1], groups, channels)
    count = groups // together
    kernel = block_diagonal(kernel, groups, together)
    parts = zip(jnp.split(x, count, axis=-1), jnp.split(kernel, count, axis=-1))
    return jnp.concatenate([native(a, k, strides, padding, 1) for a, k in parts], axis=-1)


def slice_groups(features: int, groups: int, channels: int) -> int:
    """Return the groups per slice: the largest divisor of `groups` within `channels` channels."""
    return max(
        n
        for n in range(1, groups + 1)
        if groups % n == 0 and (n == 1 or n * features // groups <= channels)
    )


def block_diagonal(kernel: jax.Array, groups: int, together: int) -> jax.Array:
    """Expand [h, w, i, groups * o] to [h, w, together * i, groups * o], zero between groups."""
    if together == 1:
        return kernel
    h, w, i, features = kernel.shape
    split = kernel.reshape(h, w, 1, i, groups // together, together, features // groups)
    same = jnp.eye(together, dtype=kernel.dtype)[:, None, None, :, None]
    return (split * same).reshape(h, w, together * i, features)
