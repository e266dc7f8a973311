"""Extra metafeatures: known images give known numbers; nothing is NaN."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision import features


def test_known_numbers():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 40, (64, 64, 4), dtype=np.uint8)
    picture[:16, :, 2] = 200  # nucleus: a quarter of the image
    picture[..., 3] = picture[..., 0]
    picture[..., 1] = 0
    picture[:32, :, 1] = 128  # green: the upper half, so half of it lies in the nucleus
    found = features.extra_metafeatures(picture)
    assert tuple(found) == features.EXTRA_NAMES
    assert found["blue_foreground"] == pytest.approx(0.25)
    assert found["green_inside_nucleus"] == pytest.approx(0.5)
    assert found["red_corr_with_yellow"] == pytest.approx(1, abs=1e-6)
    expected = np.corrcoef(picture[..., 0].ravel(), picture[..., 2].ravel())[0, 1]
    assert found["red_corr_with_blue"] == pytest.approx(expected, abs=1e-5)
    assert found["green_entropy"] == pytest.approx(1)
    assert found["green_scale_8"] == pytest.approx(1)  # coarse: block means keep all the variance
    noise = features.extra_metafeatures(rng.integers(0, 256, (64, 64, 4), dtype=np.uint8))
    assert noise["green_scale_8"] < 0.2 and noise["green_edges"] > found["green_edges"]


def test_flat_and_odd_images_have_no_nan():
    for shape in ((1, 1, 4), (7, 5, 4), (33, 65, 4)):
        values = features.extra_metafeatures(np.full(shape, 9, np.uint8)).values()
        assert np.isfinite(list(values)).all()
    with pytest.raises(InputError, match="4 channels"):
        features.extra_metafeatures(np.zeros((4, 4, 3), np.uint8))


def test_table_takes_them():
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    table = features.metafeature_table([picture], ["a"], extra=True)
    assert list(table.columns) == ["id", *features.NAMES, *features.EXTRA_NAMES]
    table = features.metafeature_table([picture], ["a"], [512], [12_345], extra=True)
    assert list(table.columns) == ["id", *features.NAMES, *features.EXTRA_NAMES, "file_bytes"]
    assert table["file_bytes"].tolist() == [12_345] and table["size"].tolist() == [512]
    table = features.metafeature_table([picture], ["a"], [512], [12_345])
    assert list(table.columns) == ["id", *features.NAMES]
    with pytest.raises(InputError, match="2 file sizes for 1 ids"):
        features.metafeature_table([picture], ["a"], [512], [1, 2], extra=True)
