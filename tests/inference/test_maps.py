"""Class activation maps: against the definitions, written out with numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.config import defaults
from hpa_jax.inference import maps
from hpa_jax.models.normalization import normalizer
from hpa_jax.training import network

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 4), np.uint8)
OUTPUTS = np.array([[0, 3], [2, 2]])


def made(head):
    config = defaults.model(backbone="resnet18", head=head, width=0.25, image_size=64)
    model = network.from_config(config, 5, seed=1)
    model.eval()
    normalise = normalizer(config.normalize, tuple(config.channels))
    features = model.features(normalise(jnp.asarray(IMAGES, jnp.float32) / 255))
    return model, config, np.asarray(features, np.float64)


def scaled(raw):
    raw = np.maximum(raw, 0)
    return raw / np.maximum(raw.max((2, 3), keepdims=True), 1e-12)


def test_a_linear_head_gives_cam():
    model, config, features = made("gap")
    kernel = np.asarray(model.head.fc.kernel[...])  # [F, C]
    raw = np.einsum("bhwf,blf->blhw", features, kernel.T[OUTPUTS])
    assert maps.method(model) == "CAM"
    found = maps.compiled(model, config)(IMAGES, OUTPUTS)
    assert found.shape == (2, 2, *features.shape[1:3]) and found.max() == 1
    np.testing.assert_allclose(found, scaled(raw), atol=1e-4)


def test_other_heads_give_grad_cam():
    model, config, features = made("adaptive_concat")
    raw = np.zeros((2, 2, *features.shape[1:3]))
    graph, state = nnx.split(model.head)
    for row in range(2):
        for slot in range(2):

            def logit(x, row=row, slot=slot):
                return nnx.merge(graph, state)(x[None])[0, OUTPUTS[row, slot]]

            gradient = np.asarray(jax.grad(logit)(jnp.asarray(features[row], jnp.float32)))
            raw[row, slot] = features[row] @ gradient.mean((0, 1))
    assert maps.method(model) == "Grad-CAM"
    found = maps.compiled(model, config)(IMAGES, OUTPUTS)
    np.testing.assert_allclose(found, scaled(raw), atol=1e-4)


def test_attention_shows_what_each_place_adds_to_the_logit():
    model, config, features = made("attention")
    scores = np.asarray(model.head.logits(jnp.asarray(features, jnp.float32)))
    attention = np.asarray(model.head.attention(jnp.asarray(features, jnp.float32)))
    weights = np.exp(attention - attention.max((1, 2), keepdims=True))
    weights /= weights.sum((1, 2), keepdims=True)
    added = weights * scores
    np.testing.assert_allclose(added.sum((1, 2)), model.head(features), rtol=1e-4)
    raw = np.stack([[added[b, :, :, c] for c in row] for b, row in enumerate(OUTPUTS)])
    assert maps.method(model) == "class attention"
    np.testing.assert_allclose(
        maps.compiled(model, config)(IMAGES, OUTPUTS), scaled(raw), atol=1e-4
    )


def vit(head):
    from hpa_jax.models.heads import create_head
    from hpa_jax.models.vit import ViT

    model = ViT(64, 2, 16, 4, in_channels=4, registers=1, rngs=nnx.Rngs(0))
    model.head = create_head(head, 64, 3, dropout=0.0, rngs=nnx.Rngs(1))
    model.eval()
    return model, defaults.model(normalize="half_range")


def test_a_class_token_gives_attention_rollout():
    model, config = vit("token")
    images = normalizer(config.normalize, tuple(config.channels))(jnp.asarray(IMAGES) / 255.0)
    weights = {k: np.asarray(v).mean(1) for k, v in model.attention(images, (0, 1)).items()}
    one = np.eye(weights[0].shape[-1])
    flow = (weights[1] + one) / 2 @ ((weights[0] + one) / 2)
    raw = flow[:, 0, 2:].reshape(2, 1, 4, 4)
    assert maps.method(model) == "attention rollout"
    found = maps.compiled(model, config)(IMAGES, OUTPUTS)
    np.testing.assert_allclose(found, np.repeat(scaled(raw), 2, axis=1), atol=1e-4)


def test_a_head_that_pools_tokens_gives_its_weights():
    model, config = vit("subcell")
    images = normalizer(config.normalize, tuple(config.channels))(jnp.asarray(IMAGES) / 255.0)
    tokens = model.tokens(images)
    raw = np.asarray(model.head.weights(tokens)).mean(-1)[:, 2:].reshape(2, 1, 4, 4)
    assert maps.method(model) == "attention of the head"
    found = maps.compiled(model, config)(IMAGES, OUTPUTS)
    np.testing.assert_allclose(found, np.repeat(scaled(raw), 2, axis=1), atol=1e-4)


@pytest.mark.parametrize("head", ["gap", "bestfitting"])
def test_a_bright_spot_is_where_the_map_is(head):
    """A network whose features are the image itself: the map is highest on the spot."""

    class Plain(nnx.Module):
        def __init__(self):
            from hpa_jax.models.heads import create_head

            self.head = create_head(head, 4, 2, dropout=0.0, rngs=nnx.Rngs(0))

        def features(self, images):
            return images

    model = Plain()
    model.head.fc.kernel[...] = jnp.abs(model.head.fc.kernel[...])
    if head == "bestfitting":
        model.head.fc1.kernel[...] = jnp.abs(model.head.fc1.kernel[...])
    images = np.zeros((1, 8, 8, 4), np.uint8)
    images[0, 2, 5] = 255
    config = defaults.model(normalize="half_range")
    found = maps.compiled(model, config)(images, np.array([[0]]))[0, 0]
    assert np.unravel_index(found.argmax(), found.shape) == (2, 5)
