"""Optional extra metafeatures: yellow channel, all channel pairs, foreground shares, green texture.

In: uint8 [H, W, 4] (red, green, blue, yellow).  Out: numbers by name, none of them NaN.  Not the
team's: an addition that lets the stack see what the 15 leave out.  Rules as in features.py: a flat
channel correlates 0 with everything and has no foreground unless it lies above the fixed cut.
"""

import numpy as np

from hpa_jax.decision.features import otsu
from hpa_jax.errors import InputError

CHANNELS = ("red", "green", "blue", "yellow")
PAIRS = (("red", "blue"), ("red", "yellow"), ("green", "yellow"), ("blue", "yellow"))
SCALES = (2, 8, 32)  # side of the blocks whose means tell how coarse the green pattern is

NAMES: tuple[str, ...] = (
    *(f"{name}_foreground" for name in CHANNELS),
    *(f"{a}_corr_with_{b}" for a, b in PAIRS),
    "yellow_mean",
    "yellow_std",
    "green_entropy",
    "green_p99",
    "green_edges",
    *(f"green_scale_{side}" for side in SCALES),
    "green_inside_nucleus",
)


def extra(image: np.ndarray) -> dict[str, float]:
    """The extra metafeatures of one picture, by name, in the order of `NAMES`.

    image: uint8 [H, W, 4].

    Raises:
        InputError: no four channels.
    """
    if image.ndim != 3 or image.shape[2] < 4:
        raise InputError(f"picture of shape {image.shape}; extra metafeatures need 4 channels")
    planes = {name: np.ascontiguousarray(image[..., k]) for k, name in enumerate(CHANNELS)}
    counts = {name: np.bincount(plane.ravel(), minlength=256) for name, plane in planes.items()}
    masks = {name: planes[name] > otsu(counts[name]) for name in CHANNELS}
    centred = {name: _centred(plane) for name, plane in planes.items()}
    values = {f"{name}_foreground": float(masks[name].mean()) for name in CHANNELS}
    for a, b in PAIRS:
        values[f"{a}_corr_with_{b}"] = _correlation(centred[a], centred[b])
    values["yellow_mean"] = float(planes["yellow"].mean()) / 255
    values["yellow_std"] = float(planes["yellow"].std()) / 255
    share = counts["green"] / counts["green"].sum()
    values["green_entropy"] = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
    values["green_p99"] = float(np.searchsorted(np.cumsum(share), 0.99)) / 255
    green = planes["green"].astype(np.float32) / 255
    edges = [np.abs(np.diff(green, axis=axis)).mean() for axis in (0, 1) if green.shape[axis] > 1]
    values["green_edges"] = float(np.mean(edges)) if edges else 0.0
    deviation = float(green.std())
    for side in SCALES:
        coarse = _block_means(green, side).std() if deviation > 0 else 0.0
        values[f"green_scale_{side}"] = float(coarse) / deviation if deviation > 0 else 0.0
    total = float(green.sum())
    inside = float(green[masks["blue"]].sum())
    values["green_inside_nucleus"] = inside / total if total > 0 else 0.0
    return {name: values[name] for name in NAMES}


def _centred(plane: np.ndarray) -> np.ndarray:
    return plane.ravel().astype(np.float32) - np.float32(plane.mean())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.sqrt(float(a @ a) * float(b @ b)))
    return min(1.0, max(-1.0, float(a @ b) / scale)) if scale > 0 else 0.0


def _block_means(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of side x side blocks (what is left at the edges is cut; small pictures: one block)."""
    rows, columns = max(1, plane.shape[0] // side), max(1, plane.shape[1] // side)
    body = plane[: rows * side, : columns * side]
    return body.reshape(rows, body.shape[0] // rows, columns, body.shape[1] // columns).mean((1, 3))
