"""Metafeatures: 15 numbers per image that describe exposure, stain and source for the stack.

In: uint8 [H, W, 4] in the order red (microtubules), green (protein), blue (nucleus), yellow (ER;
not used here).  Out: the team's 15 columns by name, in their order.  Source: One More Layer's
tables (their code is lost; formulas from the spec: means, deviations and luminosity reproduce their
numbers, masks and correlations are reconstructed).

Rules: channels are scaled to [0, 1]; foreground is "above Otsu's threshold"; a channel of one
single value has no Otsu threshold, its foreground is above 0.05; a mean over an empty
foreground is 0; the correlation with a flat channel is 0; `size` (side of the microscope image) is
NaN if unknown. The team's blue column holds the red correlation by mistake; `legacy_corr_bug`
reproduces that.

Everything but the correlations and masked means comes from 256-bin histograms, which is exact for
8-bit images and much faster than passes over the pixels.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NAMES: tuple[str, ...] = (
    "blue_corr_with_green",
    "blue_mask_green_mean",
    "blue_mean",
    "blue_non_zero_mean",
    "blue_std",
    "green_mean",
    "green_non_zero_mean",
    "green_std",
    "luminosity",
    "red_corr_with_green",
    "red_mask_green_mean",
    "red_mean",
    "red_non_zero_mean",
    "red_std",
    "size",
)
FLAT_THRESHOLD = 0.05  # foreground of a channel that has no Otsu threshold, on the [0, 1] scale
LUMINOSITY = {"red": 0.2126, "green": 0.7152, "blue": 0.0722}  # ITU-R Rec. 709
CHANNELS = ("red", "green", "blue", "yellow")
PAIRS = (("red", "blue"), ("red", "yellow"), ("green", "yellow"), ("blue", "yellow"))
SCALES = (2, 8, 32)  # block sides, for the coarseness of the green pattern

EXTRA_NAMES: tuple[str, ...] = (
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
_LEVELS = np.arange(256, dtype=np.float64)


def metafeatures(
    image: np.ndarray, original_size: float | None = None, *, legacy_corr_bug: bool = False
) -> dict[str, float]:
    """The 15 metafeatures of one image, by name, in the order of `NAMES`.

    image: uint8 [H, W, K], K >= 3, channels red, green, blue(, yellow); original_size: side of the
    microscope image in pixels, None if unknown (then `size` is NaN).

    Raises:
        InputError: another dtype or shape.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] < 3 or not image.size:
        raise InputError(
            f"image of dtype {image.dtype} and shape {image.shape}; uint8 [H, W, 4] is needed"
        )
    planes = {
        name: np.ascontiguousarray(image[..., k]).ravel()
        for k, name in enumerate(("red", "green", "blue"))
    }
    values: dict[str, float] = {}
    means, deviations, thresholds = {}, {}, {}
    for name, plane in planes.items():
        counts = np.bincount(plane, minlength=256)
        means[name], deviations[name] = moments(counts)
        thresholds[name] = otsu(counts)
        values[f"{name}_mean"] = means[name] / 255
        values[f"{name}_std"] = deviations[name] / 255
        values[f"{name}_non_zero_mean"] = _mean_above(counts, thresholds[name]) / 255
    green = planes["green"].astype(np.float32) - np.float32(means["green"])
    for name in ("red", "blue"):
        mask = planes[name] > thresholds[name]
        share = np.count_nonzero(mask)
        inside = float(green @ mask) / share + means["green"] if share else 0.0
        values[f"{name}_mask_green_mean"] = inside / 255
        centred = planes[name].astype(np.float32) - np.float32(means[name])
        scale = deviations[name] * deviations["green"] * centred.size
        correlation = float(centred @ green) / scale if scale > 0 else 0.0
        values[f"{name}_corr_with_green"] = min(1.0, max(-1.0, correlation))
    if legacy_corr_bug:
        values["blue_corr_with_green"] = values["red_corr_with_green"]
    values["luminosity"] = sum(LUMINOSITY[name] * values[f"{name}_mean"] for name in LUMINOSITY)
    values["size"] = float("nan") if original_size is None else float(original_size)
    return {name: float(values[name]) for name in NAMES}


def otsu(counts: np.ndarray) -> int:
    """Otsu's threshold of a histogram int[256]: foreground is `value > threshold`
    (skimage's threshold_otsu).

    The threshold with the largest variance between the two sides (the lowest of equals); for a
    single value the fixed threshold 0.05 * 255.
    """
    counts = np.asarray(counts, np.float64)
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    mass = np.cumsum(counts * _LEVELS)
    difference = mass[:-1] * (below + above) - mass[-1] * below
    product = below * above
    between = np.divide(difference**2, product, out=np.zeros(255), where=product > 0)
    if not between.any():
        return int(FLAT_THRESHOLD * 255)
    return int(between.argmax())


def moments(counts: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a histogram int[256], on the 0..255 scale."""
    mean = float(counts @ _LEVELS / counts.sum())
    return mean, float(np.sqrt(counts @ (_LEVELS - mean) ** 2 / counts.sum()))


def _mean_above(counts: np.ndarray, threshold: int) -> float:
    inside = counts[threshold + 1 :]
    total = inside.sum()
    return float(inside @ _LEVELS[threshold + 1 :] / total) if total else 0.0


def extra_metafeatures(image: np.ndarray) -> dict[str, float]:
    """The extra metafeatures of one image, by name, in the order of `EXTRA_NAMES`.

    Our additions to the 15: yellow channel, all channel pairs, foreground shares, green texture.
    No value is NaN: a flat channel has correlation 0 with everything, and no foreground unless it
    is above the fixed threshold.

    image: uint8 [H, W, 4].

    Raises:
        InputError: fewer than four channels.
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
    return {name: float(values[name]) for name in EXTRA_NAMES}


def _centred(plane: np.ndarray, mean: float) -> np.ndarray:
    return plane.ravel().astype(np.float32) - np.float32(mean)


def _edges(plane: np.ndarray) -> float:
    """Mean step between neighbours, over both directions (or the only one)."""
    steps = [np.abs(np.diff(plane, axis=axis)) for axis in (0, 1) if plane.shape[axis] > 1]
    return float(np.mean([step.mean() for step in steps])) if steps else 0.0


def _block_means(plane: np.ndarray, side: int) -> np.ndarray:
    """Means of side x side blocks (the rest at the edges is dropped; small images: one block)."""
    rows, columns = max(1, plane.shape[0] // side), max(1, plane.shape[1] // side)
    high, wide = plane.shape[0] // rows, plane.shape[1] // columns
    body = plane[: rows * high, : columns * wide]
    # Summing rows first reads memory in order; the second sum is over a plane `side` times smaller.
    return body.reshape(rows, high, columns * wide).mean(1).reshape(rows, columns, wide).mean(2)


def metafeature_table(
    images: Iterable[np.ndarray],
    ids: Sequence[str],
    original_sizes: Sequence[float | None] | None = None,
    file_bytes: Sequence[int] | None = None,
    *,
    legacy_corr_bug: bool = False,
    extra: bool = False,
    workers: int = 2,
) -> "pd.DataFrame":
    """Return the table of `id` and the 15 metafeatures, one row per image.

    images: uint8 [H, W, K] each (a generator is read a few images ahead, so memory stays small);
    ids: their names in the same order; file_bytes: size of each image's files; extra: also
    EXTRA_NAMES, and `file_bytes` if known; workers: threads.

    Raises:
        InputError: numbers of images and ids differ, or a bad image (named by its id).
    """
    import pandas as pd

    sizes = [None] * len(ids) if original_sizes is None else list(original_sizes)
    if len(sizes) != len(ids):
        raise InputError(f"{len(sizes)} original sizes for {len(ids)} ids")
    sizes = [None if size is None or not np.isfinite(size) else size for size in sizes]
    with_bytes = extra and file_bytes is not None
    if with_bytes and len(file_bytes) != len(ids):
        raise InputError(f"{len(file_bytes)} file sizes for {len(ids)} ids")

    def row(task: tuple[str, np.ndarray, float | None]) -> dict[str, float | str]:
        name, image, size = task
        try:
            values = metafeatures(image, size, legacy_corr_bug=legacy_corr_bug)
            return {"id": name, **values, **(extra_metafeatures(image) if extra else {})}
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    def tasks() -> Iterable[tuple[str, np.ndarray, float | None]]:
        position = 0
        for position, image in enumerate(images, start=1):
            if position > len(ids):
                break
            yield ids[position - 1], image, sizes[position - 1]
        if position != len(ids):
            raise InputError(f"{position} or more images for {len(ids)} ids")

    rows = _ahead(row, tasks(), workers)
    table = pd.DataFrame(rows, columns=None if len(ids) else ["id", *NAMES])
    return table.assign(file_bytes=np.asarray(file_bytes, float)) if with_bytes else table


def _ahead(function, tasks: Iterable, workers: int) -> list:  # noqa: ANN001
    """Results in order, by threads, with at most 4 tasks per thread in memory."""
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    results, waiting = [], deque()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for task in tasks:
            waiting.append(pool.submit(function, task))
            if len(waiting) >= 4 * max(1, workers):
                results.append(waiting.popleft().result())
        results.extend(future.result() for future in waiting)
    return results
