"""Normalisations: the numbers of their sources, by channel."""

import jax.numpy as jnp
import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.models.normalization import NAMES, normalizer

RGBY = ("red", "green", "blue", "yellow")


def images(channels=4):
    return np.random.default_rng(0).random((2, 5, 6, channels)).astype(np.float32)


def test_hpa_goes_by_the_channels_name():
    x = images()
    result = normalizer("hpa", ("yellow", "green", "red", "blue"))(x)
    mean = np.array([0.076287, 0.05063, 0.074598, 0.050891])
    deviation = np.array([0.119411, 0.085745, 0.122813, 0.129882])
    np.testing.assert_allclose(result, (x - mean) / deviation, rtol=1e-4, atol=1e-6)


def test_imagenet_gives_the_fourth_channel_the_mean_of_three():
    result = normalizer("imagenet", RGBY)(np.zeros((1, 1, 1, 4)))
    mean = np.array([0.485, 0.456, 0.406, 0.449])
    deviation = np.array([0.229, 0.224, 0.225, 0.226])
    np.testing.assert_allclose(result[0, 0, 0], -mean / deviation, rtol=1e-5)


def test_caffe_order_scale_and_means():
    x = images()
    result = normalizer("bn_inception", RGBY)(x)
    np.testing.assert_allclose(result[..., 0], 255 * x[..., 2] - 104, rtol=1e-4)
    np.testing.assert_allclose(result[..., 2], 255 * x[..., 0] - 128, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result[..., 3], 255 * x[..., 3] - 349 / 3, rtol=1e-4, atol=1e-4)
    as_run = normalizer("bn_inception_as_run", RGBY[:3])(x[..., :3])
    np.testing.assert_allclose(as_run, x[..., :3] - np.array([104, 117, 128]), rtol=1e-5)


def test_ranges():
    x = images()
    np.testing.assert_allclose(normalizer("inception", RGBY)(x), 2 * x - 1, atol=1e-6)
    np.testing.assert_allclose(
        normalizer("half_range", RGBY)(x), (255 * x - 127.5) / 255, atol=1e-6
    )


def test_per_image_centres_each_channel_of_each_image_and_survives_a_flat_one():
    x = images()
    x[0, :, :, 1] = 0.25
    result = np.asarray(normalizer("per_image", RGBY)(jnp.asarray(x)))
    np.testing.assert_allclose(result.mean((1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(result[1].std((0, 1)), 1, rtol=1e-3)
    np.testing.assert_allclose(result[0, :, :, 1], 0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_takes_one_to_four_channels(name):
    for count in (1, 2, 3, 4):
        assert normalizer(name, RGBY[:count])(images(count)).shape == (2, 5, 6, count)


def test_unknown_names_are_told_with_the_near_ones():
    with pytest.raises(InputError, match="did you mean 'imagenet'"):
        normalizer("imagnet", RGBY)
    with pytest.raises(InputError, match="channel 'purple'"):
        normalizer("hpa", ("purple",))
