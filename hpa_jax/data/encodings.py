"""How one image uint8[S, S, 4] becomes the image bytes of a record, and back.

`ENCODINGS` is the table; docs/data.md has size and decode speed of each.  All are plain TFDS
features (Image or Tensor), so that stock readers decode them; planes that are stored one above the
other come out there as [4, S, S] (zstd, raw) or [4 S, S, 1 or 3] (jpeg, webp).

The default, `zstd`, is planar raw pixels that ArrayRecord itself compresses: on real images
smaller than PNG (8-bit images stretched from fewer grey levels have gaps in their histogram,
which PNG's filters destroy and plain entropy coding keeps) and four times as fast to read.
"""

import functools
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.errors import InputError, near
from hpa_jax.data.reader import CHANNELS

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

K = len(CHANNELS)


@dataclass(frozen=True)
class Encoding:
    """bytes_per_value: of a pixel in one channel, for the estimate of disk space (real images).

    options: of the ArrayRecord file; one record a group is what makes random access cheap.
    """

    lossless: bool
    bytes_per_value: float
    options: str = "group_size:1,uncompressed"


ENCODINGS: dict[str, Encoding] = {
    "zstd": Encoding(True, 0.5, "group_size:1,zstd:1"),
    "raw": Encoding(True, 1.0),
    "png": Encoding(True, 0.65),
    "jpeg": Encoding(False, 0.4),
    "webp": Encoding(False, 0.25),
}
JPEG_QUALITY, WEBP_QUALITY = 95, 90
# zlib levels 1, 3, 6: 656, 651, 578 kB for a real 512² image, and 9.0, 8.3, 7.2 ms to decode.
PNG_LEVEL = 6


def check(encoding: str) -> None:
    """Raises InputError with the known names if `encoding` is none of them."""
    if encoding not in ENCODINGS:
        names = ", ".join(ENCODINGS)
        raise InputError(
            f"records.encoding={encoding!r}: one of {names}{near(encoding, ENCODINGS)}"
        )


def prepare(encoding: str, image_size: int) -> None:
    """Imports what one record needs; called before threads write records.

    tensorflow_datasets imports its parts when they are first used, under its own lock: two
    threads that do so at once can wait for each other for ever.
    """
    black = np.zeros((image_size, image_size, K), np.uint8)
    example = dict(id="", source="", image=encode(encoding, black))
    serialize(features(encoding, image_size), example)


@functools.cache
def features(encoding: str, image_size: int) -> "tfds.features.FeaturesDict":
    """The TFDS features of one record."""
    import tensorflow_datasets as tfds

    side = image_size
    image = {
        "zstd": lambda: tfds.features.Tensor(
            shape=(K, side, side), dtype=np.uint8, encoding="bytes"
        ),
        "png": lambda: tfds.features.Image(shape=(side, side, K), encoding_format="png"),
        "jpeg": lambda: tfds.features.Image(shape=(K * side, side, 1), encoding_format="jpeg"),
        "webp": lambda: tfds.features.Image(shape=(K * side, side, 3)),
    }
    image["raw"] = image["zstd"]
    return tfds.features.FeaturesDict(
        dict(
            id=tfds.features.Text(),
            source=tfds.features.Text(),
            image=image[encoding](),
        )
    )


@functools.cache
def _serializer(features: "tfds.features.FeaturesDict") -> "tfds.core.ExampleSerializer":
    import tensorflow_datasets as tfds

    return tfds.core.ExampleSerializer(features.get_serialized_info())


def serialize(features: "tfds.features.FeaturesDict", example: dict[str, Any]) -> bytes:
    """The tf.train.Example of one record: the same bytes in every process.

    `features.serialize_example` leaves the order of the fields to protobuf's map, which differs
    from process to process: the same images would get other checksums each time.
    """
    message = _serializer(features).get_tf_example(features.encode_example(example))
    return message.SerializeToString(deterministic=True)


def encode(encoding: str, image: np.ndarray) -> Any:
    """uint8[S, S, 4] to what `serialize` takes as image."""
    from PIL import Image

    if encoding == "png":  # yellow travels as the alpha plane, as One More Layer stored it
        return _saved(Image.fromarray(image, "RGBA"), "PNG", compress_level=PNG_LEVEL)
    planes = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    if encoding == "jpeg":
        return _saved(_stacked(planes), "JPEG", quality=JPEG_QUALITY)
    if encoding == "webp":
        return _saved(_stacked(planes), "WEBP", quality=WEBP_QUALITY)
    return planes


def decode(encoding: str, stored: memoryview, image_size: int, planes: Sequence[int]) -> np.ndarray:
    """Stored image bytes to uint8[S, S, len(planes)], the channels of these numbers."""
    from PIL import Image

    if encoding == "png":
        image = np.asarray(Image.open(io.BytesIO(stored)))
        return image if list(planes) == list(range(K)) else image[..., list(planes)]
    if encoding in ("jpeg", "webp"):
        grey = np.asarray(Image.open(io.BytesIO(stored)))
        stack = grey if grey.ndim == 2 else grey[..., 1]
    else:
        stack = np.frombuffer(stored, np.uint8)
    stack = stack.reshape(K, image_size, image_size)
    image = np.empty((image_size, image_size, len(planes)), np.uint8)
    for k, plane in enumerate(planes):
        image[..., k] = stack[plane]
    return image


def image_bytes(example: bytes) -> memoryview:
    """The bytes of feature "image" of a serialized tf.train.Example, without a copy.

    Equals Example.FromString(example).features.feature["image"].bytes_list.value[0], which copies
    twice: 0.7 ms for 1 MB, a third of reading it.

    Raises:
        ValueError: no such feature.
    """
    view = memoryview(example)
    for features in _fields(view, 1):
        for entry in _fields(features, 1):
            if bytes(next(_fields(entry, 1), b"")) == b"image":
                for feature in _fields(entry, 2):
                    for values in _fields(feature, 1):
                        return next(_fields(values, 1))
    raise ValueError("a record without the feature 'image'")


def _fields(message: memoryview, number: int) -> Iterator[memoryview]:
    """The length-delimited fields `number` of a protobuf message (wire type 2 is all we meet)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 != 2:
            raise ValueError("not the layout of a tf.train.Example")
        size, at = _varint(message, at)
        if tag >> 3 == number:
            yield message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _stacked(planes: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(planes.reshape(-1, planes.shape[-1]))


def _saved(image: Any, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
