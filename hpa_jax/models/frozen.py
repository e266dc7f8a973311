"""A head on the embeddings of a frozen network, and the same head on embeddings that were stored.

    whole.head = OnEmbedding(whole.head, top)  # of a network of `create`: images -> logits
    alone = Stored(size, top)                  # stored embeddings -> logits

`alone` is what is trained: embeddings [N, V, M, E] of V views and M crops take the place of images.
`whole` is what predicts images; `joined` puts its parameters together.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.models.backbone import Backbone, Groups
from hpa_jax.models.heads import GatedAttention


class OnEmbedding(nnx.Module):
    """The head `top` on what the head `of` calls its embedding; `of`'s logits are not used."""

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(self, of: nnx.Module, top: nnx.Module) -> None:
        self.of, self.top = of, top

    @property
    def reads_tokens(self) -> bool:
        """Whether the frozen network's head reads a transformer's tokens."""
        return getattr(self.of, "reads_tokens", False)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], embedding [N, E] of the frozen network)."""
        of: Any = self.of
        embedding = of.embed(x)[1].astype(jnp.float32)
        top: Any = self.top
        return top(embedding[:, None, None]), embedding

    def modules(self) -> list[str | None]:
        """The frozen head, the trained one."""
        return ["of", "top"]


class Stored(Backbone):
    """No network: its images are stored embeddings float32[N, V, M, E], which the head averages."""

    def __init__(self, size: int, head: nnx.Module) -> None:
        self.in_channels = self.out_features = size
        self.head = head

    def features(self, images: jax.Array) -> jax.Array:
        """The embeddings, as they are."""
        return self.enter(images, jnp.float32)

    def body_groups(self) -> Groups:
        """None: only the head has parameters."""
        return []


def attention_over_views(model: nnx.Module) -> GatedAttention | None:
    """The head that weighs the views of an image, of a network of this module; None elsewhere."""
    head: Any = getattr(model, "head", None)
    if isinstance(head, OnEmbedding):
        head = head.top
    elif not isinstance(model, Stored):
        return None
    return head if isinstance(head, GatedAttention) else None


def joined(frozen: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays of a whole network, by name, of those of its frozen network and of the head alone."""
    own = "head."
    found = {f"head.of.{k.removeprefix(own)}" if k.startswith(own) else k: x
             for k, x in frozen.items()}  # fmt: skip
    return found | {f"head.top.{name.removeprefix(own)}": x for name, x in head.items()}
