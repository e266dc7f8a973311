"""BN-Inception (Ioffe & Szegedy 2015, arXiv 1502.03167) as in Cadene's pretrainedmodels.

In: images [N, H, W, K] normalised by "bn_inception" (0..255, BGR, minus 104, 117, 128).  Out of
`features`: [N, H/32, W/32, 1024 * width].  Convolutions have biases, pools round up, and averages
count the padding.

Deviation: for maps of odd sides, the published code of a halving module fails, since its pool gives
a smaller map than its convolutions; here the pool is padded like them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.inception_blocks import Branch, ConvUnit, Mixed, Pool, Unit
from hpa_jax.models.sizes import Depth, counts, scaled

EPS = 1e-5
AVG = Pool("avg", ceil_mode=True)
MAX = Pool("max", ceil_mode=True)
MAX_DOWN = Pool("max", strides=2, padding=0, ceil_mode=True)
MAX_BESIDE = Pool("max", strides=2, pad_odd=True, ceil_mode=True)


def _keep(
    one: int, three: tuple[int, int], double: tuple[int, int], projected: int, pool: Pool = AVG
) -> tuple[Branch, ...]:
    """Return a module that keeps the map: 1x1; reduced 3x3; two 3x3; projected pool."""
    return (
        (Unit("unit_1x1", one),),
        (Unit("unit_3x3_reduce", three[0]), Unit("unit_3x3", three[1], 3)),
        (
            Unit("unit_double_3x3_reduce", double[0]),
            Unit("unit_double_3x3_1", double[1], 3),
            Unit("unit_double_3x3_2", double[1], 3),
        ),
        (pool, Unit("unit_pool_proj", projected)),
    )


def _halve(three: tuple[int, int], double: tuple[int, int]) -> tuple[Branch, ...]:
    """Return a module that halves the map: strided 3x3, strided double 3x3, max-pool."""
    return (
        (Unit("unit_3x3_reduce", three[0]), Unit("unit_3x3", three[1], 3, 2)),
        (
            Unit("unit_double_3x3_reduce", double[0]),
            Unit("unit_double_3x3_1", double[1], 3),
            Unit("unit_double_3x3_2", double[1], 3, 2),
        ),
        (MAX_BESIDE,),
    )


MODULES: dict[str, tuple[Branch, ...]] = {
    "inception_3a": _keep(64, (64, 64), (64, 96), 32),
    "inception_3b": _keep(64, (64, 96), (64, 96), 64),
    "inception_3c": _halve((128, 160), (64, 96)),
    "inception_4a": _keep(224, (64, 96), (96, 128), 128),
    "inception_4b": _keep(192, (96, 128), (96, 128), 128),
    "inception_4c": _keep(160, (128, 160), (128, 160), 128),
    "inception_4d": _keep(96, (128, 192), (160, 192), 128),
    "inception_4e": _halve((128, 192), (192, 256)),
    "inception_5a": _keep(352, (192, 320), (160, 224), 128),
    "inception_5b": _keep(352, (192, 320), (192, 224), 128, MAX),
}


class BNInception(Backbone):
    """Cadene's bn_inception-52deb4733.pth (its stem reads BGR).

    width: multiplies all channel numbers.
    depth: multiplies the modules that keep the map's size in the stages 3, 4, 5 (2, 4, 2), at most
        to these, or gives the three numbers.
    remat: keep only the modules' inputs for the backward pass and recompute the rest.
    """

    smallest = 39

    reads_bgr = True

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
        options = {"use_bias": True, "eps": EPS, "dtype": dtype, "rngs": rngs}
        self.in_channels, self.dtype, self.remat = in_channels, dtype, remat
        a, b = scaled(64, width), scaled(192, width)
        self.conv1_7x7_s2 = ConvUnit(in_channels, a, 7, strides=2, **options)
        self.conv2_3x3_reduce = ConvUnit(a, a, 1, **options)
        self.conv2_3x3 = ConvUnit(a, b, 3, **options)
        third, fourth, fifth = counts((2, 4, 2), depth)
        kept = (*"ab"[:third], "c"), (*"abcd"[:fourth], "e"), (*"a"[: fifth - 1], "b")
        self.names = tuple(
            f"inception_{stage}{letter}" for stage, row in zip("345", kept) for letter in row
        )
        features = b
        for name in self.names:
            module = Mixed(features, MODULES[name], width=width, **options)
            setattr(self, name, module)
            features = module.out_features
        self.out_features = features

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, h, w, F]."""
        x = self.enter(images, self.dtype)
        x = MAX_DOWN(self.conv1_7x7_s2(x))
        x = MAX_DOWN(self.conv2_3x3(self.conv2_3x3_reduce(x)))
        return run_blocks([getattr(self, name) for name in self.names], x, self.remat)

    def body_groups(self) -> Groups:
        """Return One More Layer's groups: two of the stem, the stages, the last projection."""
        third, fourth, fifth = ([n for n in self.names if n[10] == stage] for stage in "345")
        last = [f"{fifth[-1]}.{unit.name}" for branch in MODULES[fifth[-1]] for unit in branch
                if isinstance(unit, Unit)]  # fmt: skip
        return [
            ["conv1_7x7_s2"],
            ["conv2_3x3_reduce", "conv2_3x3"],
            third,
            fourth,
            [*fifth[:-1], *last[:-1]],
            last[-1:],
        ]
