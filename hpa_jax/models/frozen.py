"""A head on the embeddings of a frozen network, and the same head on stored embeddings.

    whole.head = OnEmbedding(whole.head, top)  # of a network of `create`: images -> logits
    alone = Stored(size, top)                  # stored embeddings -> logits

`alone` is trained, on embeddings [N, V, M, E] of V views and M crops in place of images.  `whole`
predicts images; `joined` merges its parameters.
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
    """The head `top` on the embedding of the head `of`, whose logits are not used."""

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(self, of: nnx.Module, top: nnx.Module) -> None:
        self.of, self.top = of, top

    @property
    def reads_tokens(self) -> bool:
        """Whether the frozen network's head uses a transformer's tokens."""
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
        """Return the frozen head and the trained one."""
        return ["of", "top"]


class Stored(Backbone):
    """A head without network; its input is stored embeddings float32[N, V, M, E], averaged."""

    def __init__(self, size: int, head: nnx.Module) -> None:
        self.in_channels = self.out_features = size
        self.head = head

    def features(self, images: jax.Array) -> jax.Array:
        """Return the embeddings unchanged."""
        return self.enter(images, jnp.float32)

    def body_groups(self) -> Groups:
        """Return no groups: only the head has parameters."""
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
    """Merge the arrays of a frozen network and of the head alone into those of the whole."""
    prefix = "head."
    arrays = {f"head.of.{k.removeprefix(prefix)}" if k.startswith(prefix) else k: x
             for k, x in frozen.items()}  # fmt: skip
    return arrays | {f"head.top.{name.removeprefix(prefix)}": x for name, x in head.items()}
