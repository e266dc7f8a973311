"""The verb `preview`: PNG grids of four images under each model's augmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.context import opened
from hpa_jax.training import augment

# RGB weights of the channels; yellow is half red and half green.
_COLOURS = dict(red=(1.0, 0.0, 0.0), green=(0.0, 1.0, 0.0), blue=(0.0, 0.0, 1.0))
_COLOURS["yellow"] = (0.5, 0.5, 0.0)


def preview(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Write preview/NAME.png for each model's augmentation, preview/NAME_phase_K.png for phase K's.

    Phases that use the model's augmentation have no grid.
    """
    context = opened(config, flags)
    ids = tables.split_rows(context, "train").ids[:4]
    images = np.stack(list(tables.images(context, ids)))
    for name, model in context.models().items():
        for which, augmentation in augmentations(model).items():
            path = context.path("preview", f"{name}{which}.png")
            write_png(path, grid(images, augmentation, seed=config.seed))
            print(f"{augmentation} -> {path}")


def grid(
    images: np.ndarray,
    name: str | Mapping[str, Any] | augment.Augmentation,
    *,
    channels: tuple[str, ...] = augment.CHANNELS,
    draws: int = 7,
    seed: int = 0,
    gap: int = 4,
) -> np.ndarray:
    """Return a grid uint8[height, width, 3]: a row per image, the original first, then draws.

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
    scaled = jnp.asarray(images, jnp.float32) / 255.0
    labels = jnp.zeros((len(images), 1))
    keys = jax.random.split(jax.random.key(seed), draws)
    columns = [images / 255.0, *(np.asarray(function(key, scaled, labels)[0]) for key in keys)]
    side = max(column.shape[1] for column in columns)
    rows = len(images)
    canvas = np.ones((rows * (side + gap) - gap, len(columns) * (side + gap) - gap, 3), np.float32)
    for across, column in enumerate(columns):
        for down, image in enumerate(_coloured(column, channels)):
            top, left = down * (side + gap), across * (side + gap)
            height, width = image.shape[:2]
            canvas[top : top + height, left : left + width] = image
    return np.round(255 * canvas).astype(np.uint8)


def augmentations(model: ConfigDict) -> dict[str, Any]:
    """Return "" -> the model's augmentation, "_phase_K" -> that of phase K if it differs."""
    of_phases = [dict(phase).get("augment") for phase in model.phases]
    return {
        "": model.augment,
        **{
            f"_phase_{index}": augmentation
            for index, augmentation in enumerate(of_phases)
            if augmentation
        },
    }


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8[H, W, 3] as PNG."""
    from PIL import Image

    with artifacts.atomic(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def _coloured(images: np.ndarray, channels: tuple[str, ...]) -> np.ndarray:
    """Convert [N, H, W, K] in [0, 1] to RGB, brightened because fluorescence images are dark."""
    colours = np.array([_COLOURS.get(name, (1.0, 1.0, 1.0)) for name in channels])
    return np.clip(np.asarray(images) @ colours, 0.0, 1.0) ** 0.6
