"""From drawn cells to a photograph: stains, protein, brightness, noise, 8 bits; and copies of it.

In: labels and a seed.  Out: uint8 [H, W, 4] in the order red, green, blue, yellow.  Brightness of
every channel is drawn independently of the labels: as in the atlas, where the laser's power is set
for each antibody, it carries no information about the compartment.
"""

import io
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from hpa_jax.data.synthetic import cells, drawing, patterns, stains

BRIDGE, SPINDLE, JUNCTIONS = 16, 17, 22
FILLS = (0, 6, 25)  # nucleoplasm, ER, cytosol
COPIES = ("exact", "reencoded", "brightness", "both")


def photograph(
    seed: Sequence[int],
    labels: Sequence[int],
    side: int,
    *,
    antibody: Sequence[int] | None = None,
    brightness: float = 1.0,
    missing: float = 0.0,
) -> np.ndarray:
    """Draws one image, uint8 [side, side, 4] (red, green, blue, yellow).

    Args:
        seed: integers; the same seed, labels and side give the same image.
        labels: class numbers whose patterns the green channel shows.
        side: pixels.
        antibody: integers; images with the same ones share the balance of their patterns.
        brightness: multiplies every channel (the external collection is brighter).
        missing: probability that the yellow stain is black, as in the atlas' own JPEG images.
    """
    rng = np.random.default_rng([*seed, 1])
    field = cells.draw_field(
        rng, side, mitosis=SPINDLE in labels, bridge=BRIDGE in labels, contact=JUNCTIONS in labels
    )
    red, blue, yellow = stains.draw(np.random.default_rng([*seed, 2]), field)
    style = np.random.default_rng([*(antibody or seed), 3])
    balance = np.ones(len(labels))
    if len(labels) > 1:  # what fills whole compartments is spread thinner than what gathers
        filling = np.isin(labels, FILLS)
        balance = np.where(filling, style.uniform(0.3, 0.8, len(labels)), 1.0)
        balance = np.where(filling, balance, style.uniform(0.6, 1.0, len(labels)))
    green = patterns.draw(np.random.default_rng([*seed, 4]), field, labels, balance)
    rng = np.random.default_rng([*seed, 5])
    unspecific = _unspecific(rng, field, red)
    # The laser is set so that the pattern itself is seen, be it a few dots or the whole cell.
    green = green / np.clip(float(np.quantile(green, 0.9995)), 0.35, 1.5)
    peaks = np.exp(rng.normal(np.log([170, 150, 160, 150]), [0.3, 0.45, 0.3, 0.35]))
    out = np.empty((side, side, 4), np.uint8)
    noise = rng.uniform(0.0, 0.035)
    contrast = np.exp(rng.normal(0, 0.25))  # of the whole green channel, pattern and haze
    protein = np.maximum(green + unspecific, 0) ** contrast
    for k, channel in enumerate((red, protein, blue, yellow)):
        sharp = ndimage.gaussian_filter(channel, rng.uniform(0.25, 0.6))
        level = peaks[k] * brightness / max(float(np.quantile(sharp, 0.997)), 0.6)
        grain = rng.standard_normal((side, side)) * noise
        shot = sharp + grain * np.sqrt(np.clip(sharp, 0, 1) + 0.003)
        out[..., k] = np.clip(shot * level, 0, 255).round()
    if rng.random() < missing:
        out[..., 3] = 0
    return out


def _unspecific(rng: np.random.Generator, field: cells.Field, red: np.ndarray) -> np.ndarray:
    """What every antibody stains a little: grains all over the cell, and bleed-through of red."""
    grains = np.clip(0.5 + 0.4 * drawing.texture(rng, field.side, 0.5 * field.scale), 0, 1.5)
    haze, bleed = 0.3 * rng.random() ** 2, 0.2 * rng.random() ** 2
    return haze * grains * (field.owner >= 0) + bleed * red


def copy_of(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The image once more as another file would have it; uint8 [H, W, 4].

    kind: "exact"; "reencoded" (through JPEG of quality 85-95); "brightness" (0.8-1.25 times, plus
    0-3 grey levels); "both".
    """
    out = image
    if kind in ("brightness", "both"):
        gain, offset = rng.uniform(0.8, 1.25), rng.uniform(0, 3)
        out = np.clip(out * gain + offset, 0, 255).round().astype(np.uint8)
    if kind in ("reencoded", "both"):
        quality = int(rng.integers(85, 96))
        out = np.stack([_jpeg(out[..., k], quality) for k in range(out.shape[-1])], axis=-1)
    return out


def _jpeg(channel: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(channel).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
