"""Views: how many, what they show, and that an image's views are its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.inference import views
from hpa_jax.training import augment

SIZE = 12


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIZE, SIZE, 2)), jnp.float32)


def keys(count, first=0):
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(
        jnp.arange(first, first + count)
    )


def show(group, images, view, first=0):
    return np.asarray(jax.jit(group.show)(keys(len(images), first), view, images))


@pytest.mark.parametrize(
    "name, count",
    [("identity", 1), ("d4", 8), ("oml", 33), ("crops", 32), ("scales", 3), ("tiles", 9)],
)
def test_counts_and_weights(name, count):
    made = views.make(name, tile=32, overlap=0.0) if name == "tiles" else views.make(name)
    assert made.count(96, 96) == count
    weights = np.concatenate([group.weights for group in made.groups(96, 96)])
    assert weights.sum() == pytest.approx(1.0)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(InputError, match="crops"):
        views.make("crop")
    with pytest.raises(InputError, match="share"):
        views.make("crops", shar=1)
    with pytest.raises(InputError, match="share"):
        views.make("crops", share=0.0).groups(8, 8)
    with pytest.raises(InputError, match="tile"):
        views.make("tiles", tile=99).groups(64, 64)


def test_weights_are_normalised_and_checked():
    plain, corners = views.make("oml", rounds=1, weights=[8] + [1] * 8).groups(8, 8)
    assert plain.weights[0] == pytest.approx(0.5) and corners.weights[3] == pytest.approx(1 / 16)
    with pytest.raises(InputError, match="8 views"):
        views.make("d4", weights=[1, 2]).groups(8, 8)


def test_d4_views_are_the_eight_turns(images):
    (group,) = views.make("d4").groups(SIZE, SIZE)
    seen = [show(group, images, view) for view in range(8)]
    np.testing.assert_array_equal(seen[0], images)
    np.testing.assert_array_equal(seen[1], images[:, :, ::-1])
    np.testing.assert_array_equal(seen[4], images.swapaxes(1, 2))
    assert len({one.tobytes() for one in seen}) == 8


def test_oml_weights_and_corners(images):
    plain, corners = views.make("oml").groups(SIZE, SIZE)
    assert plain.weights[0] == pytest.approx(0.4)
    np.testing.assert_allclose(corners.weights, 0.6 / 32)
    np.testing.assert_array_equal(show(plain, images, 0), images)
    # Without what is random, view i is the zoom by 1.35 at its corner, mirrored if i & 4.
    still = views.make("oml", d4="none", rotate=0.0, brightness=0.0, contrast=0.0)
    group = still.groups(SIZE, SIZE)[1]
    ramp = jnp.broadcast_to(
        jnp.arange(SIZE, dtype=jnp.float32)[None, :, None, None], (1, 12, 12, 1)
    )
    ramp = jnp.concatenate([ramp, ramp.swapaxes(1, 2)], -1)  # row number, column number
    for view in range(8):
        seen = show(group, ramp, view)[0]
        rows, columns = seen[:, 0, 0], seen[0, :, 1]
        columns = columns[::-1] if view & 4 else columns
        assert rows[-1 if view & 1 else 0] == pytest.approx(SIZE - 1 if view & 1 else 0, abs=1e-4)
        edge = SIZE - 1 if view & 2 else 0
        assert columns[-1 if view & 2 else 0] == pytest.approx(edge, abs=1e-4)
        assert np.ptp(rows) == pytest.approx((SIZE - 1) / 1.35, abs=1e-3)


def test_random_views_belong_to_the_image_not_to_the_batch(images):
    group = views.make("oml").groups(SIZE, SIZE)[1]
    whole = show(group, images, 5)
    alone = show(group, images[2:], 5, first=2)
    np.testing.assert_allclose(whole[2], alone[0], atol=1e-6)
    assert not np.allclose(whole, show(group, images, 13))  # the same corner, another round


def test_oml_takes_the_transforms_of_the_models_training():
    for kind in (dict, ConfigDict):
        made = views.make(kind({"name": "oml", "warp": 0.05, "aggregate": "max"}))
        assert made.options["warp"] == 0.05 and made.aggregate == "max"
    assert views.make("crops").aggregate == "max" and views.make("d4").aggregate == "mean"
    assert views.make("oml").options["brightness"] == augment.PRESETS["oml"]["brightness"]


def test_crops_show_the_whole_then_pieces_without_resampling():
    base = jnp.asarray(np.random.default_rng(1).random((2, 12, 12, 1)), jnp.float32)
    (group,) = views.make("crops", count=5, output_size=8, placement="grid", d4=False).groups(
        12, 12
    )
    corner = show(group, base, 1)
    np.testing.assert_allclose(corner, base[:, :8, :8], atol=1e-5)
    np.testing.assert_allclose(show(group, base, 4), base[:, 4:, 4:], atol=1e-5)
    np.testing.assert_allclose(show(group, base, 5), base[:, 2:10, 2:10], atol=1e-5)
    (group,) = views.make("crops").groups(12, 12)
    np.testing.assert_allclose(show(group, base, 0), base, atol=1e-5)
    np.testing.assert_allclose(show(group, base, 1), base[:, :, ::-1], atol=1e-5)
    assert not np.allclose(show(group, base, 8)[0], show(group, base, 16)[0])


def test_crops_of_random_side_lie_between_their_shares_and_differ_by_image():
    size = 64
    ramp = jnp.linspace(0.0, 1.0, size)
    base = jnp.broadcast_to(ramp[None, :, None, None], (40, size, size, 1))
    options = dict(count=2, share=(0.5, 1.0), output_size=size, d4=False)
    (group,) = views.make("crops", **options).groups(size, size)
    seen = np.asarray(show(group, base, 1))[:, :, 0, 0]
    shares = (seen[:, -2] - seen[:, 1]) / (ramp[-2] - ramp[1])
    assert shares.min() >= 0.5 - 1e-4 and shares.max() <= 1.0 + 1e-4
    assert 0.1 < shares.std() < 0.2  # uniform over [0.5, 1]: 0.144
    with pytest.raises(InputError, match="share"):
        views.make("crops", share=(0.8, 0.5)).groups(8, 8)


def test_tiles_cover_every_pixel():
    image = jnp.arange(20 * 20, dtype=jnp.float32).reshape(1, 20, 20, 1)
    (group,) = views.make("tiles", tile=8, overlap=0.25).groups(20, 20)
    seen = set()
    for view in range(group.count):
        seen |= set(show(group, image, view).ravel().tolist())
    assert len(seen) == 400


def test_scales_have_their_sizes(images):
    big = jnp.repeat(jnp.repeat(images, 8, 1), 8, 2)
    sizes = [
        group.show(keys(3), 0, big).shape[1]
        for group in views.make("scales", factors=(0.5, 1.0, 1.5)).groups(96, 96)
    ]
    assert sizes == [64, 96, 160] or sizes == [32, 96, 160] or sizes == [64, 96, 128]


def spots(*places, size=96, planes=4):
    """An image of [size, size, planes] whose plane 2 has discs of falling brightness."""
    image = np.zeros((size, size, planes), np.float32)
    y, x = np.mgrid[:size, :size]
    for number, (row, column) in enumerate(places):
        image[..., 2] += ((y - row) ** 2 + (x - column) ** 2 < 16) * (1.0 - 0.2 * number)
        image[row, column, 0] = number + 1  # the centre, in another plane
    return image


@pytest.mark.parametrize("output_size", [0, 64])
def test_cells_are_crops_around_nuclei_brightest_first(output_size):
    places = [(30, 60), (66, 22), (20, 20)]
    other = [(50, 50), (24, 75), (74, 20)]
    images = jnp.asarray(np.stack([spots(*places), spots(*other)]))
    made = views.make("cells", count=3, side=32, output_size=output_size)
    (group,) = made.groups(96, 96)
    assert group.count == 3 and group.plain == -1
    for view in range(3):
        shown = np.asarray(group.show(None, jnp.int32(view), images))
        assert shown.shape == (2, *((output_size or 32,) * 2), 4)
        for image in shown:
            row, column = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
            middle, scale = (output_size or 32) / 2, (output_size or 32) / 32
            assert abs(row - middle) <= 3 * scale and abs(column - middle) <= 3 * scale
            if not output_size:
                assert image[..., 0].max() == view + 1


def test_a_cell_at_the_border_is_shown_whole_and_no_cell_is_no_error():
    corners = np.asarray(views.nuclei(jnp.asarray(spots((2, 93))[..., 2]), 4, 32)[0])
    assert corners[0].tolist() == [0, 64]
    assert len(np.unique(corners, axis=0)) == 4 and corners.min() >= 0 and corners.max() <= 64
    empty = np.asarray(views.nuclei(jnp.zeros((96, 96)), 3, 32)[0])
    assert empty.min() >= 0 and empty.max() <= 64


def test_what_is_nearer_to_another_nucleus_is_masked():
    """By a search over the true centres; a spot of a tenth of the light is no nucleus."""
    places = [(40, 40), (40, 60), (60, 44)]
    image = spots(*places)
    image[..., 2] += 0.1 * spots((24, 36))[..., 2]
    image[..., 1] = 1.0
    (group,) = views.make("cells", count=3, side=32, mask=True).groups(96, 96)
    corners = np.asarray(views.nuclei(jnp.asarray(image[..., 2]), 3, 32)[0])
    y, x = np.mgrid[:96, :96]
    distances = np.stack([(y - row) ** 2 + (x - column) ** 2 for row, column in places])
    for view in range(3):
        shown = np.asarray(group.show(None, jnp.int32(view), jnp.asarray(image)[None]))[0]
        row, column = corners[view]
        kept = (distances.argmin(0) == view)[row : row + 32, column : column + 32]
        assert 0.3 < kept.mean() < 0.9
        # the centres are known to a sixteenth of the crop
        assert (shown[..., 1] > 0).astype(int).mean() == pytest.approx(kept.mean(), abs=0.1)
        assert ((shown[..., 1] > 0) == kept).mean() > 0.85
        assert shown[..., 0].max() == view + 1  # its own centre
        assert len(np.unique(shown[..., 0])) == 2  # and no other's


def test_crops_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"views\.side is 97"):
        views.make("cells", side=97).groups(96, 96)
    (group,) = views.make("cells", side=32, nucleus=3).groups(96, 96)
    with pytest.raises(InputError, match=r"views\.nucleus is 3; there are 3"):
        group.show(None, jnp.int32(0), jnp.zeros((1, 96, 96, 3)))
