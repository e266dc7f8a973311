"""How one picture uint8[H, W, 4] becomes the bytes of a record, and back inside tf.data.

`ENCODINGS` is the table; docs/data.md has size and decode speed of each.  PNG and raw are stored
as the TFDS features `Image` and `Tensor`, which stock readers decode.
"""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_jax.data.pictures import CHANNELS
from hpa_jax.errors import InputError, near


@dataclass(frozen=True)
class Encoding:
    """bytes_per_value: stored bytes a pixel and channel, for the estimate of disk space."""

    lossless: bool
    bytes_per_value: float


ENCODINGS: dict[str, Encoding] = {
    "png": Encoding(True, 0.6),
    "raw": Encoding(True, 0.8),
}


def check(encoding: str) -> None:
    """Raises InputError with the known names if `encoding` is none of them."""
    if encoding not in ENCODINGS:
        names = ", ".join(ENCODINGS)
        raise InputError(
            f"records.encoding={encoding!r}: one of {names}{near(encoding, ENCODINGS)}"
        )


@functools.cache
def features(encoding: str, image_size: int, class_names: tuple[str, ...]) -> Any:
    """The TFDS features of one record (a tfds.features.FeaturesDict)."""
    import tensorflow_datasets as tfds

    shape = (image_size, image_size, len(CHANNELS))
    if encoding == "raw":
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")
    else:
        image = tfds.features.Image(shape=shape, encoding_format="png")
    return tfds.features.FeaturesDict(
        dict(
            id=tfds.features.Text(),
            source=tfds.features.Text(),
            labels=tfds.features.Sequence(tfds.features.ClassLabel(names=list(class_names))),
            image=image,
        )
    )


def encoder(encoding: str) -> Callable[[np.ndarray], Any]:
    """A function from uint8[S, S, 4] to what `features(...).encode_example` takes as image."""
    if encoding == "raw":
        return lambda image: image
    return _png


def decoder(encoding: str, image_size: int) -> Callable[[Any], Any]:
    """A tf function from the stored bytes (a string tensor) to uint8[S, S, 4]."""
    import tensorflow as tf

    shape = (image_size, image_size, len(CHANNELS))

    def decode(stored: Any) -> Any:
        if encoding == "raw":
            return tf.reshape(tf.io.decode_raw(stored, tf.uint8), shape)
        return tf.ensure_shape(tf.io.decode_png(stored, channels=len(CHANNELS)), shape)

    return decode


def writer_options(encoding: str) -> str:
    """ArrayRecord options: one record a group (random access); only raw pixels gain by zstd."""
    return "group_size:1" if encoding == "raw" else "group_size:1,uncompressed"


def _png(image: np.ndarray) -> bytes:
    """Yellow travels as the alpha plane, as One More Layer stored it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image, "RGBA").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
