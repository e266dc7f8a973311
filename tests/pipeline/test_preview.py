"""The preview grid: layout, colours, file."""

import numpy as np
import pytest
from PIL import Image

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import preview


def test_grid_shows_the_original_first_and_draws_beside(tmp_path):
    images = np.zeros((2, 8, 8, 4), np.uint8)
    images[0, :4, :, 0] = 255  # red above
    images[1, ..., 3] = 255  # yellow
    pixels = preview.grid(images, "d4", draws=3, gap=2)
    assert pixels.shape == (18, 38, 3) and pixels.dtype == np.uint8
    assert tuple(pixels[0, 0]) == (255, 0, 0) and tuple(pixels[7, 0]) == (0, 0, 0)
    assert pixels[10, 0, 0] == pixels[10, 0, 1] > 0 and pixels[10, 0, 2] == 0
    assert tuple(pixels[8, 0]) == (255, 255, 255)
    preview.write_png(tmp_path / "grid.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "grid.png")), pixels)


def test_images_without_the_named_channels_are_refused():
    with pytest.raises(InputError, match="preview"):
        preview.grid(np.zeros((1, 8, 8, 3), np.uint8), "d4")


def test_each_phase_with_its_own_augmentation_is_shown():
    own = configs.phase(augment={"name": "oml", "warp": 0.1})
    model = configs.model(augment="d4", phases=(configs.phase(), own, {"augment": "none"}))
    found = preview.augmentations(model)
    assert list(found) == ["", "_phase_1", "_phase_2"]
    assert found[""] == "d4" and found["_phase_2"] == "none"
    images = np.full((1, 8, 8, 4), 90, np.uint8)
    assert not np.array_equal(
        preview.grid(images, found["_phase_1"]), preview.grid(images, found[""])
    )
