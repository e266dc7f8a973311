"""Green patterns of the cytoplasm's organelles and bodies: see `hpa_jax.data.patterns`."""

import numpy as np
from scipy import ndimage

from hpa_jax.data.synthetic import cells, drawing, stains

Rng = np.random.Generator


def _count(rng: Rng, field: cells.Field, per_100_um2: float) -> int:
    """A random number of objects for the cytoplasm in sight."""
    return int(rng.poisson(field.cytoplasm.sum() / field.scale**2 * per_100_um2 / 100))


def _near_nucleus(field: cells.Field, reach: float) -> np.ndarray:
    """Cytoplasm weighted by nearness to the nucleus (e-folding `reach` um)."""
    return field.cytoplasm * np.exp(-np.maximum(field.envelope, 0) / reach)


def _near_organizer(field: cells.Field, reach: float) -> np.ndarray:
    """Cytoplasm weighted by nearness to its cell's organizing centre (Gaussian, `reach` um)."""
    organizer = np.append(field.organizer, [[-1e4, -1e4]], axis=0)[field.owner]
    y, x = np.mgrid[: field.side, : field.side]
    square = (organizer[..., 0] - y) ** 2 + (organizer[..., 1] - x) ** 2
    return field.cytoplasm * np.exp(-square / (2 * (reach * field.scale) ** 2))


def _soft(field: cells.Field, image: np.ndarray, blur: float = 0.12) -> np.ndarray:
    return ndimage.gaussian_filter(image, max(blur * field.scale, 0.35))


def reticulum(rng: Rng, field: cells.Field) -> np.ndarray:
    """The ER net: dense at the nucleus, thinning outwards, with the nuclear envelope."""
    reach = rng.uniform(3.0, 9.0)
    net = field.reticulum if rng.random() < 0.7 else 0.6 * np.ones_like(field.reticulum)
    grain = drawing.texture(rng, field.side, 0.6 * field.scale)
    net = np.clip(net + 0.1 * grain, 0, 1.2)
    rim = np.exp(-((field.envelope / max(0.35, 0.5 / field.scale)) ** 2)) * (field.owner >= 0)
    inside = rng.uniform(0.0, 0.3) * field.nucleus
    return np.maximum(1.1 * _near_nucleus(field, reach) * net, rng.uniform(0.2, 0.7) * rim) + inside


def golgi(rng: Rng, field: cells.Field) -> np.ndarray:
    """A cluster of ribbons on one side of the nucleus, with a few vesicles round it."""
    side, scale = field.side, field.scale
    count = int(rng.integers(8, 26))
    spread = rng.uniform(1.4, 2.8)
    cell = np.repeat(np.arange(len(field.center)), count)
    start = field.organizer[cell] + rng.normal(0, spread * scale, (len(cell), 2))
    steps = max(3, int(rng.uniform(1.2, 3.5) * scale))
    heading = rng.uniform(0, 2 * np.pi, len(cell))
    paths = drawing.walk(rng, start, heading, steps, 1.0, 0.25 / scale, 0.35 / np.sqrt(scale))
    ink = (np.arange(steps)[:, None] < steps * rng.uniform(0.3, 1.0, len(cell))) * rng.uniform(
        0.5, 1.0, len(cell)
    )
    ribbons = drawing.lines(side, paths, rng.uniform(0.5, 0.85) * scale, ink)
    points = drawing.scatter(rng, _near_organizer(field, 2.5 * spread), _count(rng, field, 3))
    vesicles = drawing.dots(side, points, 0.25 * scale, rng.uniform(0.2, 0.6, len(points)))
    return np.tanh(1.6 * ribbons) * (0.6 + 0.4 * field.cytoplasm) * (field.owner >= 0) + vesicles


def peroxisomes(rng: Rng, field: cells.Field) -> np.ndarray:
    """Many small, equal, short rods or dots all over the cytoplasm."""
    points = drawing.scatter(rng, field.cytoplasm, _count(rng, field, rng.uniform(14, 30)))
    radii = np.full(len(points), rng.uniform(0.22, 0.36) * field.scale)
    turn = rng.uniform(0, np.pi, len(points))
    long = rng.uniform(1.0, 1.9, len(points))
    out = drawing.discs(field.side, points, np.maximum(radii, 0.6), 1.0, 0.0, long, turn)
    return _soft(field, out)


def endosomes(rng: Rng, field: cells.Field) -> np.ndarray:
    """Some soft dots of different size and brightness, more of them near the nucleus."""
    points = drawing.scatter(rng, _near_nucleus(field, 8.0), _count(rng, field, rng.uniform(4, 10)))
    radii = rng.uniform(0.3, 0.65, len(points)) * field.scale
    out = drawing.discs(field.side, points, radii, rng.uniform(0.25, 1.0, len(points)))
    return _soft(field, out, 0.3) + rng.uniform(0.02, 0.12) * field.cytoplasm


def lysosomes(rng: Rng, field: cells.Field) -> np.ndarray:
    """Many large bright round vesicles, some of them hollow."""
    points = drawing.scatter(
        rng, _near_nucleus(field, 14.0), _count(rng, field, rng.uniform(8, 18))
    )
    radii = np.exp(rng.normal(np.log(0.5), 0.35, len(points))) * field.scale
    weights = rng.uniform(0.6, 1.1, len(points))
    hollow = rng.random(len(points)) < 0.15
    full = drawing.discs(field.side, points[~hollow], radii[~hollow], weights[~hollow])
    rings = drawing.discs(field.side, points[hollow], 1.2 * radii[hollow], weights[hollow], 0.8)
    return _soft(field, np.maximum(full, rings))


def organizing_center(rng: Rng, field: cells.Field) -> np.ndarray:
    """A dense patch where the microtubules meet and granules that thin out from it."""
    side, scale = field.side, field.scale
    count = len(field.center)
    radii = rng.uniform(0.9, 1.6) * np.exp(rng.normal(0, 0.15, count)) * scale
    core = drawing.discs(side, field.organizer, radii, rng.uniform(0.6, 1.0, count))
    core = ndimage.gaussian_filter(core, 0.35 * scale)
    cell = np.repeat(np.arange(count), int(rng.integers(25, 70)))
    away = rng.standard_normal((len(cell), 2)) * np.exp(rng.normal(0.5, 0.6, (len(cell), 1)))
    points = field.organizer[cell] + away * scale * rng.uniform(0.7, 1.2)
    granules = drawing.dots(side, points, 0.22 * scale, rng.uniform(0.1, 0.7, len(points)))
    return np.minimum(core + granules, 1.2) * (field.owner >= 0)


def centrosome(rng: Rng, field: cells.Field) -> np.ndarray:
    """One or two sharp small dots beside the nucleus; at the poles of a spindle."""
    interphase = field.kind != cells.METAPHASE
    first = field.organizer[interphase]
    apart = rng.normal(0, 1, first.shape)
    apart *= rng.uniform(0.6, 1.5) * field.scale / np.linalg.norm(apart, axis=1, keepdims=True)
    pair = rng.random(len(first)) < 0.6
    _, poles = stains.spindle_curves(rng, field, 1)
    points = np.concatenate([first, (first + apart)[pair], poles])
    radii = rng.uniform(0.35, 0.55) * field.scale
    spots = drawing.discs(field.side, points, np.full(len(points), max(radii, 0.7)))
    haze = drawing.scatter(rng, field.cytoplasm, _count(rng, field, rng.uniform(0, 25)))
    faint = drawing.dots(field.side, haze, 0.18 * field.scale, rng.uniform(0, 0.2, len(haze)))
    return _soft(field, spots) * 1.1 + faint + rng.uniform(0, 0.08) * field.cytoplasm


def lipid_droplets(rng: Rng, field: cells.Field) -> np.ndarray:
    """Clusters of hollow circles: the protein coats a droplet of fat that stays dark."""
    seeds = drawing.scatter(rng, field.cytoplasm, _count(rng, field, rng.uniform(0.7, 1.8)))
    near = np.repeat(seeds, rng.integers(1, 8, len(seeds)), axis=0)
    points = near + rng.normal(0, 1.3 * field.scale, near.shape)
    points = points[drawing.look_up(field.cytoplasm, points) > 0.5]
    radii = np.exp(rng.normal(np.log(rng.uniform(0.5, 0.85)), 0.25, len(points))) * field.scale
    weights = rng.uniform(0.4, 1.0, len(points))
    rings = drawing.discs(field.side, points, radii, weights, 0.95)
    specks = drawing.scatter(rng, field.cytoplasm, _count(rng, field, 8))
    faint = drawing.dots(field.side, specks, 0.18 * field.scale, rng.uniform(0, 0.3, len(specks)))
    return _soft(field, rings, 0.08) * 1.15 + faint


def mitochondria(rng: Rng, field: cells.Field) -> np.ndarray:
    """Short worms all through the cytoplasm, denser round the nucleus, sometimes swollen."""
    side, scale = field.side, field.scale
    count = _count(rng, field, rng.uniform(9, 30))
    start = drawing.scatter(rng, _near_nucleus(field, rng.uniform(4.0, 14.0)), count)
    steps = max(3, int(rng.uniform(3.0, 9.0) * scale))
    heading = rng.uniform(0, 2 * np.pi, len(start))
    paths = drawing.walk(rng, start, heading, steps, 1.0, 0.18 / scale, 0.3 / np.sqrt(scale))
    ink = np.arange(steps)[:, None] < steps * rng.uniform(0.25, 1.0, len(start))
    ink = ink * (drawing.look_up(field.cytoplasm, paths) > 0.5)
    ink = np.logical_and.accumulate(ink, axis=0) * rng.uniform(0.5, 1.0, len(start))
    worms = drawing.lines(side, paths, rng.uniform(0.3, 0.6) * scale, ink)
    return np.tanh(1.1 * worms)


def aggresome(rng: Rng, field: cells.Field) -> np.ndarray:
    """A large round ball in most cells, at the nucleus or further out, over almost nothing."""
    side, scale = field.side, field.scale
    balls_of = rng.choice(3, len(field.center), p=(0.1, 0.7, 0.2))
    balls_of[0] = max(balls_of[0], 1)  # the cell in the middle
    has = np.repeat(np.arange(len(field.center)), balls_of)
    radii = rng.uniform(0.9, 1.8) * np.exp(rng.normal(0, 0.25, len(has))) * scale
    points = field.organizer[has] + rng.normal(0, rng.uniform(0.5, 3.5) * scale, (len(has), 2))
    balls = drawing.discs(side, points, radii, rng.uniform(0.8, 1.1, len(has)))
    return _soft(field, balls * (field.owner >= 0)) + rng.uniform(0.0, 0.1) * field.cytoplasm


def cytoplasmic_bodies(rng: Rng, field: cells.Field) -> np.ndarray:
    """A handful of distinct round granules in the cytoplasm over a weak haze."""
    count = 2 + _count(rng, field, rng.uniform(0.6, 2.4))
    points = drawing.scatter(rng, field.cytoplasm, count)
    radii = rng.uniform(0.4, 0.6) * np.exp(rng.normal(0, 0.2, len(points))) * field.scale
    out = drawing.discs(field.side, points, radii, rng.uniform(0.6, 1.1, len(points)))
    specks = drawing.scatter(rng, field.cytoplasm, _count(rng, field, 20))
    faint = drawing.dots(field.side, specks, 0.18 * field.scale, rng.uniform(0, 0.3, len(specks)))
    return _soft(field, out) + faint + rng.uniform(0.02, 0.15) * field.cytoplasm


def rods_and_rings(rng: Rng, field: cells.Field) -> np.ndarray:
    """One to three straight rods or large rings in each cell, and nothing else."""
    side, scale = field.side, field.scale
    area = field.cytoplasm.sum() / scale**2 / 350
    points = drawing.scatter(rng, field.cytoplasm, 2 + rng.poisson(area * rng.uniform(0.8, 2.2)))
    ring = rng.random(len(points)) < 0.4
    radii = rng.uniform(1.2, 2.4, ring.sum()) * scale
    rings = drawing.discs(side, points[ring], radii, 1.0, 1.0, rng.uniform(1.0, 1.4, ring.sum()),
                          rng.uniform(0, np.pi, ring.sum()))  # fmt: skip
    inner = drawing.discs(side, points[ring], np.maximum(radii - 0.55 * scale, 0.5), 1.0)
    rings = np.clip(rings - inner, 0, 1)
    rods = points[~ring]
    steps = max(4, int(rng.uniform(2.5, 6.5) * scale))
    heading = rng.uniform(0, 2 * np.pi, len(rods))
    paths = drawing.walk(rng, rods, heading, steps, 1.0, 0.03 / scale)
    sticks = drawing.lines(side, paths, 0.5 * scale)
    return np.minimum(_soft(field, rings, 0.08) + sticks, 1.2)
