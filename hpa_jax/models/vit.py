"""Vision transformers (Dosovitskiy 2020, arXiv 2010.11929) as in timm, DINOv2 and SubCell.

In: images [N, H, W, K], normalised, sides divisible by the patch.  Out of `tokens`:
[N, 1 + R + h w, F] after the last norm: class token, R registers, patches row by row; out of
`features` the patches as a map [N, h, w, F].

With `per_channel` ("bag of channels", De Lorenci et al. 2025) each channel is an image by itself,
and a token is the K channels' tokens one after the other: F is K times the transformer's.

Pre-norm blocks, qkv with bias, exact GELU, 64 numbers per head; layer scale, registers and SwiGLU
by option (Oquab et al. 2023, arXiv 2304.07193; Darcet et al. 2023, arXiv 2309.16588).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from hpa_jax.core.errors import InputError
from hpa_jax.models import layers
from hpa_jax.models.backbone import Backbone, Groups, run_blocks
from hpa_jax.models.initializers import small_normal
from hpa_jax.models.sizes import Depth, counts, scaled

HEAD = 64  # numbers of an attention head
POSITIONS = ("size", "offset", "antialias")  # rules of `resized`


class LayerScale(nnx.Module):
    """A factor for each channel."""

    def __init__(self, features: int) -> None:
        self.gamma = nnx.Param(jnp.full(features, 1e-5))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(x.dtype)


@jax.checkpoint
def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of queries, keys and values [N, T, heads, 64]; the gradient computes weights anew.

    CPU, 2 cores, [8, 785, 12, 64], processor time and temporaries of all heads at once, which is
    `jax.nn.dot_product_attention`, and of one head after the other:

    | | at once | one after the other |
    |---|---|---|
    | float32, forward | .83 s, 451 MiB | .29 s, 61 MiB |
    | float32, forward and gradients | 2.90 s, 922 MiB | 1.30 s, 155 MiB |
    | bfloat16, forward and gradients | 2.64 s, 1,071 MiB | 1.24 s, 163 MiB |
    """
    return lax.platform_dependent(q, k, v, cpu=_head_by_head, default=jax.nn.dot_product_attention)


def _head_by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    @jax.checkpoint
    def one(parts: tuple[jax.Array, ...]) -> jax.Array:
        q, k, v = parts
        exact = jnp.promote_types(q.dtype, jnp.float32)
        logits = jnp.einsum("ntd,nsd->nts", q, k, preferred_element_type=exact)
        weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
        return jnp.einsum("nts,nsd->ntd", weights.astype(v.dtype), v)

    heads = lax.map(one, tuple(jnp.moveaxis(part, 2, 0) for part in (q, k, v)))
    return jnp.moveaxis(heads, 0, 2)


class Attention(nnx.Module):
    """Self-attention of all tokens: [N, T, F] -> [N, T, F]."""

    def __init__(self, features: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options = {"dtype": dtype, "kernel_init": small_normal, "rngs": rngs}
        self.qkv = layers.Linear(features, 3 * features, **options)
        self.proj = layers.Linear(features, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.proj(attend(*self._parts(x)).reshape(x.shape))

    def explicit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (the same, attention weights [N, heads, T, T] float32)."""
        q, k, v = self._parts(x)
        exact = jnp.promote_types(q.dtype, jnp.float32)
        logits = jnp.einsum("nthd,nshd->nhts", q, k, preferred_element_type=exact)
        weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
        mixed = jnp.einsum("nhts,nshd->nthd", weights.astype(v.dtype), v)
        return self.proj(mixed.reshape(x.shape)), weights

    def _parts(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Return queries, keys and values, each [N, T, heads, 64]."""
        count, tokens, features = x.shape
        qkv = self.qkv(x).reshape(count, tokens, 3, -1, min(HEAD, features))
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]


class MLP(nnx.Module):
    """Dense, exact GELU, dense."""

    def __init__(self, features: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options = {"dtype": dtype, "kernel_init": small_normal, "rngs": rngs}
        self.fc1 = layers.Linear(features, hidden, **options)
        self.fc2 = layers.Linear(hidden, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class SwiGLU(nnx.Module):
    """Dense to two halves a and b, silu(a) b, dense (DINOv2's largest)."""

    def __init__(self, features: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs) -> None:
        options = {"dtype": dtype, "kernel_init": small_normal, "rngs": rngs}
        self.w12 = layers.Linear(features, 2 * hidden, **options)
        self.w3 = layers.Linear(hidden, features, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(nnx.silu(a) * b)


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each scaled with `layer_scale`."""

    def __init__(
        self, features: int, hidden: int, swiglu: bool, layer_scale: bool, eps: float, *,
        dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        kind = SwiGLU if swiglu else MLP
        self.norm1 = layers.LayerNorm(features, eps=eps, dtype=dtype)
        self.attn = Attention(features, dtype=dtype, rngs=rngs)
        self.norm2 = layers.LayerNorm(features, eps=eps, dtype=dtype)
        self.mlp = kind(features, hidden, dtype=dtype, rngs=rngs)
        self.scales = layer_scale
        if layer_scale:
            self.ls1, self.ls2 = LayerScale(features), LayerScale(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._after(x, self.attn(self.norm1(x)))

    def explicit(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (the same, the attention weights)."""
        y, weights = self.attn.explicit(self.norm1(x))
        return self._after(x, y), weights

    def _after(self, x: jax.Array, y: jax.Array) -> jax.Array:
        x = x + (self.ls1(y) if self.scales else y)
        y = self.mlp(self.norm2(x))
        return x + (self.ls2(y) if self.scales else y)


class ViT(Backbone):
    """A vision transformer.

    grid: patches per side of the stored positions.  positions: rule of resizing them to another
    grid, see `resized`.  registers: their number.  eps: of the norms.  per_channel: the network
    sees one channel at a time.
    """

    def __init__(
        self,
        features: int,
        blocks: int,
        patch: int,
        stored: int,
        swiglu: bool = False,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        depth: Depth = None,
        grid: int = 0,
        positions: str = "size",
        registers: int = 0,
        layer_scale: bool = False,
        eps: float = 1e-6,
        per_channel: bool = False,
        remat: bool = False,
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        if positions not in POSITIONS:
            raise InputError(f"positions={positions!r}: one of {', '.join(POSITIONS)}")
        features = scaled(features, width)
        if features > HEAD and features % HEAD:
            raise InputError(f"width={width}: gives {features} features, not a multiple of {HEAD}")
        self.in_channels, self.dtype, self.remat = in_channels, dtype, remat
        self.patch, self.grid, self.positions = patch, grid or stored, positions
        self.smallest, self.registers, self.swiglu = patch, registers, swiglu
        hidden = (int(features * 4 * 2 / 3) + 7) // 8 * 8 if swiglu else 4 * features
        self.cls_token = nnx.Param(small_normal(rngs.params(), (1, 1, features), jnp.float32))
        places = (1, 1 + self.grid**2, features)
        self.pos_embed = nnx.Param(small_normal(rngs.params(), places, jnp.float32))
        if registers:
            self.reg_token = nnx.Param(
                small_normal(rngs.params(), (1, registers, features), jnp.float32)
            )
        self.per_channel = per_channel
        planes = 1 if per_channel else in_channels
        self.patch_embed = _PatchEmbed(planes, features, patch, dtype, rngs)
        options = {"dtype": dtype, "rngs": rngs}
        self.blocks = nnx.List(
            [
                Block(features, hidden, swiglu, layer_scale, eps, **options)
                for _ in range(counts((blocks,), depth)[0])
            ]
        )
        self.norm = layers.LayerNorm(features, eps=eps, dtype=dtype)
        self.out_features = features * (in_channels if per_channel else 1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [N, C] float32."""
        return self.head(self._for_head(images))

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], embedding [N, E]), both float32."""
        return self.head.embed(self._for_head(images))

    def features(self, images: jax.Array) -> jax.Array:
        """Return the patches of images [N, H, W, K] as a map [N, H/patch, W/patch, F]."""
        patches = self.tokens(images)[:, 1 + self.registers :]
        rows, columns = (side // self.patch for side in images.shape[1:3])
        return patches.reshape(len(images), rows, columns, -1)

    def tokens(self, images: jax.Array) -> jax.Array:
        """Return the tokens [N, 1 + R + h w, F] after the last norm."""
        tokens = self.norm(run_blocks(self.blocks, self._first(images), self.remat))
        if not self.per_channel:
            return tokens
        by_channel = tokens.reshape(len(images), self.in_channels, *tokens.shape[1:])
        return jnp.moveaxis(by_channel, 1, 2).reshape(len(images), tokens.shape[1], -1)

    def attention(self, images: jax.Array, layers: Sequence[int]) -> dict[int, jax.Array]:
        """Return {layer: attention weights [N, heads, T, T] float32}; layer -1 is the last.

        With `per_channel` the heads of the first channel come first, K times as many.

        Raises:
            InputError: an invalid layer.
        """
        count = len(self.blocks)
        requested = {layer % count if -count <= layer < count else -1: layer for layer in layers}
        if -1 in requested:
            raise InputError(f"layer {requested[-1]}: must be 0 to {count - 1}, or -1 for the last")
        x, weights = self._first(images), {}
        for number, block in enumerate(self.blocks):
            if number in requested:
                x, weights[requested[number]] = block.explicit(x)
            else:
                x = block(x)
        tokens = x.shape[1]
        return {n: each.reshape(len(images), -1, tokens, tokens) for n, each in weights.items()}

    def body_groups(self) -> Groups:
        """Return the embeddings, and each block, the last with the norm."""
        stem = ["cls_token", "pos_embed", "patch_embed", *(["reg_token"] * bool(self.registers))]
        blocks = [[f"blocks.{index}"] for index in range(len(self.blocks))]
        blocks[-1].append("norm")
        return [stem, *blocks]

    def fine_groups(self) -> Groups:
        """Return the body's groups: blocks are not divided."""
        return self.body_groups()

    def _for_head(self, images: jax.Array) -> jax.Array:
        return (self.tokens if getattr(self.head, "reads_tokens", False) else self.features)(images)

    def _first(self, images: jax.Array) -> jax.Array:
        """Return the input of the blocks: patches and class token with positions, registers."""
        x = self.enter(images, self.dtype)
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise InputError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels: the sides must be multiples of "
                f"{self.patch}, this network's patch"
            )
        if self.per_channel:
            x = jnp.moveaxis(x, 3, 1).reshape(-1, *x.shape[1:3], 1)
        x = self.patch_embed.proj(x)
        rows, columns = x.shape[1:3]
        x = x.reshape(len(x), rows * columns, -1)
        first = jnp.broadcast_to(self.cls_token[...], (len(x), 1, x.shape[-1]))
        x = jnp.concatenate([first.astype(x.dtype), x], axis=1)
        places = resized(self.pos_embed[...], self.grid, rows, columns, self.positions)
        x = x + places.astype(x.dtype)
        if self.registers:
            registers = jnp.broadcast_to(self.reg_token[...], (len(x), *self.reg_token.shape[1:]))
            x = jnp.concatenate([x[:, :1], registers.astype(x.dtype), x[:, 1:]], axis=1)
        return x

    def file_names(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rename tensors of a file to timm's names, which are ours.

        Raises:
            InputError: positions of another grid, or two different tensors for one parameter.
        """
        renamed: dict[str, np.ndarray] = {}
        for name, value in tensors.items():
            ours = _timm_name(name, self.swiglu)
            if ours in renamed and not np.array_equal(renamed[ours], value):
                raise InputError(f"{name}: a second, different tensor for {ours}")
            renamed[ours] = value
        for name in [name for name in renamed if ".attn.q." in name]:
            parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
            if all(part in renamed for part in parts):
                joined = np.concatenate([renamed.pop(part) for part in parts])
                renamed[name.replace(".attn.q.", ".attn.qkv.")] = joined
        places = renamed.get("pos_embed")
        if places is not None and places.ndim == 3:
            if places.shape[1] == self.grid**2:  # timm with registers: without the class token
                places = np.concatenate([np.zeros_like(places[:, :1]), places], axis=1)
            side = math.isqrt(max(places.shape[1] - 1, 0))
            if side != self.grid:
                raise InputError(
                    f"pos_embed: for {side} x {side} patches, the network's are for {self.grid} x "
                    f"{self.grid}; set backbone_options.grid={side}"
                )
            renamed["pos_embed"] = places
        return renamed


class _PatchEmbed(nnx.Module):
    """A convolution with its kernel size as stride; named as in timm."""

    def __init__(
        self, in_channels: int, features: int, patch: int, dtype: Any, rngs: nnx.Rngs
    ) -> None:
        self.proj = layers.Conv(
            in_channels, features, patch, strides=patch, use_bias=True, dtype=dtype,
            kernel_init=small_normal, rngs=rngs,
        )  # fmt: skip


# Prefixes of wrappers, then names of transformers (ViTModel and Dinov2Model of versions 4 and 5),
# of DINO, DINOv2 and Cell-DINO -> timm's.
_PREFIX = re.compile(
    r"^(?:module\.|_orig_mod\.|model\.|backbone\.|vit\.|dinov2\."
    r"|encoder\.(?=embeddings|encoder|layernorm|layers))+"
)
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^(embeddings\.)?register_tokens$", "reg_token"),
        (r"^embeddings\.mask_token$", "mask_token"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^(?:encoder\.layer|layers|encoder\.layers)\.(\d+)\.", r"blocks.\1."),
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # Cell-DINO's chunks; the second number counts
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.attention\.(q|k|v)(?:uery|ey|alue)\.", r".attn.\1."),
        (r"\.attention\.(q|k|v)_proj\.", r".attn.\1."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.intermediate\.dense\.", ".mlp.fc1."),
        (r"(?<=\d)\.output\.dense\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"^layernorm\.", "norm."),
    )
)


def _timm_name(name: str, swiglu: bool) -> str:
    name = _PREFIX.sub("", name)
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    if swiglu:
        name = name.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3.")
    return name


def resized(places: jax.Array, grid: int, rows: int, columns: int, rule: str) -> jax.Array:
    """Resize positions [1, 1 + grid^2, F] to rows x columns patches, except the class token's.

    Bicubic, as PyTorch: "size" and "offset" without averaging (a = -3/4, the edge repeated), where
    "offset" scales by (side + .1) / grid as DINO; "antialias" averages when downscaling
    (a = -1/2, weights renormalised at the edge).
    """
    if rows == columns == grid:
        return places
    first, rest = places[:, :1], places[0, 1:].reshape(grid, grid, -1)
    down, across = (jnp.asarray(_bicubic(grid, side, rule)) for side in (rows, columns))
    rest = jnp.einsum("rg,ch,ghf->rcf", down, across, rest.astype(jnp.float32))
    return jnp.concatenate([first, rest.reshape(1, rows * columns, -1)], axis=1)


def _bicubic(stored: int, needed: int, rule: str) -> np.ndarray:
    """Return the interpolation weights float32[needed, stored] of an axis."""
    scale = stored / (needed + 0.1 if rule == "offset" else needed)
    centres = (np.arange(needed) + 0.5) * scale - 0.5
    weights = np.zeros((needed, stored))
    if rule == "antialias":
        reach = max(scale, 1.0)
        weights = _cubic(np.abs(np.arange(stored) - centres[:, None]) / reach, -0.5)
        return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    for tap in range(-1, 3):
        at = np.floor(centres).astype(int) + tap
        values = _cubic(np.abs(at - centres), -0.75)
        np.add.at(weights, (np.arange(needed), np.clip(at, 0, stored - 1)), values)
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Evaluate Keys' cubic kernel at distances."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
