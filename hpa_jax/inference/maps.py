"""Class activation maps: the image regions behind a network's prediction of a class.

In: a network, images and class numbers.  Out: one map [h, w] in [0, 1] each, at the resolution of
the last feature map A [h, w, F].

- CAM (Zhou et al. 2016, 1512.04150) for a linear head on the global average: the sum over F of A
  times the class' weights.
- Grad-CAM (Selvaraju et al. 2017, 1610.02391) for every other head: the weights are the spatial
  mean of the gradient of the class' logit.  Equals CAM for a linear head on the average.
- Class attention for pudae's head: the contribution of each place to the logit.
- Transformers whose head reads tokens: the weights of a head that pools tokens (SubCell), else
  attention rollout to the class token (Abnar & Zuidema 2020, 2005.00928).  Both are one map for
  all classes.

All keep positive evidence only (ReLU) and divide by the map's maximum.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.models.heads import Attention, GlobalAverage
from hpa_jax.models.normalization import normalizer


def method(model: nnx.Module) -> str:
    """Return the name of the method for a network's head."""
    if getattr(model.head, "reads_tokens", False):
        pooled = hasattr(_reader(model.head), "weights")
        return "attention of the head" if pooled else "attention rollout"
    if isinstance(model.head, GlobalAverage):
        return "CAM"
    return "class attention" if isinstance(model.head, Attention) else "Grad-CAM"


def compiled(
    model: nnx.Module, model_config: Any
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function from images and class numbers to maps, compiled on first use.

    It takes images uint8[B, H, W, K] and outputs int[B, L] (class numbers of the network) and
    returns float32[B, L, h, w] in [0, 1]; all zeros: no positive evidence.

    Args:
      model: a network of models/registry.py.
      model_config: its ConfigDict (`channels`, `normalize`).
    """
    normalise = normalizer(model_config.normalize, tuple(model_config.channels))
    graph, state = nnx.split(model)

    @jax.jit
    def of_batch(state: Any, images: jax.Array, outputs: jax.Array) -> jax.Array:
        network = nnx.merge(graph, state)
        network.eval()
        read = normalise(images.astype(jnp.float32) / 255.0)
        if getattr(network.head, "reads_tokens", False):
            raw = jnp.repeat(_of_tokens(network, read)[:, None], outputs.shape[1], axis=1)
            return raw / jnp.maximum(raw.max((2, 3), keepdims=True), 1e-12)
        features = network.features(read).astype(jnp.float32)
        if isinstance(network.head, Attention):
            places = nnx.softmax(network.head.attention(features), axis=(1, 2))
            raw = _select(places * network.head.logits(features), outputs)
        else:
            raw = _grad_cam(network.head, features, outputs)
        raw = jnp.maximum(raw, 0.0)
        return raw / jnp.maximum(raw.max((2, 3), keepdims=True), 1e-12)

    def maps(images: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return np.asarray(of_batch(state, images, outputs))

    return maps


def _of_tokens(network: Any, images: jax.Array) -> jax.Array:
    """[B, h, w]: attention to each patch of a transformer, the same for all classes."""
    rows, columns = (side // network.patch for side in images.shape[1:3])
    first = 1 + network.registers
    if hasattr(reader := _reader(network.head), "weights"):
        tokens = network.tokens(images).astype(jnp.float32)
        patches = reader.weights(tokens).mean(-1)[:, first:]
    else:
        weights = network.attention(images, tuple(range(len(network.blocks))))
        count = weights[0].shape[-1]
        flow = jnp.eye(count)[None]
        for layer in range(len(network.blocks)):
            flow = (0.5 * weights[layer].mean(1) + 0.5 * jnp.eye(count)) @ flow
        patches = flow[:, 0, first:]
    return patches.reshape(len(images), rows, columns)


def _reader(head: nnx.Module) -> nnx.Module:
    """The head that reads the tokens: in a frozen network the one below the trained head."""
    return getattr(head, "of", head)


def _grad_cam(head: nnx.Module, features: jax.Array, outputs: jax.Array) -> jax.Array:
    """[B, L, h, w]: one backward pass through the head for each of the L classes."""
    logits, pull = jax.vjp(lambda x: head(x).astype(jnp.float32), features)

    def of_slot(numbers: jax.Array) -> jax.Array:
        (gradient,) = pull(jax.nn.one_hot(numbers, logits.shape[1]))
        weights = gradient.mean((1, 2), keepdims=True)
        return (weights * features).sum(-1)

    return jnp.moveaxis(jax.lax.map(of_slot, outputs.T), 0, 1)


def _select(planes: jax.Array, outputs: jax.Array) -> jax.Array:
    """Planes [B, h, w, C] -> [B, L, h, w] of the classes int[B, L]."""
    return jnp.take_along_axis(jnp.moveaxis(planes, 3, 1), outputs[:, :, None, None], axis=1)
