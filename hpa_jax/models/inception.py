"""Inception-v3 (Szegedy et al. 2015, arXiv 1512.00567) as in torchvision, with its auxiliary head.

In: images [N, H, W, K], H and W at least 75, normalised to [-1, 1] ("inception": mean .5, std .5).
Out of `features`: [N, h, w, 2048 * width].
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.inception_blocks import Branch, ConvUnit, Fork, Mixed, Pool, Unit
from hpa_jax.models.sizes import Depth, counts, scaled

AVG = Pool("avg")
MAX_DOWN = Pool("max", strides=2, padding=0)


def _down(name: str, features: int) -> Unit:
    """A 3x3 unit of stride 2 without padding."""
    return Unit(name, features, 3, strides=2, padding=0)


def _v3_a(pool_features: int) -> tuple[Branch, ...]:
    return (
        (Unit("branch1x1", 64),),
        (Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, 5)),
        (
            Unit("branch3x3dbl_1", 64),
            Unit("branch3x3dbl_2", 96, 3),
            Unit("branch3x3dbl_3", 96, 3),
        ),
        (AVG, Unit("branch_pool", pool_features)),
    )


def _v3_c(inner: int) -> tuple[Branch, ...]:
    return (
        (Unit("branch1x1", 192),),
        (
            Unit("branch7x7_1", inner),
            Unit("branch7x7_2", inner, (1, 7)),
            Unit("branch7x7_3", 192, (7, 1)),
        ),
        (
            Unit("branch7x7dbl_1", inner),
            Unit("branch7x7dbl_2", inner, (7, 1)),
            Unit("branch7x7dbl_3", inner, (1, 7)),
            Unit("branch7x7dbl_4", inner, (7, 1)),
            Unit("branch7x7dbl_5", 192, (1, 7)),
        ),
        (AVG, Unit("branch_pool", 192)),
    )


_V3_B = (
    (_down("branch3x3", 384),),
    (Unit("branch3x3dbl_1", 64), Unit("branch3x3dbl_2", 96, 3), _down("branch3x3dbl_3", 96)),
    (MAX_DOWN,),
)
_V3_D = (
    (Unit("branch3x3_1", 192), _down("branch3x3_2", 320)),
    (
        Unit("branch7x7x3_1", 192),
        Unit("branch7x7x3_2", 192, (1, 7)),
        Unit("branch7x7x3_3", 192, (7, 1)),
        _down("branch7x7x3_4", 192),
    ),
    (MAX_DOWN,),
)
_V3_E = (
    (Unit("branch1x1", 320),),
    (
        Unit("branch3x3_1", 384),
        Fork((Unit("branch3x3_2a", 384, (1, 3)), Unit("branch3x3_2b", 384, (3, 1)))),
    ),
    (
        Unit("branch3x3dbl_1", 448),
        Unit("branch3x3dbl_2", 384, 3),
        Fork((Unit("branch3x3dbl_3a", 384, (1, 3)), Unit("branch3x3dbl_3b", 384, (3, 1)))),
    ),
    (AVG, Unit("branch_pool", 192)),
)

# The stem and modules of v3 in order.
V3_STEM: tuple[Unit | Pool, ...] = (
    _down("Conv2d_1a_3x3", 32),
    Unit("Conv2d_2a_3x3", 32, 3, padding=0),
    Unit("Conv2d_2b_3x3", 64, 3),
    MAX_DOWN,
    Unit("Conv2d_3b_1x1", 80),
    Unit("Conv2d_4a_3x3", 192, 3, padding=0),
    MAX_DOWN,
)
V3_MODULES: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _v3_a(32),
    "Mixed_5c": _v3_a(64),
    "Mixed_5d": _v3_a(64),
    "Mixed_6a": _V3_B,
    "Mixed_6b": _v3_c(128),
    "Mixed_6c": _v3_c(160),
    "Mixed_6d": _v3_c(160),
    "Mixed_6e": _v3_c(192),
    "Mixed_7a": _V3_D,
    "Mixed_7b": _V3_E,
    "Mixed_7c": _V3_E,
}
V3_STAGES = ("Mixed_5", "Mixed_6", "Mixed_7")
V3_AUX_STAGE = "Mixed_6"  # its last map is the input of the auxiliary head


class InceptionV3(Backbone):
    """torchvision's inception_v3_google-0cc3c7bd.pth and timm's inception_v3.tv_in1k.

    torchvision rescales its ImageNet-normalised input (`transform_input`); here the input is in
    [-1, 1] and is not rescaled.

    width: multiplies all channel numbers.
    depth: multiplies the modules of the kinds A (3), C (4), E (2), at most to these, or gives
        the numbers.
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
        features = in_channels
        for unit in V3_STEM:
            if isinstance(unit, Unit):
                out = scaled(unit.features, width)
                layer = ConvUnit(features, out, unit.kernel, strides=unit.strides,
                                 padding=unit.padding, **options)  # fmt: skip
                setattr(self, unit.name, layer)
                features = out
        self.names = _v3_names(*counts((3, 4, 2), depth))
        for name in self.names:
            module = Mixed(features, V3_MODULES[name], width=width, **options)
            setattr(self, name, module)
            features = module.out_features
            if name.startswith(V3_AUX_STAGE):
                self.aux_features = features
        self.width = width
        self.out_features = features

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, h, w, F]."""
        return self._maps(images)[0]

    def add_aux_head(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """Add the auxiliary head; called by `create`."""
        self.AuxLogits = InceptionAux(
            self.aux_features, num_classes, width=self.width, dtype=self.dtype, rngs=rngs
        )

    def logits_and_aux(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (logits, auxiliary logits for the training loss), both [N, C] float32."""
        last, middle = self._maps(images)
        return self.head(last), self.AuxLogits(middle)

    def body_groups(self) -> Groups:
        """Return the stem up to its first and its second pool, and the stages Mixed_5, _6, _7."""
        names = [unit.name for unit in V3_STEM if isinstance(unit, Unit)]
        stages = [[n for n in self.names if n.startswith(s)] for s in V3_STAGES]
        return [names[:3], names[3:], *stages]

    def head_modules(self) -> list[str | None]:
        """The head's, and the auxiliary head."""
        return [*super().head_modules(), "AuxLogits"]

    def _maps(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(last map, the last map at 1/16 of the size)."""
        x = self.enter(images, self.dtype)
        for unit in V3_STEM:
            x = getattr(self, unit.name)(x) if isinstance(unit, Unit) else unit(x)
        middle = x
        for name in self.names:
            x = run_blocks([getattr(self, name)], x, self.remat)
            if name.startswith(V3_AUX_STAGE):
                middle = x
        return x, middle


def _v3_names(*kept: int) -> tuple[str, ...]:
    """Return the modules of a net with these numbers of kinds A, C and E; reductions are kept."""
    reductions = (0, 1, 1)
    return tuple(
        name
        for stage, count, first in zip(V3_STAGES, kept, reductions)
        for name in [n for n in V3_MODULES if n.startswith(stage)][: count + first]
    )


class InceptionAux(nnx.Module):
    """torchvision's auxiliary classifier on the 17x17 map: [N, h, w, F] -> logits [N, C] float32.

    Deviation: maps under 17x17 (images under 299), where torchvision fails, are pooled with a
    smaller window and padded to the 5x5 that the second convolution needs.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, width: float, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        inner, outer = scaled(128, width), scaled(768, width)
        self.conv0 = ConvUnit(in_features, inner, 1, **options)
        self.conv1 = ConvUnit(inner, outer, 5, padding=0, **options)
        self.fc = layers.Linear(outer, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        window = (min(5, x.shape[1]), min(5, x.shape[2]))
        x = self.conv0(layers.avg_pool(x, window, 3))
        lack = [max(0, 5 - n) for n in x.shape[1:3]]
        x = jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in lack), (0, 0)))
        return self.fc(layers.global_avg_pool(self.conv1(x))).astype(jnp.float32)
