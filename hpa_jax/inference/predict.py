"""Prediction of probabilities and embeddings by a network over views.

All views of a batch run in one compiled call that scans over them, so memory does not grow with
their number.  A batch is spread over all local devices.  The result of the unchanged image is also
returned, to measure the gain of the other views without another pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hpa_jax.core.errors import InputError
from hpa_jax.inference import views as views_module
from hpa_jax.inference.tables import (
    check_finite,
    read_embeddings,
    read_table,
    write_embeddings,
    write_table,
)
from hpa_jax.models.frozen import attention_over_views
from hpa_jax.models.normalization import normalizer
from hpa_jax.training.augment import warp
from hpa_jax.training.distributed import in_mesh

__all__ = [
    "Outputs",
    "compiled",
    "predict",
    "read_embeddings",
    "read_table",
    "stream",
    "write_embeddings",
    "write_table",
]


class Outputs(NamedTuple):
    """A network's outputs for N images, on the device or on the host.

    probs [N, C] and embeddings [N, E] over all views; plain [N, C]: the probabilities of the view
    that is the unchanged image, NaN if there is none.
    """

    probs: Any
    embeddings: Any
    plain: Any


ATTENTION = "attention"  # joins views by the weights that a network's head gives them
Forward = Callable[[np.ndarray, np.ndarray], Outputs]  # (images uint8[B, H, W, K], rows int[B])


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
    """Return the probabilities and embeddings of every id.

    Args:
      model: a network of models/factory.py, with `embed(images) -> (logits, embedding)`.
      model_config: its ConfigDict (`channels`, `normalize`).
      batches: of data/input.py: image uint8[B, H, W, K], mask bool[B], index int[B] into ids.
      ids: the N ids in the order of the result.
      views: as views.make.
      aggregate: of views: "mean", "max" or "geometric" mean of probabilities, or "mean_logit";
        None: default of the views.  Means are weighted.
      seed: of random views; they depend on (seed, row, view) only.
      on_batch: called with (rows done, N) after each batch.

    Returns:
      probs float32[N, C], embeddings float32[N, E] (weighted mean over views).

    Raises:
        InputError: no ids, an id in no batch or in two, a probability that is not finite.
    """
    if not len(ids):
        raise InputError("no images to predict: the list of ids is empty")
    forward = compiled(model, model_config, views=views, aggregate=aggregate, seed=seed)
    probs = embeddings = None
    counts = np.zeros(len(ids), int)
    for rows, outputs in stream(forward, batches):
        if probs is None:
            probs = np.zeros((len(ids), outputs.probs.shape[1]), np.float32)
            embeddings = np.zeros((len(ids), outputs.embeddings.shape[1]), np.float32)
        probs[rows], embeddings[rows] = outputs.probs, outputs.embeddings
        np.add.at(counts, rows, 1)
        if on_batch:
            on_batch(int((counts > 0).sum()), len(ids))
    check_each_once(counts, ids)
    check_finite(probs, ids)
    return probs, embeddings


def stream(
    forward: Forward,
    batches: Iterable[Mapping[str, np.ndarray]],
    rows: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, Outputs]]:
    """Yield (rows[n], their outputs) of each batch, without its padding.

    The device computes one batch while the host fetches the previous one.

    Args:
      rows: maps the batches' `index` to rows, if the batches cover only some of the images.
    """
    waiting = None
    for batch in _then_none(batches):
        started = None
        if batch is not None:
            index = np.asarray(batch["index"])
            index = index if rows is None else rows[index]
            started = (index, np.asarray(batch["mask"], bool), forward(batch["image"], index))
        if waiting is not None:
            index, mask, outputs = waiting
            yield index[mask], Outputs(*(np.asarray(array)[mask] for array in outputs))
        waiting = started


def compiled(
    model: nnx.Module,
    model_config: Any,
    *,
    views: str | Mapping[str, Any] | views_module.Views = "identity",
    aggregate: str | None = None,
    seed: int = 0,
) -> Forward:
    """Return the forward pass over all views, compiled on first use for each batch shape.

    Raises:
        InputError: unknown views, aggregate or normalisation.
    """
    return spread(*program(model, model_config, views=views, aggregate=aggregate, seed=seed))


def spread(program: Callable[..., Any], state: Any) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Compile a pure function (state, images [B, ...], rows int[B]) -> arrays of B rows, on first
    use for each shape, with batches spread over the local devices."""
    mesh = Mesh(np.asarray(jax.local_devices()), ("data",))
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
    state = jax.device_put(state, whole)
    traced = in_mesh(mesh, program)
    jitted = jax.jit(traced, in_shardings=(whole, split, split), out_shardings=split)

    def forward(images: np.ndarray, rows: np.ndarray) -> Any:
        count = len(images)
        missing = -count % jax.local_device_count()
        images, rows = _padded(images, missing), _padded(rows, missing)
        outputs = jitted(state, images, rows)
        return jax.tree.map(lambda array: array[:count], outputs) if missing else outputs

    return forward


def program(
    model: nnx.Module,
    model_config: Any,
    *,
    views: str | Mapping[str, Any] | views_module.Views = "identity",
    aggregate: str | None = None,
    seed: int = 0,
) -> tuple[Callable[[Any, jax.Array, jax.Array], Outputs], Any]:
    """The pure function (state, images uint8[B, H, W, K], rows int[B]) -> Outputs over all views,
    and the network's state.

    Raises:
        InputError: unknown views, aggregate or normalisation.
    """
    view_set = views_module.make(views)
    aggregate = aggregate or view_set.aggregate
    views_module.check_aggregate(aggregate)
    if attention_over_views(model):  # its weights take the place of the views' own
        aggregate = ATTENTION
    normalise = normalizer(model_config.normalize, tuple(model_config.channels))
    graph, state = nnx.split(model)

    def pass_all(state: Any, images: jax.Array, rows: jax.Array) -> Outputs:
        network = nnx.merge(graph, state)
        network.eval()
        scaled = warp.unit_range(images)
        key = jax.random.key(seed)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)

        def run_view(group: views_module.Group, view: jax.Array) -> Outputs:
            logits, embedding = network.embed(normalise(group.show(keys, view, scaled)))
            logits, weight = logits.astype(jnp.float32), jnp.asarray(group.weights)[view]
            plain = jnp.where(view == group.plain, jax.nn.sigmoid(logits), 0.0)
            share = weight
            if aggregate == ATTENTION:
                scores = attention_over_views(network).scores(embedding[:, None, None])
                share = jnp.exp(scores[:, :, 0])
            return Outputs(_contribution(logits, share, aggregate), weight * embedding, plain)

        total, groups = None, view_set.groups(*images.shape[1:3])
        for group in groups:
            total = _scan(group, run_view, total, aggregate)
        has_plain = any(group.plain >= 0 for group in groups)
        plain = total.plain if has_plain else jnp.full_like(total.plain, jnp.nan)
        return Outputs(
            _probabilities(total.probs, aggregate), total.embeddings.astype(jnp.float32), plain
        )

    return pass_all, state


def _scan(
    group: views_module.Group,
    run_view: Callable[..., Outputs],
    total: Outputs | None,
    aggregate: str,
) -> Outputs:
    """Add the views of a group to the running total, one after the other."""

    def add(total: Outputs, outputs: Outputs) -> Outputs:
        join = jnp.maximum if aggregate == "max" else jnp.add
        return Outputs(
            join(total.probs, outputs.probs),
            total.embeddings + outputs.embeddings,
            total.plain + outputs.plain,
        )

    if group.count == 1:
        outputs = run_view(group, 0)
        return outputs if total is None else add(total, outputs)
    if total is None:
        shapes = jax.eval_shape(lambda: run_view(group, 0))
        zeros = Outputs(*(jnp.zeros(shape.shape) for shape in shapes))
        total = zeros._replace(probs=zeros.probs - jnp.inf) if aggregate == "max" else zeros

    def step(total: Outputs, view: jax.Array) -> tuple[Outputs, None]:
        return add(total, run_view(group, view)), None

    return jax.lax.scan(step, total, jnp.arange(group.count))[0]


def _contribution(logits: jax.Array, weight: jax.Array, aggregate: str) -> jax.Array:
    """The contribution of one view to the running total; the last column of ATTENTION's is the sum
    of the weights [N, 1]."""
    if aggregate == ATTENTION:
        return jnp.concatenate([weight * logits, weight], axis=1)
    if aggregate == "max":
        return logits  # the sigmoid is monotone: applied at the end
    if aggregate == "mean":
        return weight * jax.nn.sigmoid(logits)
    if aggregate == "geometric":
        return weight * jax.nn.log_sigmoid(logits)
    return weight * logits


def _probabilities(total: jax.Array, aggregate: str) -> jax.Array:
    """The probabilities of the finished total."""
    if aggregate == ATTENTION:
        return jax.nn.sigmoid(total[:, :-1] / total[:, -1:])
    if aggregate == "mean":
        return total
    return jnp.exp(total) if aggregate == "geometric" else jax.nn.sigmoid(total)


def _padded(array: np.ndarray, missing: int) -> np.ndarray:
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _then_none(batches: Iterable[Any]) -> Iterable[Any]:
    yield from batches
    yield None


def check_each_once(counts: np.ndarray, ids: Sequence[str]) -> None:
    """Check that every id was in exactly one batch.

    Raises:
        InputError: names the first such id.
    """
    missing, doubled = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
    if len(missing):
        raise InputError(f"{len(missing)} ids were in no batch, first {ids[missing[0]]!r}")
    if len(doubled):
        raise InputError(f"{len(doubled)} ids were in two batches, first {ids[doubled[0]]!r}")
