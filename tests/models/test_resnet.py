"""ResNets: sizes of maps, channels, gradients in both types, recomputation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.models import create
from tests.models import pinned

SMALL = dict(num_classes=5, width=0.25, depth=(1, 1, 1, 1))


def shape_of_map(name, size, channels=4, **options):
    def run():
        model = create(name, in_channels=channels, rngs=nnx.Rngs(0), **{**SMALL, **options})
        return model.features(jnp.zeros((2, *size, channels)))

    return jax.eval_shape(run).shape


def halved(side, ceil_pool):
    """Sides after torch's stem and stages: 7x7/2 (or 3x3/2), pool 3/2, three strides of 2."""
    side = (side - 1) // 2 + 1
    side = -(-(side - 3) // 2) + 1 if ceil_pool else (side - 1) // 2 + 1
    for _ in range(3):
        side = (side - 1) // 2 + 1
    return side


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "se_resnet50", "senet154"])
@pytest.mark.parametrize("size", [(75, 75), (97, 128), (224, 224)])
def test_maps_are_as_large_as_the_originals(name, size):
    ceil_pool = name.startswith("se")  # Cadene's pool has no padding: 97 pixels end in 3, not 4
    assert shape_of_map(name, size)[1:3] == tuple(halved(side, ceil_pool) for side in size)


def test_large_stem_halves_once_more_and_any_channel_number_enters():
    assert shape_of_map("resnet18", (256, 256), large_stem=True)[1:3] == (4, 4)
    for channels in (1, 2, 3, 5):
        assert shape_of_map("se_resnext50", (64, 64), channels)[0] == 2
    model = create("resnet18", in_channels=3, rngs=nnx.Rngs(0), **SMALL)
    with pytest.raises(InputError, match=r"\[N, H, W, 3\]"):
        model(jnp.zeros((1, 64, 64, 4)))


def loss_and_gradient(model, images, remat_free=True):
    def loss(model):
        return (model(images) ** 2).sum()

    return nnx.jit(nnx.value_and_grad(loss))(model)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_is_finite_and_reaches_every_parameter(dtype):
    images = jax.random.normal(jax.random.key(0), (4, 64, 64, 4))
    model = create("se_resnext50", dtype=dtype, dropout=0.0, rngs=nnx.Rngs(0), **SMALL)
    value, gradient = loss_and_gradient(model, images)
    logits = nnx.eval_shape(lambda model: model(images), model)
    assert logits.dtype == jnp.float32 and jnp.isfinite(value)
    for path, leaf in nnx.to_flat_state(gradient):
        assert leaf.dtype == jnp.float32
        values = np.asarray(leaf[...])
        assert np.isfinite(values).all() and np.abs(values).max() > 0, path


def test_recomputation_changes_neither_loss_nor_gradient_nor_statistics():
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 4))
    results = []
    for remat in ("none", "blocks"):
        model = create("se_resnext_tiny", num_classes=3, dropout=0.0, remat=remat, rngs=nnx.Rngs(0))
        value, gradient = loss_and_gradient(model, images)
        results.append([value, *jax.tree.leaves((gradient, nnx.state(model, nnx.BatchStat)))])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


def test_evaluation_leaves_the_statistics_and_repeats():
    model = create("se_resnext_tiny", num_classes=3, rngs=nnx.Rngs(0))
    model.eval()
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 4))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.BatchStat))
    logits, embedding = pinned.embedding(model, images)
    np.testing.assert_array_equal(logits, pinned.logits(model, images))
    assert embedding.shape == (2, 2 * model.out_features)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.BatchStat))
