"""Layers of all backbones: convolution, batch normalisation, pools, squeeze-excitation.

In and out: feature maps [N, H, W, F], channels last on every device.  Parameters and BatchNorm
statistics are float32; layers compute in `dtype`.  Semantics are torch's (paddings, BatchNorm
momentum and epsilon, pooling edges), so that published weights give the published numbers; names
are flax's (`kernel` [h, w, in / groups, out], `scale`, `mean`, `var`).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from hpa_jax.models import convolution
from hpa_jax.models.initializers import fan_out_normal, he_normal
from hpa_jax.models.pooling import Padding, Pair, avg_pool, global_max_pool, max_pool, pair, sides

__all__ = [
    "BatchNorm",
    "Conv",
    "LayerNorm",
    "Linear",
    "SqueezeExcite",
    "avg_pool",
    "conv_bn_act",
    "global_avg_pool",
    "global_max_pool",
    "max_pool",
]


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
        """Convolve with another kernel of the same shape, without the bias."""
        return convolution.convolve(
            x.astype(self.dtype),
            kernel,
            self.strides,
            self.padding,
            self.groups,
        )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as torch.nn.BatchNorm2d/1d.

    Training (`use_running_average=False`; `module.train()`): mean and biased variance of the batch
    in float32; running = (1 - momentum) * running + momentum * batch, with the unbiased variance.
    Evaluation (`module.eval()`): the running values.  Under `jit` with a sharded batch the
    statistics are those of the global batch, at one all-reduce forward and one backward for each
    layer; with `per_device` each device normalises its rows by their statistics (torch's
    DataParallel), and the running values use the mean over the devices.
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
        del rngs  # accepted for uniformity with other layers
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.eps = eps
        self.momentum = momentum
        self.dtype = dtype
        self.use_running_average = False
        self.per_device = False

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            factor, shift = self.affine()
            return (x * factor + shift).astype(self.dtype)
        mesh = jax.sharding.get_abstract_mesh()
        shares = self.per_device and not mesh.empty and len(x) % mesh.size == 0
        devices = mesh.size if shares else 1
        rows = x.reshape(devices, -1, *x.shape[1:]) if devices > 1 else x
        x32 = rows.astype(jnp.float32)
        # Two plain means.  Measured on CPU (float32, [8, 64, 64, 256]), not on a GPU: one reduction
        # of both values takes 2.7 times their CPU time, products with a row of ones 3.8 times.
        axes = tuple(range(int(devices > 1), rows.ndim - 1))
        mean = x32.mean(axes, keepdims=devices > 1)  # [F], or [devices, 1, .., F]
        var = jnp.maximum((x32 * x32).mean(axes, keepdims=devices > 1) - mean * mean, 0.0)
        outer = tuple(range(mean.ndim - 1))
        count = x.size // x.shape[-1] // devices
        self.update(mean.mean(outer), var.mean(outer), count)
        factor = self.scale[...] * lax.rsqrt(var + self.eps)
        y = x32 * factor + (self.bias[...] - mean * factor)
        return y.reshape(x.shape).astype(self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Return (factor[F], shift[F]) with which evaluation is x * factor + shift."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.eps)
        return factor, self.bias[...] - self.mean[...] * factor

    def update(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        """Update the running statistics with a batch's (biased `var` over `count` values)."""
        unbiased = var * (count / max(count - 1, 1))
        keep = 1.0 - self.momentum
        # set_value: `self.mean[...] = ` asks a traced value for its sharding, and jax then searches
        # the whole program so far for its refusal: 9 of 14 s of tracing inception_v4's step.
        self.mean.set_value(lax.stop_gradient(keep * self.mean[...] + self.momentum * mean))
        self.var.set_value(lax.stop_gradient(keep * self.var[...] + self.momentum * unbiased))


class LayerNorm(nnx.Module):
    """Normalisation over the last axis, in float32."""

    def __init__(self, features: int, *, eps: float = 1e-6, dtype: Any = jnp.float32) -> None:
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.eps, self.dtype = eps, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        x = x - x.mean(-1, keepdims=True)
        x = x * lax.rsqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


def conv_bn_act(
    conv: Conv, bn: BatchNorm, x: jax.Array, act: Callable[[jax.Array], jax.Array] | None = nnx.relu
) -> jax.Array:
    """Compute act(bn(conv(x))); in evaluation the normalisation is folded into the kernel.

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
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if x.ndim > 2:
            y = lax.platform_dependent(x, kernel, cpu=_flat_product, default=jnp.matmul)
        else:
            y = x @ kernel
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def _flat_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Compute x @ kernel as a product of two matrices.

    CPU, 2 cores, [8, 785, 768] @ [768, 3072] in float32: the kernel's gradient takes .25 s, of
    three dimensions .40 s.  On TPU the reshape is a copy: 785 rows are no multiple of its tiles' 8.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


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
    """Mean over space: [N, H, W, F] -> [N, F] float32 (float64 of float64)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean((1, 2))
