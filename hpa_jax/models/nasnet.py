"""NASNet-A Large (Zoph et al. 2017, arXiv 1707.07012) as in Cadene's pretrainedmodels.

In: images [N, H, W, K], normalised to [-1, 1] ("inception": mean .5, std .5).  Out of `features`:
[N, H/32, W/32, 4032 * width], after the last cell and a ReLU.

Deviation: the published code accepts only sizes whose map before the first reduction cell has even
sides, since it pads that cell on the left like TensorFlow's "SAME".  Odd sides are padded on both
sides here, as "SAME" does; for all other sizes the two are equal.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups
from hpa_jax.models.sizes import Depth, counts, scaled
from hpa_jax.models.xception import SeparableConv

EPS = 1e-3


class ConvBn(nnx.Module):
    """Convolution without padding -> BN, no activation: the stem."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, strides: int, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        self.conv = layers.Conv(inputs, outputs, kernel, strides=strides, dtype=dtype, rngs=rngs)
        self.bn = layers.BatchNorm(outputs, eps=EPS, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.conv_bn_act(self.conv, self.bn, x, None)


class ActConvBn(nnx.Module):
    """ReLU -> 1x1 -> BN; the names are those of the published Sequential."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.conv = layers.Conv(inputs, outputs, 1, dtype=dtype, rngs=rngs)
        self.bn = layers.BatchNorm(outputs, eps=EPS, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.conv_bn_act(self.conv, self.bn, nnx.relu(x), None)


class Separables(nnx.Module):
    """ReLU -> separable (with the stride) -> BN -> ReLU -> separable -> BN.

    `early`: the first one changes the channel count (the published stem's cells).  `same`: a
    strided one is padded as TensorFlow's "SAME", else equally on both sides.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        strides: int = 1,
        *,
        early: bool = False,
        same: bool = False,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        self.same = same and strides > 1
        half = kernel // 2
        inner = outputs if early else inputs
        self.separable_1 = SeparableConv(
            inputs,
            inner,
            kernel,
            strides=strides,
            padding=((half - 1, half), (half - 1, half)) if self.same else half,
            dtype=dtype,
            rngs=rngs,
        )
        self.bn_sep_1 = layers.BatchNorm(inner, eps=EPS, dtype=dtype, rngs=rngs)
        self.separable_2 = SeparableConv(inner, outputs, kernel, dtype=dtype, rngs=rngs)
        self.bn_sep_2 = layers.BatchNorm(outputs, eps=EPS, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(x)
        if self.same:  # the padding above is for even sides; odd ones need one more
            x = jnp.pad(x, ((0, 0), (x.shape[1] % 2, 0), (x.shape[2] % 2, 0), (0, 0)))
        x = nnx.relu(self.separable_1.normalised(self.bn_sep_1, x))
        return self.separable_2.normalised(self.bn_sep_2, x)


class Halve(nnx.Module):
    """ReLU, 1x1 convolutions of the even and of the odd pixels, concatenated, BN: halves a map."""

    def __init__(self, inputs: int, outputs: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.path_1 = layers.Conv(inputs, outputs // 2, 1, dtype=dtype, rngs=rngs)
        self.path_2 = layers.Conv(inputs, outputs // 2, 1, dtype=dtype, rngs=rngs)
        self.bn = layers.BatchNorm(outputs // 2 * 2, eps=EPS, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(x)
        even = self.path_1(x[:, ::2, ::2])
        whole = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        odd = self.path_2(whole[:, 1::2, 1::2])
        return self.bn(jnp.concatenate([even, odd], axis=-1))


class ReductionCell(nnx.Module):
    """A cell that halves the map: (pooled, other) -> concatenation of four sums, 4 * features.

    `kind`: "stem_0" (pooled: 1x1 of the stem; other: the stem itself), "stem_1" (pooled: 1x1 of
    the previous cell; other: the stem halved), or "normal" (pooled: 1x1 of the previous cell;
    other: 1x1 of the one before).
    """

    def __init__(
        self,
        previous: int,
        before: int,
        features: int,
        *,
        kind: str = "normal",
        same: bool = False,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        self.kind, self.same = kind, same
        self.conv_1x1 = ActConvBn(previous, features, **options)
        if kind == "stem_1":
            self.halve = Halve(before, features, **options)
        elif kind == "normal":
            self.conv_prev_1x1 = ActConvBn(before, features, **options)
        early = kind == "stem_0"
        other = before if early else features
        right = dict(early=early, same=same, **options)
        self.comb_iter_0_left = Separables(features, features, 5, 2, same=same, **options)
        self.comb_iter_0_right = Separables(other, features, 7, 2, **right)
        self.comb_iter_1_right = Separables(other, features, 7, 2, **right)
        self.comb_iter_2_right = Separables(other, features, 5, 2, **right)
        self.comb_iter_4_left = Separables(features, features, 3, **options)

    def __call__(self, x: jax.Array, before: jax.Array) -> jax.Array:
        """x: the previous cell's map, before: the one before it."""
        pooled = self.conv_1x1(x)
        if self.kind == "stem_1":
            other = self.halve(before)
        else:
            other = self.conv_prev_1x1(before) if self.kind == "normal" else before
        padding = [(n % 2 if self.same else 1, 1) for n in pooled.shape[1:3]]
        padding = (padding[0], padding[1])
        largest = layers.max_pool(pooled, 3, 2, padding=padding)
        mean = layers.avg_pool(pooled, 3, 2, padding=padding, count_include_pad=False)
        sum_0 = self.comb_iter_0_left(pooled) + self.comb_iter_0_right(other)
        sum_1 = largest + self.comb_iter_1_right(other)
        sum_2 = mean + self.comb_iter_2_right(other)
        sum_3 = _smooth(sum_0) + sum_1
        sum_4 = self.comb_iter_4_left(sum_0) + largest
        return jnp.concatenate([sum_1, sum_2, sum_3, sum_4], axis=-1)


class NormalCell(nnx.Module):
    """A cell that keeps the map: -> concatenation of its left input and five sums, 6 * features.

    `halve`: the map before the previous one is twice as large (the first cell after a reduction).
    """

    def __init__(
        self,
        previous: int,
        before: int,
        features: int,
        *,
        halve: bool = False,
        dtype: Any,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        self.first = halve
        if halve:
            self.halve = Halve(before, features, **options)
        else:
            self.conv_prev_1x1 = ActConvBn(before, features, **options)
        self.conv_1x1 = ActConvBn(previous, features, **options)
        self.comb_iter_0_left = Separables(features, features, 5, **options)
        self.comb_iter_0_right = Separables(features, features, 3, **options)
        self.comb_iter_1_left = Separables(features, features, 5, **options)
        self.comb_iter_1_right = Separables(features, features, 3, **options)
        self.comb_iter_4_left = Separables(features, features, 3, **options)

    def __call__(self, x: jax.Array, before: jax.Array) -> jax.Array:
        """x: the previous cell's map, before: the one before it."""
        left = self.halve(before) if self.first else self.conv_prev_1x1(before)
        right = self.conv_1x1(x)
        sums = [
            self.comb_iter_0_left(right) + self.comb_iter_0_right(left),
            self.comb_iter_1_left(left) + self.comb_iter_1_right(left),
            _smooth(right) + left,
            2.0 * _smooth(left),  # the paper's two average pools of the same map
            self.comb_iter_4_left(right) + right,
        ]
        return jnp.concatenate([left, *sums], axis=-1)


def _smooth(x: jax.Array) -> jax.Array:
    return layers.avg_pool(x, 3, 1, padding=1, count_include_pad=False)


class NASNetALarge(Backbone):
    """NASNet-A (6 @ 4032): Cadene's nasnetalarge-a1897284.pth.

    timm's nasnetalarge.tf_in1k has the same tensors, but pads as TensorFlow does for every size.

    width: multiplies all channel numbers (the first cell's are four times a whole number).
    depth: multiplies the normal cells of the three stacks (6, 6, 6), or gives the three numbers.
    remat: keep only the cells' inputs for the backward pass and recompute the rest.
    """

    def __init__(
        self,
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
        filters, stem = 4 * scaled(42, width), scaled(96, width)
        self.conv0 = ConvBn(in_channels, stem, 3, strides=2, **options)
        self.cell_stem_0 = ReductionCell(stem, stem, filters // 4, kind="stem_0", **options)
        self.cell_stem_1 = ReductionCell(filters, stem, filters // 2, kind="stem_1", **options)
        previous, before = 2 * filters, filters
        names: list[str] = []
        for stack, count in enumerate(counts((6, 6, 6), depth)):
            features = 2**stack * filters
            if stack:
                name = f"reduction_cell_{stack - 1}"
                cell = ReductionCell(previous, before, features, same=stack == 1, **options)
                setattr(self, name, cell)
                names.append(name)
                previous = 4 * features
            for index in range(count):
                name = f"cell_{sum(n.startswith('cell') for n in names)}"
                cell = NormalCell(previous, before, features, halve=index == 0, **options)
                setattr(self, name, cell)
                names.append(name)
                previous, before = 6 * features, previous
        self.names = tuple(names)
        self.out_features = previous

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, H/32, W/32, F], rectified."""
        run = nnx.remat(_run) if self.remat else _run
        stem = self.conv0(self.enter(images, self.dtype))
        before = run(self.cell_stem_0, stem, stem)
        x = run(self.cell_stem_1, before, stem)
        for name in self.names:
            new = run(getattr(self, name), x, before)
            if not name.startswith("reduction"):  # `before` is kept after a reduction, as published
                before = x
            x = new
        return nnx.relu(x)

    def body_groups(self) -> Groups:
        """Return the stem, and the three stacks, each with the reduction before it."""
        groups = [["conv0", "cell_stem_0", "cell_stem_1"], []]
        for name in self.names:
            if name.startswith("reduction"):
                groups.append([])
            groups[-1].append(name)
        return groups


def _run(cell: nnx.Module, x: jax.Array, before: jax.Array) -> jax.Array:
    return cell(x, before)
