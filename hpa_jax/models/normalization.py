"""Normalization of images in [0, 1] for a network's weights, by name and channels.

- hpa: mean and standard deviation of the training images by stain (bestfitting).
- imagenet: torchvision's; the fourth channel uses the mean of the three (One More Layer).
- inception: (x - .5) / .5 (Cadene's Inception, Xception and NASNet).
- bn_inception: 255 x in the order blue, green, red minus (104, 117, 128) (the Caffe weights).
- bn_inception_as_run: x minus (104, 117, 128) without scale and flip, as run by One More Layer.
- per_image: each channel of an image by its mean and deviation (pudae).
- half_range: (255 x - 127.5) / 255 (pudae's ResNet34).
- lite: (255 x - 127) / 128 (EfficientNet-Lite, TensorFlow's).
- min_max: each image to 0..1 by its minimum and maximum over all channels (SubCell).
- none: unchanged (stored embeddings).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.core.errors import InputError, near

Normalizer = Callable[[jax.Array], jax.Array]

_HPA = {
    "red": (0.074598, 0.122813),
    "green": (0.050630, 0.085745),
    "blue": (0.050891, 0.129882),
    "yellow": (0.076287, 0.119411),
}
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CAFFE = (104.0, 117.0, 128.0)
_EPSILON = 1e-7  # added to the deviation, which is 0 for constant images

NAMES = (
    "hpa",
    "imagenet",
    "inception",
    "bn_inception",
    "bn_inception_as_run",
    "per_image",
    "half_range",
    "lite",
    "min_max",
    "none",
)


def normalizer(name: str, channels: Sequence[str]) -> Normalizer:
    """Return the function that normalises images [N, H, W, K] float in [0, 1].

    Args:
        name: one of NAMES.
        channels: names of the K channels, used by "hpa".

    Raises:
        InputError: unknown name, or "hpa" with an unknown channel.
    """
    if name not in NAMES:
        raise InputError(f"normalize={name!r}: one of {', '.join(NAMES)}{near(name, NAMES)}")
    count = len(channels)
    if name == "hpa":
        for channel in channels:
            if channel not in _HPA:
                raise InputError(
                    f"normalize='hpa' has no statistics of channel {channel!r}"
                    f"{near(channel, _HPA)}; use per_image or inception"
                )
        mean, deviation = zip(*(_HPA[channel] for channel in channels))
        return _affine(mean, deviation)
    if name == "imagenet":
        return _affine(*(_extended(values, count) for values in _IMAGENET))
    if name == "inception":
        return _affine((0.5,) * count, (0.5,) * count)
    if name == "half_range":
        return _affine((0.5,) * count, (1.0,) * count)
    if name == "lite":
        return _affine((127 / 255,) * count, (128 / 255,) * count)
    if name == "min_max":
        return min_max
    if name == "none":
        return lambda images: images
    if name == "bn_inception_as_run":
        return _affine(_extended(_CAFFE, count), (1.0,) * count)
    if name == "bn_inception":
        return functools.partial(_caffe, mean=np.array(_extended(_CAFFE, count), np.float32))
    return per_image


def per_image(images: jax.Array) -> jax.Array:
    """Normalise each channel of each image to mean 0 and deviation 1; constant ones become 0."""
    centred = images - images.mean((1, 2), keepdims=True)
    deviation = jnp.sqrt((centred * centred).mean((1, 2), keepdims=True))
    return centred / (deviation + _EPSILON)


def min_max(images: jax.Array) -> jax.Array:
    """Return (x - min) / (max - min + 1e-6), by the minimum and maximum of each image."""
    low = images.min((1, 2, 3), keepdims=True)
    return (images - low) / (images.max((1, 2, 3), keepdims=True) - low + 1e-6)


def _affine(mean: Sequence[float], deviation: Sequence[float]) -> Normalizer:
    factor = 1 / np.array(deviation, np.float32)
    shift = -np.array(mean, np.float32) * factor
    return lambda images: images * factor + shift


def _caffe(images: jax.Array, mean: np.ndarray) -> jax.Array:
    count = images.shape[-1]
    order = [*reversed(range(min(3, count))), *range(3, count)]
    return 255.0 * images[..., np.array(order)] - mean


def _extended(values: Sequence[float], count: int) -> tuple[float, ...]:
    """Return the first `count` values, extended by their mean."""
    rest = (float(np.mean(values)),) * max(count - len(values), 0)
    return (*values[:count], *rest)
