"""Geometry: bilinear reading against scipy, matrices against numpy's own flips and solves."""

import functools
from pathlib import Path

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hpa_jax.core.errors import InputError
from hpa_jax.training.augment import warp

SIZE = 9


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(0).random((SIZE, SIZE, 2)), jnp.float32)


@pytest.mark.parametrize("padding, mode", [("reflect", "mirror"), ("edge", "nearest")])
@pytest.mark.parametrize("align_corners", [True, False])
def test_sample_equals_scipy(image, padding, mode, align_corners):
    where = np.random.default_rng(1).uniform(-1.6, 1.6, (5, 7, 2)).astype(np.float32)
    got = warp.sample(image, where, padding, align_corners)
    half = (SIZE - 1) / 2 if align_corners else SIZE / 2
    pixels = (where + 1) * half - (0 if align_corners else 0.5)
    want = np.stack(
        [
            ndimage.map_coordinates(image[..., k], [pixels[..., 1], pixels[..., 0]], None, 1, mode)
            for k in range(2)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("padding, mode", [("edge", "nearest"), ("zeros", "constant")])
def test_composed_maps_read_as_dm_pix_does(image, padding, mode):
    """Rotation, zoom, shear and shift in one matrix; pixels (row, column, channel) there."""
    maps = warp.rotation(30.0) @ warp.zoom(1.2, 0.3, 0.6) @ warp.shear(0.1, -0.2)
    matrix = np.asarray(maps @ warp.shift(0.1, 0.05), np.float64)
    half = (SIZE - 1) / 2
    pixels = np.array([[half, 0, half], [0, half, half], [0, 0, 1]])  # normalised (x, y) -> pixels
    inner = pixels @ matrix @ np.linalg.inv(pixels)
    theirs = np.eye(4)
    theirs[:2, :2], theirs[:2, 3] = inner[1::-1, 1::-1], inner[1::-1, 2]
    want = np.asarray(dm_pix.affine_transform(image, jnp.asarray(theirs, jnp.float32), mode=mode))
    got = warp.sample(image, warp.affine(warp.grid(SIZE, SIZE), jnp.asarray(matrix)), padding)
    if padding == "zeros":  # theirs gives 0 to all that has a tap outside
        inside = want.any(-1)
        assert 20 < inside.sum() < SIZE**2
        got, want = np.asarray(got)[inside], want[inside]
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_zero_padding_counts_each_tap_alone(image):
    # Half a pixel left of the first column: half of the first pixel, half of nothing.
    outside = jnp.array([[[-1.0 - 1.0 / (SIZE - 1), -1.0]]])
    np.testing.assert_allclose(warp.sample(image, outside)[0, 0], image[0, 0] / 2, atol=1e-6)
    far = jnp.array([[[3.0, jnp.inf], [jnp.nan, 0.0]]])
    np.testing.assert_array_equal(warp.sample(image, far), 0.0)


def test_unknown_padding_is_refused(image):
    with pytest.raises(InputError, match="reflect"):
        warp.sample(image, warp.grid(2, 2), "reflec")


def test_wrap_goes_round(image):
    where = warp.grid(SIZE, SIZE) + jnp.array([2.0 * 3 / (SIZE - 1), 0.0])
    np.testing.assert_allclose(
        warp.sample(image, where, "wrap"), np.roll(image, -3, axis=1), atol=1e-5
    )


@pytest.mark.parametrize("align_corners", [True, False])
def test_dihedral_matrix_d4_and_numpy_agree(image, align_corners):
    base = warp.grid(SIZE, SIZE, align_corners)
    seen = set()
    for k in range(8):
        want = image[:, ::-1] if k & 1 else image
        want = want[::-1] if k & 2 else want
        want = want.swapaxes(0, 1) if k & 4 else want
        exact = warp.d4(jnp.asarray(image)[None], jnp.array([k]))[0]
        np.testing.assert_array_equal(exact, want)
        where = warp.affine(base, warp.dihedral(k))
        np.testing.assert_allclose(
            warp.sample(image, where, align_corners=align_corners), want, atol=1e-5
        )
        seen.add(want.tobytes())
    assert len(seen) == 8


def test_d4_refuses_oblong_images():
    with pytest.raises(InputError, match="square"):
        warp.d4(jnp.zeros((1, 4, 6, 1)), jnp.array([0]))


def test_homography_equals_the_linear_system():
    m = jnp.array([0.1, -0.05, 0.07, 0.02])
    corners = np.asarray(warp.symmetric_warp_corners(m))
    square = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], float)
    rows, right = [], []
    for (x, y), (u, v) in zip(corners, square, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    want = np.append(np.linalg.solve(np.array(rows), right), 1).reshape(3, 3)
    got = np.asarray(warp.homography(jnp.asarray(corners)))
    np.testing.assert_allclose(got / got[2, 2], want, atol=1e-5)
    sent = warp.projective(jnp.asarray(corners, jnp.float32)[None], warp.homography(corners))[0]
    np.testing.assert_allclose(sent, square, atol=1e-5)


def test_zoom_keeps_its_focus_and_rotation_turns():
    corner = warp.affine(jnp.array([[[-1.0, 1.0]]]), warp.zoom(1.35, 1.0, 0.0))
    np.testing.assert_allclose(corner, [[[-1.0, 1.0]]], atol=1e-6)
    opposite = warp.affine(jnp.array([[[1.0, -1.0]]]), warp.zoom(2.0, 1.0, 0.0))
    np.testing.assert_allclose(opposite, [[[0.0, 0.0]]], atol=1e-6)
    quarter = warp.affine(jnp.array([[[1.0, 0.0]]]), warp.rotation(90.0))
    np.testing.assert_allclose(quarter, [[[0.0, 1.0]]], atol=1e-6)


def test_composition_is_one_resampling(image):
    """Turning there and back costs nothing when composed; two resamplings blur."""
    there, back = warp.rotation(30.0), warp.rotation(-30.0)
    where = warp.affine(warp.grid(SIZE, SIZE), there @ back)
    np.testing.assert_allclose(warp.sample(image, where), image, atol=1e-5)


def test_gradients_flow_and_vmap_works(image):
    batch = jnp.stack([image, image])

    def total(angle):
        where = warp.affine(warp.grid(SIZE, SIZE), warp.rotation(angle))
        return jax.vmap(lambda one: warp.sample(one, where))(batch).sum()

    assert np.isfinite(jax.grad(total)(5.0))


# --- the two ways of `resample` ---------------------------------------------------------------


def textured(side, seed=0):
    """uint8 images [4, side, side, 4]: noise smoothed as by a microscope, dark ground."""
    noise = np.random.default_rng(seed).normal(size=(4, side, side, 4))
    smooth = ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    return jnp.asarray(np.clip(600 * smooth, 0, 255).astype(np.uint8))


@functools.cache
def compiled(way, **options):
    return jax.jit(functools.partial(way, **options))


def both_ways(images, maps, dtype=jnp.float32, **options):
    """What gather and products read; skips where this CPU can't multiply bfloat16 into float32."""
    options = dict(size=0, padding="zeros", align_corners=True) | options
    maps = jnp.broadcast_to(maps, (len(images), 3, 3))
    gather = compiled(warp.by_gather, **options)
    products = compiled(warp.by_products, dtype=dtype, **options)
    try:
        return np.asarray(gather(images, maps)), np.asarray(products(images, maps))
    except jax.errors.JaxRuntimeError as error:
        if dtype == jnp.bfloat16 and "BF16" in str(error):
            pytest.skip("this CPU has no such product")
        raise


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", warp.PADDINGS)
def test_products_flip_and_turn_exactly(padding, align_corners, dtype):
    images = textured(30)
    for k in range(8):
        want = np.asarray(warp.d4(images, jnp.full(4, k)), np.float32) / 255
        _, got = both_ways(
            images, warp.dihedral(k), dtype, padding=padding, align_corners=align_corners
        )
        np.testing.assert_allclose(got, want, atol=1e-7)


MAPS = dict(
    rotation=warp.rotation(33.0),
    steep=warp.compose(warp.rotation(115.0), warp.zoom(1.1, 0.2, 0.7)),
    crop=warp.zoom(1.4, 1.0, 0.3),
    sheared=warp.compose(warp.shear(0.15, -0.1), warp.squish(1.1), warp.shift(0.05, -0.1)),
    perspective=warp.homography(warp.symmetric_warp_corners(jnp.array([0.1, -0.05, 0.07, 0.02]))),
)


@pytest.mark.parametrize("padding", ["zeros", "reflect", "edge"])
@pytest.mark.parametrize("name", MAPS)
def test_products_read_what_the_gather_reads_within_interpolation(name, padding):
    """Slanted instead of square tents; the noise of these images is finer than real texture."""
    gather, products = both_ways(textured(64), MAPS[name], padding=padding)
    difference = 255 * np.abs(products - gather)
    assert difference.mean() < 2.0
    assert np.quantile(difference, 0.99) < 25.0
    assert 255 * gather.std() > 20  # the images are not flat


def test_in_bfloat16_products_lose_nothing():
    """Weights and 8-bit values fit into it, the lines between the passes into two of it."""
    images = textured(64)
    _, exact = both_ways(images, MAPS["rotation"])
    _, rounded = both_ways(images, MAPS["rotation"], jnp.bfloat16)
    np.testing.assert_allclose(255 * rounded, 255 * exact, atol=0.01)


def test_products_are_exact_where_the_image_is_a_plane():
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    plane = jnp.asarray((3 * x + y)[None, :, :, None].astype(np.uint8)[:, :, :, [0, 0, 0, 0]])
    gather, products = both_ways(plane, warp.rotation(20.0), padding="zeros")
    inside = np.s_[:, 16:48, 16:48]
    # positions are rounded to 1/128 pixel, twice, and the slope is 4 grey levels a pixel
    np.testing.assert_allclose(255 * products[inside], 255 * gather[inside], atol=4 / 128)


def test_products_resize_and_take_float_images():
    images = textured(64)
    for given in (images, warp.unit_range(images)):
        gather, products = both_ways(
            given, warp.zoom(1.2), size=48, padding="edge", align_corners=False
        )
        assert products.shape == (4, 48, 48, 4)
        assert 255 * np.abs(products - gather).max() < 1.0  # axes alike: bilinear but for 1/128 px


def test_packed_taps_are_the_same_taps():
    image = textured(20)[0]
    where = np.random.default_rng(3).uniform(-1.3, 1.3, (9, 9, 2)).astype(np.float32)
    for channels in (3, 4):
        for padding in warp.PADDINGS:
            plain = warp.sample(warp.unit_range(image[..., :channels]), where, padding)
            packed = warp.sample_packed(image[..., :channels], where, padding)
            np.testing.assert_allclose(packed, plain, atol=1e-6)


def test_on_tpu_resampling_gathers_nothing():
    def read(images, maps):
        return warp.resample(images, maps, padding="reflect")

    shapes = jax.ShapeDtypeStruct((2, 16, 16, 4), jnp.uint8), jax.ShapeDtypeStruct((2, 3, 3), "f4")
    exported = {
        platform: jax.export.export(jax.jit(read), platforms=[platform])(*shapes).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert "stablehlo.gather" in exported["cpu"] and "stablehlo.gather" in exported["cuda"]
    assert "stablehlo.dot_general" in exported["tpu"]


REAL = Path(__file__).parents[4] / "shared" / "data" / "real_images" / "channels"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
@pytest.mark.parametrize(("degrees", "mean", "thousandth"), [(10, 0.35, 7), (45, 1.7, 35)])
def test_on_real_images_the_ways_differ_by_an_interpolation_error(degrees, mean, thousandth):
    from PIL import Image

    channels = [np.asarray(Image.open(path)) for path in sorted(REAL.glob("*.png"))[:12]]
    images = jnp.asarray(np.stack(channels).reshape(3, 4, 512, 512).transpose(0, 2, 3, 1))
    gather, products = both_ways(images, warp.rotation(float(degrees)))
    difference = 255 * np.abs(products - gather)
    assert difference.mean() < mean
    assert np.quantile(difference, 0.999) < thousandth
