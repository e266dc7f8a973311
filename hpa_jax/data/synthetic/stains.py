"""The three marker stains of a field of cells: microtubules, nucleus, endoplasmic reticulum."""

import numpy as np

from hpa_jax.data.synthetic import cells, drawing
from hpa_jax.data.synthetic.cells import DAUGHTER, METAPHASE, Field


def draw(rng: np.random.Generator, field: Field) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Microtubules (red), nucleus (blue), ER (yellow) of a field: float32 [H, W], peak about 1."""
    side, scale = field.side, field.scale
    gains = np.exp(rng.normal(0, 0.22, (3, len(field.center))))
    width = max(0.2 * scale, 0.95)
    red = drawing.lines(side, field.tubules, width, field.tubule_ink)
    haze = rng.uniform(0.02, 0.1) * field.cytoplasm
    red = np.tanh(red * rng.uniform(0.25, 0.5)) + haze
    red = red * field.per_cell(gains[0]) + _spindles(rng, field) + _bridges(field)
    grain = drawing.texture(rng, side, 0.9 * scale) * rng.uniform(0.05, 0.2)
    lumps = drawing.texture(rng, side, 2.5 * scale) * rng.uniform(0.0, 0.15)
    blue = field.nucleus * (1 - rng.uniform(0.4, 0.8) * field.nucleolus)
    condensed = np.append(np.where(field.kind == METAPHASE, 1.7, 1.0), 0)[field.owner]
    blue = blue * np.clip(0.62 + grain + lumps, 0.1, 1.2) * condensed * field.per_cell(gains[2])
    reach = rng.uniform(4.0, 12.0)
    near = np.exp(-np.maximum(field.envelope, 0) / reach)
    yellow = field.cytoplasm * near * field.reticulum + 0.25 * _rim(field)
    return red, blue, yellow * field.per_cell(gains[1])


def _rim(field: Field) -> np.ndarray:
    return np.exp(-((field.envelope / 0.5) ** 2)) * (field.owner >= 0)


def spindle_curves(
    rng: np.random.Generator, field: Field, count: int = 26
) -> tuple[np.ndarray, np.ndarray]:
    """Spindle fibres [steps, N, 2] of metaphase cells, bowed from pole to pole; poles [M, 2]."""
    curves, poles = [], []
    for number in np.flatnonzero(field.kind == METAPHASE):
        ray = cells.unit(field.axis[number] + np.pi / 2)
        flat = cells.unit(field.axis[number])
        half = 5.2 * field.scale
        steps = int(2 * half) + 2
        t = np.linspace(-1, 1, steps)[:, None, None]
        bow = rng.normal(0, 2.4 * field.scale, count)[None, :, None]
        shape = field.center[number] + ray * t * half + flat * bow * (1 - t**2)
        curves.append(shape)
        poles += [field.center[number] + ray * half, field.center[number] - ray * half]
    if not curves:
        return np.zeros((1, 0, 2), np.float32), np.zeros((0, 2))
    return np.concatenate(curves, axis=1), np.array(poles)


def _spindles(rng: np.random.Generator, field: Field) -> np.ndarray:
    curves, _ = spindle_curves(rng, field)
    fibres = drawing.lines(field.side, curves, max(0.35 * field.scale, 1.0), 0.45)
    haze = 0.15 * np.append(field.kind == METAPHASE, False)[field.owner] * field.cytoplasm
    return np.minimum(fibres, 1.2) + haze


def _bridges(field: Field) -> np.ndarray:
    """The bundle of microtubules through each bridge, dark at its middle (the midbody)."""
    out = np.zeros((field.side, field.side), np.float32)
    for number in np.flatnonzero(field.kind == DAUGHTER):
        way = field.center[number] - field.bridge[number]
        way = way / np.hypot(*way)
        t = np.arange(0.5, 4.2, 0.5 / field.scale)[:, None, None] * field.scale
        path = field.bridge[number] + way * t
        out += drawing.lines(field.side, path, max(0.9 * field.scale, 1.2), 0.5)
    return np.minimum(out, 1.2)
