"""The few layers of which every backbone is built: convolution, batch normalisation, pools, gate.

In and out: feature maps [N, H, W, F], channels last on every device.  Parameters and BatchNorm
statistics are float32; `dtype` is what a layer computes in.  Semantics are torch's (paddings,
BatchNorm momentum and epsilon, pooling edges), so that published weights give the published
numbers; names are flax's (`kernel` [h, w, in / groups, out], `scale`, `mean`, `var`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from hpa_jax.models import convolution

Pair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]

# torchvision's and Cadene's ResNet initialisation: normal, variance 2 / (outgoing connections).
fan_out_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
he_normal = nnx.initializers.he_normal()


def pair(value: Pair) -> tuple[int, int]:
    """(v, v) of one number; a pair stays."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def sides(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right)) of one number, of (vertical, horizontal), or of the four."""
    vertical, horizontal = (padding, padding) if isinstance(padding, int) else padding
    return pair(vertical), pair(horizontal)


class Conv(nnx.Module):
    """2-D convolution [N, H, W, in_features] -> [N, H', W', out_features] with torch's padding.

    `padding`: one number, (vertical, horizontal), or ((top, bottom), (left, right)).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Pair,
        *,
        strides: Pair = 1,
        padding: Padding = 0,
        groups: int = 1,
        use_bias: bool = False,
        dtype: Any = jnp.float32,
        kernel_init: Callable = fan_out_normal,
        rngs: nnx.Rngs,
    ) -> None:
        if in_features % groups or out_features % groups:
            raise ValueError(f"{groups} groups don't divide {in_features} -> {out_features}")
        shape = (*pair(kernel_size), in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.strides = pair(strides)
        self.padding = sides(padding)
        self.groups = groups
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.apply(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(y.dtype)

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution with another kernel of the same shape, without the bias."""
        return convolution.convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.groups,
        )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as torch.nn.BatchNorm2d/1d.

    Training (`use_running_average=False`; `module.train()`): mean and biased variance of the batch
    in float32; running = (1 - momentum) * running + momentum * batch, with the unbiased variance.
    Evaluation (`module.eval()`): the running values.  Under `jit` with a sharded batch the
    statistics are those of the global batch.
    """

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs  # nothing random; here so that every layer is made alike
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.eps = eps
        self.momentum = momentum
        self.dtype = dtype
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            factor, shift = self.affine()
            return (x * factor + shift).astype(self.dtype)
        x32 = x.astype(jnp.float32)
        axes = tuple(range(x.ndim - 1))
        mean = x32.mean(axes)
        var = jnp.maximum((x32 * x32).mean(axes) - mean * mean, 0.0)
        self.update(mean, var, x.size // x.shape[-1])
        factor = self.scale[...] * lax.rsqrt(var + self.eps)
        return (x32 * factor + (self.bias[...] - mean * factor)).astype(self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """(factor[F], shift[F]) of the running statistics: evaluation is x * factor + shift."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.eps)
        return factor, self.bias[...] - self.mean[...] * factor

    def update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        """Moves the running statistics towards a batch's (biased `var` over `count` values)."""
        unbiased = var * (count / max(count - 1, 1))
        keep = 1.0 - self.momentum
        self.mean[...] = lax.stop_gradient(keep * self.mean[...] + self.momentum * mean)
        self.var[...] = lax.stop_gradient(keep * self.var[...] + self.momentum * unbiased)


def conv_bn_act(
    conv: Conv, bn: BatchNorm, x: jax.Array, act: Callable[[jax.Array], jax.Array] | None = nnx.relu
) -> jax.Array:
    """act(bn(conv(x))); in evaluation the normalisation is folded into the kernel.

    Folding costs one pass over the kernel and saves one over the feature map.
    """
    if bn.use_running_average:
        factor, shift = bn.affine()
        if conv.bias is not None:
            shift = shift + conv.bias[...] * factor
        y = conv.apply(x, conv.kernel[...] * factor) + shift.astype(conv.dtype)
    else:
        y = bn(conv(x))
    return y if act is None else act(y)


class Linear(nnx.Module):
    """Dense layer [..., in_features] -> [..., out_features], torch.nn.Linear."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        dtype: Any = jnp.float32,
        kernel_init: Callable = he_normal,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class SqueezeExcite(nnx.Module):
    """Channel gate: x * sigmoid(fc2(relu(fc1(mean over space)))); Hu et al. 2017."""

    def __init__(
        self, features: int, reduction: int = 16, *, dtype: Any = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        squeezed = max(features // reduction, 1)
        self.fc1 = Conv(features, squeezed, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.fc2 = Conv(squeezed, features, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = global_avg_pool(x)[:, None, None, :]
        return x * nnx.sigmoid(self.fc2(nnx.relu(self.fc1(pooled)))).astype(x.dtype)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Mean over space in float32: [N, H, W, F] -> [N, F]."""
    return x.astype(jnp.float32).mean((1, 2))


def global_max_pool(x: jax.Array) -> jax.Array:
    """Maximum over space: [N, H, W, F] -> [N, F] float32."""
    return x.max((1, 2)).astype(jnp.float32)


def max_pool(
    x: jax.Array, window: Pair, strides: Pair, *, padding: Padding = 0, ceil_mode: bool = False
) -> jax.Array:
    """torch.nn.MaxPool2d."""
    window, strides = pair(window), pair(strides)
    edges = _pool_edges(x.shape[1:3], window, strides, sides(padding), ceil_mode)
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *edges, (0, 0)),
    )


def avg_pool(
    x: jax.Array,
    window: Pair,
    strides: Pair,
    *,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """torch.nn.AvgPool2d: the extra edge that `ceil_mode` adds is never counted."""
    window, strides, padding = pair(window), pair(strides), sides(padding)
    edges = _pool_edges(x.shape[1:3], window, strides, padding, ceil_mode)
    total = lax.reduce_window(
        x.astype(jnp.float32),
        0.0,
        lax.add,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *edges, (0, 0)),
    )
    rows, columns = (
        _pool_counts(total.shape[1 + i], x.shape[1 + i], window[i], strides[i], padding[i],
                     count_include_pad)
        for i in (0, 1)
    )  # fmt: skip
    return (total / (rows[:, None] * columns)[None, :, :, None]).astype(x.dtype)


def _pool_edges(
    size: Sequence[int],
    window: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
    ceil_mode: bool,
) -> list[tuple[int, int]]:
    """Padding of both axes that gives torch's output size."""
    edges = []
    for n, k, s, (low, high) in zip(size, window, strides, padding):
        span = n + low + high - k
        steps = -(-span // s) if ceil_mode else span // s
        if ceil_mode and steps * s >= n + low:  # a window may not start in the right padding
            steps -= 1
        edges.append((low, steps * s + k - n - low))
    return edges


def _pool_counts(
    outputs: int, n: int, k: int, s: int, padding: tuple[int, int], include_pad: bool
) -> np.ndarray:
    """How many values each window of one axis averages: float32[outputs]."""
    low, high = padding
    start = np.arange(outputs) * s - low
    end = np.minimum(start + k, n + high)
    if not include_pad:
        start, end = np.maximum(start, 0), np.minimum(end, n)
    return (end - start).astype(np.float32)
