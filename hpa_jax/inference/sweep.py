"""Restartable prediction of a packed data set, and tiled prediction of images of any size.

Finished rows are written to part files every half minute and at the end; a second call with the
same network, views and images computes only the missing rows.  The caller removes the folder of
parts once its output is written, so that a kill between two networks repeats neither.  With several
processes each predicts some of the rows on its local devices and writes parts to the shared folder;
all of them return the whole result.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.core.progress import Progress
from hpa_jax.data.batches import Records, eval_batches
from hpa_jax.data.embeddings import Embeddings
from hpa_jax.data.reader import resize
from hpa_jax.inference import predict
from hpa_jax.inference import views as views_module
from hpa_jax.inference.tables import check_finite

SAVE_SECONDS = 30.0


def predict_records(
    model: nnx.Module,
    model_config: Any,
    records: Records | Embeddings,
    ids: Sequence[str],
    *,
    batch_size: int,
    views: str | Mapping[str, Any] | views_module.Views = "identity",
    aggregate: str | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    title: str = "predict",
) -> predict.Outputs:
    """Return a network's outputs for packed images, as float32 arrays on the host.

    Args:
      model, model_config, views, aggregate, seed: as predict.predict; `model_config.image_size`
        is the side to which images are resized.
      records: the packed data set; or stored embeddings, if the model is just a head.
      ids: N ids.
      directory: folder of part files, not removed; None: not restartable.
      title: of the progress line.

    Raises:
        InputError: as predict.predict; an id that is not packed.
    """
    if not len(ids):
        raise InputError("no images to predict: the list of ids is empty")
    view_set = views_module.make(views)
    parts = None
    if directory is not None:
        about = (aggregate or view_set.aggregate, seed, content(records))
        parts = Parts(directory, fingerprint(model, model_config, view_set, ids, about))
    result = _Result(len(ids))
    if parts is not None:
        for rows, outputs in parts.read():
            result.put(rows, outputs)
    # All processes read before any writes, or their shares of the rows would differ.
    wait("known parts read")
    missing = np.flatnonzero(~result.done)[jax.process_index() :: jax.process_count()]
    if len(missing):
        forward = predict.compiled(
            model, model_config, views=view_set, aggregate=aggregate, seed=seed
        )
        batches = eval_batches(
            records,
            [ids[row] for row in missing],
            None,
            batch_size=batch_size,
            channels=tuple(model_config.channels),
            image_size=model_config.image_size,
        )
        stream = predict.stream(forward, batches, missing)
        _collect(stream, result, parts, Progress(title, len(ids), int(result.done.sum())))
    if jax.process_count() > 1:
        _gather(result, parts)
    check_finite(result.outputs.probs, ids)
    return result.outputs


def content(records: Records | Embeddings) -> str:
    """Return the fingerprint of packed images or stored embeddings, from their checksums."""
    return hashlib.sha256((records.directory / "manifest.json").read_bytes()).hexdigest()


class Parts:
    """Part files of an unfinished prediction: rows, their outputs, and a fingerprint.

    Parts of another fingerprint (another network, other views or ids) are ignored.
    """

    def __init__(self, directory: str | Path, fingerprint: str) -> None:
        self.directory = Path(directory)
        self.fingerprint = fingerprint

    def read(self) -> Iterator[tuple[np.ndarray, predict.Outputs]]:
        """Yield all parts of this fingerprint; damaged ones count as missing."""
        for path in sorted(self.directory.glob("part-*.npz")):
            try:
                with np.load(path, allow_pickle=False) as part:
                    if str(part["fingerprint"]) == self.fingerprint:
                        yield (
                            part["rows"],
                            predict.Outputs(*(part[n] for n in predict.Outputs._fields)),
                        )
            except artifacts.DAMAGE_ERRORS:
                continue

    def write(self, rows: np.ndarray, outputs: predict.Outputs) -> None:
        """Write finished rows."""
        name = f"part-{self.fingerprint[:8]}-{int(rows[0]):08d}.npz"
        with artifacts.atomic(self.directory / name) as temporary:
            np.savez(temporary, fingerprint=self.fingerprint, rows=rows, **outputs._asdict())


def predict_images(
    forward: predict.Forward,
    read: Callable[[int], np.ndarray],
    ids: Sequence[str],
    *,
    tile: int,
    image_size: int = 0,
    overlap: float = 0.25,
    batch_size: int = 8,
    aggregate: str = "max",
) -> tuple[np.ndarray, np.ndarray]:
    """Predict probabilities and embeddings of images uint8[h, w, K] of any size, by tiles.

    Tiles of `tile` pixels overlap by at least a share and are batched across images, so one shape
    is compiled; a side shorter than a tile is padded by reflection.

    Args:
      forward: the network's pass, of `predict.compiled`.
      read: row -> image.
      image_size: side to which tiles are resized; 0: unchanged.
      aggregate: over the tiles of an image: "max" (any cell that shows a compartment counts) or
        "mean".  Views of one tile are averaged.

    Raises:
        InputError: unknown aggregate, no ids, a probability that is not finite.
    """
    if aggregate not in ("max", "mean"):
        raise InputError(f"aggregate {aggregate!r} over tiles; known: max, mean")
    if not len(ids):
        raise InputError("no images to predict: the list of ids is empty")
    result, counts = _Result(len(ids)), np.zeros(len(ids), int)
    batches = _tile_batches(
        read, np.arange(len(ids)), counts, tile, overlap, batch_size, image_size or tile
    )
    for rows, outputs in predict.stream(forward, batches):
        result.add(rows, outputs, aggregate)
    probs, embeddings = result.outputs.probs, result.outputs.embeddings / counts[:, None]
    probs = probs / counts[:, None] if aggregate == "mean" else probs
    check_finite(probs, ids)
    return probs, embeddings.astype(np.float32)


def tiles_of(image: np.ndarray, tile: int, overlap: float) -> Iterator[np.ndarray]:
    """Yield squares [tile, tile, K] that cover an image [h, w, K], padded by reflection."""
    short = [(0, max(0, tile - side)) for side in image.shape[:2]]
    if any(after for _, after in short):
        image = np.pad(image, (*short, (0, 0)), mode="symmetric")
    for row in views_module.cover(image.shape[0], tile, overlap):
        for column in views_module.cover(image.shape[1], tile, overlap):
            yield image[row : row + tile, column : column + tile]


def _tile_batches(
    read: Callable[[int], np.ndarray],
    rows: np.ndarray,
    counts: np.ndarray,
    tile: int,
    overlap: float,
    batch_size: int,
    side: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches of tiles of `side` with their image's row; counts tiles in counts[N]."""
    pending: list[tuple[np.ndarray, int]] = []
    for row in rows:
        for piece in tiles_of(read(int(row)), tile, overlap):
            counts[row] += 1
            pending.append((resize(piece, side), int(row)))
            if len(pending) == batch_size:
                yield _batch(pending, batch_size)
                pending = []
    if pending:
        yield _batch(pending, batch_size)


def _batch(pieces: list[tuple[np.ndarray, int]], batch_size: int) -> dict[str, np.ndarray]:
    filled = pieces + pieces[-1:] * (batch_size - len(pieces))
    return dict(
        image=np.stack([piece for piece, _ in filled]),
        index=np.array([row for _, row in filled], np.int32),
        mask=np.arange(batch_size) < len(pieces),
    )


class _Result:
    """Outputs of N rows, filled in batch by batch."""

    def __init__(self, count: int) -> None:
        self.done = np.zeros(count, bool)
        self.outputs: predict.Outputs | None = None

    def put(self, rows: np.ndarray, outputs: predict.Outputs) -> None:
        self._allocate(outputs)
        for whole, part in zip(self.outputs, outputs, strict=True):
            whole[rows] = part
        self.done[rows] = True

    def add(self, rows: np.ndarray, outputs: predict.Outputs, aggregate: str) -> None:
        self._allocate(outputs)
        join = np.maximum if aggregate == "max" else np.add
        join.at(self.outputs.probs, rows, outputs.probs)
        np.add.at(self.outputs.embeddings, rows, outputs.embeddings)

    def _allocate(self, outputs: predict.Outputs) -> None:
        if self.outputs is None:
            shapes = [(len(self.done), part.shape[1]) for part in outputs]
            self.outputs = predict.Outputs(*(np.zeros(shape, np.float32) for shape in shapes))


def _collect(
    stream: Iterator[tuple[np.ndarray, predict.Outputs]],
    result: _Result,
    parts: Parts | None,
    progress: Progress,
) -> None:
    """Put the stream into the result; write a part every SAVE_SECONDS and at the end."""
    unsaved: list[tuple[np.ndarray, predict.Outputs]] = []
    saved = time.monotonic()
    with progress:
        for rows, outputs in stream:
            result.put(rows, outputs)
            progress.add(len(rows))
            unsaved.append((rows, outputs))
            if parts is not None and time.monotonic() - saved > SAVE_SECONDS:
                parts.write(*_joined(unsaved))
                unsaved, saved = [], time.monotonic()
    if parts is not None and unsaved:
        parts.write(*_joined(unsaved))


def _joined(
    batches: list[tuple[np.ndarray, predict.Outputs]],
) -> tuple[np.ndarray, predict.Outputs]:
    rows, outputs = zip(*batches, strict=True)
    columns = (np.concatenate(column) for column in zip(*outputs, strict=True))
    return np.concatenate(rows), predict.Outputs(*columns)


def _gather(result: _Result, parts: Parts | None) -> None:
    """Wait for the other processes and read their parts."""
    if parts is None:
        raise InputError("prediction by several processes needs a shared folder for its parts")
    wait("predicted")
    for rows, outputs in parts.read():
        result.put(rows, outputs)
    wait("gathered")
    if not result.done.all():
        raise InputError(
            f"{parts.directory}: {int((~result.done).sum())} rows were predicted by no process; "
            "check that all processes share this folder"
        )


def wait(name: str) -> None:
    """Wait until every process gets here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def fingerprint(
    model: nnx.Module,
    model_config: Any,
    views: views_module.Views,
    ids: Sequence[str],
    about: tuple[Any, ...],
) -> str:
    """Return the SHA-256 of all that a prediction depends on: weights, views, ids, `about`."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    settings = (
        tuple(model_config.channels), model_config.normalize, model_config.image_size,
        views.name, sorted(views.options.items()), views.weights, about,
    )  # fmt: skip
    digest.update(repr(settings).encode())
    digest.update("\n".join(map(str, ids)).encode())
    return digest.hexdigest()
