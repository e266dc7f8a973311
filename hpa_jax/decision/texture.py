"""Optional extra metafeatures: yellow channel, all channel pairs, foreground shares, green texture.

In: uint8 [H, W, 4] (red, green, blue, yellow).  Out: numbers by name, none of them NaN.  Not the
team's: an addition that lets the stack see what the 15 leave out.  Rules as in features.py: a flat
channel correlates 0 with everything and has no foreground unless it lies above the fixed cut.
"""

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.decision.features import moments, otsu

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
    """The extra metafeatures of one image, by name, in the order of `NAMES`.

    image: uint8 [H, W, 4].

    Raises:
        InputError: no four channels.
    """
    if image.ndim != 3 or image.shape[2] < 4:
        raise InputError(f"image of shape {image.shape}; extra metafeatures need 4 channels")
    planes = {name: np.ascontiguousarray(image[..., k]) for k, name in enumerate(CHANNELS)}
    counts = {name: np.bincount(plane.ravel(), minlength=256) for name, plane in planes.items()}
    moments_of = {name: moments(count) for name, count in counts.items()}
    values = {}
    for name in CHANNELS:
        values[f"{name}_foreground"] = float(counts[name][otsu(counts[name]) + 1 :].sum())
        values[f"{name}_foreground"] /= planes[name].size
    centred = {name: _centred(planes[name], moments_of[name][0]) for name in CHANNELS}
    for a, b in PAIRS:
        scale = moments_of[a][1] * moments_of[b][1] * planes[a].size
        correlation = float(centred[a] @ centred[b]) / scale if scale > 0 else 0.0
        values[f"{a}_corr_with_{b}"] = min(1.0, max(-1.0, correlation))
    values["yellow_mean"], values["yellow_std"] = (value / 255 for value in moments_of["yellow"])
    share = counts["green"] / counts["green"].sum()
    values["green_entropy"] = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
    values["green_p99"] = float(np.searchsorted(np.cumsum(share), 0.99)) / 255
    green = centred["green"].reshape(planes["green"].shape)
    values["green_edges"] = _edges(green) / 255
    deviation = moments_of["green"][1]
    for side in SCALES:
        coarse = float(_block_means(green, side).std()) if deviation > 0 else 0.0
        values[f"green_scale_{side}"] = coarse / deviation if deviation > 0 else 0.0
    nucleus = planes["blue"] > otsu(counts["blue"])
    total = moments_of["green"][0] * nucleus.size
    inside = float(green.ravel() @ nucleus.ravel())
    inside += moments_of["green"][0] * np.count_nonzero(nucleus)
    values["green_inside_nucleus"] = min(1.0, max(0.0, inside / total)) if total > 0 else 0.0
    return {name: float(values[name]) for name in NAMES}


def _centred(plane: np.ndarray, mean: float) -> np.ndarray:
    return plane.ravel().astype(np.float32) - np.float32(mean)


def _edges(plane: np.ndarray) -> float:
    """Mean step between neighbours, over both directions (one where the other has none)."""
    steps = [np.abs(np.diff(plane, axis=axis)) for axis in (0, 1) if plane.shape[axis] > 1]
    return float(np.mean([step.mean() for step in steps])) if steps else 0.0


def _block_means(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of side x side blocks (what is left at the edges is cut; small images: one block)."""
    rows, columns = max(1, plane.shape[0] // side), max(1, plane.shape[1] // side)
    high, wide = plane.shape[0] // rows, plane.shape[1] // columns
    body = plane[: rows * high, : columns * wide]
    # Summing rows first reads memory in order; the second sum is over a plane `side` times smaller.
    return body.reshape(rows, high, columns * wide).mean(1).reshape(rows, columns, wide).mean(2)
