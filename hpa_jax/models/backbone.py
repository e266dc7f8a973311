"""The base class of all networks: logits, feature map, embedding, parameters in depth groups.

A backbone is a subclass that sets `head` and `in_channels` and implements `features`, `body_groups`
and, if its recipe needs a finer division, `fine_groups`.
"""

import abc
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.core.errors import InputError

Groups = list[list[str]]


class Backbone(nnx.Module, abc.ABC):
    """Base of all networks; images are [N, H, W, K] float, normalised.

    smallest: minimum side of an image for all pools and convolutions.
    """

    head: nnx.Module
    in_channels: int
    smallest: int = 1

    def __call__(self, images: jax.Array) -> jax.Array:
        """Return logits [N, C] float32."""
        return self.head(self.features(images))

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return (logits [N, C], embedding [N, E]), both float32; the head defines E."""
        return self.head.embed(self.features(images))

    @abc.abstractmethod
    def features(self, images: jax.Array) -> jax.Array:
        """Return the last feature map [N, h, w, F], in the network's compute type."""

    @abc.abstractmethod
    def body_groups(self) -> Groups:
        """Return path prefixes of everything but the head, in depth groups from the stem on."""

    def fine_groups(self) -> Groups:
        """Return the finest division of the body: one group per child module."""
        return [[prefix] for group in self.body_groups() for prefix in group]

    def depth_groups(self, cuts: int | Sequence[int] | None = None) -> Groups:
        """Return path prefixes of all parameters in depth order: stem first, head modules last.

        A prefix covers a path that equals it or continues with a dot ("layer1" covers
        "layer1.0.conv1.kernel").  A head module without parameters is an empty group: it counts
        when learning rates are spread over the groups, as in fastai.

        cuts:
            None: the body's groups, the head as one group.
            a number: that many groups in total, of the body's groups or its children, and the head
                as one group or one per module.
            positions: a new group begins at each of these children of the body; head as one.

        Raises:
            InputError: an invalid number or position; the message lists the valid ones.
        """
        head = [[name] if name else [] for name in self.head_modules()]
        whole_head = [[name for group in head for name in group]]
        body, fine = self.body_groups(), self.fine_groups()
        if cuts is None:
            return body + whole_head
        if isinstance(cuts, int):
            ways = [b + h for b in (body, fine) for h in (whole_head, head)]
            for way in ways:
                if len(way) == cuts:
                    return way
            counts = sorted({len(way) for way in ways})
            raise InputError(
                f"depth groups: cuts={cuts}; this network and head give {counts}, "
                f"or name positions between 1 and {len(fine) - 1}"
            )
        positions = [0, *cuts, len(fine)]
        if any(a >= b for a, b in itertools.pairwise(positions)):
            raise InputError(
                f"depth groups: cuts={tuple(cuts)} must rise, between 1 and {len(fine) - 1}"
            )
        return [
            [prefix for group in fine[a:b] for prefix in group]
            for a, b in itertools.pairwise(positions)
        ] + whole_head

    def head_modules(self) -> list[str | None]:
        """Return the path of each module of the head in order, None for one without parameters."""
        return [name and f"head.{name}" for name in self.head.modules()]

    def enter(self, images: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Check the images' shape and cast them to the compute type.

        Raises:
            InputError: not [N, H, W, K] of the network's number of channels, or too small.
        """
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise InputError(
                f"images of shape {tuple(images.shape)}: this network takes "
                f"[N, H, W, {self.in_channels}]"
            )
        if min(images.shape[1:3]) < self.smallest:
            raise InputError(
                f"images of {images.shape[1]} x {images.shape[2]} pixels: this network takes "
                f"sides of at least {self.smallest} pixels"
            )
        return images.astype(dtype)


def run_blocks(blocks: Sequence[nnx.Module], x: jax.Array, remat: bool) -> jax.Array:
    """Apply blocks in order; `remat` keeps only their inputs and recomputes the rest."""
    for block in blocks:
        x = nnx.remat(_apply)(block, x) if remat else block(x)
    return x


def _apply(block: nnx.Module, x: jax.Array) -> jax.Array:
    return block(x)
