"""Inception-v3, -v4 and BN-Inception against torchvision's and Cadene's numbers (golden files)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.core.errors import InputError
from tests.models import pinned
from tests.models.parity import seeded

NAMES = ("inception_v3", "inception_v4", "bn_inception")


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_the_originals(name, tmp_path):
    model = pinned.loaded(name, tmp_path)
    ours = pinned.logits(model, pinned.pictures(name))
    pinned.assert_close(ours, pinned.golden(name)["logits"])


def test_auxiliary_logits_equal_torchvisions(tmp_path):
    model = pinned.loaded("inception_v3", tmp_path)
    maps = jnp.asarray(seeded.images(1, 17, 768 // 16, seed=1))
    ours = nnx.jit(lambda head, maps: head(maps))(model.AuxLogits, maps)
    pinned.assert_close(np.asarray(ours), pinned.golden("inception_v3")["aux"])


def test_only_v3_has_an_auxiliary_head_and_it_takes_small_images():
    model = pinned.small("inception_v3", in_channels=4)
    for size in (75, 128, 299):
        images = jax.ShapeDtypeStruct((2, size, size, 4), np.float32)
        logits, aux = nnx.eval_shape(lambda m, x: m.logits_and_aux(x), model, images)
        assert logits.shape == aux.shape == (2, 5)
        assert logits.dtype == aux.dtype == jnp.float32
    assert not hasattr(pinned.small("inception_v4"), "logits_and_aux")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width", "channels"), [(75, 75, 1), (101, 86, 5)])
def test_any_size_and_number_of_channels(name, height, width, channels):
    model = pinned.small(name, in_channels=channels, depth=0.1)
    shape = pinned.feature_shape(model, height, width, channels)
    assert shape[3] == model.out_features
    assert min(shape[1:3]) >= 1


def test_v4_has_one_more_layers_six_groups():
    model = pinned.small("inception_v4")
    groups = model.depth_groups(cuts=6)
    sizes = [len(group) for group in groups]
    assert sizes[:5] == [3, 2, 6, 7, 4]
    pinned.assert_groups_cover(model, groups)


def test_bn_inception_has_one_more_layers_seven_groups():
    model = pinned.small("bn_inception")
    groups = model.depth_groups(cuts=7)
    assert groups[0] == ["conv1_7x7_s2"]
    assert groups[2] == ["inception_3a", "inception_3b", "inception_3c"]
    assert groups[5] == ["inception_5b.unit_pool_proj"]
    pinned.assert_groups_cover(model, groups)


def test_v3s_groups_hold_the_auxiliary_head_with_the_head():
    model = pinned.small("inception_v3")
    groups = model.depth_groups()
    assert "AuxLogits" in groups[-1]
    pinned.assert_groups_cover(model, groups)


def test_a_large_stem_is_refused():
    with pytest.raises(InputError, match="large_stem"):
        pinned.small("inception_v4", large_stem=True)
