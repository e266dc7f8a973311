"""A network x views -> probabilities and embeddings.

All views of a batch run in one compiled call that scans over them, so memory does not grow with
their number.  A batch is spread over all local devices.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hpa_jax.errors import InputError, near
from hpa_jax.inference import views as views_module
from hpa_jax.inference.tables import (
    check_finite,
    read_embeddings,
    read_table,
    write_embeddings,
    write_table,
)
from hpa_jax.models.normalization import normalizer

__all__ = [
    "compiled",
    "predict",
    "read_embeddings",
    "read_table",
    "stream",
    "write_embeddings",
    "write_table",
]

AGGREGATES = ("mean", "max", "geometric", "mean_logit")

# (images uint8[B, H, W, K], rows int[B]) -> (probs [B, C], embeddings [B, E]), on the device
Forward = Callable[[np.ndarray, np.ndarray], tuple[jax.Array, jax.Array]]


def predict(
    model: nnx.Module,
    model_config: Any,
    batches: Iterable[Mapping[str, np.ndarray]],
    ids: Sequence[str],
    *,
    views: str | Mapping[str, Any] | views_module.Views = "identity",
    aggregate: str | None = None,
    seed: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and embeddings of every id.

    Args:
      model: a network of models/factory.py, with `embed(images) -> (logits, embedding)`.
      model_config: its ConfigDict (`channels`, `normalize`).
      batches: of data/input.py: image uint8[B, H, W, K], mask bool[B], index int[B] into ids.
      ids: the N ids in the order of the result.
      views: as views.make.
      aggregate: over views: "mean", "max" or "geometric" mean of probabilities, or "mean_logit";
        None: the views' own.  Means take the views' weights.
      seed: of random views; they depend on (seed, row, view) only.
      on_batch: called with (rows done, N) after each batch.

    Returns:
      probs float32[N, C], embeddings float32[N, E] (weighted mean over views).

    Raises:
        InputError: no ids, an id that no batch holds or that two hold, a probability that is not
          finite.
    """
    if not len(ids):
        raise InputError("no pictures to predict: the list of ids is empty")
    forward = compiled(model, model_config, views=views, aggregate=aggregate, seed=seed)
    probs = embeddings = None
    seen = np.zeros(len(ids), int)
    for rows, one, other in stream(forward, batches):
        if probs is None:
            probs = np.zeros((len(ids), one.shape[1]), np.float32)
            embeddings = np.zeros((len(ids), other.shape[1]), np.float32)
        probs[rows], embeddings[rows] = one, other
        np.add.at(seen, rows, 1)
        if on_batch:
            on_batch(int((seen > 0).sum()), len(ids))
    check_seen(seen, ids)
    check_finite(probs, ids)
    return probs, embeddings


def stream(
    forward: Forward,
    batches: Iterable[Mapping[str, np.ndarray]],
    rows: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (rows[n], probs[n, C], embeddings[n, E]) of each batch, without its padding.

    The device works on one batch while the host takes home the one before.

    Args:
      rows: what the batches' `index` points into, if they hold a part of all pictures only.
    """
    waiting = None
    for batch in _then_none(batches):
        started = None
        if batch is not None:
            index = np.asarray(batch["index"])
            index = index if rows is None else rows[index]
            started = (index, np.asarray(batch["mask"], bool), forward(batch["image"], index))
        if waiting is not None:
            index, mask, (probs, embeddings) = waiting
            yield index[mask], np.asarray(probs)[mask], np.asarray(embeddings)[mask]
        waiting = started


def compiled(
    model: nnx.Module,
    model_config: Any,
    *,
    views: str | Mapping[str, Any] | views_module.Views = "identity",
    aggregate: str | None = None,
    seed: int = 0,
) -> Forward:
    """The forward pass over all views, compiled on first use for each shape of batch.

    Raises:
        InputError: unknown views, aggregate or normalisation.
    """
    shown = views_module.make(views)
    aggregate = aggregate or shown.aggregate
    if aggregate not in AGGREGATES:
        raise InputError(f"aggregate {aggregate!r} is unknown{near(aggregate, AGGREGATES)}")
    normalise = normalizer(model_config.normalize, tuple(model_config.channels))
    graph, state = nnx.split(model)
    mesh = Mesh(np.asarray(jax.local_devices()), ("data",))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    state = jax.device_put(state, whole)

    def pass_all(state: Any, images: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        network = nnx.merge(graph, state)
        network.eval()
        pictures = images.astype(jnp.float32) / 255.0
        key = jax.random.key(seed)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

        def look(group: views_module.Group, view: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, embedding = network.embed(normalise(group.show(keys, view, pictures)))
            weight = jnp.asarray(group.weights)[view]
            return _enter(logits.astype(jnp.float32), weight, aggregate), weight * embedding

        total = None
        for group in shown.groups(*images.shape[1:3]):
            total = _scan(group, look, total, aggregate)
        return _leave(total[0], aggregate), total[1].astype(jnp.float32)

    jitted = jax.jit(pass_all, in_shardings=(whole, split, split), out_shardings=split)

    def forward(images: np.ndarray, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
        count = len(images)
        missing = -count % jax.local_device_count()
        images, rows = _padded(images, missing), _padded(rows, missing)
        probs, embeddings = jitted(state, images, rows)
        return (probs[:count], embeddings[:count]) if missing else (probs, embeddings)

    return forward


def _scan(
    group: views_module.Group,
    look: Callable[..., tuple[jax.Array, jax.Array]],
    total: tuple[jax.Array, jax.Array] | None,
    aggregate: str,
) -> tuple[jax.Array, jax.Array]:
    """Adds the views of a group to the running total, one after the other."""

    def add(
        total: tuple[jax.Array, jax.Array], seen: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        join = jnp.maximum if aggregate == "max" else jnp.add
        return join(total[0], seen[0]), total[1] + seen[1]

    if group.count == 1:
        seen = look(group, 0)
        return seen if total is None else add(total, seen)
    if total is None:
        shapes = jax.eval_shape(lambda: look(group, 0))
        start = -jnp.inf if aggregate == "max" else 0.0
        total = (jnp.full(shapes[0].shape, start), jnp.zeros(shapes[1].shape))

    def step(total: tuple[jax.Array, jax.Array], view: jax.Array) -> tuple[Any, None]:
        return add(total, look(group, view)), None

    return jax.lax.scan(step, total, jnp.arange(group.count))[0]


def _enter(logits: jax.Array, weight: jax.Array, aggregate: str) -> jax.Array:
    """What of a view goes into the running total."""
    if aggregate == "max":
        return logits  # the sigmoid is monotone: it waits until the end
    if aggregate == "mean":
        return weight * jax.nn.sigmoid(logits)
    if aggregate == "geometric":
        return weight * jax.nn.log_sigmoid(logits)
    return weight * logits


def _leave(total: jax.Array, aggregate: str) -> jax.Array:
    """The probability of the finished total."""
    if aggregate == "mean":
        return total
    return jnp.exp(total) if aggregate == "geometric" else jax.nn.sigmoid(total)


def _padded(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _then_none(batches: Iterable[Any]) -> Iterable[Any]:
    yield from batches
    yield None


def check_seen(seen: np.ndarray, ids: Sequence[str]) -> None:
    """Refuses ids that were seen never or twice."""
    missing, doubled = np.flatnonzero(seen == 0), np.flatnonzero(seen > 1)
    if len(missing):
        raise InputError(f"{len(missing)} ids were in no batch, first {ids[missing[0]]!r}")
    if len(doubled):
        raise InputError(f"{len(doubled)} ids were in two batches, first {ids[doubled[0]]!r}")
