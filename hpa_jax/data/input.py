"""Packed pictures -> batches on the host, in an order that is a pure function of (sampler, step).

In: a records folder, ids, labels.  Out: dicts of numpy arrays (image uint8[B, H, W, K], label
uint8[B, C], mask bool[B], index int32[B]).  tf.data reads any rows by number (ArrayRecord's random
access) and decodes in parallel; floats, normalisation and augmentation are the device's.  Starting
at step t costs nothing: no earlier batch is read.  Each host reads only its own rows.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.artifacts import read_json, read_table
from hpa_jax.data import encodings
from hpa_jax.errors import InputError

Batch = dict[str, np.ndarray]
Sampler = Callable[[int], np.ndarray]
READ_AHEAD = 8  # rows a read: enough to hide the call, few enough for small batches


class Records:
    """A folder written by `records.write`: ids in record order, and random access to its rows.

    ids: str[R].  sources: str[R].  image_size: stored side.  channels: names of the stored planes.
    """

    def __init__(self, directory: str | Path) -> None:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self.directory = Path(directory)
        manifest = read_json(self.directory / "manifest.json")
        table = read_table(self.directory / "manifest.parquet")
        self.ids = table["id"].to_numpy(dtype=str)
        self.sources = table["source"].to_numpy(dtype=str)
        self.image_size: int = manifest["image_size"]
        self.channels: tuple[str, ...] = tuple(manifest["channels"])
        self.encoding: str = manifest["encoding"]
        for name, known in manifest["shards"].items():
            path = self.directory / name
            size = path.stat().st_size if path.is_file() else -1
            if size != known["bytes"]:
                raise InputError(f"{path}: damaged or missing; pack again with the verb records")
        self._source = ArrayRecordDataSource([self.directory / n for n in manifest["shards"]])
        if len(self._source) != len(self.ids):
            raise InputError(f"{self.directory}: {len(self._source)} records, {len(self.ids)} ids")
        self._rows = {id: row for row, id in enumerate(self.ids.tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Record numbers int64[N] of ids.

        Raises:
            InputError: an id is not packed.
        """
        found = [self._rows.get(str(id), -1) for id in ids]
        if -1 in found:
            missing = [str(id) for id, row in zip(ids, found, strict=True) if row < 0]
            raise InputError(
                f"{self.directory}: {len(missing)} ids are not packed, e.g. {missing[0]!r}; "
                "run the verb records"
            )
        return np.array(found, np.int64)

    def serialized(self, rows: np.ndarray) -> list[bytes]:
        """The stored examples of record numbers, in that order."""
        return self._source.__getitems__([int(row) for row in rows])


def train_batches(
    records: Records,
    ids: Sequence[str],
    labels: np.ndarray,
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
) -> Iterator[Batch]:
    """Infinite batches; batch t holds positions t*B..(t+1)*B of sampler(0), sampler(1), ... joined.

    labels: uint8[N, C] of `ids`.  sampler(epoch) -> int[n] rows of `ids`, the same on every host.
    batch_size: of all hosts together; this one yields its B / process_count rows of each batch.

    Raises:
        InputError: an id is not packed, or sizes don't fit.
    """
    size = _check(ids, labels, batch_size, process_count)
    where = records.rows(ids)
    own = slice(process_index * size, (process_index + 1) * size)

    def orders() -> Iterator[np.ndarray]:
        return (rows[own] for rows in positions(sampler, batch_size, start))

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
    records: Records,
    ids: Sequence[str],
    labels: np.ndarray | None,
    *,
    batch_size: int,
    channels: Sequence[str],
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 2,
    prefetch: int = 2,
) -> Iterator[Batch]:
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
        raise InputError("no pictures to train on: the sampler's epoch is empty")
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
    records: Records,
    orders: Iterator[np.ndarray],
    *,
    steps: int,
    batch_size: int,
    channels: Sequence[str],
    image_size: int,
    workers: int,
    prefetch: int,
) -> Iterator[np.ndarray]:
    """uint8[B, H, W, K] for each of `steps` (-1: endless) arrays of record numbers of `orders`."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    decode = _decode(records, channels, image_size)

    def next_rows() -> np.ndarray:
        return next(orders)

    def read(rows: np.ndarray) -> np.ndarray:
        return np.array(records.serialized(rows), dtype=object)

    def order(_: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(next_rows, [], tf.int64), [batch_size])

    def fetch(rows: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(read, [rows], tf.string), [None])

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = max(1, workers)
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.range(1)
        .repeat(steps)
        .map(order)
        .unbatch()
        .batch(min(READ_AHEAD, batch_size))
        .map(fetch, num_parallel_calls=2)
        .unbatch()
        .map(decode, num_parallel_calls=max(1, workers))
        .batch(batch_size, drop_remainder=True)
        .prefetch(prefetch)
        .with_options(options)
    )
    for image in dataset:
        yield image.numpy()


def _decode(records: Records, channels: Sequence[str], image_size: int) -> Callable[[Any], Any]:
    """A tf function from a serialized example to uint8[image_size, image_size, K]."""
    import tensorflow as tf

    unknown = [c for c in channels if c not in records.channels]
    if unknown:
        known = ", ".join(records.channels)
        raise InputError(f"channel {unknown[0]!r} is not in {records.directory}, which has {known}")
    planes = [records.channels.index(channel) for channel in channels]
    unpack = encodings.decoder(records.encoding, records.image_size)

    def decode(serialized: Any) -> Any:
        spec = {"image": tf.io.FixedLenFeature([], tf.string)}
        image = unpack(tf.io.parse_single_example(serialized, spec)["image"])
        if planes != list(range(len(records.channels))):
            image = tf.gather(image, planes, axis=-1)
        if image_size != records.image_size:
            method = "area" if image_size < records.image_size else "bicubic"
            image = tf.image.resize(image, [image_size, image_size], method=method)
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return image

    return decode


def _check(ids: Sequence[str], labels: np.ndarray, batch_size: int, process_count: int) -> int:
    """The batch of one host."""
    if len(ids) == 0:
        raise InputError("no pictures: the list of ids is empty")
    if labels.shape[0] != len(ids):
        raise InputError(f"{len(ids)} ids, but labels of {labels.shape[0]} rows")
    if batch_size < 1 or batch_size % process_count:
        raise InputError(f"batch_size={batch_size}: must be a multiple of {process_count} hosts")
    return batch_size // process_count
