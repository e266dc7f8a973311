"""A field of drawn cells: who owns which pixel, where nuclei, nucleoli and microtubules lie.

In: a random generator, the image's side in pixels and what kind of cells must be seen.  Out: a
`Field`, the maps and cell positions that `stains` and the protein patterns are drawn on.
Sizes are in micrometres, as in the atlas' confocal images of human cell lines: nuclei 12-19 um,
cells 20-40 um; one image shows 26-64 um, so that magnification varies.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hpa_jax.data.synthetic import drawing

INTERPHASE, METAPHASE, DAUGHTER = 0, 1, 2
ANGLES = 256  # entries of a radius table


@dataclass(frozen=True)
class Field:
    """Cells of one image: maps [H, W] and columns [n], one entry a cell (also those cut off).

    scale: pixels a micrometre.  owner: cell number, -1 is glass.  nucleus, nucleolus: soft masks.
    edge: distance to the border of its cell (um, 0 on glass).  envelope: signed distance to the
    nuclear envelope (um, negative inside).  contact: True where another cell is within 1 um.
    center, nucleus_center, organizer (MTOC): [n, 2] pixels.  axis: angle of the long axis; in a
    metaphase cell that of the plate, in a daughter that of the bridge.  bridge: [n, 2] middle of
    the bridge (a daughter's) or its own centre.  tubules, tubule_ink: microtubules [steps, N, 2]
    and their weights [steps, N]; tubule_cell: int[N].  reticulum: ER texture, about 0..1.
    """

    scale: float
    owner: np.ndarray
    nucleus: np.ndarray
    nucleolus: np.ndarray
    edge: np.ndarray
    envelope: np.ndarray
    contact: np.ndarray
    center: np.ndarray
    nucleus_center: np.ndarray
    organizer: np.ndarray
    bridge: np.ndarray
    axis: np.ndarray
    kind: np.ndarray
    tubules: np.ndarray
    tubule_ink: np.ndarray
    tubule_cell: np.ndarray
    reticulum: np.ndarray

    @property
    def side(self) -> int:
        """Pixels of the image's side."""
        return self.owner.shape[0]

    @property
    def cytoplasm(self) -> np.ndarray:
        """Soft mask of cell without nucleus, rising over the first .4 um from the border."""
        return np.clip(self.edge / 0.4, 0, 1) * (1 - self.nucleus)

    def per_cell(self, values: np.ndarray) -> np.ndarray:
        """Spreads one value a cell over its pixels; 0 on glass."""
        return np.append(values, 0).astype(np.float32)[self.owner]


@dataclass
class _Shapes:
    """Outlines: positions in micrometres (y, x), radius tables [n, ANGLES]."""

    center: np.ndarray
    body: np.ndarray
    nucleus_center: np.ndarray
    nucleus: np.ndarray
    axis: np.ndarray
    kind: np.ndarray
    bridge: np.ndarray


def draw_field(
    rng: np.random.Generator,
    side: int,
    *,
    width: tuple[float, float] = (26.0, 64.0),
    mitosis: bool = False,
    bridge: bool = False,
    contact: bool = False,
) -> Field:
    """Places cells and computes every map of a `Field`.

    Args:
        rng: all randomness of the image's geometry.
        side: pixels of the square image.
        width: least and greatest micrometres that the image shows.
        mitosis: at least one cell in metaphase is in the middle region.
        bridge: at least one pair of daughters with a cytokinetic bridge is there.
        contact: cells stand so close that neighbours touch.
    """
    view = float(np.exp(rng.uniform(*np.log(width))))
    scale = side / view
    shapes = _place(rng, view, mitosis, bridge, contact)
    owner, edge, contact = _territories(shapes, side, scale)
    nucleus, envelope = _nuclei(shapes, owner, side, scale)
    nucleolus = _nucleoli(rng, shapes, envelope, owner, side, scale)
    toward = rng.uniform(0, 2 * np.pi, len(shapes.center))
    # The centre is beside the nucleus, or seen from above in front of it.
    beside = np.where(rng.random(len(toward)) < 0.7, rng.uniform(1.0, 1.35, len(toward)), 0.6)
    offset = shapes.nucleus.mean(1) * beside
    organizer = shapes.nucleus_center + unit(toward) * offset[:, None]
    tubules, ink, cell = _microtubules(rng, shapes, organizer, owner, side, scale)
    return Field(
        scale=scale,
        owner=owner,
        nucleus=nucleus,
        nucleolus=nucleolus,
        edge=edge,
        envelope=envelope,
        contact=contact,
        center=shapes.center * scale,
        nucleus_center=shapes.nucleus_center * scale,
        organizer=organizer * scale,
        bridge=shapes.bridge * scale,
        axis=shapes.axis,
        kind=shapes.kind,
        tubules=tubules,
        tubule_ink=ink * (1 - 0.6 * drawing.look_up(nucleus, tubules)),
        tubule_cell=cell,
        reticulum=_reticulum(rng, side, scale),
    )


def unit(angle: np.ndarray | float) -> np.ndarray:
    """Directions (y, x): unit vectors [..., 2] of angles counted from the x axis."""
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def _outline(
    rng: np.random.Generator,
    radius: np.ndarray,
    stretch: np.ndarray,
    axis: np.ndarray,
    rough: float,
) -> np.ndarray:
    """Radius tables [n, ANGLES] of ellipses (area pi radius^2) with smooth random bulges."""
    theta = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)[None]
    long, short = (radius * np.sqrt(stretch))[:, None], (radius / np.sqrt(stretch))[:, None]
    turned = theta - axis[:, None]
    ellipse = long * short / np.hypot(short * np.cos(turned), long * np.sin(turned))
    waves = np.arange(2, 9)
    size = rng.normal(0, rough, (len(radius), len(waves))) / np.sqrt(waves - 1)
    phase = rng.uniform(0, 2 * np.pi, size.shape)
    bulge = (size[..., None] * np.cos(waves[:, None] * theta[:, None] + phase[..., None])).sum(1)
    return (ellipse * np.exp(bulge)).astype(np.float32)


def _place(
    rng: np.random.Generator, view: float, mitosis: bool, bridge: bool, contact: bool
) -> _Shapes:
    """Cell positions and outlines of one cell line: dart throwing with a least spacing."""
    radius = rng.uniform(11.0, 19.0)
    spacing = 2 * radius * (rng.uniform(0.62, 0.8) if contact else rng.uniform(0.68, 1.2))
    direction = rng.uniform(0, np.pi)
    stretch, rough = rng.uniform(1.0, 2.6), rng.uniform(0.04, 0.2)
    middle = np.array([view, view]) / 2
    centers: list[np.ndarray] = []
    kinds, axes, bridges = [], [], []
    if mitosis or rng.random() < 0.04:
        centers.append(middle + rng.uniform(-0.28, 0.28, 2) * view)
        kinds.append(METAPHASE)
        axes.append(rng.uniform(0, np.pi))
        bridges.append(centers[-1])
    if bridge or rng.random() < 0.06:
        point = middle + rng.uniform(-0.25, 0.25, 2) * view
        turn = rng.uniform(0, np.pi)
        apart = min(0.62 * radius, 9.5) + rng.uniform(1.2, 3.5)
        for way in (-1, 1):
            centers.append(point + way * apart * unit(np.array(turn)))
            kinds.append(DAUGHTER)
            axes.append(turn)
            bridges.append(point)
    darts = rng.uniform(-0.7 * radius, view + 0.7 * radius, (150, 2))
    darts[0] = middle + rng.uniform(-0.2, 0.2, 2) * view  # no image without a cell
    if contact:
        darts[1] = darts[0] + 1.03 * spacing * unit(rng.uniform(0, 2 * np.pi))
    for dart in darts:
        if all(np.hypot(*(dart - other)) > spacing for other in centers):
            centers.append(dart)
            kinds.append(INTERPHASE)
            axes.append(rng.normal(0, 0.6) + direction)
            bridges.append(dart)
    return _shape(rng, np.array(centers), np.array(kinds), np.array(axes), np.array(bridges),
                  radius, stretch, rough)  # fmt: skip


def _shape(
    rng: np.random.Generator,
    center: np.ndarray,
    kind: np.ndarray,
    axis: np.ndarray,
    bridge: np.ndarray,
    radius: float,
    stretch: float,
    rough: float,
) -> _Shapes:
    """Outlines of bodies and nuclei by the kind of cell."""
    count = len(center)
    special = kind != INTERPHASE
    bodies = radius * np.exp(rng.normal(0, 0.12, count))
    bodies = np.where(kind == METAPHASE, rng.uniform(8.0, 10.0), bodies)
    bodies = np.where(kind == DAUGHTER, min(0.62 * radius, 9.5), bodies)
    body = _outline(rng, bodies, np.where(special, 1.08, stretch), axis, rough)
    smooth = _outline(rng, bodies, np.full(count, 1.08), axis, 0.03)
    body = np.where(special[:, None], smooth, body)
    nuclear = min(rng.uniform(6.0, 9.5), 0.58 * radius)
    nuclei = nuclear * np.exp(rng.normal(0, 0.1, count))
    nuclei = np.where(kind == DAUGHTER, 0.75 * nuclei, nuclei)
    nuclei = np.where(kind == METAPHASE, 3.6, nuclei)
    long = np.where(kind == METAPHASE, 3.4, rng.uniform(1.05, 1.6, count))
    nucleus = _outline(rng, nuclei, long, axis, rng.uniform(0.02, 0.07))
    shift = rng.normal(0, 0.1, (count, 2)) * bodies[:, None] * ~special[:, None]
    real = np.float32  # what is computed for thousands of points follows these columns' type
    moved = (center + shift).astype(real)
    return _Shapes(
        center.astype(real), body, moved, nucleus, axis.astype(real), kind, bridge.astype(real)
    )


def _relative(points: np.ndarray, center: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Distance of points [..., 2] from a centre in units of the outline's radius in that direction.

    center, table: [2], [ANGLES], or one for each of the points' last-but-one axis ([N, 2], [N, T]).
    """
    away = points - center
    turn = np.arctan2(away[..., 0], away[..., 1])
    index = np.rint(turn * (ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    radius = table[index] if table.ndim == 1 else table[np.arange(len(table)), index]
    return np.hypot(away[..., 0], away[..., 1]) / radius


def _grid(side: int, scale: float) -> np.ndarray:
    steps = (np.arange(side, dtype=np.float32) + 0.5) / scale
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1)


def _territories(
    shapes: _Shapes, side: int, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """owner int16, edge distance (um) and contact mask: the nearest cell (in units of its radius)
    owns a pixel, so neighbours that would overlap share a border."""
    grid = _grid(side, scale)
    nearest = np.full((side, side), np.inf, np.float32)
    owner = np.full((side, side), -1, np.int16)
    for number, (center, body) in enumerate(zip(shapes.center, shapes.body)):
        distance = _relative(grid, center, body)
        closer = (distance < nearest) & (distance < 1)
        nearest[closer], owner[closer] = distance[closer], number
    for number in np.flatnonzero(shapes.kind == DAUGHTER):
        away = grid - shapes.bridge[number]
        ray = unit(shapes.axis[number])
        along, across = away @ ray, away @ np.array([ray[1], -ray[0]])
        reach = np.hypot(*(shapes.center[number] - shapes.bridge[number]))
        side_of = np.sign((shapes.center[number] - shapes.bridge[number]) @ ray)
        strip = (np.abs(across) < 0.8) & (along * side_of >= 0) & (along * side_of < reach)
        owner[strip & (owner < 0)] = number
    same = np.ones((side, side), bool)
    for axis in (0, 1):
        step = np.diff(owner, axis=axis) != 0
        pad = [(0, 0), (0, 0)]
        pad[axis] = (0, 1)
        same &= ~np.pad(step, pad)
        pad[axis] = (1, 0)
        same &= ~np.pad(step, pad)
    inner = same & (owner >= 0)
    edge = ndimage.distance_transform_edt(inner).astype(np.float32) / scale if inner.any() else (
        np.zeros((side, side), np.float32)
    )  # fmt: skip
    reach = max(1, round(scale))
    high = ndimage.maximum_filter(owner, 2 * reach + 1)
    cells_only = np.where(owner < 0, np.int16(30000), owner)
    low = ndimage.minimum_filter(cells_only, 2 * reach + 1)
    contact = (high != low) & (low < 30000) & (high >= 0)
    return owner, edge, contact


def _nuclei(
    shapes: _Shapes, owner: np.ndarray, side: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Soft nucleus mask and signed distance to its own envelope (um); far away on glass."""
    grid = _grid(side, scale)
    envelope = np.full((side, side), 50.0, np.float32)
    for number in np.unique(owner[owner >= 0]):
        mine = owner == number
        points = grid[mine]
        away = points - shapes.nucleus_center[number]
        distance = np.hypot(away[:, 0], away[:, 1])
        relative = _relative(points, shapes.nucleus_center[number], shapes.nucleus[number])
        envelope[mine] = distance * (1 - 1 / np.maximum(relative, 1e-3))
    return np.clip(0.5 - envelope * scale / 1.6, 0, 1), envelope


def _nucleoli(
    rng: np.random.Generator,
    shapes: _Shapes,
    envelope: np.ndarray,
    owner: np.ndarray,
    side: int,
    scale: float,
) -> np.ndarray:
    """Soft mask of one to five irregular blobs inside each interphase nucleus."""
    places, radii = [], []
    for number in range(len(shapes.center)):
        if shapes.kind[number] == METAPHASE:
            continue
        count = rng.integers(1, 5)
        size = shapes.nucleus[number].mean()
        turn = rng.uniform(0, 2 * np.pi, count)
        away = unit(turn) * (size * rng.uniform(0.15, 0.6, count))[:, None]
        base = shapes.nucleus_center[number] + away
        for point in base:
            lobes = rng.integers(1, 4)
            places.append(point + rng.normal(0, 0.12 * size, (lobes, 2)))
            radii.append(size * rng.uniform(0.12, 0.3, lobes))
    if not places:
        return np.zeros((side, side), np.float32)
    mask = drawing.discs(side, np.concatenate(places) * scale, np.concatenate(radii) * scale)
    mask = ndimage.gaussian_filter(mask, max(0.12 * scale, 0.4))
    return np.clip(mask * 1.6 - 0.3, 0, 1) * np.clip(-(envelope + 0.5) * 2, 0, 1)


def _microtubules(
    rng: np.random.Generator,
    shapes: _Shapes,
    organizer: np.ndarray,
    owner: np.ndarray,
    side: int,
    scale: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curves from the organizing centre and from anywhere, bent along the border and round the
    nucleus: [steps, N, 2] pixels, their weights [steps, N], the cell of each int[N]."""
    interphase = np.flatnonzero(shapes.kind != METAPHASE)
    if not len(interphase):
        return np.zeros((1, 0, 2), np.float32), np.zeros((1, 0)), np.zeros(0, int)
    density = rng.uniform(110, 260)
    cell = np.repeat(interphase, int(density))
    radius = shapes.body.mean(1)[cell]
    free = rng.random(len(cell)) < rng.uniform(0.2, 0.7)
    turn = rng.uniform(0, 2 * np.pi, len(cell))
    start = np.where(
        free[:, None],
        shapes.center[cell] + unit(turn) * (radius * np.sqrt(rng.random(len(cell))))[:, None],
        organizer[cell] + rng.normal(0, 0.6, (len(cell), 2)),
    )
    stride = 1.2 / scale
    steps = int(radius.max() * rng.uniform(1.2, 1.9) / stride)
    bend = rng.uniform(0.02, 0.06) * stride
    heading = rng.uniform(0, 2 * np.pi, len(cell))
    along = shapes.axis[cell] + np.where(rng.random(len(cell)) < 0.5, 0, np.pi)
    heading = np.where(free, along + rng.normal(0, 0.9, len(cell)), heading)
    paths = drawing.walk(rng, start, heading, steps, stride, bend, 0.14 * np.sqrt(stride))
    away = paths - shapes.nucleus_center[cell]
    distance = np.hypot(away[..., :1], away[..., 1:]) + 1e-6
    size = shapes.nucleus.mean(1)[cell][None, :, None]
    around = np.cbrt(distance**3 + (0.95 * size).astype(np.float32) ** 3)
    over = (rng.random(len(cell)) < 0.25)[None, :, None]
    paths = np.where(over, paths, shapes.nucleus_center[cell] + away * around / distance)
    relative = _relative(paths, shapes.center[cell], shapes.body[cell])
    bent = np.where(relative > 0.72, 0.72 + 0.24 * np.tanh((relative - 0.72) / 0.24), relative)
    away = paths - shapes.center[cell]
    paths = shapes.center[cell] + away * (bent / np.maximum(relative, 1e-6))[..., None]
    length = steps * rng.uniform(0.4, 1.0, len(cell))
    alive = (np.arange(steps)[:, None] < length) & (relative < 1.5)
    paths = (paths * scale).astype(np.float32)
    seen = drawing.look_up(owner, paths, outside=-2)
    alive &= (seen == cell) | (seen == -2)
    return paths, alive * rng.uniform(0.5, 1.0, len(cell)), cell


def _reticulum(rng: np.random.Generator, side: int, scale: float) -> np.ndarray:
    """A net of fine tubes: the zero lines of smooth noise, on patches of different density."""
    net = np.exp(-((drawing.texture(rng, side, 0.9 * scale) / 0.5) ** 2))
    fine = drawing.texture(rng, side, 0.5 * scale)
    patches = drawing.texture(rng, side, 4.0 * scale)
    return np.clip(0.25 + 0.55 * net + 0.12 * fine + 0.12 * patches, 0.02, 1.2)
