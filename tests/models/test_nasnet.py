"""NASNet-A against Cadene's numbers (golden file)."""

import pytest

from tests.models import pinned


def test_logits_equal_cadenes(tmp_path):
    model = pinned.loaded("nasnet_a_large", tmp_path)
    ours = pinned.logits(model, pinned.pictures("nasnet_a_large"))
    pinned.assert_close(ours, pinned.golden("nasnet_a_large")["logits"])


@pytest.mark.parametrize(("height", "width", "channels"), [(75, 75, 1), (100, 117, 5)])
def test_any_size_and_number_of_channels(height, width, channels):
    model = pinned.small("nasnet_a_large", in_channels=channels, depth=(1, 1, 1))
    shape = pinned.feature_shape(model, height, width, channels)
    assert shape == (1, -(-height // 32), -(-width // 32), model.out_features)


def test_groups_cover_every_parameter_once():
    model = pinned.small("nasnet_a_large", depth=(1, 2, 1))
    groups = model.depth_groups()
    assert len(groups) == 5
    assert groups[2] == ["reduction_cell_0", "cell_1", "cell_2"]
    pinned.assert_groups_cover(model, groups)
