"""Green patterns of the cytoskeleton and of cell division: see `hpa_jax.data.patterns`."""

import numpy as np
from scipy import ndimage

from hpa_jax.data.synthetic import cells, drawing, stains

Rng = np.random.Generator


def _inside(field: cells.Field, paths: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """True while a curve [steps, N, 2] has not left its cell int[N]."""
    seen = drawing.look_up(field.owner, paths, outside=-2)
    return np.logical_and.accumulate((seen == cell) | (seen == -2), axis=0)


def _cells_of(field: cells.Field, points: np.ndarray) -> np.ndarray:
    return drawing.look_up(field.owner, points, outside=-1).astype(int)


def _bodies(field: cells.Field) -> np.ndarray:
    return np.clip(field.edge / 0.5, 0, 1)


def intermediate(rng: Rng, field: cells.Field) -> np.ndarray:
    """A tangle of wavy fibres or a fine net, thickest round the nucleus."""
    side, scale = field.side, field.scale
    reach = rng.uniform(5.0, 16.0)
    density = field.cytoplasm * np.exp(-np.maximum(field.envelope, 0) / reach)
    count = int(density.sum() / scale**2 * rng.uniform(0.25, 0.6)) + 8
    start = drawing.scatter(rng, density, count)
    steps = max(6, int(rng.uniform(6, 13) * scale))
    heading = rng.uniform(0, 2 * np.pi, len(start))
    paths = drawing.walk(rng, start, heading, steps, 1.0, 0.1 / scale, 0.3 / np.sqrt(scale))
    ink = _inside(field, paths, _cells_of(field, start)) * rng.uniform(0.2, 0.8, len(start))
    ink = ink * (1 - 0.6 * drawing.look_up(field.nucleus, paths))
    fibres = np.tanh(0.7 * drawing.lines(side, paths, rng.uniform(0.2, 0.4) * scale, ink))
    mesh = np.exp(-((drawing.texture(rng, side, rng.uniform(1.2, 2.2) * scale) / 0.3) ** 2))
    net = density**0.6 * mesh * rng.uniform(0.0, 0.8)
    haze = ndimage.gaussian_filter(fibres, 1.2 * scale)
    return np.minimum(fibres + net, 1.2) + rng.uniform(0.1, 0.6) * haze


def actin(rng: Rng, field: cells.Field) -> np.ndarray:
    """Straight parallel stress fibres across the whole cell, and its rim."""
    side, scale = field.side, field.scale
    body = _bodies(field)
    count = int(body.sum() / scale**2 * rng.uniform(0.04, 0.12)) + 4
    start = drawing.scatter(rng, body, count)
    cell = _cells_of(field, start)
    steps = max(8, int(rng.uniform(8, 22) * scale))
    tilt = rng.normal(0, 0.9, len(field.center))
    heading = (field.axis + tilt)[cell] + rng.normal(0, rng.uniform(0.06, 0.25), len(cell))
    paths = drawing.walk(rng, start, heading, steps, 1.0, 0.006 / scale)
    paths = paths - (paths[-1:] - paths[:1]) / 2
    seen = drawing.look_up(field.owner, paths, outside=-2)
    ink = ((seen == cell) | (seen == -2)) * np.exp(rng.normal(-0.6, 0.5, len(cell)))
    fibres = drawing.lines(side, paths, rng.uniform(0.35, 0.6) * scale, ink)
    rim = np.exp(-((field.edge / max(0.5, 0.6 / scale)) ** 2)) * (field.owner >= 0)
    return np.tanh(fibres) + rng.uniform(0, 0.5) * rim + rng.uniform(0.03, 0.25) * body


def focal_adhesions(rng: Rng, field: cells.Field) -> np.ndarray:
    """Short thick dashes at the cell's rim that point outwards."""
    side, scale = field.side, field.scale
    near = np.exp(-(((field.edge - 1.2) / 1.3) ** 2)) * (field.owner >= 0) * ~field.contact
    patches = np.clip(drawing.texture(rng, side, 7 * scale) + 0.4, 0.02, 2)
    length = near.sum() / scale**2
    points = drawing.scatter(rng, near * patches, rng.poisson(length * rng.uniform(0.12, 0.35)))
    dy, dx = np.gradient(ndimage.gaussian_filter(field.edge, 1.0 * scale))
    turn = np.arctan2(drawing.look_up(dy, points), drawing.look_up(dx, points))
    turn = turn + rng.normal(0, 0.25, len(points))
    radii = rng.uniform(0.28, 0.42) * scale * np.exp(rng.normal(0, 0.2, len(points)))
    dashes = drawing.discs(side, points, np.maximum(radii, 0.6), rng.uniform(0.5, 1.1, len(points)),
                           0.0, rng.uniform(2.0, 4.5, len(points)), turn)  # fmt: skip
    return ndimage.gaussian_filter(dashes, max(0.1 * scale, 0.3)) + rng.uniform(
        0.0, 0.08
    ) * _bodies(field)


def microtubules(rng: Rng, field: cells.Field) -> np.ndarray:
    """The same fibres as in the red stain, spindles too."""
    width = max(rng.uniform(0.25, 0.4) * field.scale, 1.0)
    net = drawing.lines(field.side, field.tubules, width, field.tubule_ink)
    haze = rng.uniform(0.0, 0.15) * field.cytoplasm
    curves, _ = stains.spindle_curves(rng, field)
    spindle = drawing.lines(field.side, curves, width, 0.4)
    return np.tanh(rng.uniform(0.5, 0.9) * net) + haze + np.minimum(spindle, 1.0)


def microtubule_ends(rng: Rng, field: cells.Field) -> np.ndarray:
    """Comets along the microtubules all over the cell, most of them far out, on a grainy haze."""
    side, scale = field.side, field.scale
    steps, count = field.tubule_ink.shape
    size = max(2, int(rng.uniform(1.0, 2.2) * scale))
    number = np.repeat(np.arange(count), 3)
    first = (rng.beta(2.0, 1.2, len(number)) * steps).astype(int)
    rows = np.minimum(first[None] + np.arange(size)[:, None], steps - 1)
    paths = field.tubules[rows, number]
    outward = drawing.look_up(np.maximum(field.envelope, 0), paths[0]) / 6.0
    kept = rng.random(len(number)) < rng.uniform(0.25, 0.7) * np.clip(outward, 0.1, 1)
    ink = (field.tubule_ink[rows, number] > 0) * kept * rng.uniform(0.4, 1.1, len(number))
    comets = drawing.lines(side, paths, rng.uniform(0.4, 0.6) * scale, ink)
    grains = _bodies(field) * np.clip(0.5 + 0.3 * drawing.texture(rng, side, 0.5 * scale), 0, 1)
    return np.minimum(comets, 1.2) + rng.uniform(0.05, 0.35) * grains


def cytokinetic_bridge(rng: Rng, field: cells.Field) -> np.ndarray:
    """The thin bridge between two daughter cells: bright flanks or a ring at the midbody."""
    side, scale = field.side, field.scale
    pairs = np.flatnonzero(field.kind == cells.DAUGHTER)
    out = np.zeros((side, side), np.float32)
    style = rng.random()
    for number in pairs:
        way = field.center[number] - field.bridge[number]
        way = way / np.hypot(*way)
        if style < 0.6:
            t = np.arange(0.3, rng.uniform(2.0, 3.5), 0.5 / scale)[:, None, None] * scale
            path = field.bridge[number] + way * t
            out += drawing.lines(side, path, max(rng.uniform(0.9, 1.5) * scale, 1.2), 0.5)
        else:
            spot = field.bridge[number][None]
            radius = max(rng.uniform(0.8, 1.2) * scale, 1.2)
            out = np.maximum(out, drawing.discs(side, spot, np.array([radius]), 1.0, 0.7))
    net = drawing.lines(side, field.tubules, max(0.25 * scale, 1.0), field.tubule_ink)
    weak = rng.uniform(0.0, 0.2) * np.tanh(0.6 * net) + rng.uniform(0.02, 0.15) * field.cytoplasm
    return np.minimum(out, 1.2) + weak


def mitotic_spindle(rng: Rng, field: cells.Field) -> np.ndarray:
    """The spindle of the cells in metaphase; the others only show a weak haze."""
    curves, poles = stains.spindle_curves(rng, field)
    spindle = drawing.lines(field.side, curves, max(0.5 * field.scale, 1.0), 0.4)
    ends = drawing.dots(field.side, poles, 0.7 * field.scale, rng.uniform(0.2, 1.0))
    return np.minimum(spindle + ends, 1.2) + rng.uniform(0.02, 0.12) * _bodies(field)


def spikes(rng: Rng, field: cells.Field) -> np.ndarray:
    """Straight thin filopodia from the rim outwards over the glass."""
    side, scale = field.side, field.scale
    rim = np.exp(-((field.edge / 0.5) ** 2)) * (field.owner >= 0) * ~field.contact
    start = drawing.scatter(rng, rim, int(rim.sum() / scale**2 * rng.uniform(0.6, 3.0)))
    inner = ndimage.gaussian_filter((field.owner >= 0).astype(np.float32), 1.5 * scale)
    dy, dx = np.gradient(inner)
    heading = np.arctan2(-drawing.look_up(dy, start), -drawing.look_up(dx, start))
    steps = max(3, int(rng.uniform(2.0, 8.0) * scale))
    heading = heading + rng.normal(0, 0.15, len(start))
    paths = drawing.walk(rng, start, heading, steps, 1.0, 0.02 / scale)
    ink = np.arange(steps)[:, None] < steps * rng.uniform(0.3, 1.0, len(start))
    return np.tanh(drawing.lines(side, paths, 0.3 * scale, ink * 0.7))
