"""Inception-v4 (Szegedy et al. 2016, arXiv 1602.07261) as in pretrainedmodels and timm.

In: images [N, H, W, K], H and W at least 75, normalised to [-1, 1] ("inception": mean .5, std .5).
Out of `features`: [N, h, w, 1536 * width].
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.inception_blocks import Branch, ConvUnit, Fork, Mixed, Pool, Unit
from hpa_jax.models.sizes import Depth, counts, scaled

AVG = Pool("avg", count_include_pad=False)
MAX_DOWN = Pool("max", strides=2, padding=0)


def _valid(name: str, features: int, strides: int = 2) -> Unit:
    """A 3x3 unit without padding."""
    return Unit(name, features, 3, strides=strides, padding=0)


STEM = (_valid("0", 32), _valid("1", 32, 1), Unit("2", 64, 3))
MIXED_3A: tuple[Branch, ...] = ((MAX_DOWN,), (_valid("conv", 96),))
MIXED_4A: tuple[Branch, ...] = (
    (Unit("branch0_0", 64), _valid("branch0_1", 96, 1)),
    (
        Unit("branch1_0", 64),
        Unit("branch1_1", 64, (1, 7)),
        Unit("branch1_2", 64, (7, 1)),
        _valid("branch1_3", 96, 1),
    ),
)
MIXED_5A: tuple[Branch, ...] = ((_valid("conv", 192),), (MAX_DOWN,))
INCEPTION_A: tuple[Branch, ...] = (
    (Unit("branch0", 96),),
    (Unit("branch1_0", 64), Unit("branch1_1", 96, 3)),
    (Unit("branch2_0", 64), Unit("branch2_1", 96, 3), Unit("branch2_2", 96, 3)),
    (AVG, Unit("branch3_1", 96)),
)
REDUCTION_A: tuple[Branch, ...] = (
    (_valid("branch0", 384),),
    (Unit("branch1_0", 192), Unit("branch1_1", 224, 3), _valid("branch1_2", 256)),
    (MAX_DOWN,),
)
INCEPTION_B: tuple[Branch, ...] = (
    (Unit("branch0", 384),),
    (Unit("branch1_0", 192), Unit("branch1_1", 224, (1, 7)), Unit("branch1_2", 256, (7, 1))),
    (
        Unit("branch2_0", 192),
        Unit("branch2_1", 192, (7, 1)),
        Unit("branch2_2", 224, (1, 7)),
        Unit("branch2_3", 224, (7, 1)),
        Unit("branch2_4", 256, (1, 7)),
    ),
    (AVG, Unit("branch3_1", 128)),
)
REDUCTION_B: tuple[Branch, ...] = (
    (Unit("branch0_0", 192), _valid("branch0_1", 192)),
    (
        Unit("branch1_0", 256),
        Unit("branch1_1", 256, (1, 7)),
        Unit("branch1_2", 320, (7, 1)),
        _valid("branch1_3", 320),
    ),
    (MAX_DOWN,),
)
INCEPTION_C: tuple[Branch, ...] = (
    (Unit("branch0", 256),),
    (
        Unit("branch1_0", 384),
        Fork((Unit("branch1_1a", 256, (1, 3)), Unit("branch1_1b", 256, (3, 1)))),
    ),
    (
        Unit("branch2_0", 384),
        Unit("branch2_1", 448, (3, 1)),
        Unit("branch2_2", 512, (1, 3)),
        Fork((Unit("branch2_3a", 256, (1, 3)), Unit("branch2_3b", 256, (3, 1)))),
    ),
    (AVG, Unit("branch3_1", 256)),
)


class InceptionV4(Backbone):
    """Cadene's inceptionv4-8e4777a0.pth and timm's inception_v4.tf_in1k.

    `blocks` numbers the modules as the published `features` do.

    width: multiplies all channel numbers.
    depth: multiplies the modules of the kinds A (4), B (7), C (3), or gives the three numbers.
    remat: keep only the modules' inputs for the backward pass and recompute the rest.
    """

    smallest = 75

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
        self.kinds = counts((4, 7, 3), depth)
        blocks: list[nnx.Module] = []
        features = in_channels
        for unit in STEM:
            out = scaled(unit.features, width)
            blocks.append(ConvUnit(features, out, unit.kernel, strides=unit.strides,
                                   padding=unit.padding, **options))  # fmt: skip
            features = out
        tables = (
            *(MIXED_3A, MIXED_4A, MIXED_5A),
            *(INCEPTION_A,) * self.kinds[0],
            REDUCTION_A,
            *(INCEPTION_B,) * self.kinds[1],
            REDUCTION_B,
            *(INCEPTION_C,) * self.kinds[2],
        )
        for table in tables:
            blocks.append(Mixed(features, table, width=width, **options))
            features = blocks[-1].out_features
        self.blocks = nnx.List(blocks)
        self.out_features = features

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, h, w, F]."""
        return run_blocks(self.blocks, self.enter(images, self.dtype), self.remat)

    def body_groups(self) -> Groups:
        """Return One More Layer's groups: modules 0-2, 3-4, 5-10, 11-17, 18-21 at full depth."""
        a, b, _ = self.kinds
        ends = [0, 3, 5, 7 + a, 7 + a + b, len(self.blocks)]
        return [[f"blocks.{i}" for i in range(low, high)] for low, high in itertools.pairwise(ends)]
