"""Xception (Chollet 2016, arXiv 1610.02357) as in Cadene's pretrainedmodels and timm (legacy).

In: images [N, H, W, K], normalised to [-1, 1] ("inception": mean .5, std .5).  Out of `features`:
[N, H/32, W/32, 2048 * width], after the last normalisation and a ReLU.

`as_run=True` is the network that One More Layer actually trained: fastai ran the list of the
original's children, which omits the ReLUs after bn2 and bn3 and ends at conv4, without bn4.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.sizes import Depth, counts, scaled


class SeparableConv(nnx.Module):
    """Depthwise then 1x1 convolution: [N, H, W, inputs] -> [N, H', W', outputs]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        *,
        strides: int = 1,
        padding: layers.Padding | None = None,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv1 = layers.Conv(
            inputs,
            inputs,
            kernel,
            strides=strides,
            padding=kernel // 2 if padding is None else padding,
            groups=inputs,
            dtype=dtype,
            rngs=rngs,
        )
        self.pointwise = layers.Conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.pointwise(self.conv1(x))

    def normalised(self, bn: layers.BatchNorm, x: jax.Array) -> jax.Array:
        """Compute bn(self(x)), folded into the 1x1 convolution in evaluation."""
        return layers.conv_bn_act(self.pointwise, bn, self.conv1(x), None)


class Block(nnx.Module):
    """Separable convolutions with a shortcut; units are named by their index in the original.

    `features`: the channels after each convolution.  `relu_first=False` for block1, whose input is
    rectified already.
    """

    def __init__(
        self,
        inputs: int,
        features: tuple[int, ...],
        *,
        strides: int = 1,
        relu_first: bool = True,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        outputs = features[-1]
        self.strides, self.relu_first = strides, relu_first
        self.places = tuple(3 * index + relu_first for index in range(len(features)))
        for place, before, after in zip(self.places, (inputs, *features), features):
            setattr(self, f"rep_{place}", SeparableConv(before, after, dtype=dtype, rngs=rngs))
            setattr(self, f"rep_{place + 1}", layers.BatchNorm(after, dtype=dtype, rngs=rngs))
        self.shortcut = strides > 1 or inputs != outputs
        if self.shortcut:
            self.skip = layers.Conv(inputs, outputs, 1, strides=strides, dtype=dtype, rngs=rngs)
            self.skipbn = layers.BatchNorm(outputs, dtype=dtype, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x = inputs
        for index, place in enumerate(self.places):
            x = nnx.relu(x) if index or self.relu_first else x
            x = getattr(self, f"rep_{place}").normalised(getattr(self, f"rep_{place + 1}"), x)
        if self.strides > 1:
            x = layers.max_pool(x, 3, self.strides, padding=1)
        if self.shortcut:
            inputs = layers.conv_bn_act(self.skip, self.skipbn, inputs, None)
        return x + inputs


class Xception(Backbone):
    """Cadene's xception-43020ad28.pth and timm's legacy_xception.tf_in1k.

    width: multiplies all channel numbers.
    depth: multiplies the blocks of the middle flow (8), or gives their number as (n,).
    as_run: One More Layer's accidental variant, see above.
    remat: keep only the blocks' inputs for the backward pass and recompute the rest.
    """

    smallest = 7

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: Depth = None,
        as_run: bool = False,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        (middle,) = counts((8,), depth)
        a, b, c, d, e, f, g, h = (
            scaled(n, width) for n in (32, 64, 128, 256, 728, 1024, 1536, 2048)
        )
        self.in_channels, self.dtype, self.remat = in_channels, dtype, remat
        self.as_run = as_run
        self.conv1 = layers.Conv(in_channels, a, 3, strides=2, **options)
        self.bn1 = layers.BatchNorm(a, **options)
        self.conv2 = layers.Conv(a, b, 3, **options)
        self.bn2 = layers.BatchNorm(b, **options)
        self.block1 = Block(b, (c, c), strides=2, relu_first=False, **options)
        self.block2 = Block(c, (d, d), strides=2, **options)
        self.block3 = Block(d, (e, e), strides=2, **options)
        for index in range(4, 4 + middle):
            setattr(self, f"block{index}", Block(e, (e, e, e), **options))
        setattr(self, f"block{4 + middle}", Block(e, (e, f), strides=2, **options))
        self.names = tuple(f"block{index}" for index in range(1, 5 + middle))
        self.conv3 = SeparableConv(f, g, **options)
        self.bn3 = layers.BatchNorm(g, **options)
        self.conv4 = SeparableConv(g, h, **options)
        self.bn4 = layers.BatchNorm(h, **options)
        self.out_features = h

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, H/32, W/32, F]."""
        x = self.enter(images, self.dtype)
        x = layers.conv_bn_act(self.conv1, self.bn1, x)
        x = layers.conv_bn_act(self.conv2, self.bn2, x, None if self.as_run else nnx.relu)
        x = run_blocks([getattr(self, name) for name in self.names], x, self.remat)
        x = self.conv3.normalised(self.bn3, x)
        if self.as_run:
            return self.conv4(x)
        return nnx.relu(self.conv4.normalised(self.bn4, nnx.relu(x)))

    def body_groups(self) -> Groups:
        """Return the stem, entry, middle and exit flow."""
        entry, middle = list(self.names[:3]), list(self.names[3:-1])
        stem = ["conv1", "bn1", "conv2", "bn2"]
        return [stem, entry, middle, [self.names[-1], "conv3", "bn3", "conv4", "bn4"]]

    def fine_groups(self) -> Groups:
        """Return One More Layer's groups: the original's 20 children (one is the stem's ReLU)."""
        stem = [["conv1"], ["bn1"], [], ["conv2"], ["bn2"]]
        return [*stem, *([name] for name in self.names), ["conv3"], ["bn3"], ["conv4", "bn4"]]
