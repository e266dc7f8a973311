"""Xception against Cadene's numbers (golden file), and One More Layer's variant of it."""

import numpy as np
import pytest
from flax import nnx

from tests.models import pinned


def test_logits_equal_cadenes(tmp_path):
    model = pinned.loaded("xception", tmp_path)
    ours = pinned.logits(model, pinned.pictures("xception"))
    pinned.assert_close(ours, pinned.golden("xception")["logits"])


def test_as_run_ends_at_the_last_convolution(tmp_path):
    model = pinned.loaded("xception", tmp_path)
    images = pinned.pictures("xception")[:1]
    maps = []
    for as_run in (False, True):
        model.as_run = as_run
        maps.append(np.asarray(nnx.jit(lambda model, x: model.features(x))(model, images)))
    assert maps[0].shape == maps[1].shape
    assert maps[0].min() >= 0 > maps[1].min()


@pytest.mark.parametrize(("height", "width", "channels"), [(75, 75, 1), (101, 86, 5)])
def test_any_size_and_number_of_channels(height, width, channels):
    model = pinned.small("xception", in_channels=channels, depth=(1,))
    shape = pinned.feature_shape(model, height, width, channels)
    assert shape == (1, 3, 3, 128)  # 101 -> 50 -> 48 -> 24 -> 12 -> 6 -> 3, as the original's


def test_one_more_layers_twenty_five_groups():
    model = pinned.small("xception")
    groups = model.depth_groups(cuts=25)
    assert len(groups) == 25
    assert groups[2] == []  # the stem's ReLU, which fastai counted
    assert groups[5] == ["block1"]
    pinned.assert_groups_cover(model, groups)
    pinned.assert_groups_cover(model, model.depth_groups())
