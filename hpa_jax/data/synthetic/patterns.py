"""What a protein of each of the 28 compartments looks like: green patterns on a `cells.Field`.

In: a generator and a field.  Out: float32 [H, W], brightest parts about 1.  `PATTERNS` holds one
function a class, in the order of `classes.NAMES`; this file has the nucleus, membranes and the
cytosol, `patterns_organelles` and `patterns_filaments` the others.  After the cell dictionary of
the Human Protein Atlas (proteinatlas.org/humanproteome/subcellular).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from hpa_jax.data.synthetic import cells, drawing, filaments, organelles

Pattern = Callable[[np.random.Generator, cells.Field], np.ndarray]


def draw(
    rng: np.random.Generator,
    field: cells.Field,
    labels: Sequence[int],
    balance: Sequence[float] | None = None,
    varied: float = 0.3,
) -> np.ndarray:
    """Superposition of the patterns of `labels` (class numbers), float32 [H, W], peak about 1.

    balance: brightness of each label's pattern (default 1); varied: deviation of the logarithm of
    each cell's expression level.
    """
    out = np.zeros((field.side, field.side), np.float32)
    for label, share in zip(labels, [1.0] * len(labels) if balance is None else balance):
        expression = np.exp(rng.normal(0, varied, len(field.center)))
        out += share * PATTERNS[label](rng, field) * np.append(expression, 1.0)[field.owner]
    return out


def nucleoplasm(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """The nucleus filled, grainy, with the nucleoli left out."""
    grain = drawing.texture(rng, field.side, rng.uniform(0.5, 1.2) * field.scale)
    fill = np.clip(0.65 + rng.uniform(0.06, 0.2) * grain, 0.1, 1.2)
    return field.nucleus * fill * (1 - rng.uniform(0.3, 0.95) * field.nucleolus)


def nuclear_membrane(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """A thin bright ring round the nucleus over a weak fill, sometimes with a fold."""
    width = rng.uniform(0.22, 0.4)
    ring = np.exp(-(((field.envelope + 0.15) / max(width, 0.55 / field.scale)) ** 2))
    ring *= np.clip(0.8 + 0.15 * drawing.texture(rng, field.side, 0.6 * field.scale), 0.3, 1.2)
    inside = rng.uniform(0.1, 0.42) * nucleoplasm(rng, field)
    return np.maximum(ring * (field.owner >= 0), inside)


def nucleoli(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """The few irregular blobs that the DNA stain leaves dark; now and then only their rims."""
    blobs = field.nucleolus
    if rng.random() < 0.3:
        inner = ndimage.gaussian_filter(blobs, 0.5 * field.scale)
        blobs = blobs * np.clip(1.3 - rng.uniform(0.5, 0.9) * inner, 0, 1.2)
    return 0.9 * blobs + rng.uniform(0.0, 0.25) * nucleoplasm(rng, field)


def fibrillar_center(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """Clusters of small bright dots inside the nucleoli."""
    area = field.nucleolus.sum() / field.scale**2
    points = drawing.scatter(rng, field.nucleolus**2, rng.poisson(area * rng.uniform(0.4, 1.0)))
    size = rng.uniform(0.2, 0.34) * field.scale
    spots = drawing.dots(field.side, points, size, rng.uniform(0.6, 1.2, len(points)))
    return np.minimum(spots, 1.3) + rng.uniform(0.0, 0.15) * field.nucleolus


def speckles(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """Many small patches of unequal size between the nucleoli, over a weak fill."""
    side, scale = field.side, field.scale
    space = np.clip(-(field.envelope + 0.5) * 2, 0, 1) * (1 - field.nucleolus)
    uneven = space * np.clip(1 + 0.4 * drawing.texture(rng, side, 2.0 * scale), 0.1, 2)
    points = drawing.scatter(
        rng, uneven, rng.poisson(space.sum() / scale**2 * rng.uniform(0.12, 0.32))
    )
    radii = rng.uniform(0.28, 0.5) * np.exp(rng.normal(0, 0.35, len(points))) * scale
    weights = rng.uniform(0.5, 1.1, len(points))
    stretch, turn = rng.uniform(1.0, 1.7, len(points)), rng.uniform(0, np.pi, len(points))
    patches = drawing.discs(side, points, radii, weights, 0.0, stretch, turn)
    patches = ndimage.gaussian_filter(patches, 0.15 * scale)
    return patches * space + rng.uniform(0.03, 0.2) * nucleoplasm(rng, field)


def nuclear_bodies(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """Two to fifteen separate round dots in each nucleus."""
    space = np.clip(-(field.envelope + 0.7) * 2, 0, 1) * (1 - field.nucleolus)
    area = field.nucleus.sum() / field.scale**2
    points = drawing.scatter(rng, space, 2 + rng.poisson(area * rng.uniform(0.01, 0.06)))
    radii = rng.uniform(0.3, 0.65) * np.exp(rng.normal(0, 0.2, len(points))) * field.scale
    spots = drawing.discs(field.side, points, radii, rng.uniform(0.7, 1.1, len(points)))
    spots = ndimage.gaussian_filter(spots, 0.12 * field.scale)
    return spots + rng.uniform(0.0, 0.22) * nucleoplasm(rng, field)


def plasma_membrane(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """The cell's outline, ruffled or with spikes onto the glass, over a weak fill of the cell."""
    width = max(rng.uniform(0.3, 0.65), 0.6 / field.scale)
    rim = np.exp(-((field.edge / width) ** 2)) * (field.owner >= 0)
    rough = drawing.texture(rng, field.side, rng.uniform(0.8, 2.0) * field.scale)
    rim = rim * np.clip(0.8 + 0.2 * rough, 0.15, 1.2) * np.where(field.contact, 1.25, 1.0)
    out = rim + rng.uniform(0.05, 0.35) * cytosol(rng, field)
    if rng.random() < 0.4:
        out = np.maximum(out, filaments.spikes(rng, field))
    return out


def junctions(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """Broken bright lines only where two cells touch."""
    beads = drawing.texture(rng, field.side, rng.uniform(1.0, 3.0) * field.scale)
    broken = np.clip((beads + rng.uniform(-0.2, 0.9)) * 1.5, 0, 1.1)
    width = max(rng.uniform(0.3, 0.6), 0.6 / field.scale)
    line = np.exp(-((field.edge / width) ** 2)) * field.contact * (field.owner >= 0)
    return line * broken + rng.uniform(0.0, 0.1) * field.cytoplasm


def cytosol(rng: np.random.Generator, field: cells.Field) -> np.ndarray:
    """The cytoplasm filled, grainy, thinner towards the border, with a few dark vacuoles."""
    side, scale = field.side, field.scale
    grain = drawing.texture(rng, side, rng.uniform(0.4, 0.9) * scale)
    clouds = drawing.texture(rng, side, 6.0 * scale)
    thick = 1 - np.exp(-field.edge / rng.uniform(1.0, 5.0))
    fill = np.clip(0.62 + 0.12 * grain + 0.1 * clouds, 0.1, 1.2) * thick
    area = (field.owner >= 0).sum() / scale**2
    holes = drawing.scatter(rng, field.cytoplasm, rng.poisson(area * rng.uniform(0, 0.004)))
    radii = rng.uniform(0.4, 1.2, len(holes)) * scale
    fill = fill * (1 - 0.8 * drawing.discs(side, holes, radii))
    return fill * (field.cytoplasm + rng.uniform(0.0, 0.35) * field.nucleus)


PATTERNS: tuple[Pattern, ...] = (
    nucleoplasm,
    nuclear_membrane,
    nucleoli,
    fibrillar_center,
    speckles,
    nuclear_bodies,
    organelles.reticulum,
    organelles.golgi,
    organelles.peroxisomes,
    organelles.endosomes,
    organelles.lysosomes,
    filaments.intermediate,
    filaments.actin,
    filaments.focal_adhesions,
    filaments.microtubules,
    filaments.microtubule_ends,
    filaments.cytokinetic_bridge,
    filaments.mitotic_spindle,
    organelles.organizing_center,
    organelles.centrosome,
    organelles.lipid_droplets,
    plasma_membrane,
    junctions,
    organelles.mitochondria,
    organelles.aggresome,
    cytosol,
    organelles.cytoplasmic_bodies,
    organelles.rods_and_rings,
)
