"""Copies of real and drawn images are found, different images and crops of one are not.

Copies: JPEG of quality 85, 10 % darker and brighter, enlarged to 1024 and back, all of it at once.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpa_jax.data import duplicates, hashes
from hpa_jax.data.synthetic import camera, dataset

IMAGES = Path(__file__).resolve().parents[2] / "../shared/data/real_images"
SIDE = 512


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=85)
    return np.asarray(Image.open(buffer))


def brighter(image, factor):
    return np.clip(image * factor, 0, 255).astype(np.uint8)


def there_and_back(image):
    large = Image.fromarray(image).resize((1024, 1024), Image.Resampling.BILINEAR)
    return np.asarray(large.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


COPIES = {
    "jpeg": jpeg,
    "darker": lambda image: brighter(image, 0.9),
    "brighter": lambda image: brighter(image, 1.1),
    "rescaled": there_and_back,
    "all": lambda image: there_and_back(brighter(jpeg(image), 1.1)),
}


def dictionary():
    """Crops of the atlas' dictionary images that leave out the scale bar."""
    for path in sorted((IMAGES / "dictionary").glob("*.jpg")):
        crop = Image.open(path).convert("RGB").crop((0, 0, 700, 700)).resize((SIDE, SIDE))
        yield [np.ascontiguousarray(np.asarray(crop)[..., k]) for k in range(3)]


def competition():
    """Real channels, three of different images as one."""
    colours = ("red", "green", "blue")
    files = [sorted((IMAGES / "channels").glob(f"*_{colour}.png")) for colour in colours]
    for paths in zip(*files):
        yield [np.asarray(Image.open(path)) for path in paths]


def drawn(count, side=SIDE):
    """Red, green and blue of drawn images with the competition's label sets."""
    sets = dataset.draw_label_sets(np.random.default_rng(0), count, 0)
    for number, labels in enumerate(sets):
        image = camera.photograph((17, number), labels, side)
        yield [np.ascontiguousarray(image[..., k]) for k in range(3)]


def joined(pictures, oriented=False):
    prints = [hashes.fingerprint(channels, oriented) for channels in pictures]
    return hashes.Fingerprints(
        np.concatenate([one.hashes for one in prints]),
        np.concatenate([one.informative for one in prints]),
        np.concatenate([one.digests for one in prints]),
        np.concatenate([one.oriented for one in prints]) if oriented else None,
    )


def assert_copies_are_found_and_strangers_are_not(originals):
    n = len(originals)
    copies = [[change(c) for c in channels] for change in COPIES.values() for channels in originals]
    pairs, _, _ = duplicates.match_fingerprints(joined([*originals, *copies]), 12)
    of = pairs % n  # the original of each row: copies follow in the originals' order
    assert (of[:, 0] == of[:, 1]).all(), "different images matched"
    found = {tuple(pair) for pair in pairs.tolist()}
    missed = [(row % n, row // n) for row in range(n, n * (1 + len(COPIES)))
              if (row % n, row) not in found]  # fmt: skip
    assert len(missed) <= 0.01 * len(copies), missed
    sizes = np.bincount(duplicates.groups(n * (1 + len(COPIES)), pairs))
    assert sizes.max() == 1 + len(COPIES)  # the largest group: one image and its copies


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the real images are not here")
@pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.slow), 4], ids=["all images", "every fourth"]
)
def test_copies_of_real_images_are_found_and_strangers_are_not(step):
    originals = [*dictionary(), *competition()][::step]
    assert len(originals) >= 100 / step
    assert_copies_are_found_and_strangers_are_not(originals)


@pytest.mark.parametrize("count", [pytest.param(100, marks=pytest.mark.slow), 10])
def test_copies_of_drawn_images_are_found_and_strangers_are_not(count):
    assert_copies_are_found_and_strangers_are_not([*drawn(count)])


@pytest.mark.slow
def test_false_matches_are_at_most_one_in_a_hundred_million_pairs():
    """5,100 drawn images, each with all others in their eight orientations."""
    prints = joined(drawn(5100, 64), oriented=True)
    speak = int((prints.informative.sum(axis=1) >= duplicates.MIN_INFORMATIVE).sum())
    compared = 8 * speak * (speak - 1) // 2
    assert compared > 1e8
    pairs, distances, _ = duplicates.match_fingerprints(prints, 12)
    assert len(pairs) <= 1e-8 * compared, distances
    assert np.bincount(duplicates.groups(5100, pairs)).max() <= 2


@pytest.mark.skipif(not IMAGES.is_dir(), reason="the real images are not here")
def test_overlapping_crops_are_no_copies():
    pictures = []
    for path in sorted((IMAGES / "dictionary").glob("*.jpg"))[::6]:
        rgb = Image.open(path).convert("RGB")
        for left, top in ((0, 0), (380, 0), (0, 360), (190, 180), (330, 330)):
            crop = np.asarray(rgb.crop((left, top, left + 440, top + 440)))
            pictures.append([np.ascontiguousarray(crop[..., k]) for k in range(3)])
    pairs, _, _ = duplicates.match_fingerprints(joined(pictures), 12)
    assert len(pairs) == 0
