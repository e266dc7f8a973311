"""A frozen network over all packed images, once: every view's embedding, stored; restartable.

In: a network, its config, packed images.  Out: a folder of `data.embeddings`.  A second call goes
on with the parts that are missing.  With several processes each works on its own parts in the
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
    """Computes what is missing in a folder of embeddings of all of `records`, and finishes it.

    Args:
        model: the frozen network, in evaluation mode.
        config: its model config (channels, image_size, normalize).
        records: the packed images.
        directory: of the parts.
        batch_size: images at a time.
        views: as views.make.
        title: of the progress line.

    Raises:
        InputError: unknown views, damaged images, an embedding that is not finite.
    """
    made = views_module.make(views)
    side = config.image_size
    shape = (made.count(side, side), 1, network.embedding_size(config))
    lacking = stored.missing(directory, len(records), shape)
    sweep.wait("missing embeddings known")
    mine = lacking[jax.process_index() :: jax.process_count()]
    if mine:
        rows = np.concatenate([_rows_of(number, len(records)) for number in mine])
        batches = eval_batches(
            records,
            records.ids[rows],
            None,
            batch_size=batch_size,
            channels=tuple(config.channels),
            image_size=side,
        )
        forward = predict.spread(*program(model, config, made))
        with Progress(title, len(records), len(records) - len(rows)) as progress:
            found = _stream(forward, batches, rows, progress.add)
            for number in mine:
                stored.write_part(directory, number, found(len(_rows_of(number, len(records)))))
    sweep.wait("embeddings written")
    if jax.process_index() == 0:
        stored.finish(directory, records.ids, shape)
    sweep.wait("embeddings finished")
    return Embeddings(directory)


def program(
    model: nnx.Module, config: Any, views: views_module.Views
) -> tuple[Callable[[Any, jax.Array, jax.Array], jax.Array], Any]:
    """The pure function (state, images uint8[B, H, W, K], rows int[B]) -> [B, V, 1, E], and the
    network's state.  Random views draw from the row, as `predict.program`'s."""
    normalise = normalizer(config.normalize, tuple(config.channels))
    graph, state = nnx.split(model)

    def embed(state: Any, images: jax.Array, rows: jax.Array) -> jax.Array:
        frozen: Any = nnx.merge(graph, state)
        frozen.eval()
        scaled = images.astype(jnp.float32) / 255.0
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(rows)
        found = []
        for group in views.groups(*images.shape[1:3]):

            def look(view: jax.Array, group: views_module.Group = group) -> jax.Array:
                return frozen.embed(normalise(group.show(keys, view, scaled)))[1]

            found.append(jax.lax.map(look, jnp.arange(group.count)))
        return jnp.moveaxis(jnp.concatenate(found), 0, 1)[:, :, None].astype(jnp.float32)

    return embed, state


def _stream(
    forward: Callable[[np.ndarray, np.ndarray], jax.Array],
    batches: Iterator[dict[str, np.ndarray]],
    rows: np.ndarray,
    on_rows: Callable[[int], None],
) -> Callable[[int], np.ndarray]:
    """A function that gives the next n rows' embeddings, [n, V, 1, E]."""
    held: list[np.ndarray] = []

    def found(count: int) -> np.ndarray:
        while sum(map(len, held)) < count:
            batch = next(batches)
            mask = np.asarray(batch["mask"], bool)
            held.append(np.asarray(forward(batch["image"], rows[batch["index"]]))[mask])
            on_rows(int(mask.sum()))
        joined = np.concatenate(held)
        held[:] = [joined[count:]]
        return joined[:count]

    return found


def _rows_of(number: int, count: int) -> np.ndarray:
    return np.arange(number * ROWS, min((number + 1) * ROWS, count))
