"""Augmentation of pixel values: brightness, contrast, noise, cutout, mixtures of images.

All functions take a batch images[N, H, W, K] in [0, 1] and return values in [0, 1]: first those on
single images, with per-image parameters, then those that mix images or change the labels [N, C].
"""

import dm_pix
import jax
import jax.numpy as jnp

# fastai clamps pixels before the logit, so that black and white give finite values.
LOGIT_EPSILON = 1e-7


def logit_shift(images: jax.Array, add: jax.Array, multiply: jax.Array) -> jax.Array:
    """fastai's lighting: sigmoid((logit(x) + add) * multiply); 0 and 1 are the identity.

    add, multiply: [N] (all channels alike) or [N, K].
    """
    clamped = jnp.clip(images, LOGIT_EPSILON, 1.0 - LOGIT_EPSILON)
    logits = jnp.log(clamped) - jnp.log1p(-clamped)
    return jax.nn.sigmoid((logits + _spread(add)) * _spread(multiply))


def linear_shift(images: jax.Array, brightness: jax.Array, contrast: jax.Array) -> jax.Array:
    """contrast * (x - mean) + mean + brightness, clipped; with the mean of each image and channel.

    brightness, contrast: [N] (all channels alike) or [N, K].
    """
    images = dm_pix.adjust_contrast(images, _spread(contrast))
    return jnp.clip(dm_pix.adjust_brightness(images, _spread(brightness)), 0.0, 1.0)


def gain(images: jax.Array, factor: jax.Array) -> jax.Array:
    """factor * x, clipped: a stronger or weaker stain.  factor: [N] or [N, K]."""
    return jnp.clip(_spread(factor) * images, 0.0, 1.0)


def noise(images: jax.Array, keys: jax.Array, deviation: float) -> jax.Array:
    """Add normal noise of a standard deviation, with one key per image."""
    draws = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    return jnp.clip(images + deviation * draws, 0.0, 1.0)


def cutout(images: jax.Array, row: jax.Array, column: jax.Array, side: float) -> jax.Array:
    """Blank a square of `side` (share of the image) centred at row, column [N] (shares)."""
    height, width = images.shape[1:3]
    rows = (jnp.arange(height) + 0.5) / height
    columns = (jnp.arange(width) + 0.5) / width
    hit_rows = jnp.abs(rows[None] - row[:, None]) < side / 2
    hit_columns = jnp.abs(columns[None] - column[:, None]) < side / 2
    hole = hit_rows[:, :, None, None] & hit_columns[:, None, :, None]
    return jnp.where(hole, 0.0, images)


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """mixup (Zhang et al. 2018): each image and its labels blended with another of the batch.

    images: [N, H, W, K]; labels: [N, C] float; the share is Beta(alpha, alpha), one per image.
    """
    order_key, share_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))
    share = jax.random.beta(share_key, alpha, alpha, (len(images),)).astype(images.dtype)
    # The image itself gets the larger share: the same distribution, without duplicate mixtures.
    share = jnp.maximum(share, 1.0 - share)
    mixed = _blend(images, images[order], share[:, None, None, None])
    return mixed, _blend(labels, labels[order], share[:, None])


def sample_pairing(
    key: jax.Array, images: jax.Array, labels: jax.Array, p: float
) -> tuple[jax.Array, jax.Array]:
    """Sample pairing (Inoue 2018): with chance p an image is averaged with another of the batch.

    The labels stay those of the first.
    """
    order_key, choice_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))
    share = jnp.where(jax.random.bernoulli(choice_key, p, (len(images),)), 0.5, 1.0)
    return _blend(images, images[order], share[:, None, None, None].astype(images.dtype)), labels


def blank_protein(
    key: jax.Array, images: jax.Array, labels: jax.Array, p: float, channel: int
) -> tuple[jax.Array, jax.Array]:
    """One More Layer's "Mortidomentation": no protein, no label.

    With chance p per batch, the protein channel and the labels of its first image become 0
    (spec one_more_layer 4.6).
    """
    hit = jax.random.bernoulli(key, p)
    first = images[0].at[..., channel].set(0.0)
    images = images.at[0].set(jnp.where(hit, first, images[0]))
    return images, labels.at[0].set(jnp.where(hit, 0.0, labels[0]))


def _spread(values: jax.Array) -> jax.Array:
    """[N] or [N, K] -> broadcastable over [N, H, W, K]."""
    return values[:, None, None, None] if values.ndim == 1 else values[:, None, None, :]


def _blend(first: jax.Array, second: jax.Array, share: jax.Array) -> jax.Array:
    return share * first + (1.0 - share) * second
