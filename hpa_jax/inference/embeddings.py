"""Stored embeddings of a frozen network for every packed image and view; restartable.

In: a network, its config, packed images.  Out: a folder of `data.embeddings`.  A second call
computes only the missing parts.  With several processes each computes some of the parts in the
shared folder.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.core.progress import Progress
from hpa_jax.data import embeddings as stored
from hpa_jax.data.batches import Records, eval_batches
from hpa_jax.data.embeddings import ROWS, Embeddings
from hpa_jax.inference import predict, sweep
from hpa_jax.inference import views as views_module
from hpa_jax.models.normalization import normalizer
from hpa_jax.training import network


def write(
    model: nnx.Module,
    config: Any,
    records: Records,
    directory: Path,
    *,
    batch_size: int,
    views: str | Mapping[str, Any] = "identity",
    title: str = "embeddings",
) -> Embeddings:
    """Compute the missing parts of a folder of embeddings of all `records`, and finish it.

    Args:
        model: the frozen network, in evaluation mode.
        config: its model config (channels, image_size, normalize).
        records: the packed images.
        directory: of the parts.
        batch_size: images per batch.
        views: as views.make.
        title: of the progress line.

    Raises:
        InputError: unknown views, damaged images, an embedding that is not finite.
    """
    view_set = views_module.make(views)
    side = config.image_size
    shape = (view_set.count(side, side), 1, network.embedding_size(config))
    missing = stored.missing(directory, len(records), shape)
    sweep.wait("missing embeddings known")
    numbers = missing[jax.process_index() :: jax.process_count()]
    if numbers:
        rows = np.concatenate([_rows_of(number, len(records)) for number in numbers])
        batches = eval_batches(
            records,
            records.ids[rows],
            None,
            batch_size=batch_size,
            channels=tuple(config.channels),
            image_size=side,
        )
        forward = predict.spread(*program(model, config, view_set))
        with Progress(title, len(records), len(records) - len(rows)) as progress:
            next_rows = _stream(forward, batches, rows, progress.add)
            for number in numbers:
                stored.write_part(directory, number, next_rows(len(_rows_of(number, len(records)))))
    sweep.wait("embeddings written")
    if jax.process_index() == 0:
        stored.finish(directory, records.ids, shape)
    sweep.wait("embeddings finished")
    return Embeddings(directory)


def program(
    model: nnx.Module, config: Any, views: views_module.Views
) -> tuple[Callable[[Any, jax.Array, jax.Array], jax.Array], Any]:
    """The pure function (state, images uint8[B, H, W, K], rows int[B]) -> [B, V, 1, E], and the
    network's state.  Random views are seeded by row, as in `predict.program`."""
    normalise = normalizer(config.normalize, tuple(config.channels))
    graph, state = nnx.split(model)

    def embed(state: Any, images: jax.Array, rows: jax.Array) -> jax.Array:
        frozen: Any = nnx.merge(graph, state)
        frozen.eval()
        scaled = images.astype(jnp.float32) / 255.0
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(rows)
        by_group = []
        for group in views.groups(*images.shape[1:3]):

            def embed_view(view: jax.Array, group: views_module.Group = group) -> jax.Array:
                return frozen.embed(normalise(group.show(keys, view, scaled)))[1]

            by_group.append(jax.lax.map(embed_view, jnp.arange(group.count)))
        return jnp.moveaxis(jnp.concatenate(by_group), 0, 1)[:, :, None].astype(jnp.float32)

    return embed, state


def _stream(
    forward: Callable[[np.ndarray, np.ndarray], jax.Array],
    batches: Iterator[dict[str, np.ndarray]],
    rows: np.ndarray,
    on_rows: Callable[[int], None],
) -> Callable[[int], np.ndarray]:
    """Return a function that computes the next n rows' embeddings, [n, V, 1, E]."""
    buffer: list[np.ndarray] = []

    def next_rows(count: int) -> np.ndarray:
        while sum(map(len, buffer)) < count:
            batch = next(batches)
            mask = np.asarray(batch["mask"], bool)
            buffer.append(np.asarray(forward(batch["image"], rows[batch["index"]]))[mask])
            on_rows(int(mask.sum()))
        joined = np.concatenate(buffer)
        buffer[:] = [joined[count:]]
        return joined[:count]

    return next_rows


def _rows_of(number: int, count: int) -> np.ndarray:
    return np.arange(number * ROWS, min((number + 1) * ROWS, count))
