"""EfficientNet-Lite0 to Lite4 (Liu 2020; Tan & Le 2019, arXiv 1905.11946) as in TensorFlow.

In: images [N, H, W, K], normalised to (255 x - 127) / 128 ("lite"); out of `features`:
[N, H/32, W/32, 1280].  Inverted residual blocks with ReLU6, without squeeze-excitation; paddings
are TensorFlow's SAME, computed for each size.  Stem, last 1x1 convolution, first and last block are
the same in all five.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.models import convolution, layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.sizes import Depth, counts, scaled

# Of Lite0: blocks, expansion, kernel, stride, channels.
STAGES = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
_BN = dict(eps=1e-3, momentum=0.01)


class SameConv(layers.Conv):
    """A convolution with TensorFlow's SAME padding: the odd pixel is added right and below."""

    def apply(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Convolve with another kernel of the same shape."""
        padding = tuple(
            same(length, size, stride)
            for length, size, stride in zip(x.shape[1:3], kernel.shape[:2], self.strides)
        )
        return convolution.convolve(
            x.astype(self.dtype), kernel, self.strides, padding, self.groups
        )


def same(length: int, size: int, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) for an output of ceil(length / stride) values."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


class InvertedResidual(nnx.Module):
    """1x1 expansion -> depthwise -> 1x1 projection without activation; shortcut if shapes match."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expand: int,
        kernel: int,
        stride: int,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options, inner = {"dtype": dtype, "rngs": rngs}, inputs * expand
        self.expands, self.shortcut = expand > 1, stride == 1 and inputs == outputs
        if self.expands:
            self.expand_conv = layers.Conv(inputs, inner, 1, **options)
            self.bn0 = layers.BatchNorm(inner, **_BN, **options)
        self.depthwise_conv = SameConv(
            inner, inner, kernel, strides=stride, groups=inner, **options
        )
        self.bn1 = layers.BatchNorm(inner, **_BN, **options)
        self.project_conv = layers.Conv(inner, outputs, 1, **options)
        self.bn2 = layers.BatchNorm(outputs, **_BN, **options)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x = inputs
        if self.expands:
            x = layers.conv_bn_act(self.expand_conv, self.bn0, x, nnx.relu6)
        x = layers.conv_bn_act(self.depthwise_conv, self.bn1, x, nnx.relu6)
        x = layers.conv_bn_act(self.project_conv, self.bn2, x, None)
        return x + inputs if self.shortcut else x


class EfficientNetLite(Backbone):
    """A network of the family, by its multipliers of channels and blocks.

    widen, deepen: of the family; width, depth: further ones, as for every network.
    """

    def __init__(
        self,
        widen: float,
        deepen: float,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: Depth = None,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        self.in_channels, self.dtype, self.remat = in_channels, dtype, remat
        inner = range(1, len(STAGES) - 1)
        published = tuple(
            int(np.ceil(stage[0] * deepen)) if index in inner else stage[0]
            for index, stage in enumerate(STAGES)
        )
        self.counts = counts(published, depth)
        features = scaled(32, width)
        self.conv_stem = SameConv(in_channels, features, 3, strides=2, **options)
        self.bn0 = layers.BatchNorm(features, **_BN, **options)
        blocks = []
        for (_, expand, kernel, stride, channels), count in zip(STAGES, self.counts):
            outputs = scaled(_rounded(channels * widen), width)
            for index in range(count):
                form = dict(expand=expand, kernel=kernel, stride=1 if index else stride)
                blocks.append(InvertedResidual(features, outputs, **form, **options))
                features = outputs
        self.blocks = nnx.List(blocks)
        self.out_features = scaled(1280, width)
        self.conv_head = layers.Conv(features, self.out_features, 1, **options)
        self.bn1 = layers.BatchNorm(self.out_features, **_BN, **options)

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, H/32, W/32, F]."""
        x = self.enter(images, self.dtype)
        x = layers.conv_bn_act(self.conv_stem, self.bn0, x, nnx.relu6)
        x = run_blocks(self.blocks, x, self.remat)
        return layers.conv_bn_act(self.conv_head, self.bn1, x, nnx.relu6)

    def body_groups(self) -> Groups:
        """Return the stem and a group per halving of the map, the last with the 1x1 convolution."""
        ends = np.cumsum(self.counts)
        spans = [(0, ends[1]), (ends[1], ends[2]), (ends[2], ends[4]), (ends[4], ends[6])]
        blocks = [[f"blocks.{index}" for index in range(*span)] for span in spans]
        blocks[-1] += ["conv_head", "bn1"]
        return [["conv_stem", "bn0"], *blocks]

    def file_names(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rename timm's tensors, which number blocks by stage and norms in order, to ours."""
        if not any(re.match(r"blocks\.\d+\.\d+\.", name) for name in tensors):
            return dict(tensors)
        starts = np.cumsum((0, *self.counts))
        renamed = {}
        for name, value in tensors.items():
            place = re.match(r"blocks\.(\d+)\.(\d+)\.", name)
            if place:
                first = starts[int(place[1])] + int(place[2]) == 0  # without expansion
                module, _, leaf = name[place.end() :].partition(".")
                names = _TIMM_FIRST if first else _TIMM
                index = starts[int(place[1])] + int(place[2])
                name = f"blocks.{index}.{names.get(module, module)}.{leaf}"
            else:
                module, _, leaf = name.partition(".")
                name = f"{ {'bn1': 'bn0', 'bn2': 'bn1'}.get(module, module) }.{leaf}"
            renamed[name] = value
        return renamed


_TIMM = {
    "conv_pw": "expand_conv", "bn1": "bn0", "conv_dw": "depthwise_conv", "bn2": "bn1",
    "conv_pwl": "project_conv", "bn3": "bn2",
}  # fmt: skip
_TIMM_FIRST = {"conv_dw": "depthwise_conv", "bn1": "bn1", "conv_pw": "project_conv", "bn2": "bn2"}


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, at least nine tenths of the number (TensorFlow's rule)."""
    result = max(8, int(channels + 4) // 8 * 8)
    return result + 8 if result < 0.9 * channels else result
