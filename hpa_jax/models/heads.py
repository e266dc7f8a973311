"""Heads: the last feature map [N, h, w, F] -> logits [N, C], in float32.

- adaptive_concat: global average and maximum side by side -> BN -> dropout -> dense (fastai, One
  More Layer), or with `hidden` units: BN -> dropout/2 -> dense -> ReLU -> BN -> dropout -> dense.
- bestfitting: the same pools -> BN -> dropout -> dense to F -> ReLU -> BN -> dropout -> dense.
  `bn1`, `fc1`, `bn2`, `logit` of bestfitting's networks are its `bn1`, `fc1`, `bn`, `fc`.
- gap: global average -> dropout -> dense (the published classifiers; pudae's ResNet34).
- linear: global average -> BN -> dropout -> dense; mlp: BN -> dropout/2 -> dense -> ReLU -> BN ->
  dropout -> dense.  For the embeddings of a frozen network.
- gated_attention: BN -> mean over positions by gated attention -> dropout -> dense (Ilse et
  al. 2018, arXiv 1802.04712); on stored embeddings the positions are views, for example cells.
- gap_norm: global average -> LayerNorm -> dropout -> dense (ConvNeXt's published classifier).
- attention: pudae's class-wise spatial attention.
- embedding: global average -> dropout -> dense -> BN = embedding; logits are cosines (ArcFace).
- token: a transformer's class token -> dropout -> dense.
- features: a transformer's class token, without a classifier: logits [N, 0].
- subcell: gated attention over all tokens of a transformer -> three dense layers (SubCell).

`modules()` lists the layer groups as fastai counts them; None has no parameters.  `published` maps
the modules of weight files to the head's.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.core.errors import InputError, near
from hpa_jax.models.layers import (
    BatchNorm,
    Conv,
    LayerNorm,
    Linear,
    global_avg_pool,
    global_max_pool,
)

POOL_ORDERS = ("max_avg", "avg_max")
EMBEDDINGS = ("pools", "last")
CLASSIFIERS = ("fc", "_fc", "last_linear", "classifier")  # a published network's last layer


class AdaptiveConcat(nnx.Module):
    """Both global pools, then one or two dense layers.

    hidden: 0 for one dense layer, else the units between the two.
    embedding: "pools" [N, 2F], or "last", the input of the last dense layer: [N, hidden or 2F].
    dropout: (before the first dense layer of two, before the last).
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        hidden: int = 0,
        dropout: tuple[float, float] = (0.25, 0.5),
        pool_order: str = "max_avg",
        embedding: str = "pools",
        rngs: nnx.Rngs,
    ) -> None:
        if pool_order not in POOL_ORDERS:
            raise InputError(f"pool_order={pool_order!r}: one of {', '.join(POOL_ORDERS)}")
        if embedding not in EMBEDDINGS:
            raise InputError(f"embedding={embedding!r}: one of {', '.join(EMBEDDINGS)}")
        self.embeds_last = embedding == "last"
        self.max_first = pool_order == "max_avg"
        self.hidden = hidden
        if hidden:
            self.bn1 = BatchNorm(2 * features)
            self.drop1 = nnx.Dropout(dropout[0], rngs=rngs)  # nnx orders by name
            self.fc1 = Linear(2 * features, hidden, rngs=rngs)
        last = hidden or 2 * features
        self.bn = BatchNorm(last)
        self.drop2 = nnx.Dropout(dropout[1], rngs=rngs)
        self.fc = Linear(last, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], embedding [N, E])."""
        pools = [global_max_pool(x), global_avg_pool(x)]
        pooled = jnp.concatenate(pools if self.max_first else pools[::-1], axis=-1)
        y = pooled
        if self.hidden:
            y = nnx.relu(self.fc1(self.drop1(self.bn1(y))))
        y = self.bn(y)
        return self.fc(self.drop2(y)), y if self.embeds_last else pooled

    @property
    def published(self) -> Mapping[str, str]:
        """bestfitting's names."""
        return {"bn1": "bn1", "fc1": "fc1", "bn2": "bn", "logit": "fc"} if self.hidden else {}

    def modules(self) -> list[str | None]:
        """Pool, flatten, [BN, dropout, dense, ReLU,] BN, dropout, dense: 5 or 9."""
        first = ["bn1", None, "fc1", None] if self.hidden else []
        return [None, None, *first, "bn", None, "fc"]


class GlobalAverage(nnx.Module):
    """Global average, dropout, dense.  Embedding: the average, [N, F]."""

    published = MappingProxyType(dict.fromkeys(CLASSIFIERS, "fc"))

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], average [N, F])."""
        pooled = global_avg_pool(x)
        return self.fc(self.drop(pooled)), pooled

    def modules(self) -> list[str | None]:
        """Pool, dropout, dense."""
        return [None, None, "fc"]


class Perceptron(nnx.Module):
    """Global average -> BN -> dropout -> dense; with `hidden` units, two dense layers and a ReLU.

    The first BN scales embeddings to deviation 1, so that one learning rate fits all of
    them.  Embedding: the average, [N, F].

    hidden: 0 for one dense layer, else the units between the two.
    """

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        hidden: int = 0,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.hidden = hidden
        if hidden:
            self.bn1 = BatchNorm(features)
            self.drop1 = nnx.Dropout(dropout / 2, rngs=rngs)
            self.fc1 = Linear(features, hidden, rngs=rngs)
        self.bn = BatchNorm(hidden or features)
        self.drop2 = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(hidden or features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], average [N, F])."""
        pooled = y = global_avg_pool(x)
        if self.hidden:
            y = nnx.relu(self.fc1(self.drop1(self.bn1(y))))
        return self.fc(self.drop2(self.bn(y))), pooled

    def modules(self) -> list[str | None]:
        """Pool, [BN, dropout, dense, ReLU,] BN, dropout, dense."""
        first = ["bn1", None, "fc1", None] if self.hidden else []
        return [None, *first, "bn", None, "fc"]


class GatedAttention(nnx.Module):
    """BN -> mean over all places by gated attention (Ilse et al. 2018) -> dropout -> dense.

    score = dense(tanh(dense(y)) sigmoid(dense(y))) of the normalised vector y of each place; the
    weights are the scores' softmax over places.  As the classifier is linear, the logits are the
    same weighted mean of the places' own logits.  Embedding: the plain average, [N, F].

    hidden: units of the attention.
    """

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        hidden: int = 128,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.bn = BatchNorm(features)
        self.attention_v = Linear(features, hidden, rngs=rngs)
        self.attention_u = Linear(features, hidden, rngs=rngs)
        self.attention = Linear(hidden, 1, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(features, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], average [N, F])."""
        y = self.bn(x.astype(jnp.float32))
        weights = jax.nn.softmax(self._scores(y), axis=(1, 2))
        pooled = jnp.einsum("nhw,nhwf->nf", weights, y)
        return self.fc(self.drop(pooled)), global_avg_pool(x)

    def scores(self, x: jax.Array) -> jax.Array:
        """The logarithm of each place's weight, up to a constant: [N, h, w]."""
        return self._scores(self.bn(x.astype(jnp.float32)))

    def _scores(self, y: jax.Array) -> jax.Array:
        gate = jnp.tanh(self.attention_v(y)) * jax.nn.sigmoid(self.attention_u(y))
        return self.attention(gate)[..., 0]

    def modules(self) -> list[str | None]:
        """BN, the attention's layers, dropout, dense."""
        return ["bn", "attention_v", "attention_u", "attention", None, "fc"]


class NormedAverage(GlobalAverage):
    """Global average, LayerNorm, dropout, dense.  Embedding: the normalised average, [N, F]."""

    published = MappingProxyType(
        {"head.norm": "norm", "norm": "norm", "head.fc": "fc", "head": "fc"}
    )

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.norm = LayerNorm(features)
        super().__init__(features, num_classes, dropout=dropout, rngs=rngs)

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], normalised average [N, F])."""
        pooled = self.norm(global_avg_pool(x))
        return self.fc(self.drop(pooled)), pooled

    def modules(self) -> list[str | None]:
        """Pool, norm, dropout, dense."""
        return [None, "norm", None, "fc"]


class Attention(nnx.Module):
    """logit_c = sum over positions of softmax(attention_c) * score_c (pudae).

    Embedding: the global average, [N, F].
    """

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.logits = Conv(features, num_classes, 1, use_bias=True, rngs=rngs)
        self.attention = Conv(features, num_classes, 1, use_bias=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.drop(x.astype(jnp.float32))
        weights = nnx.softmax(self.attention(x), axis=(1, 2))
        return (weights * self.logits(x)).sum((1, 2))

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], average [N, F])."""
        return self(x), global_avg_pool(x)

    def modules(self) -> list[str | None]:
        """Dropout, and the two convolutions side by side."""
        return [None, "logits", "attention"]


class Embedding(nnx.Module):
    """Global average -> dropout -> dense -> BN = embedding [N, E]; logits: cosines to the classes.

    The margin and the scale of ArcFace belong to the loss.
    """

    published: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        size: int = 512,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(features, size, use_bias=False, rngs=rngs)
        self.bn = BatchNorm(size)
        init = nnx.initializers.xavier_uniform()
        self.weight = nnx.Param(init(rngs.params(), (size, num_classes), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.embed(x)[0]

    def embed(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(cosines [N, C] in [-1, 1], embedding [N, E])."""
        embedding = self.bn(self.fc(self.drop(global_avg_pool(x))))
        return unit(embedding, -1) @ unit(self.weight[...], 0), embedding

    def modules(self) -> list[str | None]:
        """Pool, dropout, dense, BN, class vectors."""
        return [None, None, "fc", "bn", "weight"]


class Token(nnx.Module):
    """A transformer's class token -> dropout -> dense.  Embedding: the token, [N, F]."""

    published: Mapping[str, str] = MappingProxyType(dict.fromkeys(("head", "classifier"), "fc"))
    reads_tokens = True

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.fc = Linear(features, num_classes, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.embed(tokens)[0]

    def embed(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], class token [N, F])."""
        token = tokens[:, 0].astype(jnp.float32)
        return self.fc(self.drop(token)), token

    def modules(self) -> list[str | None]:
        """Dropout, dense."""
        return [None, "fc"]


class Features(nnx.Module):
    """No classifier: logits [N, 0]; the embedding is a transformer's class token, [N, F]."""

    published: Mapping[str, str] = MappingProxyType({})
    reads_tokens = True

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        del features, num_classes, dropout, rngs

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.embed(tokens)[0]

    def embed(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(nothing [N, 0], class token [N, F])."""
        return jnp.zeros((len(tokens), 0)), tokens[:, 0].astype(jnp.float32)

    def modules(self) -> list[str | None]:
        """Return no module with parameters."""
        return [None]


class SubCell(nnx.Module):
    """SubCell's pooling and classifier (czi-ai/sub-cell-embed).

    v = tanh(dense(tokens)), u = gelu(dense(tokens)), two scores per token = dense(v u), softmax
    over the tokens, class token included; the embedding [N, 2F] is the two weighted sums.
    Then dense 512, ReLU, dense 256, ReLU, dense.
    """

    published: Mapping[str, str] = MappingProxyType(
        {
            "pool_model.attention_v.1": "attention_v",
            "pool_model.attention_u.1": "attention_u",
            "pool_model.attention": "attention",
            "classifier.0": "fc1",
            "classifier.3": "fc2",
            "classifier.6": "fc",
        }
    )
    reads_tokens = True

    def __init__(
        self, features: int, num_classes: int, *, dropout: float = 0.0, rngs: nnx.Rngs
    ) -> None:
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.attention_v = Linear(features, 512, rngs=rngs)
        self.attention_u = Linear(features, 512, rngs=rngs)
        self.attention = Linear(512, 2, rngs=rngs)
        self.fc1 = Linear(2 * features, 512, rngs=rngs)
        self.fc2 = Linear(512, 256, rngs=rngs)
        self.fc = Linear(256, num_classes, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.embed(tokens)[0]

    def embed(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(logits [N, C], pooled tokens [N, 2F])."""
        tokens = tokens.astype(jnp.float32)
        pooled = jnp.einsum("nth,ntf->nhf", self.weights(tokens), tokens)
        pooled = pooled.reshape(len(tokens), -1)
        y = nnx.relu(self.fc2(nnx.relu(self.fc1(self.drop(pooled)))))
        return self.fc(y), pooled

    def weights(self, tokens: jax.Array) -> jax.Array:
        """Return the weights of the tokens in the two sums: [N, T, 2], summing to 1 over T."""
        gate = jnp.tanh(self.attention_v(tokens))
        gate = gate * jax.nn.gelu(self.attention_u(tokens), approximate=False)
        return jax.nn.softmax(self.attention(gate), axis=1)

    def modules(self) -> list[str | None]:
        """Pooling, then the classifier's layers."""
        return ["attention_v", "attention_u", "attention", None, "fc1", "fc2", "fc"]


def unit(x: jax.Array, axis: int) -> jax.Array:
    """Normalise vectors along `axis` to length 1; zero vectors stay zero, with finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), 1e-24))


HEADS: dict[str, tuple[str, ...]] = {  # name -> its options
    "adaptive_concat": ("hidden", "pool_order", "embedding"),
    "bestfitting": ("pool_order", "embedding"),
    "gap": (),
    "linear": (),
    "mlp": ("hidden",),
    "gated_attention": ("hidden",),
    "gap_norm": (),
    "attention": (),
    "embedding": ("size",),
    "token": (),
    "features": (),
    "subcell": (),
}
TOKEN_HEADS = ("token", "features", "subcell")  # only for transformers


def create_head(
    name: str,
    features: int,
    num_classes: int,
    *,
    dropout: float,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Module:
    """Create a head for feature maps of F features.

    options: adaptive_concat takes `hidden` (0), `pool_order` ("max_avg") and `embedding` ("pools"),
    bestfitting `pool_order` ("avg_max") and `embedding`, embedding `size` (512), mlp `hidden`
    (512), gated_attention `hidden` (128).

    Raises:
        InputError: unknown name or option.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if name not in HEADS:
        raise InputError(f"head={name!r}: one of {', '.join(HEADS)}{near(name, HEADS)}")
    for key in options:
        if key not in HEADS[name]:
            raise InputError(f"head {name} has no option {key!r}{near(key, HEADS[name])}")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout={dropout}: must be at least 0 and below 1")
    if name == "adaptive_concat":
        halves = (dropout / 2, dropout)
        return AdaptiveConcat(features, num_classes, dropout=halves, rngs=rngs, **options)
    if name == "bestfitting":
        options = {"pool_order": "avg_max", **options}
        both = (dropout, dropout)
        return AdaptiveConcat(
            features, num_classes, hidden=features, dropout=both, rngs=rngs, **options
        )
    if name == "mlp":
        options = {"hidden": 512, **options}
    kind: Any = {
        "linear": Perceptron, "mlp": Perceptron, "gated_attention": GatedAttention,
        "gap": GlobalAverage, "gap_norm": NormedAverage,
        "attention": Attention, "embedding": Embedding,
        "token": Token, "features": Features, "subcell": SubCell,
    }[name]  # fmt: skip
    return kind(features, num_classes, dropout=dropout, rngs=rngs, **options)
