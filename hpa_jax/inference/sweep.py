"""Prediction over a whole packed data set: restartable in the middle, with progress; and over
images of any size, tile by tile.

Finished rows are written to part files every half minute and at the end; a second call with the
same network, views and images goes on with the rows that are missing.  Whoever calls removes the
folder of parts once its own output is written, so that a kill between two networks repeats neither.
With several processes each works on its own share of the rows on its own devices and writes its own
parts (the folder is shared); all of them return the whole result.
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
) -> predict.Seen:
    """What a network says of packed images: float32 arrays on the host.

    Args:
      model, model_config, views, aggregate, seed: as predict.predict; `model_config.image_size`
        is the side the images are read at.
      records: the packed data set; or stored embeddings, for the head alone that reads them.
      ids: N ids.
      directory: folder for part files, which stay; None: no restart.
      title: of the progress line.

    Raises:
        InputError: as predict.predict; an id that is not packed.
    """
    if not len(ids):
        raise InputError("no images to predict: the list of ids is empty")
    made = views_module.make(views)
    parts = None
    if directory is not None:
        about = (aggregate or made.aggregate, seed, content(records))
        parts = Parts(directory, fingerprint(model, model_config, made, ids, about))
    result = _Result(len(ids))
    if parts is not None:
        for rows, seen in parts.read():
            result.put(rows, seen)
    # All have read before one writes, else they would deal out different rows.
    wait("known parts read")
    missing = np.flatnonzero(~result.done)[jax.process_index() :: jax.process_count()]
    if len(missing):
        forward = predict.compiled(model, model_config, views=made, aggregate=aggregate, seed=seed)
        batches = eval_batches(
            records,
            [ids[row] for row in missing],
            None,
            batch_size=batch_size,
            channels=tuple(model_config.channels),
            image_size=model_config.image_size,
        )
        found = predict.stream(forward, batches, missing)
        _collect(found, result, parts, Progress(title, len(ids), int(result.done.sum())))
    if jax.process_count() > 1:
        _gather(result, parts)
    check_finite(result.found.probs, ids)
    return result.found


def content(records: Records | Embeddings) -> str:
    """Fingerprint of the packed images (or stored embeddings): the checksums of all of them."""
    return hashlib.sha256((records.directory / "manifest.json").read_bytes()).hexdigest()


class Parts:
    """Part files of an unfinished prediction: rows, what was seen of them, and whose they are.

    A part of another fingerprint (another network, other views, other ids) is no part of this one.
    """

    def __init__(self, directory: str | Path, fingerprint: str) -> None:
        self.directory = Path(directory)
        self.fingerprint = fingerprint

    def read(self) -> Iterator[tuple[np.ndarray, predict.Seen]]:
        """All parts that belong here; a damaged one counts as missing."""
        for path in sorted(self.directory.glob("part-*.npz")):
            try:
                with np.load(path, allow_pickle=False) as part:
                    if str(part["fingerprint"]) == self.fingerprint:
                        yield part["rows"], predict.Seen(*(part[n] for n in predict.Seen._fields))
            except (OSError, ValueError, KeyError, EOFError):
                continue

    def write(self, rows: np.ndarray, seen: predict.Seen) -> None:
        """Writes rows that are done."""
        name = f"part-{self.fingerprint[:8]}-{int(rows[0]):08d}.npz"
        with artifacts.atomic(self.directory / name) as temporary:
            np.savez(temporary, fingerprint=self.fingerprint, rows=rows, **seen._asdict())


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
    """Probabilities and embeddings of images uint8[h, w, K] of any sizes, split into tiles.

    Tiles of `tile` pixels overlap by at least a share and are batched across images, so one shape
    is compiled; a side shorter than a tile is mirrored up to it.

    Args:
      forward: the network's pass, of `predict.compiled`.
      read: row -> image.
      image_size: side that tiles are scaled to; 0: as they are.
      aggregate: over the tiles of an image: "max" (a compartment is where any cell shows it) or
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
    for rows, seen in predict.stream(forward, batches):
        result.add(rows, seen, aggregate)
    probs, embeddings = result.found.probs, result.found.embeddings / counts[:, None]
    probs = probs / counts[:, None] if aggregate == "mean" else probs
    check_finite(probs, ids)
    return probs, embeddings.astype(np.float32)


def tiles_of(image: np.ndarray, tile: int, overlap: float) -> Iterator[np.ndarray]:
    """Squares [tile, tile, K] that cover an image [h, w, K], mirrored where it is too small."""
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
    """Batches of tiles of `side` with the row of their image; counts[N] is filled on the way."""
    held: list[tuple[np.ndarray, int]] = []
    for row in rows:
        for piece in tiles_of(read(int(row)), tile, overlap):
            counts[row] += 1
            held.append((resize(piece, side), int(row)))
            if len(held) == batch_size:
                yield _batch(held, batch_size)
                held = []
    if held:
        yield _batch(held, batch_size)


def _batch(held: list[tuple[np.ndarray, int]], batch_size: int) -> dict[str, np.ndarray]:
    filled = held + held[-1:] * (batch_size - len(held))
    return dict(
        image=np.stack([piece for piece, _ in filled]),
        index=np.array([row for _, row in filled], np.int32),
        mask=np.arange(batch_size) < len(held),
    )


class _Result:
    """What is seen of N rows, as it comes."""

    def __init__(self, count: int) -> None:
        self.done = np.zeros(count, bool)
        self.found: predict.Seen | None = None

    def put(self, rows: np.ndarray, seen: predict.Seen) -> None:
        self._make(seen)
        for whole, part in zip(self.found, seen, strict=True):
            whole[rows] = part
        self.done[rows] = True

    def add(self, rows: np.ndarray, seen: predict.Seen, aggregate: str) -> None:
        self._make(seen)
        join = np.maximum if aggregate == "max" else np.add
        join.at(self.found.probs, rows, seen.probs)
        np.add.at(self.found.embeddings, rows, seen.embeddings)

    def _make(self, seen: predict.Seen) -> None:
        if self.found is None:
            shapes = [(len(self.done), part.shape[1]) for part in seen]
            self.found = predict.Seen(*(np.zeros(shape, np.float32) for shape in shapes))


def _collect(
    found: Iterator[tuple[np.ndarray, predict.Seen]],
    result: _Result,
    parts: Parts | None,
    progress: Progress,
) -> None:
    """Takes in all that comes; writes a part every SAVE_SECONDS and at the end."""
    held: list[tuple[np.ndarray, predict.Seen]] = []
    saved = time.monotonic()
    with progress:
        for rows, seen in found:
            result.put(rows, seen)
            progress.add(len(rows))
            held.append((rows, seen))
            if parts is not None and time.monotonic() - saved > SAVE_SECONDS:
                parts.write(*_joined(held))
                held, saved = [], time.monotonic()
    if parts is not None and held:
        parts.write(*_joined(held))


def _joined(held: list[tuple[np.ndarray, predict.Seen]]) -> tuple[np.ndarray, predict.Seen]:
    rows, seen = zip(*held, strict=True)
    columns = (np.concatenate(column) for column in zip(*seen, strict=True))
    return np.concatenate(rows), predict.Seen(*columns)


def _gather(result: _Result, parts: Parts | None) -> None:
    """Waits for the other processes and reads what they wrote."""
    if parts is None:
        raise InputError("prediction by several processes needs a shared folder for its parts")
    wait("predicted")
    for rows, seen in parts.read():
        result.put(rows, seen)
    wait("gathered")
    if not result.done.all():
        raise InputError(
            f"{parts.directory}: {int((~result.done).sum())} rows came from no process"
        )


def wait(name: str) -> None:
    """Until every process is here."""
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
    """SHA-256 of all that a prediction depends on: weights, views, ids, and what else is named."""
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
