"""phash is imagehash.phash bit for bit, alone, in batches, and on images made of ties."""

import imagehash
import numpy as np
import pytest
from PIL import Image

from hpa_jax.core.errors import InputError
from hpa_jax.data import hashes


def pictures(rng, height, width):
    """Pictures that tie coefficients: flat, symmetric, periodic, single pixels, two levels."""
    y, x = np.mgrid[:height, :width]
    dot = np.zeros((height, width))
    dot[height // 2, width // 3] = 255
    made = [np.full((height, width), value) for value in (0, 1, 128, 255)]
    made += [dot, (x % 8 < 4) * 255, (y % 16 < 8) * 200, x * 255 // width, (x + y) % 256]
    made += [np.minimum(x, x[:, ::-1]), rng.integers(0, 2, (height, width))]
    made += [rng.integers(0, 256, (height, width)) for _ in range(20)]
    return np.stack(made).astype(np.uint8)


def reference(image):
    return int(str(imagehash.phash(Image.fromarray(image))), 16)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (7, 90), (512, 512), (61, 64)])
def test_phash_equals_imagehash(size):
    images = pictures(np.random.default_rng(0), *size)
    expected = [reference(image) for image in images]
    assert hashes.phashes(images).tolist() == expected
    assert hashes.phashes(images, workers=2).tolist() == expected
    assert [int(hashes.phash(image)) for image in images] == expected
    assert hashes.phashes(images).dtype == np.uint64


def test_phashes_of_no_image():
    assert hashes.phashes(np.empty((0, 8, 8), np.uint8)).shape == (0,)


@pytest.mark.parametrize("image", [np.zeros((8, 8)), np.zeros((8, 8, 3), np.uint8)])
def test_phash_refuses_what_is_no_grey_image(image):
    with pytest.raises(InputError, match="grey uint8"):
        hashes.phash(image)


def test_orientations_are_hashes_of_turned_images():
    # A power-of-two size: Lanczos weights are then symmetric, and only rounding may differ.
    rng = np.random.default_rng(1)
    image = np.kron(rng.integers(0, 256, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    found = set(hashes.fingerprint([image], oriented=True).oriented[0, :, 0].tolist())
    for turns in range(4):
        for turned in (np.rot90(image, turns), np.rot90(image, turns)[:, ::-1]):
            turned_hash = int(hashes.phash(np.ascontiguousarray(turned)))
            assert min((turned_hash ^ value).bit_count() for value in found) <= 2
    assert len(found) == 8


def test_flat_channels_are_not_informative():
    rng = np.random.default_rng(2)
    noise = rng.poisson(3, (512, 512)).astype(np.uint8)  # a camera's frame of nothing
    picture = rng.integers(0, 256, (4, 4)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    found = hashes.fingerprint([noise, picture, None])
    assert found.informative.tolist() == [[False, True, False]]
    assert found.hashes[0, 0] == 0 and found.hashes[0, 1] == hashes.phash(picture)


def test_digest_tells_pixels_shape_and_absence():
    a = np.arange(16, dtype=np.uint8).reshape(4, 4)
    digests = [
        hashes.fingerprint(channels).digests[0]
        for channels in ([a, a], [a, a.copy()], [a, a + 1], [a, a.reshape(2, 8)], [a, None])
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 4


@pytest.mark.parametrize("oriented", [False, True])
def test_fingerprints_are_the_same_as_text(oriented):
    rng = np.random.default_rng(4)
    image, flat = rng.integers(0, 256, (32, 32), np.uint8), np.zeros((32, 32), np.uint8)
    images = ([image, image.T.copy(), flat], [flat, None, image])
    whole = [hashes.fingerprint(channels, oriented=True) for channels in images]
    expected = hashes.joined([hashes.fingerprint(c, oriented) for c in images], 3, oriented)
    again = hashes.of_texts([hashes.to_text(one) for one in whole], 3, oriented)
    for name in ("hashes", "informative", "digests", "oriented"):
        np.testing.assert_array_equal(getattr(again, name), getattr(expected, name), name)
