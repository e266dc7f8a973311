"""Stored embeddings of a frozen network for every packed image and view; restartable.

In: a network, its config, packed images.  Out: a folder of `data.embeddings`.  A second call
computes only the missing parts, and takes over what an earlier folder of the same network holds of
the same images.  With several processes each computes some of the parts in the shared folder.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.core.errors import InputError
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
    earlier: Sequence[Path] = (),
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
        earlier: finished folders of the same network and views, of other images.
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
    signatures = records.signatures()
    if numbers:
        known = _known(earlier, signatures, shape, view_set.draws)
        wanted = np.concatenate([_rows_of(number, len(records)) for number in numbers])
        rows = np.array([row for row in wanted if row not in known], np.int64)
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
                of_part = _rows_of(number, len(records))
                computed = iter(next_rows(sum(row not in known for row in of_part)))
                values = [known[row]() if row in known else next(computed) for row in of_part]
                stored.write_part(directory, number, np.stack(values))
    sweep.wait("embeddings written")
    if jax.process_index() == 0:
        stored.finish(directory, records.ids, shape, signatures)
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
        if not count:
            return np.empty(0, np.float32)
        joined = np.concatenate(buffer)
        buffer[:] = [joined[count:]]
        return joined[:count]

    return next_rows


def _known(
    earlier: Sequence[Path], signatures: np.ndarray, shape: tuple[int, int, int], draws: bool
) -> dict[int, Callable[[], np.ndarray]]:
    """Return {row: reader of its embedding [V, 1, E]} of images that earlier folders hold.

    draws: views depend on the row, too.
    """
    known = {}
    for folder in earlier:
        try:
            embeddings = Embeddings(folder)
        except InputError:  # damaged since; its images are computed again
            continue
        if embeddings.shape != shape:
            continue
        places = {mark: row for row, mark in enumerate(embeddings.signatures) if mark}
        for row, mark in enumerate(signatures):
            place = places.get(mark)
            if place is None or (draws and place != row):
                continue
            if embeddings.intact(place):
                known[row] = functools.partial(_row, embeddings, place)
    return known


def _row(embeddings: Embeddings, row: int) -> np.ndarray:
    return embeddings.read(np.array([row]))[0]


def _rows_of(number: int, count: int) -> np.ndarray:
    return np.arange(number * ROWS, min((number + 1) * ROWS, count))
