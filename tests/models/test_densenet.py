"""DenseNet against torchvision's numbers (golden file), and the promises every backbone makes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from hpa_jax.core.errors import InputError
from hpa_jax.models import create, pretrained, published
from hpa_jax.models.normalization import normalizer
from tests.models import pinned
from tests.models.parity import seeded


def test_logits_equal_torchvisions(tmp_path):
    model = pinned.loaded("densenet121", tmp_path)
    ours = pinned.logits(model, pinned.pictures("densenet121"))
    pinned.assert_close(ours, pinned.golden("densenet121")["logits"])


def test_a_training_step_moves_the_statistics_as_torchs(tmp_path):
    model = pinned.loaded("densenet121", tmp_path)
    model.train()
    expected = pinned.golden("densenet121")
    ours = pinned.logits(model, pinned.pictures("densenet121"))
    # The last maps are 2 x 2 pixels of 2 images, so the batch's variance amplifies rounding.
    pinned.assert_close(ours, expected["training_logits"], 1e-3)
    pinned.assert_close(np.asarray(model.norm0.mean), expected["mean_after"])
    pinned.assert_close(np.asarray(model.norm0.var), expected["var_after"])


@pytest.mark.parametrize("name", ["hpa_densenet121", "hpa_densenet121_512"])
def test_the_winners_published_network_equals_its_definition_in_pytorch(tmp_path, name):
    """Through `normalize`, which is the original's inner normalisation: nothing is done twice."""
    content = pinned.golden(name)
    save_file(pinned.tensors(name), tmp_path / "w.safetensors")
    entry = published.find(name)
    options = dict(entry.network)
    model = pinned.hollow(
        lambda: create(
            options["backbone"], num_classes=len(entry.class_names), head=options["head"],
            large_stem=options["large_stem"], width=float(content["width"]),
            depth=tuple(map(int, content["depth"])), rngs=nnx.Rngs(0), **options["head_options"],
        )
    )  # fmt: skip
    report = pretrained.load(model, tmp_path / "w.safetensors")
    assert not report.missing and not report.unused
    model.eval()
    side, _, channels = map(int, content["size"])
    images = seeded.images(2, side, channels) * 0.2 + 0.4
    images = normalizer(entry.normalize, entry.channels)(images)
    logits, features = pinned.embedding(model, images)
    pinned.assert_close(logits, content["logits"])
    pinned.assert_close(features, content["features"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels_and_odd_sizes(channels):
    model = pinned.small("densenet121", in_channels=channels, depth=(1, 1, 1, 1))
    assert pinned.feature_shape(model, 75, 97, channels) == (1, 2, 3, model.out_features)


def test_published_depths():
    for name, blocks in (("densenet169", (6, 12, 32, 32)), ("densenet201", (6, 12, 48, 32))):
        assert pinned.small(name).layer_counts == blocks


def test_large_stem_halves_the_map():
    plain, large = (
        pinned.small("densenet121", in_channels=4, depth=0.1, large_stem=large)
        for large in (False, True)
    )
    assert pinned.feature_shape(plain, 256, 256, 4)[1:3] == (8, 8)
    assert pinned.feature_shape(large, 256, 256, 4)[1:3] == (4, 4)


def test_groups_cover_every_parameter_once():
    model = pinned.small("densenet121", depth=(1, 2, 1, 1))
    groups = model.depth_groups()
    assert len(groups) == 6
    assert groups[0] == ["conv0", "norm0"]
    pinned.assert_groups_cover(model, groups)


def test_rematerialised_gradients_and_statistics_are_the_same():
    images = jax.random.normal(jax.random.key(1), (2, 75, 75, 2))

    def loss(model):
        return jnp.square(model(images)).sum(), nnx.state(model, nnx.BatchStat)

    results = []
    for remat in ("none", "blocks"):
        model = create("densenet121", num_classes=3, in_channels=2, width=1 / 16, remat=remat,
                       depth=(2, 1, 1, 1), dropout=0.0, rngs=nnx.Rngs(0))  # fmt: skip
        gradient, (_, statistics) = nnx.jit(nnx.value_and_grad(loss, has_aux=True))(model)[::-1]
        results.append(jax.tree.leaves((gradient, statistics)))
    for plain, again in zip(*results, strict=True):
        np.testing.assert_allclose(plain, again, rtol=1e-3, atol=1e-4)


def test_bad_sizes_are_named():
    for options in ({"width": 0.0}, {"depth": (1, 2)}, {"depth": -1.0}):
        with pytest.raises(InputError, match=next(iter(options))):
            pinned.small("densenet121", **options)
    model = pinned.small("densenet121", in_channels=4, depth=(1, 1, 1, 1))
    with pytest.raises(InputError, match="takes"):
        pinned.feature_shape(model, 80, 80, 3)


def test_bfloat16_gradients_are_finite():
    model = create("densenet121", num_classes=3, in_channels=4, width=1 / 16, depth=(1, 1, 1, 1),
                   dtype=jnp.bfloat16, rngs=nnx.Rngs(0))  # fmt: skip
    images = jax.random.normal(jax.random.key(1), (2, 75, 75, 4))
    gradient = nnx.jit(nnx.grad(lambda model: model(images).sum()))(model)
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == jnp.float32
        assert bool(jnp.isfinite(leaf).all())
