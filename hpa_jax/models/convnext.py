"""ConvNeXt (Liu et al. 2022, arXiv 2201.03545) as its authors and timm implement it.

In: images [N, H, W, K], ImageNet-normalised; out of `features`: [N, H/32, W/32, 768].  The
published classifier normalises the global average before its dense layer: head "gap_norm".
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.initializers import small_normal
from hpa_jax.models.sizes import Depth, counts, scaled

WIDTHS = (96, 192, 384, 768)


class Block(nnx.Module):
    """7x7 depthwise -> norm -> dense to 4 F -> GELU -> dense to F -> scale; plus its input."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options = {"dtype": dtype, "kernel_init": small_normal, "rngs": rngs}
        self.conv_dw = layers.Conv(
            features, features, 7, padding=3, groups=features, use_bias=True, **options
        )
        self.norm = layers.LayerNorm(features, dtype=dtype)
        self.fc1 = layers.Linear(features, 4 * features, **options)
        self.fc2 = layers.Linear(4 * features, features, **options)
        self.gamma = nnx.Param(jnp.full(features, 1e-6))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.fc2(jax.nn.gelu(self.fc1(self.norm(self.conv_dw(x))), approximate=False))
        return x + y * self.gamma[...].astype(y.dtype)


class ConvNeXt(Backbone):
    """Four stages of blocks; before each of the last three a norm and a 2x2 convolution."""

    smallest = 32

    def __init__(
        self,
        blocks: tuple[int, ...] = (3, 3, 9, 3),
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: Depth = None,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        options = {"dtype": dtype, "rngs": rngs}
        plain = {"use_bias": True, "kernel_init": small_normal, **options}
        widths = [scaled(features, width) for features in WIDTHS]
        self.in_channels, self.dtype, self.remat = in_channels, dtype, remat
        self.counts = counts(blocks, depth)
        self.stem = layers.Conv(in_channels, widths[0], 4, strides=4, **plain)
        self.stem_norm = layers.LayerNorm(widths[0], dtype=dtype)
        for stage, count in enumerate(self.counts):
            if stage:
                before = widths[stage - 1]
                setattr(self, f"norm{stage}", layers.LayerNorm(before, dtype=dtype))
                halving = layers.Conv(before, widths[stage], 2, strides=2, **plain)
                setattr(self, f"halve{stage}", halving)
            inside = nnx.List([Block(widths[stage], **options) for _ in range(count)])
            setattr(self, f"stage{stage}", inside)
        self.out_features = widths[-1]

    def features(self, images: jax.Array) -> jax.Array:
        """[N, H, W, K] -> [N, H/32, W/32, F]."""
        x = self.stem_norm(self.stem(self.enter(images, self.dtype)))
        for stage in range(len(self.counts)):
            if stage:
                x = getattr(self, f"halve{stage}")(getattr(self, f"norm{stage}")(x))
            x = run_blocks(getattr(self, f"stage{stage}"), x, self.remat)
        return x

    def body_groups(self) -> Groups:
        """Return the stem, and each stage with the convolution before it."""
        stages = [
            [*([f"norm{stage}", f"halve{stage}"] if stage else []), f"stage{stage}"]
            for stage in range(len(self.counts))
        ]
        return [["stem", "stem_norm"], *stages]

    def file_names(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rename tensors from timm's or the authors' names to ours."""
        renamed = {}
        for name, value in tensors.items():
            for pattern, replacement in _RENAMES:
                name = pattern.sub(replacement, name)
            renamed[name] = value
        return renamed


_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:module|_orig_mod|model|backbone)\.", ""),
        (r"^(?:stem|downsample_layers\.0)\.0\.", "stem."),
        (r"^(?:stem|downsample_layers\.0)\.1\.", "stem_norm."),
        (r"^(?:stages\.([123])\.downsample|downsample_layers\.([123]))\.0\.", r"norm\1\2."),
        (r"^(?:stages\.([123])\.downsample|downsample_layers\.([123]))\.1\.", r"halve\1\2."),
        (r"^stages\.(\d)\.(?:blocks\.)?(\d+)\.", r"stage\1.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.(?:mlp\.fc|pwconv)([12])\.", r".fc\1."),
    )
)
