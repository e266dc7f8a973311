"""Strokes with which cells are drawn: points, dots, discs, rings, curves, textures.

Coordinates are (y, x) in pixels, images are float32 [H, W]; a stroke is added, so values above 1
can occur.  All is vectorised over the strokes of an image: a field of cells has thousands.
"""

import numpy as np
from scipy import ndimage


def texture(rng: np.random.Generator, side: int, grain: float) -> np.ndarray:
    """Smooth noise [side, side], mean 0, deviation 1, features about `grain` pixels wide."""
    coarse = max(1.0, grain / 2.0)
    small = int(np.ceil(side / coarse)) + 4
    noise = ndimage.gaussian_filter(rng.standard_normal((small, small), np.float32), 0.9)
    if coarse > 1.0:
        steps = np.arange(side, dtype=np.float32) / coarse + 1.5
        grid = np.meshgrid(steps, steps, indexing="ij")
        noise = ndimage.map_coordinates(noise, grid, order=1, mode="reflect")
    else:
        noise = noise[:side, :side]
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def scatter(rng: np.random.Generator, density: np.ndarray, count: int) -> np.ndarray:
    """`count` random points [count, 2] with probability proportional to `density` [H, W] >= 0.

    Returns an empty array where the density is zero everywhere.
    """
    total = np.cumsum(density, dtype=np.float64)
    if count <= 0 or total[-1] <= 0:
        return np.zeros((0, 2), np.float32)
    chosen = np.searchsorted(total, rng.random(count) * total[-1], side="right")
    chosen = np.minimum(chosen, density.size - 1)
    points = np.stack(np.divmod(chosen, density.shape[1]), axis=1)
    return (points + rng.random((count, 2)) - 0.5).astype(np.float32)


def splat(side: int, points: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Adds each point [..., 2] with its weight to the four pixels around it; outside is dropped."""
    points = np.asarray(points, np.float32).reshape(-1, 2)
    weights = np.broadcast_to(np.asarray(weights, np.float32).reshape(-1), len(points))
    y, x = points[:, 0], points[:, 1]
    inside = (weights != 0) & (y >= -1) & (y < side) & (x >= -1) & (x < side)
    y, x, weights = y[inside], x[inside], weights[inside]
    top, left = np.floor(y), np.floor(x)
    below, right = y - top, x - left
    index = ((top + 1) * (side + 2) + left + 1).astype(np.int32)
    out = np.zeros((side + 2) * (side + 2), np.float64)
    for dy, part_y in enumerate((1 - below, below)):
        for dx, part_x in enumerate((1 - right, right)):
            share = part_y * part_x * weights
            out += np.bincount(index + dy * (side + 2) + dx, share, out.size)
    return out.reshape(side + 2, side + 2)[1:-1, 1:-1].astype(np.float32)


def dots(
    side: int, points: np.ndarray, sigma: float, weights: np.ndarray | float = 1.0
) -> np.ndarray:
    """Gaussian dots of `sigma` pixels whose peaks are `weights` (for sigma >= .5)."""
    sigma = max(sigma, 0.5)
    peak = 2 * np.pi * sigma**2
    return ndimage.gaussian_filter(splat(side, points, weights), sigma, truncate=3.0) * peak


def discs(
    side: int,
    points: np.ndarray,
    radii: np.ndarray,
    weights: np.ndarray | float = 1.0,
    hollow: float = 0.0,
    aspect: np.ndarray | float = 1.0,
    angle: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Round (or with `aspect` > 1 elongated along `angle`) discs with soft rims.

    hollow: 0 a filled disc, 1 a thin ring with a dark middle; overlapping discs take the maximum.
    """
    out = np.zeros((side, side), np.float32)
    count = len(points)
    columns = [
        np.broadcast_to(np.asarray(value, np.float32), count)
        for value in (radii, weights, aspect, angle)
    ]
    for (y, x), radius, weight, stretch, turn in zip(points, *columns):
        reach = int(np.ceil(radius * stretch + 2))
        top, left = max(0, int(y) - reach), max(0, int(x) - reach)
        bottom, right = min(side, int(y) + reach + 1), min(side, int(x) + reach + 1)
        if top >= bottom or left >= right:
            continue
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] - y
        dx = np.arange(left, right, dtype=np.float32)[None, :] - x
        along = np.cos(turn) * dx + np.sin(turn) * dy
        across = np.cos(turn) * dy - np.sin(turn) * dx
        distance = np.sqrt((along / stretch) ** 2 + across**2)
        soft = np.clip(radius - distance + 0.5, 0, 1)
        if hollow:
            soft = soft * (1 - hollow * np.clip(radius * 0.62 - distance + 0.5, 0, 1))
        window = out[top:bottom, left:right]
        np.maximum(window, soft * weight, out=window)
    return out


def walk(
    rng: np.random.Generator,
    start: np.ndarray,
    heading: np.ndarray,
    steps: int,
    stride: float,
    bend: float,
    wander: float = 0.0,
) -> np.ndarray:
    """Curves [steps, N, 2] that start at [N, 2] and go on in smoothly changing directions.

    bend: deviation of the curvature (radians a step), which each curve keeps and slowly changes;
    wander: deviation of fresh noise (radians a step).
    """
    count = len(start)
    real = np.float32
    curvature = rng.standard_normal((1, count), real) * real(bend)
    drift = np.cumsum(rng.standard_normal((steps, count), real) * real(bend * 0.35), axis=0)
    turns = drift + curvature
    if wander:
        turns += rng.standard_normal((steps, count), real) * real(wander)
    angles = heading.astype(real)[None] + np.cumsum(turns, axis=0)
    path = np.empty((steps, count, 2), real)
    for axis, wave in enumerate((np.sin(angles), np.cos(angles))):
        np.cumsum(wave * real(stride), axis=0, out=path[..., axis])
    return path - path[:1] + start.astype(real)[None]


def lines(
    side: int, points: np.ndarray, width: float, weights: np.ndarray | float = 1.0
) -> np.ndarray:
    """Draws curves given as points [steps, N, 2] about a pixel apart, `width` pixels wide, peak 1.

    weights: [steps, N] or scalar; zero where the curve is out of its cell.
    """
    weights = np.broadcast_to(weights, points.shape[:2])
    sigma = max(width / 2.355, 0.4)
    ink = splat(side, points, weights)
    return ndimage.gaussian_filter(ink, sigma, truncate=3.0) * (np.sqrt(2 * np.pi) * sigma)


def look_up(image: np.ndarray, points: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """Values [...] of the pixels nearest to the points [..., 2]; `outside` beyond the image."""
    y = np.rint(points[..., 0]).astype(np.int32)
    x = np.rint(points[..., 1]).astype(np.int32)
    height, width = image.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return np.where(inside, image[y * inside, x * inside], outside)
