"""Presets: shapes, ranges, keys, labels, and the distributions the spec states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.training import augment
from hpa_jax.training.augment import pixels

N, SIZE, C = 6, 16, 3


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((N, SIZE, SIZE, 4)), jnp.float32)
    return images, jnp.asarray(rng.integers(0, 2, (N, C)), jnp.uint8)


def run(name, batch, seed=0, **differences):
    return jax.jit(augment.preset(name, **differences))(jax.random.key(seed), *batch)


@pytest.mark.parametrize("name", sorted(augment.PRESETS))
def test_presets_keep_shape_and_range_and_repeat(name, batch):
    function = jax.jit(augment.preset(name))
    images, labels = function(jax.random.key(1), *batch)
    assert images.shape == batch[0].shape and images.dtype == jnp.float32
    assert float(images.min()) >= 0.0 and float(images.max()) <= 1.0
    assert labels.dtype == jnp.float32
    np.testing.assert_array_equal(labels, batch[1])
    again, _ = function(jax.random.key(1), *batch)
    np.testing.assert_array_equal(images, again)
    if name != "none":
        other, _ = function(jax.random.key(2), *batch)
        assert not np.array_equal(images, other)


def test_none_changes_nothing(batch):
    np.testing.assert_array_equal(run("none", batch)[0], batch[0])


def test_d4_gives_each_element_and_each_image_its_own(batch):
    one = batch[0][:1]
    many = jnp.repeat(one, 64, axis=0)
    images, _ = run("d4", (many, jnp.zeros((64, C))))
    different = {np.asarray(image).tobytes() for image in images}
    assert len(different) == 8


def test_fastai_d4_draws_the_identity_twice_as_often():
    keys = jax.random.split(jax.random.key(0), 9000)
    drawn = np.asarray(jax.vmap(lambda key: augment.draw_d4(key, "fastai"))(keys))
    share = np.bincount(drawn, minlength=8) / len(drawn)
    np.testing.assert_allclose(share, [2 / 9] + [1 / 9] * 7, atol=0.015)


def test_a_image_does_not_depend_on_its_neighbours(batch):
    images, labels = batch
    whole, _ = run("oml", batch)
    other = images.at[1:].set(0.5)
    alone, _ = run("oml", (other, labels))
    np.testing.assert_array_equal(whole[0], alone[0])


def test_unknown_names_options_and_values_are_refused():
    with pytest.raises(InputError, match="bestfitting"):
        augment.preset("bestfiting")
    with pytest.raises(InputError, match="rotate"):
        augment.preset("oml", rotat=3.0)
    with pytest.raises(InputError, match="zoom"):
        augment.preset("none", zoom=(2.0, 1.0))
    with pytest.raises(InputError, match="chance"):
        augment.preset("none", mixup=0.0, sample_pairing=2.0)
    with pytest.raises(InputError, match="zeros"):
        augment.preset("none", padding="black")


def test_a_mapping_is_a_preset_with_differences():
    for kind in (dict, ConfigDict):
        options = augment.resolve(kind({"name": "oml", "zoom": [1.0, 1.25], "warp": 0.05}))
        assert options["zoom"] == (1.0, 1.25) and options["rotate"] == 180.0


def test_bestfitting_shows_two_thirds_to_all_of_the_image():
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 32)[None, None, :, None], (64, 32, 32, 1))
    images, _ = run("bestfitting", (ramp, jnp.zeros((64, C))))
    seen = np.asarray(images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3)))
    assert 0.6 < seen.min() < 0.75 and 0.93 < seen.max() <= 1.0
    small, _ = run("bestfitting", (ramp, jnp.zeros((64, C))), output_size=20)
    assert small.shape == (64, 20, 20, 1)


def test_policies_act_at_the_stored_side_and_are_then_resized():
    batch = jnp.full((4, 16, 16, C), 0.5), jnp.zeros((4, C))
    images, _ = run("pudae", batch, output_size=32)
    assert images.shape == (4, 32, 32, C)
    assert augment.output_size({"name": "pudae", "output_size": 32}) == 32
    with pytest.raises(InputError, match="policies"):
        augment.preset("pudae", rotate=10.0)


def test_corner_shift_is_a_shift_and_perspective_bends():
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 32)[None, None, :, None], (8, 32, 32, 1))
    labels = jnp.zeros((8, C))
    shifted, _ = run("none", (ramp, labels), corner_shift=0.1, padding="edge")
    np.testing.assert_allclose(shifted, jnp.maximum(ramp - 0.1, -1.0), atol=1e-5)
    bent, _ = run("none", (ramp, labels), perspective=0.3, padding="edge")
    assert float(jnp.abs(bent[:, 0] - bent[:, -1]).max()) > 0.05
    still, _ = run("none", (ramp, labels), perspective=0.3, p_perspective=0.0)
    np.testing.assert_allclose(still, ramp, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "limit"), [("shift", 0.1), ("shear", 0.2), ("squish", (0.8, 1.25)), ("warp", 0.2)]
)
def test_each_geometric_option_acts_as_it_is_named(option, limit):
    """Pictures that hold their own coordinates tell from where each pixel was read."""
    line = jnp.linspace(-1, 1, 33)
    place = jnp.stack(jnp.meshgrid(line, line), -1)  # x, y
    images = jnp.broadcast_to(place, (64, 33, 33, 2))
    labels = jnp.zeros((64, C))
    options = {option: limit, "padding": "edge"}
    read, _ = run("none", (images, labels), **options)
    read = np.asarray(read)
    middle, right, below = read[:, 16, 16], read[:, 16, 20], read[:, 20, 16]
    along_x, along_y = (right - middle) / 0.25, (below - middle) / 0.25  # columns of the map
    if option == "shift":
        np.testing.assert_allclose(along_x, [[1, 0]] * 64, atol=1e-4)
        assert 0.15 < np.abs(middle).max() <= 0.2 + 1e-4  # a share of the side, which is 2
        assert np.abs(middle).max(0).min() > 0.15  # both ways, each image its own
    elif option == "shear":
        np.testing.assert_allclose(along_x[:, 0], 1, atol=0.05)
        assert 0.15 < np.abs(along_y[:, 0]).max() <= 0.2 + 1e-3
        assert 0.15 < np.abs(along_x[:, 1]).max() <= 0.2 + 1e-3
    elif option == "squish":
        np.testing.assert_allclose(along_y, [[0, 1]] * 64, atol=1e-4)
        assert np.ptp(along_x[:, 0]) > 0.2
        assert along_x[:, 0].min() > 0.8 - 1e-3 and along_x[:, 0].max() < 1.25 + 1e-3
    else:  # a perspective: straight lines that are no longer parallel
        slopes = (read[:, 28, 20] - read[:, 4, 20])[:, 0]
        assert np.ptp(slopes) > 0.05
    still, _ = run("none", (images, labels), p_affine=0.0, **options)
    np.testing.assert_allclose(still, images, atol=1e-4)


def test_jitter_moves_each_pixel_alone():
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 64)[None, None, :, None], (2, 64, 64, 1))
    images, _ = run("none", (ramp, jnp.zeros((2, C))), jitter=0.2, padding="edge")
    moved = np.asarray(images - ramp)[:, :, 10:-10]
    assert 0.18 < np.abs(moved).max() <= 0.2 + 1e-4
    assert abs(np.corrcoef(moved[..., :-1, 0].ravel(), moved[..., 1:, 0].ravel())[0, 1]) < 0.1


def test_fastai_lighting_formula(batch):
    x = np.clip(np.asarray(batch[0], np.float64), 1e-7, 1 - 1e-7)
    add, multiply = np.linspace(-0.4, 0.4, N), np.linspace(0.8, 1.25, N)
    logits = (np.log(x / (1 - x)) + add[:, None, None, None]) * multiply[:, None, None, None]
    got = pixels.logit_shift(batch[0], jnp.asarray(add), jnp.asarray(multiply))
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_oml_brightness_and_contrast_have_the_stated_ranges():
    grey = jnp.full((400, 2, 2, 1), 0.3)
    labels = jnp.zeros((400, C))
    alone = dict(rotate=0.0, zoom=(1.0, 1.0), d4="none")
    logit = np.log(0.3 / 0.7)
    lit, _ = run("oml", (grey, labels), contrast=0.0, **alone)
    added = np.log(lit[:, 0, 0, 0] / (1 - lit[:, 0, 0, 0])) - logit
    assert abs((np.abs(added) < 1e-5).mean() - 0.35) < 0.08
    assert np.log(0.4 / 0.6) - 1e-4 < added.min() < np.log(0.4 / 0.6) + 0.05
    assert np.log(0.6 / 0.4) - 0.05 < added.max() < np.log(0.6 / 0.4) + 1e-4
    lit, _ = run("oml", (grey, labels), brightness=0.0, **alone)
    factor = np.log(lit[:, 0, 0, 0] / (1 - lit[:, 0, 0, 0])) / logit
    assert 0.8 - 1e-4 < factor.min() < 0.82 and 1.22 < factor.max() < 1.25 + 1e-4


def test_linear_lighting_equals_dm_pix(batch):
    import dm_pix

    add, multiply = jnp.linspace(-0.1, 0.1, N), jnp.linspace(0.8, 1.2, N)
    got = pixels.linear_shift(batch[0], add, multiply)
    for n in range(N):
        want = dm_pix.adjust_brightness(dm_pix.adjust_contrast(batch[0][n], multiply[n]), add[n])
        np.testing.assert_allclose(got[n], jnp.clip(want, 0, 1), atol=1e-5)


def test_drop_blackens_the_named_channel_only(batch):
    images, _ = run("none", batch, drop=(("yellow", 1.0),))
    np.testing.assert_array_equal(images[..., 3], 0.0)
    np.testing.assert_array_equal(images[..., :3], batch[0][..., :3])
    rgb = (batch[0][..., :3], batch[1])
    np.testing.assert_array_equal(run("none", rgb, drop=(("yellow", 1.0),))[0], rgb[0])


def test_protein_gain_leaves_the_markers(batch):
    images, _ = run("none", batch, protein_gain=0.5)
    np.testing.assert_array_equal(images[..., [0, 2, 3]], batch[0][..., [0, 2, 3]])
    assert not np.array_equal(images[..., 1], batch[0][..., 1])
    with pytest.raises(InputError, match="green"):
        run("none", (batch[0][..., :1], batch[1]), protein_gain=0.5)


def test_cutout_noise_and_per_channel_lighting(batch):
    images, _ = run("none", batch, cutout=0.5)
    holes = np.asarray((images == 0).all(-1).mean((1, 2)))
    assert (holes > 0).all() and holes.max() <= 0.25
    images, _ = run("none", batch, noise=0.05)
    assert 0.03 < float(jnp.abs(images - batch[0]).mean()) < 0.05
    grey = (jnp.full((N, 4, 4, 4), 0.5), batch[1])
    images, _ = run("none", grey, brightness=0.3, per_channel=True)
    assert np.ptp(np.asarray(images[:, 0, 0]), axis=-1).min() > 0.0
    images, _ = run("none", grey, brightness=0.3)
    assert np.ptp(np.asarray(images[:, 0, 0]), axis=-1).max() < 1e-6


def test_blank_protein_touches_the_first_image_only(batch):
    images, labels = run("none", batch, blank_protein=1.0)
    np.testing.assert_array_equal(images[0, ..., 1], 0.0)
    np.testing.assert_array_equal(images[0, ..., 0], batch[0][0, ..., 0])
    np.testing.assert_array_equal(images[1:], batch[0][1:])
    np.testing.assert_array_equal(labels[0], 0.0)
    np.testing.assert_array_equal(labels[1:], batch[1][1:])


def test_mixup_blends_labels_as_it_blends_images():
    images = jnp.broadcast_to(jnp.arange(N, dtype=jnp.float32)[:, None, None, None], (N, 2, 2, 1))
    labels = jnp.eye(N)
    mixed, soft = run("none", (images, labels), mixup=0.4)
    np.testing.assert_allclose(soft.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(mixed[:, 0, 0, 0], soft @ np.arange(N), atol=1e-4)
    assert (np.asarray(soft).argmax(1) == np.arange(N)).all()


def test_sample_pairing_averages_images_and_keeps_labels(batch):
    images, labels = run("none", batch, sample_pairing=1.0)
    np.testing.assert_array_equal(labels, batch[1])
    halves = np.asarray(2 * images - batch[0])
    originals = np.asarray(batch[0])
    partners = [int(np.abs(originals - half).mean((1, 2, 3)).argmin()) for half in halves]
    assert sorted(partners) == list(range(N))
