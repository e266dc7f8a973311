"""Augmentations that use several images of a batch, or change labels."""

import jax
import jax.numpy as jnp


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """mixup (Zhang et al. 2018): each image and its labels blended with another of the batch.

    images: [N, H, W, K]; labels: [N, C] float; the share is Beta(alpha, alpha), one an image.
    """
    order_key, share_key = jax.random.split(key)
    order = jax.random.permutation(order_key, len(images))
    share = jax.random.beta(share_key, alpha, alpha, (len(images),)).astype(images.dtype)
    # The larger share stays with the image itself: the same mixtures, none doubled.
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

    With chance p a batch, the protein channel of its first image goes black and its labels to 0
    (spec one_more_layer 4.6).
    """
    hit = jax.random.bernoulli(key, p)
    first = images[0].at[..., channel].set(0.0)
    images = images.at[0].set(jnp.where(hit, first, images[0]))
    return images, labels.at[0].set(jnp.where(hit, 0.0, labels[0]))


def _blend(one: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    return share * one + (1.0 - share) * other
