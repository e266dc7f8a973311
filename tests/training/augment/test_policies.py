"""The 25 policies: the table, each operation against numpy or scipy, and how often it happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from hpa_jax.training.augment import policies, warp

SIZE = 16
DRAW = jax.jit(policies.draw)
READ_ONCE = jax.jit(policies.read_once)
READ_TWICE = jax.jit(policies.read_twice, static_argnums=3)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((3, SIZE, SIZE, 2)), jnp.float32)


def drawn(policy, seed=0):
    return DRAW(jax.random.key(seed), policy=jnp.int32(policy))


def many(policy, count=2000):
    keys = jax.random.split(jax.random.key(1), count)
    return jax.jit(jax.vmap(lambda key: policies.draw(key, policy=jnp.int32(policy))))(keys)


def neutral(**changes):
    """A drawn tuple of one image with some numbers changed, as a batch of one."""
    one = drawn(17)  # both chances are 0
    return jax.tree.map(lambda value: value[None], one._replace(**changes))


# The spec's table (bestfitting_pudae B): operation, chance and parameters, twice a policy.
TABLE = """
ElasticTransform .75 alpha 1 sigma 37 alpha_affine 67 | RandomContrast .25 limit .11
MotionBlur 0 blur_limit 5 | Rotate .25 limit 31
RandomBrightness .75 limit .118 | GridDistortion .5 num_steps 5 distort_limit .499
RandomBrightness 0 limit .123 | ElasticTransform 0 alpha 1 sigma 33 alpha_affine 63
InvertImg .5 | RandomBrightness .5 limit .178
ElasticTransform .25 alpha 1 sigma 60 alpha_affine 65 | RandomBrightness 0 limit .208
MotionBlur .25 blur_limit 3 | RandomContrast .25 limit .231
Rotate .75 limit 26 | Blur .25 blur_limit 5
ShiftScaleRotate .25 shift_limit .0767 | RandomGamma .5 low 76 high 110
RandomBrightness .5 limit .204 | RandomGamma .5 low 78 high 110
Blur 0 blur_limit 3 | GridDistortion .5 num_steps 4 distort_limit .371
Blur 0 blur_limit 5 | RandomGamma .25 low 81 high 110
RandomScale .75 scale_limit .173 | Blur 0 blur_limit 3
RandomScale .25 scale_limit .0561 | RandomContrast .75 limit .198
ShiftScaleRotate .25 shift_limit .12 | ElasticTransform .5 alpha 1 sigma 55 alpha_affine 53
RandomContrast .5 limit .254 | ElasticTransform 0 alpha 1 sigma 55 alpha_affine 50
GridDistortion .5 num_steps 3 distort_limit .239 | MotionBlur 0 blur_limit 3
RandomBrightness 0 limit .163 | Rotate 0 limit 10
Rotate .25 limit 21 | RandomGamma .5 low 74 high 110
Blur 0 blur_limit 3 | RandomGamma 0 low 76 high 113
Blur .5 blur_limit 4 | ShiftScaleRotate 0 shift_limit .0817
RandomScale .5 scale_limit .15 | RandomBrightness .75 limit .266
GridDistortion .25 num_steps 4 distort_limit .275 | Rotate .75 limit 36
ElasticTransform 0 alpha 1 sigma 62 alpha_affine 68 | GridDistortion .5 num_steps 3 distort_limit .407
RandomGamma 0 low 78 high 112 | RandomScale .25 scale_limit .179
"""  # noqa: E501
NAMES = dict(
    ElasticTransform="elastic",
    RandomContrast="contrast",
    MotionBlur="motion_blur",
    Rotate="rotate",
    RandomBrightness="brightness",
    GridDistortion="grid",
    InvertImg="invert",
    Blur="blur",
    ShiftScaleRotate="shift_scale_rotate",
    RandomGamma="gamma",
    RandomScale="scale",
)
UNUSED = ("alpha", "sigma")  # of ElasticTransform: they move pixels by .005 px


def operation(text):
    name, chance, *rest = text.split()
    numbers = [float(n) for key, n in zip(rest[::2], rest[1::2]) if key not in UNUSED]
    return (NAMES[name], float(chance), *numbers)


def test_the_table_is_pudaes():
    rows = TABLE.strip().splitlines()
    expected = tuple(tuple(operation(half) for half in row.split("|")) for row in rows)
    assert expected == policies.POLICIES and len(expected) == 25


@pytest.mark.parametrize("policy, limit", [(8, 0.0767), (14, 0.12)])
def test_shift_scale_rotate_only_shifts(policy, limit):
    if policy == 14:  # its second operation moves points too
        row = jnp.asarray(policies._TABLE[policy, 0])
        draws = jax.random.uniform(jax.random.key(3), (2000, policies._DRAWS))
        matrices = jax.vmap(lambda u: policies._operation(row, u, False).matrix)(draws)
    else:
        matrices = many(policy).matrix
    matrices = np.asarray(matrices)
    same = np.broadcast_to(np.eye(2), (len(matrices), 2, 2))
    np.testing.assert_allclose(matrices[:, :2, :2], same, atol=1e-6)
    moved = np.abs(matrices[:, :2, 2]) / 2  # in shares of the side
    assert moved.max() > 0.95 * limit and moved.max() <= limit + 1e-6


def test_the_order_of_operations_lets_one_reading_serve():
    # One composed map serves only if no grid that can happen follows an affine map that can.
    affine = ("elastic", "rotate", "shift_scale_rotate")
    for first, second in policies.POLICIES:
        assert not (first[0] in affine and first[1] > 0 and second[0] == "grid" and second[1] > 0)
        assert not (first[0] == "grid" and second[0] == "grid")
        # The blur stands between geometry and pixel values.
        assert not (first[0] in ("brightness", "contrast", "gamma") and "blur" in second[0])
        assert not ("blur" in first[0] and second[0] in affine and first[1] and second[1])


def test_what_never_happens_changes_nothing(images):
    one = jax.tree.map(lambda value: jnp.stack([value] * 3), drawn(17))
    where = jax.jit(policies.move)(warp.grid(SIZE, SIZE, False), drawn(17))
    np.testing.assert_allclose(where, warp.grid(SIZE, SIZE, False), atol=1e-6)
    np.testing.assert_allclose(jax.jit(policies.shade)(images, one), images, atol=2e-6)
    assert int(drawn(17).kernel) == 0


@pytest.mark.parametrize(
    "policy, field, neutral, chance",
    [(7, "matrix", np.eye(3), 0.75), (2, "cells", 0, 0.5), (6, "kernel", 0, 0.25)],
)
def test_operations_happen_as_often_as_stated(policy, field, neutral, chance):
    value = np.asarray(getattr(many(policy), field))
    happened = (np.abs(value - neutral) > 1e-6).reshape(len(value), -1).any(axis=1)
    assert happened.mean() == pytest.approx(chance, abs=0.04)


def test_limits_are_reached_and_kept():
    angle = np.rad2deg(np.arctan2(*np.asarray(many(7).matrix)[:, [1, 0], 0].T))
    assert 25 < np.abs(angle).max() <= 26.001
    gain = np.asarray(many(9).gain)[:, 0]
    assert 0.796 - 1e-4 <= gain.min() < 0.81 and 1.19 < gain.max() <= 1.204 + 1e-4
    gamma = 100 / np.asarray(many(8).exponent)
    assert 76 - 1e-3 <= gamma.min() < 77 and 109 < gamma.max() <= 110.001
    steps = np.asarray(many(2).steps)
    assert 0.5 < steps.min() < 0.52 and 1.48 < steps.max() <= 1.5
    assert set(np.asarray(many(7).kernel).tolist()) == {0, 1, 2}
    assert set(np.asarray(many(20).kernel).tolist()) == {0, 1}


def test_policies_are_drawn_uniformly():
    keys = jax.random.split(jax.random.key(2), 4000)
    all_drawn = jax.jit(jax.vmap(policies.draw))(keys)
    assert (np.asarray(all_drawn.cells) > 0).mean() == pytest.approx(
        (0.5 + 0.5 + 0.5 + 0.25 + 0.5) / 25, abs=0.02
    )
    assert (np.asarray(all_drawn.exponent) != 1).mean() == pytest.approx(1.75 / 25, abs=0.02)


def test_elastic_moves_three_points_at_most_by_its_limit():
    matrices = np.asarray(many(0).matrix, np.float64)
    third = 2 / 3
    points = np.array([[third, third, -third], [third, -third, -third], [1, 1, 1]])
    moved = np.linalg.inv(matrices) @ points
    pixels = np.abs(moved - points)[:, :2].max(axis=(1, 2)) * 256
    assert 60 < pixels.max() < 67.01


def test_grid_cells_equal_numpys_interpolation():
    steps = jnp.array([0.6, 1.3, 0.8, 1.1, 1.0])
    position = np.linspace(-1, 1, 41)
    knots = np.arange(5) / 4 * 2 - 1
    sources = np.concatenate([[0], np.cumsum([0.6, 1.3, 0.8, 1.1])]) / 4 * 2 - 1
    got = policies._cells(jnp.asarray(position), steps, jnp.float32(4))
    np.testing.assert_allclose(got, np.interp(position, knots, sources), atol=1e-5)


def test_beyond_the_border_the_distorted_image_is_mirrored():
    base = jnp.array([[[1.25, 0.0], [0.75, 0.0]]])
    one = drawn(17)._replace(steps=jnp.full((2, 5), 0.5), cells=jnp.float32(3))
    where = policies.move(base, one)
    np.testing.assert_allclose(where[0, 0], where[0, 1], atol=1e-6)


def test_pointwise_formulas(images):
    x = np.asarray(images[:1], np.float64)
    one = neutral(
        gain=jnp.array([-1.0, 1.2]), lift=jnp.array([1.0, 0.0]), exponent=jnp.float32(1.1)
    )
    want = np.clip(1.2 * (1 - x), 0, 1) ** 1.1
    np.testing.assert_allclose(policies.shade(images[:1], one), want, atol=1e-4)
    one = neutral(gain=jnp.array([0.8, 1.0]), pull=jnp.array([0.2, 0.0]))
    want = np.clip(0.8 * x + 0.2 * x.mean(), 0, 1)
    np.testing.assert_allclose(policies.shade(images[:1], one), want, atol=1e-5)


def test_blur_equals_scipy_and_kernels_are_means(images):
    np.testing.assert_allclose(policies.KERNELS.sum(axis=(1, 2)), 1.0, atol=1e-6)
    assert {int((kernel > 0).sum()) for kernel in policies.KERNELS[3:]} == {2, 3}
    kernels = jnp.asarray(policies.KERNELS)[jnp.array([1, 2, 9])]
    got = policies.blur(images, kernels)
    for n in range(3):
        for k in range(2):
            want = ndimage.correlate(np.asarray(images[n, ..., k]), kernels[n], mode="mirror")
            np.testing.assert_allclose(got[n, ..., k], want, atol=1e-5)


def textured(count, side):
    """uint8 images [count, side, side, 4] as smooth as a microscope's."""
    noise = np.random.default_rng(1).normal(size=(count, side, side, 4))
    smooth = ndimage.gaussian_filter(noise, (0, 2.0, 2.0, 0))
    return jnp.asarray(np.clip(128 + 600 * smooth, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("turn", [0, 5])
@pytest.mark.parametrize("moved", ["nothing", "grid", "rotation"])
def test_the_tpus_two_readings_equal_the_one_gather(moved, turn):
    """Exact where nothing moves, within 1/128 pixel along the axes, else an interpolation error."""
    images = textured(2, 48)
    steps = jnp.array([[0.8, 1.2, 1.1, 1.0, 1.0], [1.1, 0.9, 1.0, 1.0, 1.0]])
    one = dict(
        nothing=neutral(),
        grid=neutral(steps=steps, cells=jnp.float32(3)),
        rotation=neutral(matrix=warp.rotation(20.0)),
    )[moved]
    drawn = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, *jnp.shape(x)[1:])), one)
    turns = jnp.full(2, turn)
    once = np.asarray(READ_ONCE(images, turns, drawn))
    twice = np.asarray(READ_TWICE(images, turns, drawn, jnp.float32))
    inside = np.s_[:, 10:38, 10:38]  # the two mirror at pixels' centres and at edges
    difference = 255 * np.abs(twice - once)[inside]
    assert difference.max() < dict(nothing=1e-3, grid=2.0, rotation=12.0)[moved]
    assert difference.mean() < dict(nothing=1e-3, grid=0.5, rotation=1.5)[moved]
