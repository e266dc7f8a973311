"""ResNet with its grouped and squeeze-excitation variants: one network, defined by a `Layout`.

Attribute names are torchvision's (conv1, bn1, layer1.0.conv2, downsample.0); Cadene's `se_module`
is `se` as in timm, and his prefix `layer0.` is dropped (`layer0.conv1` is conv1).

Papers: He 2015 (1512.03385), Xie 2016 (1611.05431), Hu 2017 (1709.01507).
Where the lines differ: torchvision strides in the 3x3 convolution and pads the pool (ResNet
"v1.5"); Cadene's se_resnet50 strides in the first 1x1; all his SE networks pool with ceil_mode and
no padding.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.layers import BatchNorm, Conv, SqueezeExcite, conv_bn_act


@dataclasses.dataclass(frozen=True)
class Layout:
    """The numbers of a ResNet; planes are those of the first stage and double with each."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    groups: int = 1
    inner: float = 1.0  # width of the grouped 3x3, times planes; out is 4 planes (basic: 1)
    reduce: float | None = None  # width of the first 1x1, times planes, where it is not `inner`
    squeeze: int = 0  # reduction of squeeze-excitation; 0: none
    stride_first: bool = False  # stride in the first 1x1 of a block instead of its 3x3
    planes: int = 64
    stem: str = "7x7"  # 7x7 | 3x3 (three convolutions) | light (one 3x3)
    stem_width: int = 64
    ceil_pool: bool = False  # Cadene's pool: no padding, ceil_mode
    wide_downsample: bool = False  # senet154: 3x3 convolution in the shortcut of stages 2-4


class Block(nnx.Module):
    """One residual block: basic (two 3x3) or bottleneck (1x1, grouped 3x3, 1x1)."""

    def __init__(
        self, features: int, planes: int, stride: int, layout: Layout, *, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        if layout.bottleneck:
            width = int(planes * layout.inner)
            first = int(planes * (layout.reduce or layout.inner))
            out = 4 * planes
            strides = (stride, 1) if layout.stride_first else (1, stride)
            self.conv1 = Conv(features, first, 1, strides=strides[0], **options)
            self.bn1 = BatchNorm(first, **options)
            self.conv2 = Conv(
                first, width, 3, strides=strides[1], padding=1, groups=layout.groups, **options
            )
            self.bn2 = BatchNorm(width, **options)
            self.conv3 = Conv(width, out, 1, **options)
            self.bn3 = BatchNorm(out, **options)
        else:
            out = planes
            self.conv1 = Conv(features, planes, 3, strides=stride, padding=1, **options)
            self.bn1 = BatchNorm(planes, **options)
            self.conv2 = Conv(planes, planes, 3, padding=1, **options)
            self.bn2 = BatchNorm(planes, **options)
        if layout.squeeze:
            self.se = SqueezeExcite(out, layout.squeeze, **options)
        if stride != 1 or features != out:
            wide = layout.wide_downsample and stride != 1
            kernel, padding = (3, 1) if wide else (1, 0)
            shortcut = Conv(features, out, kernel, strides=stride, padding=padding, **options)
            self.downsample = nnx.List([shortcut, BatchNorm(out, **options)])
        self.bottleneck = layout.bottleneck
        self.squeeze = bool(layout.squeeze)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = conv_bn_act(self.conv1, self.bn1, x)
        if self.bottleneck:
            y = conv_bn_act(self.conv2, self.bn2, y)
            y = conv_bn_act(self.conv3, self.bn3, y, None)
        else:
            y = conv_bn_act(self.conv2, self.bn2, y, None)
        if self.squeeze:
            y = self.se(y)
        if hasattr(self, "downsample"):
            x = conv_bn_act(self.downsample[0], self.downsample[1], x, None)
        return nnx.relu(y + x)


class ResNet(Backbone):
    """A ResNet with a `Layout`; the last feature map has `out_features` features at 1/32 size.

    torchvision's resnet18-5c106cde.pth, resnet34-333f7ec4.pth, resnet50-19c8e357.pth,
    resnet101-5d3b4d8f.pth and resnext50_32x4d-7cdf4587.pth (timm: NAME.tv_in1k), and Cadene's
    se_resnet50-ce0d4300.pth, se_resnext50_32x4d-a260b3a4.pth, se_resnext101_32x4d-3b2fe3d8.pth and
    senet154-c7b49a05.pth (timm has them as legacy_seresnet50.in1k and so on).

    width: multiplies all channel numbers (kept divisible by the groups).
    depth: multiplies the blocks of each stage, keeping at least one; or gives the four numbers.
    large_stem: bestfitting's extra 2x2 max-pool after the first pool, for 1024 pixels.
    remat: keep only the blocks' inputs for the backward pass and recompute the rest.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        in_channels: int,
        width: float = 1.0,
        depth: float | tuple[int, ...] | None = None,
        large_stem: bool = False,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        layout = resized(layout, width, depth)
        options = {"dtype": dtype, "rngs": rngs}
        self.in_channels = in_channels
        self.layout = layout
        self.large_stem = large_stem
        self.remat = remat
        self.dtype = dtype
        if layout.ceil_pool:
            self.smallest = 7 if large_stem else 5
        elif large_stem:
            self.smallest = 5
        w = layout.stem_width
        features = 2 * w if layout.stem == "3x3" else w
        if layout.stem == "7x7":
            self.conv1 = Conv(in_channels, w, 7, strides=2, padding=3, **options)
        else:
            self.conv1 = Conv(in_channels, w, 3, strides=2, padding=1, **options)
        self.bn1 = BatchNorm(w, **options)
        if layout.stem == "3x3":
            self.conv2 = Conv(w, w, 3, padding=1, **options)
            self.bn2 = BatchNorm(w, **options)
            self.conv3 = Conv(w, features, 3, padding=1, **options)
            self.bn3 = BatchNorm(features, **options)
        for i, count in enumerate(layout.blocks):
            planes = layout.planes * 2**i
            blocks = []
            for j in range(count):
                stride = 2 if i and not j else 1
                blocks.append(Block(features, planes, stride, layout, **options))
                features = planes * (4 if layout.bottleneck else 1)
            setattr(self, f"layer{i + 1}", nnx.List(blocks))
        self.out_features = features

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, h, w, F]."""
        x = self.enter(images, self.dtype)
        x = conv_bn_act(self.conv1, self.bn1, x)
        if self.layout.stem == "3x3":
            x = conv_bn_act(self.conv2, self.bn2, x)
            x = conv_bn_act(self.conv3, self.bn3, x)
        if self.layout.ceil_pool:
            x = layers.max_pool(x, 3, 2, ceil_mode=True)
        else:
            x = layers.max_pool(x, 3, 2, padding=1)
        if self.large_stem:
            x = layers.max_pool(x, 2, 2)
        for i in range(len(self.layout.blocks)):
            x = run_blocks(getattr(self, f"layer{i + 1}"), x, self.remat)
        return x

    def body_groups(self) -> Groups:
        """Return the stem and the stages."""
        stem = ["conv1", "bn1"]
        if self.layout.stem == "3x3":
            stem += ["conv2", "bn2", "conv3", "bn3"]
        return [stem, *([f"layer{i + 1}"] for i in range(len(self.layout.blocks)))]


def resized(layout: Layout, width: float, depth: float | tuple[int, ...] | None) -> Layout:
    """Return the layout with other numbers of channels and blocks.

    Raises:
        InputError: width or depth is not positive, or not one number per stage.
    """
    if width <= 0:
        raise InputError(f"width={width}: must be above 0")
    blocks = layout.blocks
    if isinstance(depth, int | float):
        if depth <= 0:
            raise InputError(f"depth={depth}: must be above 0")
        blocks = tuple(max(1, round(n * depth)) for n in blocks)
    elif depth:
        if len(depth) != len(blocks) or min(depth) < 1:
            raise InputError(f"depth={tuple(depth)}: {len(blocks)} numbers of at least 1")
        blocks = tuple(depth)
    if width == 1.0:
        return dataclasses.replace(layout, blocks=blocks)
    narrow = layout.reduce if layout.reduce else layout.inner
    unit = max(1, round(layout.groups / min(narrow, layout.inner)))  # planes whose 3x3 divides
    planes = max(unit, round(layout.planes * width / unit) * unit)
    stem = max(1, round(layout.stem_width * planes / layout.planes))
    return dataclasses.replace(layout, blocks=blocks, planes=planes, stem_width=stem)
