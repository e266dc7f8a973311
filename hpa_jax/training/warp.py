"""Geometry of augmentation: maps composed first, pixels read once.

Every operation here moves *coordinates*: an output pixel asks where in the input it comes from.
Maps are composed (flips, rotation, zoom, perspective, displacement) and `sample` then reads the
picture once, so that a chain of operations blurs no more than one.

Coordinates are (x, y), normalised: -1 and 1 are the centres of the first and last pixel
(`align_corners`, as fastai 1.0.22 and old torch) or the outer edges of the picture (as cv2.resize).
Grids are [h, w, 2]; matrices are [3, 3] and act on (x, y, 1).  All functions take one picture and
are meant for `jax.vmap`.

dm_pix.affine_transform gives the same values for affine maps (tests/training/test_warp.py); reading
all channels of a tap at once makes `sample` several times faster on CPU (`scripts/bench augment`),
and it takes any map and four kinds of padding.
"""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.errors import InputError, near

# Of the picture, (x, y), in the order in which fastai names them.
CORNERS = np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], np.float32)
PADDINGS = ("zeros", "reflect", "edge", "wrap")


def grid(height: int, width: int, align_corners: bool = True) -> jax.Array:
    """The identity map: normalised (x, y) of every output pixel, [height, width, 2]."""

    def axis(size: int) -> jax.Array:
        if align_corners:
            return jnp.linspace(-1.0, 1.0, size) if size > 1 else jnp.zeros(1)
        return (2.0 * jnp.arange(size) + 1.0) / size - 1.0

    x, y = jnp.meshgrid(axis(width), axis(height))
    return jnp.stack([x, y], axis=-1)


def sample(
    image: jax.Array, where: jax.Array, padding: str = "zeros", align_corners: bool = True
) -> jax.Array:
    """Bilinear reading of image[H, W, K] at where[h, w, 2] -> [h, w, K].

    Outside the picture: "zeros" (each of the four taps on its own, as torch's grid_sample),
    "reflect" (mirror about the centre of the edge pixel, cv2's BORDER_REFLECT_101), "edge", "wrap".

    Raises:
        InputError: unknown padding.
    """
    if padding not in PADDINGS:
        raise InputError(f"padding {padding!r} is unknown{near(padding, PADDINGS)}")
    height, width, channels = image.shape
    x = _to_pixels(where[..., 0], width, align_corners)
    y = _to_pixels(where[..., 1], height, align_corners)
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)
    pixels = image.reshape(height * width, channels)
    total = jnp.zeros((*where.shape[:-1], channels), image.dtype)
    for down in (0, 1):
        for along in (0, 1):
            weight = (bottom_share if down else 1.0 - bottom_share) * (
                right_share if along else 1.0 - right_share
            )
            row, row_in = _fold(top + down, height, padding)
            column, column_in = _fold(left + along, width, padding)
            weight = jnp.where(row_in & column_in, weight, 0.0).astype(image.dtype)
            taps = pixels.at[row * width + column].get(mode="promise_in_bounds")
            total += weight[..., None] * taps
    return total


def _to_pixels(position: jax.Array, size: int, align_corners: bool) -> jax.Array:
    pixel = (position + 1.0) * ((size - 1) / 2.0 if align_corners else size / 2.0)
    pixel = pixel if align_corners else pixel - 0.5
    # A perspective map can send a far pixel to infinity; far outside is far enough.
    return jnp.clip(jnp.nan_to_num(pixel, nan=-4.0 * size), -4.0 * size, 4.0 * size)


def _fold(index: jax.Array, size: int, padding: str) -> tuple[jax.Array, jax.Array | bool]:
    """An index inside 0..size-1, and whether the tap counts."""
    if padding == "zeros":
        return jnp.clip(index, 0, size - 1), (index >= 0) & (index < size)
    if padding == "reflect" and size > 1:
        index = jnp.abs(index) % (2 * size - 2)
        return jnp.where(index < size, index, 2 * size - 2 - index), True
    if padding == "wrap":
        return index % size, True
    return jnp.clip(index, 0, size - 1), True


# Matrices: where an output pixel comes from.  A product A @ B reads "B first, then A".


def rotation(degrees: jax.Array) -> jax.Array:
    """Rotation about the centre; [3, 3]."""
    angle = jnp.deg2rad(degrees)
    return _matrix(jnp.cos(angle), -jnp.sin(angle), 0.0, jnp.sin(angle), jnp.cos(angle), 0.0)


def zoom(scale: jax.Array, row: jax.Array = 0.5, column: jax.Array = 0.5) -> jax.Array:
    """Enlarges by `scale` about a focus given as shares of the picture (0.5, 0.5 = centre)."""
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
    """Enlarges the width alone by `ratio`."""
    return _matrix(1.0 / ratio, 0.0, 0.0, 0.0, 1.0, 0.0)


def shear(along_x: jax.Array, along_y: jax.Array) -> jax.Array:
    """Shear by tangents."""
    return _matrix(1.0, along_x, 0.0, along_y, 1.0, 0.0)


def shift(x: jax.Array, y: jax.Array) -> jax.Array:
    """Moves the view by (x, y) in normalised units (2 = one whole side)."""
    return _matrix(1.0, 0.0, x, 0.0, 1.0, y)


def dihedral(k: jax.Array) -> jax.Array:
    """Element k = 0..7 of D4: bit 0 left-right, bit 1 up-down, bit 2 transpose (square only)."""
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
    """[3, 3] of the six numbers of an affine map."""
    six = jnp.stack([jnp.asarray(value, jnp.float32) for value in rows]).reshape(2, 3)
    return jnp.concatenate([six, jnp.array([[0.0, 0.0, 1.0]])])


def affine(where: jax.Array, matrix: jax.Array) -> jax.Array:
    """Sends each (x, y) of where[h, w, 2] through an affine matrix[3, 3]."""
    x, y = where[..., 0], where[..., 1]
    return jnp.stack(
        [
            matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2],
            matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2],
        ],
        axis=-1,
    )


def projective(where: jax.Array, matrix: jax.Array) -> jax.Array:
    """Like `affine` for a full homography: divides by the third row."""
    x, y = where[..., 0], where[..., 1]
    depth = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2]
    return affine(where, matrix) / depth[..., None]


def homography(corners: jax.Array) -> jax.Array:
    """The projective matrix[3, 3] that sends corners[4, 2] to (-1,-1), (-1,1), (1,-1), (1,1).

    Closed form of the usual 8 x 8 system: the square -> corners map is written down and inverted.
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
    return to_normalised @ _adjugate(forward)


def inverse(matrix: jax.Array) -> jax.Array:
    """The inverse of an affine matrix[3, 3]."""
    adjugate = _adjugate(matrix)
    return adjugate / (matrix[0] @ adjugate[:, 0])


def _adjugate(m: jax.Array) -> jax.Array:
    """The inverse of m[3, 3] up to a factor, which a projective map does not feel."""
    a, b, c = m
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)


def symmetric_warp_corners(m: jax.Array) -> jax.Array:
    """Corners of fastai's symmetric_warp for magnitudes m[4] (spec one_more_layer 4.6); [4, 2]."""
    return jnp.stack(
        [
            jnp.stack([-1.0 - m[3], -1.0 - m[1]]),
            jnp.stack([-1.0 - m[2], 1.0 + m[1]]),
            jnp.stack([1.0 + m[3], -1.0 - m[0]]),
            jnp.stack([1.0 + m[2], 1.0 + m[0]]),
        ]
    )


def d4(images: jax.Array, k: jax.Array) -> jax.Array:
    """Exact flips and transpose of images[N, H, W, K] by k[N] in 0..7: `dihedral` without reading.

    Three selects, not eight branches.  H must equal W.

    Raises:
        InputError: pictures that are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise InputError(f"D4 needs square pictures, not {images.shape[1]} x {images.shape[2]}")

    def bit(position: int) -> jax.Array:
        return (((k >> position) & 1) == 1)[:, None, None, None]

    images = jnp.where(bit(0), dm_pix.flip_left_right(images), images)
    images = jnp.where(bit(1), dm_pix.flip_up_down(images), images)
    return jnp.where(bit(2), jnp.swapaxes(images, 1, 2), images)


def resized(images: jax.Array, size: int) -> jax.Array:
    """[N, H, W, K] with sides of `size` pixels (0: as they are), smoothed where they shrink."""
    if not size or images.shape[1:3] == (size, size):
        return images
    shape = (images.shape[0], size, size, images.shape[3])
    return jax.image.resize(images, shape, "linear", antialias=True)
