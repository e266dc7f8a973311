"""Packed images -> batches on the host, in an order that is a pure function of (sampler, step).

In: a records folder, or stored embeddings in its place (then image is float32[B, V, M, E]), ids,
labels.  Out: dicts of numpy arrays (image uint8[B, H, W, K], label uint8[B, C], mask bool[B], index
int32[B]).  tf.data orders, parallelises and prefetches; rows are read by number (ArrayRecord's
random access).  Floats, normalisation and augmentation are the device's.  Starting at step t costs
nothing: no earlier batch is read.  Each host reads only its own rows.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpa_jax.core.artifacts import parsing, read_json, read_table
from hpa_jax.core.errors import InputError
from hpa_jax.data import encodings
from hpa_jax.data.embeddings import Embeddings
from hpa_jax.data.reader import resize
from hpa_jax.data.records import LAYOUT, signatures

if TYPE_CHECKING:
    import pandas as pd
    from array_record.python.array_record_module import ArrayRecordReader

Batch = dict[str, np.ndarray]


class Labels(Protocol):
    """[N, C] in {0, 1}: an array, or an object that computes rows on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...


Batches = Generator[Batch, None, None]  # close() stops its threads
Sampler = Callable[[int], np.ndarray]
BLOCK = 8  # images a thread reads at a time: enough to hide the call, few for even work


class Records:
    """A folder written by `records.write`: ids in record order, and random access to its rows.

    ids: str[R].  sources: str[R].  image_size: stored side.  channels: names of the stored planes.

    Raises:
        InputError: not whole, damaged, or packed by another version.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        manifest = read_json(self.directory / "manifest.json")
        table = read_table(self.directory / "manifest.parquet")
        with parsing(self.directory / "manifest.json", "run the verb records --force"):
            self._open(manifest, table)

    def _open(self, manifest: dict[str, Any], table: "pd.DataFrame") -> None:
        """Reads the manifest and checks the shards' sizes."""
        self.ids = table["id"].to_numpy(dtype=str)
        self.sources = table["source"].to_numpy(dtype=str)
        if manifest.get("layout") != LAYOUT:
            raise InputError(f"{self.directory}: packed by another version; run records --force")
        self.image_size: int = manifest["image_size"]
        self.channels: tuple[str, ...] = tuple(manifest["channels"])
        self.encoding: str = manifest["encoding"]
        for name, known in manifest["shards"].items():
            path = self.directory / name
            size = path.stat().st_size if path.is_file() else -1
            if size != known["bytes"]:
                raise InputError(f"{path}: damaged or missing; pack again with the verb records")
        self._paths = [self.directory / name for name in manifest["shards"]]
        counts = table.groupby("shard", sort=False).size().reindex(manifest["shards"])
        self._ends = np.cumsum(counts.to_numpy())
        self._readers: dict[int, ArrayRecordReader] = {}
        self._lock = threading.Lock()
        self._rows = {id: row for row, id in enumerate(self.ids.tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Record numbers int64[N] of ids.

        Raises:
            InputError: an id is not packed.
        """
        rows = [self._rows.get(str(id), -1) for id in ids]
        if -1 in rows:
            missing = [str(id) for id, row in zip(ids, rows, strict=True) if row < 0]
            raise InputError(
                f"{self.directory}: {len(missing)} ids are not packed, e.g. {missing[0]!r}; "
                "run the verb records"
            )
        return np.array(rows, np.int64)

    def signatures(self) -> np.ndarray:
        """Return str[R]: digests of each record's files and of how they were packed."""
        return np.concatenate([np.array(signatures(path), str) for path in self._paths])

    def image(self, row: int, channels: Sequence[str] | None = None) -> np.ndarray:
        """One image uint8[S, S, K] by record number; `channels` by name, default all.

        Raises:
            InputError: damage inside its shard, or a channel that is not stored.
        """
        planes = self.planes(self.channels if channels is None else channels)
        return self._decoded(int(row), planes)

    def images(self, rows: np.ndarray, channels: Sequence[str], image_size: int) -> np.ndarray:
        """uint8[N, image_size, image_size, K] of record numbers int[N].

        Raises:
            InputError: damage inside a shard, or a channel that is not stored.
        """
        planes = self.planes(channels)
        out = np.empty((len(rows), image_size, image_size, len(planes)), np.uint8)
        for i, row in enumerate(rows):
            image = self._decoded(int(row), planes)
            out[i] = image if image_size == self.image_size else resize(image, image_size)
        return out

    def _decoded(self, row: int, planes: Sequence[int]) -> np.ndarray:
        try:
            stored = encodings.image_bytes(self.serialized(row))
            return encodings.decode(self.encoding, stored, self.image_size, planes)
        except InputError:
            raise
        except (ValueError, IndexError, OSError, SyntaxError) as error:
            raise self._damaged(row, error) from None

    def _damaged(self, row: int, error: Exception) -> InputError:
        """Of a shard whose size is right: opening checks no more than that."""
        why = " ".join(str(error).split())[:200]
        return InputError(
            f"{self._paths[self._shard(row)]}: damaged inside, at {str(self.ids[row])!r} ({why}); "
            "remove this file and run the verb records, which packs it again"
        )

    def _shard(self, row: int) -> int:
        return int(np.searchsorted(self._ends, row, side="right"))

    def serialized(self, row: int) -> bytes:
        """The stored tf.train.Example of a record number.

        Raises:
            InputError: damage inside its shard.
        """
        shard = self._shard(row)
        first = int(self._ends[shard - 1]) if shard else 0
        # One record a call: a list of them makes ArrayRecord's threads spin (6.5 instead of
        # 2.8 ms of processor time for 1 MB).
        try:
            return self._reader(shard).read([row - first])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise self._damaged(row, error) from None

    def _reader(self, shard: int) -> "ArrayRecordReader":
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(
                    str(self._paths[shard]), options="readahead_buffer_size:0,max_parallelism:0"
                )
            return self._readers[shard]

    def planes(self, channels: Sequence[str]) -> list[int]:
        """Numbers of channels by name.

        Raises:
            InputError: one is not stored.
        """
        for channel in channels:
            if channel not in self.channels:
                known = ", ".join(self.channels)
                raise InputError(f"channel {channel!r} is not in {self.directory}: it has {known}")
        return [self.channels.index(channel) for channel in channels]


def train_batches(
    records: Records | Embeddings,
    ids: Sequence[str] | np.ndarray,
    labels: Labels,
    *,
    batch_size: int,
    channels: Sequence[str],
    image_size: int,
    sampler: Sampler,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    prefetch: int = 2,
) -> Batches:
    """Infinite batches; batch t holds positions t*B..(t+1)*B of sampler(0), sampler(1), ... joined.

    labels: uint8[N, C] of `ids`.  sampler(epoch) -> int[n] rows of `ids`, the same on every host.
    batch_size: of all hosts together; this one yields its B / process_count rows of each batch.

    Raises:
        InputError: an id is not packed, or sizes don't fit.
    """
    size = _check(ids, labels, batch_size, process_count)
    where = records.rows(ids)
    local = slice(process_index * size, (process_index + 1) * size)

    def orders() -> Iterator[np.ndarray]:
        return (rows[local] for rows in positions(sampler, batch_size, start))

    images = _images(
        records,
        (where[rows] for rows in orders()),
        steps=-1,
        batch_size=size,
        channels=channels,
        image_size=image_size,
        workers=workers,
        prefetch=prefetch,
    )
    for index, image in zip(orders(), images, strict=True):
        mask = np.ones(size, bool)
        yield dict(image=image, label=labels[index], mask=mask, index=index.astype(np.int32))


def eval_batches(
    records: Records | Embeddings,
    ids: Sequence[str] | np.ndarray,
    labels: Labels | None,
    *,
    batch_size: int,
    channels: Sequence[str],
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    prefetch: int = 2,
) -> Batches:
    """Every id once, in order; the last batch is filled up with row 0 and mask False.

    Without labels the batches' label is [B, 0].

    Raises:
        InputError: an id is not packed, or sizes don't fit.
    """
    labels = np.zeros((len(ids), 0), np.uint8) if labels is None else labels
    size = _check(ids, labels, batch_size, process_count)
    where = records.rows(ids)
    steps = -(-len(ids) // batch_size)
    rows = np.arange(steps * batch_size).reshape(steps, process_count, size)[:, process_index]
    masks = rows < len(ids)
    rows = np.where(masks, rows, 0)
    images = _images(
        records,
        iter(where[rows]),
        steps=steps,
        batch_size=size,
        channels=channels,
        image_size=image_size,
        workers=workers,
        prefetch=prefetch,
    )
    for index, mask, image in zip(rows, masks, images, strict=True):
        yield dict(image=image, label=labels[index], mask=mask, index=index.astype(np.int32))


def positions(sampler: Sampler, batch_size: int, start: int = 0) -> Iterator[np.ndarray]:
    """Rows int64[B] of batch start, start + 1, ... over the epochs' concatenated orders.

    Raises:
        InputError: an epoch is empty.
    """
    epoch, skip = 0, start * batch_size
    order = np.asarray(sampler(0), np.int64)
    if not len(order):
        raise InputError("no images to train on: the sampler's epoch is empty")
    while skip >= len(order):  # epochs may differ in length, so they are counted one by one
        skip -= len(order)
        epoch += 1
        order = np.asarray(sampler(epoch), np.int64)
    order = order[skip:]
    while True:
        while len(order) < batch_size:
            epoch += 1
            order = np.concatenate([order, np.asarray(sampler(epoch), np.int64)])
        yield order[:batch_size]
        order = order[batch_size:]


def _images(
    records: Records | Embeddings,
    orders: Iterator[np.ndarray],
    *,
    steps: int,
    batch_size: int,
    channels: Sequence[str],
    image_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[np.ndarray]:
    """uint8[B, H, W, K], or embeddings float32[B, V, M, E], for each of `steps` (-1: endless)
    arrays of record numbers of `orders`."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    if isinstance(records, Embeddings):
        shape, dtype = [batch_size, *records.shape], tf.float32
    else:
        records.planes(channels)  # an error here, not inside tf.data
        shape, dtype = [batch_size, image_size, image_size, len(channels)], tf.uint8
    block = max(n for n in range(1, BLOCK + 1) if batch_size % n == 0)

    def next_rows() -> np.ndarray:
        return next(orders)

    failed: list[InputError] = []  # tf.data would wrap it in another error, with a traceback

    def read(rows: np.ndarray) -> np.ndarray:
        try:
            if isinstance(records, Embeddings):
                return records.read(rows)
            return records.images(rows, channels, image_size)
        except InputError as error:
            failed.append(error)
            raise

    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.range(1)
        .repeat(steps)
        .map(lambda _: tf.ensure_shape(tf.numpy_function(next_rows, [], tf.int64), [batch_size]))
        .unbatch()
        .batch(block)
        .map(
            lambda rows: tf.ensure_shape(
                tf.numpy_function(read, [rows], dtype), [block, *shape[1:]]
            ),
            num_parallel_calls=max(1, workers),
        )
        .batch(batch_size // block)
        .map(lambda images: tf.reshape(images, shape))
        .prefetch(prefetch)
        .with_options(options)
    )
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError:
        if failed:
            raise failed[0] from None
        raise


def _check(
    ids: Sequence[str] | np.ndarray, labels: Labels, batch_size: int, process_count: int
) -> int:
    """The batch of one host."""
    if len(ids) == 0:
        raise InputError("no images: the list of ids is empty")
    if len(labels) != len(ids):
        raise InputError(f"{len(ids)} ids, but labels of {len(labels)} rows")
    if batch_size < 1 or batch_size % process_count:
        raise InputError(f"batch_size={batch_size}: must be a multiple of {process_count} hosts")
    return batch_size // process_count
