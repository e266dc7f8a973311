"""DenseNet-BC 121, 169 and 201 (Huang et al. 2016, arXiv 1608.06993) as in torchvision.

In: images [N, H, W, K], ImageNet-normalised for published weights; out of `features`:
[N, H/32, W/32, F], after the last normalisation and a ReLU (as torchvision and bestfitting use
them, before the pools).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.sizes import Depth, counts, scaled


class DenseLayer(nnx.Module):
    """BN -> ReLU -> 1x1 to 4 * growth -> BN -> ReLU -> 3x3 to growth: [.., F] -> [.., growth]."""

    def __init__(self, in_features: int, growth: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        inner = 4 * growth
        self.norm1 = layers.BatchNorm(in_features, dtype=dtype, rngs=rngs)
        self.conv1 = layers.Conv(in_features, inner, 1, dtype=dtype, rngs=rngs)
        self.norm2 = layers.BatchNorm(inner, dtype=dtype, rngs=rngs)
        self.conv2 = layers.Conv(inner, growth, 3, padding=1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm1(x))
        return self.conv2(layers.conv_bn_act(self.conv1, self.norm2, x))


class DenseBlock(nnx.Module):
    """Layers with all previous maps as input: [.., F] -> [.., F + count * growth]."""

    def __init__(
        self, in_features: int, count: int, growth: int, *, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        self.names = tuple(f"denselayer{index + 1}" for index in range(count))
        for index, name in enumerate(self.names):
            layer = DenseLayer(in_features + index * growth, growth, dtype=dtype, rngs=rngs)
            setattr(self, name, layer)

    def __call__(self, x: jax.Array, remat: bool) -> jax.Array:
        if not remat:
            for name in self.names:
                x = jnp.concatenate([x, getattr(self, name)(x)], axis=-1)
            return x
        # The parts are passed, so that each map is kept once and not in every concatenation.
        maps = [x]
        for name in self.names:
            maps.append(nnx.remat(_joined)(getattr(self, name), maps))
        return jnp.concatenate(maps, axis=-1)


def _joined(layer: DenseLayer, maps: list[jax.Array]) -> jax.Array:
    return layer(jnp.concatenate(maps, axis=-1))


class Transition(nnx.Module):
    """BN -> ReLU -> 1x1 -> 2x2 average: [H, W, in_features] -> [H/2, W/2, out_features]."""

    def __init__(self, in_features: int, out_features: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.norm = layers.BatchNorm(in_features, dtype=dtype, rngs=rngs)
        self.conv = layers.Conv(in_features, out_features, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.avg_pool(self.conv(nnx.relu(self.norm(x))), 2, 2)


class DenseNet(Backbone):
    """torchvision's densenet121-a639ec97.pth (169: b2777c0a, 201: c1103571), and timm's.

    blocks: the published layers of the four blocks.
    width: multiplies the growth rate (32) and the stem (64).
    depth: multiplies the layers of each block, or gives the four numbers.
    large_stem: bestfitting's extra 2x2 max-pool after the first pool, for 1024 pixels.
    remat: keep only each layer's output for the backward pass and recompute the rest.
    """

    smallest = 29  # the last transition halves 2 x 2 pixels

    def __init__(
        self,
        blocks: tuple[int, ...] = (6, 12, 24, 16),
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: Depth = None,
        large_stem: bool = False,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        growth, features = scaled(32, width), scaled(64, width)
        self.in_channels, self.dtype = in_channels, dtype
        self.large_stem, self.remat = large_stem, remat
        if large_stem:
            self.smallest = 61
        self.conv0 = layers.Conv(in_channels, features, 7, strides=2, padding=3, **options)
        self.norm0 = layers.BatchNorm(features, **options)
        self.layer_counts = counts(blocks, depth)
        for index, count in enumerate(self.layer_counts, start=1):
            setattr(self, f"denseblock{index}", DenseBlock(features, count, growth, **options))
            features += count * growth
            if index < len(self.layer_counts):
                half = max(1, features // 2)
                setattr(self, f"transition{index}", Transition(features, half, **options))
                features = half
        self.norm5 = layers.BatchNorm(features, **options)
        self.out_features = features

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, H/32, W/32, F], rectified."""
        x = self.enter(images, self.dtype)
        x = layers.conv_bn_act(self.conv0, self.norm0, x)
        x = layers.max_pool(x, 3, 2, padding=1)
        if self.large_stem:
            x = layers.max_pool(x, 2, 2)
        for index in range(1, len(self.layer_counts) + 1):
            x = getattr(self, f"denseblock{index}")(x, self.remat)
            if index < len(self.layer_counts):
                x = run_blocks([getattr(self, f"transition{index}")], x, self.remat)
        return nnx.relu(self.norm5(x))

    def body_groups(self) -> Groups:
        """Return the stem, and each block with the transition after it."""
        last = len(self.layer_counts)
        blocks = [[f"denseblock{i}", f"transition{i}"] for i in range(1, last)]
        return [["conv0", "norm0"], *blocks, [f"denseblock{last}", "norm5"]]
