"""Brightness, contrast, noise: what augmentation does to pixel values.

All functions take a whole batch images[N, H, W, K] in [0, 1] and per-image numbers, and return
values in [0, 1].
"""

import dm_pix
import jax
import jax.numpy as jnp

# fastai clamps pixels before the logit, so that black and white stay finite.
LOGIT_EPSILON = 1e-7


def logit_shift(images: jax.Array, add: jax.Array, multiply: jax.Array) -> jax.Array:
    """fastai's lighting: sigmoid((logit(x) + add) * multiply); 0 and 1 leave the image.

    add, multiply: [N] (all channels alike) or [N, K].
    """
    clamped = jnp.clip(images, LOGIT_EPSILON, 1.0 - LOGIT_EPSILON)
    logits = jnp.log(clamped) - jnp.log1p(-clamped)
    return jax.nn.sigmoid((logits + _spread(add)) * _spread(multiply))


def linear_shift(images: jax.Array, brightness: jax.Array, contrast: jax.Array) -> jax.Array:
    """contrast * (x - mean) + mean + brightness, clipped; the mean is each picture's and channel's.

    brightness, contrast: [N] (all channels alike) or [N, K].
    """
    images = dm_pix.adjust_contrast(images, _spread(contrast))
    return jnp.clip(dm_pix.adjust_brightness(images, _spread(brightness)), 0.0, 1.0)


def gain(images: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * x, clipped: a stronger or weaker stain.  factor: [N] or [N, K]."""
    return jnp.clip(_spread(factor) * images, 0.0, 1.0)


def noise(images: jax.Array, keys: jax.Array, deviation: float) -> jax.Array:
    """Adds normal noise of a standard deviation; one key an image."""
    drawn = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    return jnp.clip(images + deviation * drawn, 0.0, 1.0)


def cutout(images: jax.Array, row: jax.Array, column: jax.Array, side: float) -> jax.Array:
    """Blackens a square of `side` (share of the image) centred at row, column [N] (shares)."""
    height, width = images.shape[1:3]
    rows = (jnp.arange(height) + 0.5) / height
    columns = (jnp.arange(width) + 0.5) / width
    hit_rows = jnp.abs(rows[None] - row[:, None]) < side / 2
    hit_columns = jnp.abs(columns[None] - column[:, None]) < side / 2
    hole = hit_rows[:, :, None, None] & hit_columns[:, None, :, None]
    return jnp.where(hole, 0.0, images)


def _spread(values: jax.Array) -> jax.Array:
    """[N] or [N, K] -> broadcastable over [N, H, W, K]."""
    return values[:, None, None, None] if values.ndim == 1 else values[:, None, None, :]
