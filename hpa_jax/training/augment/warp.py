"""Geometric augmentation: maps are composed, then pixels are sampled once.

All operations map *coordinates* of output pixels to their source in the input.  Maps are composed
(flips, rotation, zoom, perspective) and `resample` then interpolates once, so that a chain of
operations blurs no more than a single one.

Coordinates are (x, y), normalised: -1 and 1 are the centres of the first and last pixel
(`align_corners`, as fastai 1.0.22 and old torch) or the image's outer edges (as cv2.resize).
Grids are [h, w, 2]; matrices are [3, 3] and act on (x, y, 1), up to a factor.

`resample` has two ways, chosen when the program is lowered:

- gather (CPU, CUDA): bilinear interpolation of the four neighbours.  dm_pix.affine_transform
  gives the same values for affine maps (tests/training/test_warp.py); gathering all channels of a
  tap at once is several times faster on CPU (`scripts/bench augment`).
- products (TPU, square images): two passes of matrix products, along the rows and along the
  columns (Catmull and Smith 1980), with tent weights.  v5e, 32 images of
  512 x 512 x 4, the compiler's estimate: 9 ms and 2 GB; the gathers move 2,235 GB.  Flips and
  quarter turns are exact.  In general the four weights are on a slanted parallelogram instead of a
  square: on real images of 512 px values differ from the gather's by .3 grey levels of 255 in the
  mean at 10 degrees, .6 at 22.5, 1.3 at 45 (largest: 17, 35, 89), and by .02 in a zoom.
"""

import functools
from collections.abc import Callable
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.core.errors import InputError, near

# Of the image, (x, y), in the order in which fastai names them.
CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], np.float32)
PADDINGS = ("zeros", "reflect", "edge", "wrap")


def grid(height: int, width: int, align_corners: bool = True) -> jax.Array:
    """Return the identity map: normalised (x, y) of every output pixel, [height, width, 2]."""

    def axis(size: int) -> jax.Array:
        if align_corners:
            return jnp.linspace(-1.0, 1.0, size) if size > 1 else jnp.zeros(1)
        return (2.0 * jnp.arange(size) + 1.0) / size - 1.0

    x, y = jnp.meshgrid(axis(width), axis(height))
    return jnp.stack([x, y], axis=-1)


def resample(
    images: jax.Array,
    maps: jax.Array,
    size: int = 0,
    padding: str = "zeros",
    align_corners: bool = True,
) -> jax.Array:
    """Resample images [N, H, W, K] by maps[N, 3, 3], output to input -> [N, h, w, K] in [0, 1].

    images: uint8, or float in [0, 1].  size: side of the output; 0: that of the images.
    padding: as in `sample`.

    Raises:
        InputError: unknown padding.
    """
    _check_padding(padding)
    options = dict(size=size, padding=padding, align_corners=align_corners)
    gather = functools.partial(by_gather, **options)
    if images.shape[1] != images.shape[2]:
        return gather(images, maps)
    products = functools.partial(by_products, **options)
    return jax.lax.platform_dependent(images, maps, tpu=products, default=gather)


def by_gather(
    images: jax.Array, maps: jax.Array, *, size: int, padding: str, align_corners: bool
) -> jax.Array:
    """`resample` by gathering the four neighbours."""
    base = grid(*((size, size) if size else images.shape[1:3]), align_corners)

    def read(image: jax.Array, matrix: jax.Array) -> jax.Array:
        return sample(image, projective(base, matrix), padding, align_corners)

    return jax.vmap(read)(unit_range(images), maps)


def by_products(
    images: jax.Array,
    maps: jax.Array,
    *,
    size: int = 0,
    padding: str,
    align_corners: bool,
    dtype: Any = jnp.bfloat16,
) -> jax.Array:
    """`resample` of square images by products with tent weights, rows first, then columns.

    Where the map sends (x, y) to (u, v), the first pass resamples every input row v at u(x, v) for
    the output's x; the second resamples its columns x at v(x, y).  Images rotated by more than 45
    degrees are transposed first, so that v(x, y) can be solved for y.

    Positions are rounded to 1/128 pixel: bfloat16 represents the weights, and 8-bit values,
    exactly. Other values are split into two bfloat16 summands.  Padding other than "zeros" adds a
    margin of half a side; beyond it the margin's last row is repeated.
    """
    side = images.shape[1]
    maps = _in_pixels(maps, side, size or side, align_corners)
    steep = jnp.abs(maps[:, 0, 1]) > jnp.abs(maps[:, 1, 1])
    images = jnp.where(steep[:, None, None, None], jnp.swapaxes(images, 1, 2), images)
    maps = jnp.where(steep[:, None, None], maps[:, jnp.array([1, 0, 2])], maps)
    (a, b, c), (d, e, f), (g, h, i) = jnp.moveaxis(maps[..., None, None], 0, 2)

    margin = 0 if padding == "zeros" else side // 2
    edges = ((0, 0), (margin, margin), (0, 0), (0, 0))
    if margin:
        images = jnp.pad(images, edges, mode=padding)
    rows = images.shape[1]
    x = _centred(size or side)
    v = _centred(rows)[:, None]
    y = (v * (g * x + i) - d * x - f) / (e - h * v)
    across = (a * x + b * y + c) / (g * x + h * y + i) + (side - 1) / 2  # [N, rows, x]
    y, x = x, x[:, None]
    down = (d * x + e * y + f) / (g * x + h * y + i) + (rows - 1) / 2  # [N, x, y]

    whole = images.dtype == jnp.uint8
    values = jnp.moveaxis(images.astype(jnp.float32), -1, 2)  # [N, rows, K, u]
    values = values if whole else _summands(values, dtype)
    weights = _tents(_rounded(across), side, padding).astype(dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    lines = product("nrku,nrux->nrkx", values.astype(dtype), weights)
    lines = lines if whole else _summed(lines)
    weights = _tents(_rounded(down), rows, "edge" if margin else "zeros").astype(dtype)
    out = _summed(product("nrkx,nxry->nxky", _summands(lines, dtype).astype(dtype), weights))
    return jnp.transpose(out, (0, 3, 1, 2)) * (1 / 255.0 if whole else 1.0)


def stretched(
    images: jax.Array, rows: jax.Array, columns: jax.Array, padding: str, dtype: Any = jnp.bfloat16
) -> jax.Array:
    """Resample images [N, H, W, K] at normalised rows[N, h] and columns[N, w] (edges at -1, 1).

    By matrix products; uint8 or float in [0, 1] -> [N, h, w, K] float in [0, 1].
    """
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    values = jnp.moveaxis(unit_range(images), -1, 2)  # [N, H, K, W]
    for axis, places in (("nrku,nux->nrkx", columns), ("nrkx,nry->nykx", rows)):
        size = values.shape[-1] if places is columns else values.shape[1]
        weights = _tents(_rounded(_to_pixels(places, size, False)), size, padding).astype(dtype)
        values = _summed(product(axis, _summands(values, dtype).astype(dtype), weights))
    return jnp.moveaxis(values, 2, -1)


def _in_pixels(maps: jax.Array, side: int, size: int, align_corners: bool) -> jax.Array:
    """Convert normalised maps[N, 3, 3] to pixels relative to the images' centres."""
    less = 1 if align_corners else 0
    inner, outer = max(side - less, 1) / 2, max(size - less, 1) / 2
    # a single factor, rounded once: flips stay exactly 1
    return maps * np.array(
        [[inner / outer] * 2 + [inner], [inner / outer] * 2 + [inner], [1 / outer] * 2 + [1.0]],
        np.float32,
    )


def _centred(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2


def _rounded(position: jax.Array) -> jax.Array:
    return jnp.round(jnp.nan_to_num(position, nan=-1e4, posinf=1e4, neginf=-1e4) * 128) / 128


def _tents(position: jax.Array, size: int, padding: str) -> jax.Array:
    """Weights of the `size` pixels at position[..., x] -> [..., size, x]."""
    position, pixel = position[..., None, :], jnp.arange(size, dtype=jnp.float32)[:, None]
    if padding == "edge":
        position = jnp.clip(position, 0.0, size - 1.0)
    elif padding == "reflect" and size > 1:
        position = jnp.abs(jnp.mod(position - (size - 1), 2 * size - 2) - (size - 1))
    distance = jnp.abs(position - pixel)
    if padding == "wrap":
        distance = jnp.mod(distance, size)
        distance = jnp.minimum(distance, size - distance)
    return jnp.maximum(1.0 - distance, 0.0)


def _summands(values: jax.Array, dtype: Any) -> jax.Array:
    """[.., K, W] float32 -> [.., 2 K, W]: each value as a sum of two of the type."""
    if dtype == jnp.float32:
        return jnp.concatenate([values, jnp.zeros_like(values)], axis=-2)
    # not by casts, which XLA may optimise away
    high = jax.lax.reduce_precision(values, exponent_bits=8, mantissa_bits=7)
    return jnp.concatenate([high, values - high], axis=-2)


def _summed(values: jax.Array) -> jax.Array:
    high, low = jnp.split(values, 2, axis=-2)
    return high + low


def unit_range(images: jax.Array) -> jax.Array:
    """Return uint8 images as float32 in [0, 1]; float images unchanged."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


def sample(
    image: jax.Array, where: jax.Array, padding: str = "zeros", align_corners: bool = True
) -> jax.Array:
    """Interpolate image[H, W, K] bilinearly at where[h, w, 2] -> [h, w, K].

    Outside the image: "zeros" (for each of the four taps, as torch's grid_sample),
    "reflect" (about the centre of the edge pixel, cv2's BORDER_REFLECT_101), "edge", "wrap".

    Raises:
        InputError: unknown padding.
    """
    _check_padding(padding)
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels)

    def read(place: jax.Array) -> jax.Array:
        return pixels.at[place].get(mode="promise_in_bounds")

    return _sampled(read, image, where, padding, align_corners)


def sample_packed(
    image: jax.Array, where: jax.Array, padding: str = "zeros", align_corners: bool = True
) -> jax.Array:
    """`sample` of uint8 image[H, W, K <= 4] -> [h, w, K] float in [0, 1]; one word per tap.

    On TPU a gather moves whole tiles: packing four channels in one word saves 14 times the bytes.
    """
    _check_padding(padding)
    height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (0, 0), (0, 4 - channels))).reshape(height * width, 4)
    words = jax.lax.bitcast_convert_type(padded, jnp.uint32)

    def read(place: jax.Array) -> jax.Array:
        taps = words.at[place].get(mode="promise_in_bounds")
        shifts = 8 * jnp.arange(channels, dtype=jnp.uint32)
        return ((taps[..., None] >> shifts) & 255).astype(jnp.float32)

    return _sampled(read, image.astype(jnp.float32), where, padding, align_corners) / 255.0


def _sampled(
    read: Callable[[jax.Array], jax.Array],
    image: jax.Array,
    where: jax.Array,
    padding: str,
    align_corners: bool,
) -> jax.Array:
    height, width, channels = image.shape
    x = _to_pixels(where[..., 0], width, align_corners)
    y = _to_pixels(where[..., 1], height, align_corners)
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    total = jnp.zeros((*where.shape[:-1], channels), image.dtype)
    for down in (0, 1):
        for along in (0, 1):
            weight = (bottom_share if down else 1.0 - bottom_share) * (
                right_share if along else 1.0 - right_share
            )
            row, row_in = _fold(top + down, height, padding)
            column, column_in = _fold(left + along, width, padding)
            weight = jnp.where(row_in & column_in, weight, 0.0).astype(image.dtype)
            total += weight[..., None] * read(row * width + column)
    return total


def _check_padding(padding: str) -> None:
    if padding not in PADDINGS:
        raise InputError(f"unknown padding {padding!r}{near(padding, PADDINGS)}")


def _to_pixels(position: jax.Array, size: int, align_corners: bool) -> jax.Array:
    pixel = (position + 1.0) * ((size - 1) / 2.0 if align_corners else size / 2.0)
    pixel = pixel if align_corners else pixel - 0.5
    # A perspective map can send a pixel to infinity; clip it far outside.
    return jnp.clip(jnp.nan_to_num(pixel, nan=-4.0 * size), -4.0 * size, 4.0 * size)


def _fold(index: jax.Array, size: int, padding: str) -> tuple[jax.Array, jax.Array | bool]:
    """Return an index inside 0..size-1, and whether the tap counts."""
    if padding == "zeros":
        return jnp.clip(index, 0, size - 1), (index >= 0) & (index < size)
    if padding == "reflect" and size > 1:
        index = jnp.abs(index) % (2 * size - 2)
        return jnp.where(index < size, index, 2 * size - 2 - index), True
    if padding == "wrap":
        return index % size, True
    return jnp.clip(index, 0, size - 1), True


# Matrices map output pixels to their source.


def compose(*maps: jax.Array) -> jax.Array:
    """Compose several maps [3, 3]; the last is applied first.

    At full precision: a TPU's default, bfloat16, would move the pixels of a 512 px image by two.
    """
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), maps)


def rotation(degrees: jax.Array) -> jax.Array:
    """Return the rotation about the centre; [3, 3]."""
    angle = jnp.deg2rad(degrees)
    return _matrix(jnp.cos(angle), -jnp.sin(angle), 0.0, jnp.sin(angle), jnp.cos(angle), 0.0)


def zoom(scale: jax.Array, row: jax.Array = 0.5, column: jax.Array = 0.5) -> jax.Array:
    """Return the zoom by `scale` about a focus given as shares of the image (0.5, 0.5 = centre)."""
    inverse = 1.0 / scale
    return _matrix(
        inverse,
        0.0,
        (1.0 - inverse) * (2.0 * column - 1.0),
        0.0,
        inverse,
        (1.0 - inverse) * (2.0 * row - 1.0),
    )


def squish(ratio: jax.Array) -> jax.Array:
    """Return the zoom of the width by `ratio`."""
    return _matrix(1.0 / ratio, 0.0, 0.0, 0.0, 1.0, 0.0)


def shear(along_x: jax.Array, along_y: jax.Array) -> jax.Array:
    """Return the shear by tangents."""
    return _matrix(1.0, along_x, 0.0, along_y, 1.0, 0.0)


def shift(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the shift of the view by (x, y) in normalised units (2 = one whole side)."""
    return _matrix(1.0, 0.0, x, 0.0, 1.0, y)


def dihedral(k: jax.Array) -> jax.Array:
    """Return element k = 0..7 of D4; bits: left-right, up-down, transpose (square images only)."""
    k = jnp.asarray(k, jnp.int32)
    sign_x, sign_y = 1.0 - 2.0 * (k & 1), 1.0 - 2.0 * ((k >> 1) & 1)
    turned = ((k >> 2) & 1) == 1
    return _matrix(
        jnp.where(turned, 0.0, sign_x),
        jnp.where(turned, sign_x, 0.0),
        0.0,
        jnp.where(turned, sign_y, 0.0),
        jnp.where(turned, 0.0, sign_y),
        0.0,
    )


def _matrix(*rows: jax.Array | float) -> jax.Array:
    """Return the [3, 3] matrix of the six coefficients of an affine map."""
    six = jnp.stack([jnp.asarray(value, jnp.float32) for value in rows]).reshape(2, 3)
    return jnp.concatenate([six, jnp.array([[0.0, 0.0, 1.0]])])


def affine(where: jax.Array, matrix: jax.Array) -> jax.Array:
    """Apply an affine matrix[3, 3] to each (x, y) of where[h, w, 2]."""
    x, y = where[..., 0], where[..., 1]
    return jnp.stack(
        [
            matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
            matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
        ],
        axis=-1,
    )


def projective(where: jax.Array, matrix: jax.Array) -> jax.Array:
    """Apply a homography matrix[3, 3] to each (x, y) of where[h, w, 2]."""
    x, y = where[..., 0], where[..., 1]
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return affine(where, matrix) / depth[..., None]


def homography(corners: jax.Array) -> jax.Array:
    """Return the projective matrix[3, 3] that maps corners[4, 2] to (-1,-1), (-1,1), (1,-1), (1,1).

    Closed form of the usual 8 x 8 system, by inversion of the map from the square to the corners.
    """
    p00, p01, p10, p11 = corners  # at (-1,-1), (-1,1), (1,-1), (1,1)
    # Unit square (0,0), (1,0), (1,1), (0,1) -> quadrilateral (Heckbert 1989, section 2.2.3).
    across, along = p10 - p11, p01 - p11
    total = p00 - p10 + p11 - p01
    determinant = across[0] * along[1] - along[0] * across[1]
    g = (total[0] * along[1] - along[0] * total[1]) / determinant
    h = (across[0] * total[1] - total[0] * across[1]) / determinant
    column_0 = p10 - p00 + g * p10
    column_1 = p01 - p00 + h * p01
    one = jnp.ones(())
    forward = jnp.stack(
        [
            jnp.stack([column_0[0], column_1[0], p00[0]]),
            jnp.stack([column_0[1], column_1[1], p00[1]]),
            jnp.stack([g, h, one]),
        ]
    )
    to_normalised = jnp.array([[2.0, 0.0, -1.0], [0.0, 2.0, -1.0], [0.0, 0.0, 1.0]])
    return compose(to_normalised, _adjugate(forward))


def inverse(matrix: jax.Array) -> jax.Array:
    """Return the inverse of an affine matrix[3, 3]."""
    adjugate = _adjugate(matrix)
    return adjugate / (matrix[0] * adjugate[:, 0]).sum()


def _adjugate(m: jax.Array) -> jax.Array:
    """Return the inverse of m[3, 3] up to a factor, which is irrelevant for projective maps."""
    a, b, c = m
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)


def symmetric_warp_corners(m: jax.Array) -> jax.Array:
    """Return corners [4, 2] of fastai's symmetric_warp by m[4] (spec one_more_layer 4.6)."""
    return jnp.stack(
        [
            jnp.stack([-1.0 - m[3], -1.0 - m[1]]),
            jnp.stack([-1.0 - m[2], 1.0 + m[1]]),
            jnp.stack([1.0 + m[3], -1.0 - m[0]]),
            jnp.stack([1.0 + m[2], 1.0 + m[0]]),
        ]
    )


def d4(images: jax.Array, k: jax.Array) -> jax.Array:
    """Flip and transpose images[N, H, W, K] exactly, by k[N] in 0..7: `dihedral` without sampling.

    Three selects, not eight branches.  H must equal W.

    Raises:
        InputError: images that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise InputError(f"D4 needs square images, not {images.shape[1]} x {images.shape[2]}")

    def bit(position: int) -> jax.Array:
        return (((k >> position) & 1) == 1)[:, None, None, None]

    images = jnp.where(bit(0), dm_pix.flip_left_right(images), images)
    images = jnp.where(bit(1), dm_pix.flip_up_down(images), images)
    return jnp.where(bit(2), jnp.swapaxes(images, 1, 2), images)


def resized(images: jax.Array, size: int) -> jax.Array:
    """Resize images [N, H, W, K] to `size` pixels (0: unchanged), with antialiasing."""
    if not size or images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=True)
