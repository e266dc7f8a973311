"""pudae's 25 augmentation policies (spec bestfitting_pudae B), for a whole batch at once.

A policy is two operations in sequence, each with a chance.  There are no branches: a random policy
of each image sets parameters (a matrix, the slopes of a grid, a gain, a kernel), and one composed
resampling, one blur (skipped if no image of the batch needs it) and two pointwise steps serve all
images.  Brightness before geometry (policy 3) commutes with resampling.

Operations follow albumentations 0.1, with these interpretations:
  - RandomScale changes the image's size and the resize to the network's input undoes it, so no
    zoom remains; `scale_zooms` makes it a zoom.
  - ElasticTransform's alpha 1 with sigma 33..67 moves pixels by about .005 px, so only its random
    affine map is applied.
  - ShiftScaleRotate only shifts: the team's policies set only its shift limit, with limits of scale
    and rotation of 0.
  - RandomContrast scales about the mean of the image (the published 0.1 adds three times the
    mean, a porting bug).
  - GridDistortion's steps are exact fractions of the side.
"""

from typing import Any, NamedTuple

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.training.augment import warp

# (operation, chance, parameters...); limits are relative, pixels are those of a 512 px image.
Operation = tuple[Any, ...]

POLICIES: tuple[tuple[Operation, Operation], ...] = (
    (("elastic", 0.75, 67), ("contrast", 0.25, 0.11)),
    (("motion_blur", 0.0, 5), ("rotate", 0.25, 31)),
    (("brightness", 0.75, 0.118), ("grid", 0.5, 5, 0.499)),
    (("brightness", 0.0, 0.123), ("elastic", 0.0, 63)),
    (("invert", 0.5), ("brightness", 0.5, 0.178)),
    (("elastic", 0.25, 65), ("brightness", 0.0, 0.208)),
    (("motion_blur", 0.25, 3), ("contrast", 0.25, 0.231)),
    (("rotate", 0.75, 26), ("blur", 0.25, 5)),
    (("shift_scale_rotate", 0.25, 0.0767), ("gamma", 0.5, 76, 110)),
    (("brightness", 0.5, 0.204), ("gamma", 0.5, 78, 110)),
    (("blur", 0.0, 3), ("grid", 0.5, 4, 0.371)),
    (("blur", 0.0, 5), ("gamma", 0.25, 81, 110)),
    (("scale", 0.75, 0.173), ("blur", 0.0, 3)),
    (("scale", 0.25, 0.0561), ("contrast", 0.75, 0.198)),
    (("shift_scale_rotate", 0.25, 0.12), ("elastic", 0.5, 53)),
    (("contrast", 0.5, 0.254), ("elastic", 0.0, 50)),
    (("grid", 0.5, 3, 0.239), ("motion_blur", 0.0, 3)),
    (("brightness", 0.0, 0.163), ("rotate", 0.0, 10)),
    (("rotate", 0.25, 21), ("gamma", 0.5, 74, 110)),
    (("blur", 0.0, 3), ("gamma", 0.0, 76, 113)),
    (("blur", 0.5, 4), ("shift_scale_rotate", 0.0, 0.0817)),
    (("scale", 0.5, 0.15), ("brightness", 0.75, 0.266)),
    (("grid", 0.25, 4, 0.275), ("rotate", 0.75, 36)),
    (("elastic", 0.0, 68), ("grid", 0.5, 3, 0.407)),
    (("gamma", 0.0, 78, 112), ("scale", 0.25, 0.179)),
)

KINDS = (
    "elastic",
    "rotate",
    "shift_scale_rotate",
    "scale",
    "grid",
    "brightness",
    "contrast",
    "gamma",
    "invert",
    "blur",
    "motion_blur",
)
MAX_STEPS = 5  # of GridDistortion
KERNEL = 5  # side of the largest blur
_DRAWS = 2 * MAX_STEPS  # maximum of uniform numbers per operation


class Drawn(NamedTuple):
    """Random parameters of one image; neutral for operations not applied."""

    matrix: jax.Array  # [3, 3]: rotate, shift_scale_rotate, elastic (and scale)
    steps: jax.Array  # [2, MAX_STEPS]: source length of each grid cell, x and y; 1 = unmoved
    cells: jax.Array  # number of grid cells
    gain: jax.Array  # [2]: x -> gain * x + pull * mean(x) + lift, then clip, once for each slot
    pull: jax.Array  # [2]
    lift: jax.Array  # [2]
    exponent: jax.Array  # gamma
    kernel: jax.Array  # index into KERNELS; 0 = none


def apply(keys: jax.Array, images: jax.Array, turns: jax.Array, scale_zooms: bool) -> jax.Array:
    """Apply D4 elements turns[N] to images[N, H, W, K], then one policy each; in [0, 1].

    keys: one per image.
    """
    drawn = jax.vmap(lambda key: draw(jax.random.fold_in(key, 2), scale_zooms))(keys)
    images = jax.lax.platform_dependent(images, turns, drawn, tpu=read_twice, default=read_once)
    images = jax.lax.cond(
        jnp.any(drawn.kernel > 0),
        lambda all_images: blur(all_images, jnp.asarray(KERNELS)[drawn.kernel]),
        lambda all_images: all_images,
        images,
    )
    return shade(images, drawn)


def read_once(images: jax.Array, turns: jax.Array, drawn: Drawn) -> jax.Array:
    """Apply D4, affine map and grid to images[N, H, W, K] in one gather."""
    base = warp.grid(*images.shape[1:3], align_corners=False)

    def read(image: jax.Array, params: Drawn, turn: jax.Array) -> jax.Array:
        where = warp.affine(move(base, params), warp.dihedral(turn))
        return warp.sample(image, where, "reflect", align_corners=False)

    return jax.vmap(read)(warp.unit_range(images), drawn, turns)


def read_twice(
    images: jax.Array, turns: jax.Array, drawn: Drawn, dtype: Any = jnp.bfloat16
) -> jax.Array:
    """The same by matrix products: D4, then the grid's cells axis by axis, then the affine map.

    For policies with both a grid and a rotation (2 of 25), the image is interpolated twice, as in
    the team's code.
    """
    height, width = images.shape[1:3]
    rows, columns = (
        jax.vmap(_cells, (None, 0, 0))(2.0 * (jnp.arange(n) + 0.5) / n - 1.0, steps, drawn.cells)
        for n, steps in ((height, drawn.steps[:, 1]), (width, drawn.steps[:, 0]))
    )
    images = warp.stretched(warp.d4(images, turns), rows, columns, "reflect", dtype)
    options = dict(padding="reflect", align_corners=False, dtype=dtype)
    return warp.by_products(images, drawn.matrix, **options)


def draw(key: jax.Array, scale_zooms: bool = False, policy: jax.Array | None = None) -> Drawn:
    """Sample the parameters of one image; policy: 0..24, None: random."""
    policy_key, number_key = jax.random.split(key)
    if policy is None:
        policy = jax.random.randint(policy_key, (), 0, len(POLICIES))
    rows = jnp.asarray(_TABLE)[policy]  # [2, 2 + 2]
    u = jax.random.uniform(number_key, (2, 1 + _DRAWS))
    happens = u[:, 0] < rows[:, 1]
    first, second = (_operation(rows[slot], u[slot, 1:], scale_zooms) for slot in (0, 1))
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, second)
    neutral = _neutral()

    def kept(value: jax.Array, still: jax.Array) -> jax.Array:
        return jnp.where(happens.reshape(2, *[1] * (value.ndim - 1)), value, still)

    both = jax.tree.map(kept, both, neutral)
    gridded = both.cells > 0
    return Drawn(
        matrix=warp.compose(both.matrix[0], both.matrix[1]),
        steps=jnp.where(gridded[0], both.steps[0], both.steps[1]),
        cells=both.cells.max(),
        gain=both.gain,
        pull=both.pull,
        lift=both.lift,
        exponent=both.exponent[0] * both.exponent[1],
        kernel=both.kernel.max(),
    )


def move(base: jax.Array, drawn: Drawn) -> jax.Array:
    """Map base[h, w, 2] to its source: the affine map, then the grid's cells."""
    where = warp.affine(base, drawn.matrix)
    # The grid's output is reflected beyond its border, too.
    where = 1.0 - jnp.abs(jnp.mod(where + 1.0, 4.0) - 2.0)
    return jnp.stack(
        [_cells(where[..., axis], drawn.steps[axis], drawn.cells) for axis in (0, 1)], axis=-1
    )


def _cells(position: jax.Array, steps: jax.Array, cells: jax.Array) -> jax.Array:
    """Piecewise linear map of [-1, 1]: cell i of `cells` has slope steps[i]; 0 cells: identity."""
    start = (position + 1.0) * 0.5 * jnp.maximum(cells, 1)  # in cells
    moved = steps[0] * start
    for knot in range(1, MAX_STEPS):
        bend = jnp.where(knot < cells, steps[knot] - steps[knot - 1], 0.0)
        moved += bend * jnp.maximum(start - knot, 0.0)
    return moved / jnp.maximum(cells, 1) * 2.0 - 1.0


def shade(images: jax.Array, drawn: Drawn) -> jax.Array:
    """Apply the two pointwise steps and gamma to images[N, H, W, K]; drawn: batched."""

    def spread(value: jax.Array) -> jax.Array:
        return value[:, None, None, None]

    for slot in (0, 1):
        mean = images.mean(axis=(1, 2, 3), keepdims=True)
        offset = spread(drawn.pull[:, slot]) * mean + spread(drawn.lift[:, slot])
        images = jnp.clip(spread(drawn.gain[:, slot]) * images + offset, 0.0, 1.0)
    # max: the power's gradient at 0 is infinite, and 1e-6 is far below one grey level.
    images = jnp.maximum(images, 1e-6)
    return dm_pix.adjust_gamma(images, spread(drawn.exponent), assume_in_bounds=True)


def blur(images: jax.Array, kernels: jax.Array) -> jax.Array:
    """Filter images[N, H, W, K] with kernels[N, KERNEL, KERNEL] and reflected borders."""
    margin = KERNEL // 2
    height, width = images.shape[1:3]
    wide = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    total = jnp.zeros_like(images)
    for row in range(KERNEL):
        for column in range(KERNEL):
            part = wide[:, row : row + height, column : column + width]
            total += kernels[:, row, column][:, None, None, None] * part
    return total


def _neutral() -> Drawn:
    return Drawn(
        matrix=jnp.eye(3),
        steps=jnp.ones((2, MAX_STEPS)),
        cells=jnp.float32(0),
        gain=jnp.float32(1),
        pull=jnp.float32(0),
        lift=jnp.float32(0),
        exponent=jnp.float32(1),
        kernel=jnp.int32(0),
    )


def _operation(row: jax.Array, u: jax.Array, scale_zooms: bool) -> Drawn:
    """Parameters of one operation of the table, from uniform numbers u[_DRAWS] in [0, 1)."""
    kind, limit, other = row[0].astype(jnp.int32), row[2], row[3]
    s = 2.0 * u - 1.0  # U(-1, 1)

    def when(name: str, value: jax.Array, neutral: jax.Array | float) -> jax.Array:
        return jnp.where(kind == KINDS.index(name), value, neutral)

    still = jnp.eye(3)
    amount = limit * s[0]
    factor = 1.0 + amount
    matrix = when("rotate", warp.rotation(amount), still)
    matrix = when("shift_scale_rotate", warp.shift(2.0 * limit * s[2], 2.0 * limit * s[3]), matrix)
    matrix = when("elastic", _three_points(limit / 512.0, s), matrix)
    if scale_zooms:
        matrix = when("scale", warp.zoom(factor), matrix)
    small_or_large = jnp.where((limit >= KERNEL) & (u[0] >= 0.5), 2, 1)
    motion = 3 + jnp.searchsorted(jnp.asarray(_MOTION_CUMULATIVE), u[0], side="right")
    contrast = when("contrast", factor, 1.0)
    return Drawn(
        matrix=matrix,
        steps=when("grid", 1.0 + other * s.reshape(2, MAX_STEPS), 1.0),
        cells=when("grid", limit, 0.0),
        gain=when("brightness", factor, when("invert", -1.0, contrast)),
        pull=1.0 - contrast,
        lift=when("invert", 1.0, 0.0),
        # For uint8 the published code uses the power 1 / gamma.
        exponent=when("gamma", 100.0 / (limit + (other - limit) * u[0]), 1.0),
        kernel=when("blur", small_or_large, when("motion_blur", motion, 0)),
    )


def _three_points(limit: jax.Array, s: jax.Array) -> jax.Array:
    """The affine map that undoes moving three corners of the middle square by +- limit (share)."""
    third = 2.0 / 3.0
    fixed = jnp.array([[third, third, -third], [third, -third, -third], [1.0, 1.0, 1.0]])
    moved = fixed.at[:2].add(2.0 * limit * s[:6].reshape(2, 3))
    return warp.compose(fixed, warp.inverse(moved))


def _table() -> np.ndarray:
    """POLICIES as numbers [25, 2, 4]: kind, chance, limit, second parameter."""
    rows = np.zeros((len(POLICIES), 2, 4), np.float32)
    for number, policy in enumerate(POLICIES):
        for slot, (name, chance, *parameters) in enumerate(policy):
            numbers = [KINDS.index(name), chance, *parameters]
            rows[number, slot, : len(numbers)] = numbers
    return rows


def _kernels() -> tuple[np.ndarray, np.ndarray]:
    """All blurs [M, KERNEL, KERNEL] (none, box 3, box 5, lines in 3 x 3), and the lines' cumulative
    chances.

    A line connects two different random pixels of the 3 x 3 square.
    """
    kernels = [np.zeros((KERNEL, KERNEL)) for _ in range(3)]
    kernels[0][2, 2] = 1.0
    kernels[1][1:4, 1:4] = 1.0 / 9.0
    kernels[2][:] = 1.0 / 25.0
    chances = []
    for x_start, x_end, y_start, y_end in np.ndindex(3, 3, 3, 3):
        if (x_start, y_start) == (x_end, y_end):
            continue
        # Columns are independent; rows must differ if the columns are equal.
        chances.append(1 / 9 * (1 / 6 if x_start == x_end else 1 / 9))
        length = max(abs(x_end - x_start), abs(y_end - y_start))
        line = np.zeros((KERNEL, KERNEL))
        for step in range(length + 1):
            share = step / length
            row = 1 + np.floor(y_start + share * (y_end - y_start) + 0.5).astype(int)
            column = 1 + np.floor(x_start + share * (x_end - x_start) + 0.5).astype(int)
            line[row, column] = 1.0
        kernels.append(line / line.sum())
    return np.stack(kernels).astype(np.float32), np.cumsum(chances)[:-1].astype(np.float32)


_TABLE = _table()
KERNELS, _MOTION_CUMULATIVE = _kernels()
