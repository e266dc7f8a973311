"""Inception modules from tables: parallel branches of convolutions and pools, concatenated.

A module is a tuple of branches; a branch is a tuple of steps, each a `Unit` (convolution,
BatchNorm, ReLU), a `Pool`, or a `Fork` (units on the same input, concatenated).  The three
networks differ only in their tables, biases and BatchNorm's epsilon.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.sizes import scaled


@dataclasses.dataclass(frozen=True)
class Unit:
    """Convolution -> BatchNorm -> ReLU under an attribute `name`; padding None keeps the size."""

    name: str
    features: int
    kernel: layers.Pair = 1
    strides: int = 1
    padding: layers.Padding | None = None


@dataclasses.dataclass(frozen=True)
class Pool:
    """A 3x3 pool within a branch; `pad_odd` pads an odd side by 1 (and an even one not at all)."""

    kind: str  # "max" or "avg"
    strides: int = 1
    padding: int = 1
    ceil_mode: bool = False
    count_include_pad: bool = True
    pad_odd: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        padding = (x.shape[1] % 2, x.shape[2] % 2) if self.pad_odd else self.padding
        if self.kind == "max":
            return layers.max_pool(x, 3, self.strides, padding=padding, ceil_mode=self.ceil_mode)
        return layers.avg_pool(
            x,
            3,
            self.strides,
            padding=padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )


@dataclasses.dataclass(frozen=True)
class Fork:
    """Units with the same input; their outputs are concatenated."""

    units: tuple[Unit, ...]


Step = Unit | Pool | Fork
Branch = tuple[Step, ...]


class ConvUnit(nnx.Module):
    """relu(bn(conv(x))): [N, H, W, in_features] -> [N, H', W', out_features]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel: layers.Pair = 1,
        *,
        strides: layers.Pair = 1,
        padding: layers.Padding | None = None,
        use_bias: bool = False,
        eps: float = 1e-3,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if padding is None:
            height, width = layers.pair(kernel)
            padding = (height // 2, width // 2)
        self.conv = layers.Conv(
            in_features,
            out_features,
            kernel,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.bn = layers.BatchNorm(out_features, eps=eps, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.conv_bn_act(self.conv, self.bn, x)


class Mixed(nnx.Module):
    """One Inception module: [N, H, W, in_features] -> [N, H', W', out_features].

    Its units are attributes with the published names, so that weights map by name.
    """

    def __init__(
        self,
        in_features: int,
        branches: tuple[Branch, ...],
        *,
        width: float = 1.0,
        use_bias: bool = False,
        eps: float = 1e-3,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.branches = branches

        def add(unit: Unit, features: int) -> int:
            out = scaled(unit.features, width)
            layer = ConvUnit(
                features,
                out,
                unit.kernel,
                strides=unit.strides,
                padding=unit.padding,
                use_bias=use_bias,
                eps=eps,
                dtype=dtype,
                rngs=rngs,
            )
            setattr(self, unit.name, layer)
            return out

        self.out_features = 0
        for branch in branches:
            features = in_features
            for step in branch:
                if isinstance(step, Unit):
                    features = add(step, features)
                elif isinstance(step, Fork):
                    features = sum(add(unit, features) for unit in step.units)
            self.out_features += features

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([self._run(branch, x) for branch in self.branches], axis=-1)

    def _run(self, branch: Branch, x: jax.Array) -> jax.Array:
        for step in branch:
            if isinstance(step, Unit):
                x = getattr(self, step.name)(x)
            elif isinstance(step, Pool):
                x = step(x)
            else:
                x = jnp.concatenate([getattr(self, u.name)(x) for u in step.units], axis=-1)
        return x
