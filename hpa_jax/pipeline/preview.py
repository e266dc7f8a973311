"""What an augmentation does, as an image: one row an image, the original first, then draws."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.training import augment

# Weights of the stains in a displayed colour: yellow is half red and half green.
_COLOURS = dict(red=(1.0, 0.0, 0.0), green=(0.0, 1.0, 0.0), blue=(0.0, 0.0, 1.0))
_COLOURS["yellow"] = (0.5, 0.5, 0.0)


def grid(
    images: np.ndarray,
    name: str | Mapping[str, Any] | augment.Augmentation,
    *,
    channels: tuple[str, ...] = augment.CHANNELS,
    draws: int = 7,
    seed: int = 0,
    gap: int = 4,
) -> np.ndarray:
    """The grid as uint8[height, width, 3].

    Args:
      images: uint8[N, H, W, K].
      name: an augmentation's name, mapping, or function.
      channels: names of the K channels.
      draws: columns beside the original.
      gap: white pixels between images.

    Raises:
        InputError: no images, or K is not the number of channels.
    """
    if images.ndim != 4 or not len(images) or images.shape[-1] != len(channels):
        raise InputError(f"preview needs images [N, H, W, {len(channels)}], not {images.shape}")
    function = name if callable(name) else augment.preset(name, channels=channels)
    function = jax.jit(function)
    pictures = jnp.asarray(images, jnp.float32) / 255.0
    labels = jnp.zeros((len(images), 1))
    keys = jax.random.split(jax.random.key(seed), draws)
    columns = [images / 255.0, *(np.asarray(function(key, pictures, labels)[0]) for key in keys)]
    side = max(column.shape[1] for column in columns)
    rows = len(images)
    canvas = np.ones((rows * (side + gap) - gap, len(columns) * (side + gap) - gap, 3), np.float32)
    for across, column in enumerate(columns):
        for down, picture in enumerate(_coloured(column, channels)):
            top, left = down * (side + gap), across * (side + gap)
            height, width = picture.shape[:2]
            canvas[top : top + height, left : left + width] = picture
    return np.round(255 * canvas).astype(np.uint8)


def augmentations(model: ConfigDict) -> dict[str, Any]:
    """What a model config augments by: "" -> the model's, "_stage_K" -> that of stages[K], where it
    has its own.
    """
    own = [dict(stage).get("augment") for stage in model.stages]
    return {
        "": model.augment,
        **{f"_stage_{index}": given for index, given in enumerate(own) if given},
    }


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Writes uint8[H, W, 3] as PNG."""
    from PIL import Image

    with artifacts.atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _coloured(images: np.ndarray, channels: tuple[str, ...]) -> np.ndarray:
    """[N, H, W, K] in [0, 1] -> RGB, brightened: fluorescence is dark, and a preview is to see."""
    colours = np.array([_COLOURS.get(name, (1.0, 1.0, 1.0)) for name in channels])
    return np.clip(np.asarray(images) @ colours, 0.0, 1.0) ** 0.6
