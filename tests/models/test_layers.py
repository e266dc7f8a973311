"""Layers: torch's semantics against slow formulas in numpy; all ways of computing agree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpa_jax.models import convolution, layers, pooling


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def slow_conv(x, kernel, strides, padding, groups):
    (top, bottom), (left, right) = padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    kh, kw, i, o = kernel.shape
    h, w = (x.shape[1] - kh) // strides[0] + 1, (x.shape[2] - kw) // strides[1] + 1
    out = np.zeros((len(x), h, w, o))
    for group in range(groups):
        inputs = x[..., group * i : (group + 1) * i]
        outputs = slice(group * o // groups, (group + 1) * o // groups)
        for r in range(h):
            for c in range(w):
                rows, columns = r * strides[0], c * strides[1]
                patch = inputs[:, rows : rows + kh, columns : columns + kw]
                out[:, r, c, outputs] = np.einsum("nhwi,hwio->no", patch, kernel[..., outputs])
    return out


def slow_pool(x, k, s, padding, ceil_mode, kind, include_pad=True):
    """torch.nn.MaxPool2d / AvgPool2d of square windows, from their documentation."""
    n, height, width, f = x.shape

    def outputs(size):
        span = (size + 2 * padding - k) / s
        count = int(np.ceil(span) if ceil_mode else np.floor(span)) + 1
        return count - 1 if ceil_mode and (count - 1) * s >= size + padding else count

    out = np.zeros((n, outputs(height), outputs(width), f))
    for r in range(out.shape[1]):
        for c in range(out.shape[2]):
            top, left = r * s - padding, c * s - padding
            bottom, right = min(top + k, height + padding), min(left + k, width + padding)
            area = (bottom - top) * (right - left)
            patch = x[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
            if kind == "max":
                out[:, r, c] = patch.max((1, 2))
            else:
                count = area if include_pad else patch.shape[1] * patch.shape[2]
                out[:, r, c] = patch.sum((1, 2)) / count
    return out


@pytest.mark.parametrize(
    ("size", "features", "kernel", "strides", "padding", "groups"),
    [
        (7, (4, 6), (1, 1), (2, 2), 0, 1),
        (6, (4, 6), (3, 3), (1, 1), 1, 1),
        (9, (4, 6), (1, 7), (1, 1), (0, 3), 1),
        (8, (3, 4), (3, 3), (2, 2), ((0, 1), (1, 0)), 1),
        (6, (64, 64), (3, 3), (2, 2), 1, 16),
        (5, (6, 12), (3, 3), (1, 1), 1, 6),
    ],
)
def test_convolution_equals_its_formula(size, features, kernel, strides, padding, groups):
    conv = layers.Conv(
        *features, kernel, strides=strides, padding=padding, groups=groups, use_bias=True,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    conv.bias[...] = draw(features[1])
    x = draw((2, size, size, features[0]), 1)
    expected = slow_conv(x, np.asarray(conv.kernel), strides, pooling.sides(padding), groups)
    np.testing.assert_allclose(conv(x), expected + np.asarray(conv.bias), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("strides", "groups"), [((1, 1), 16), ((2, 2), 4)])
def test_sliced_and_native_grouped_convolution_agree_with_gradients(strides, groups):
    x, kernel = draw((2, 6, 6, 64)), draw((3, 3, 64 // groups, 64), 1)
    options = dict(strides=strides, padding=((1, 1), (1, 1)), groups=groups)

    def run(way):
        y, pull = jax.vjp(lambda x, k: way(x, k, **options), x, kernel)
        return [y, *pull(jnp.cos(y))]

    positional = tuple(options.values())
    ways = [
        run(convolution.native),
        *(
            run(functools.partial(convolution.sliced, channels=channels))
            for channels in convolution.SLICE_CHANNELS.values()
        ),
        run(lambda x, k, **_: convolution.convolve(x, k, *positional)),
    ]
    for other in ways[1:]:
        for a, b in zip(ways[0], other):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_slices_take_whole_groups_within_the_limit():
    assert convolution.slice_groups(128, 32, channels=32) == 8
    assert convolution.slice_groups(1024, 2, channels=32) == 1
    assert convolution.slice_groups(6, 6, channels=32) == 6


def test_matrix_product_has_the_plain_gradient():
    x, kernel = draw((12, 5)), draw((5, 3), 1)
    ours = jax.vjp(convolution.matmul, x, kernel)[1](jnp.ones((12, 3)))
    plain = jax.vjp(jnp.matmul, x, kernel)[1](jnp.ones((12, 3)))
    for a, b in zip(ours, plain):
        np.testing.assert_allclose(a, b, rtol=1e-5)


POOLS = [
    (8, 3, 2, 1, False),
    (9, 3, 2, 1, False),
    (8, 3, 2, 0, True),
    (9, 3, 2, 0, True),
    (7, 2, 2, 0, True),
    (7, 2, 2, 0, False),
    (6, 3, 1, 1, False),
    (5, 3, 2, 1, True),
    (11, 5, 3, 2, True),
]


@pytest.mark.parametrize(("size", "k", "s", "padding", "ceil_mode"), POOLS)
def test_pools_follow_torch(size, k, s, padding, ceil_mode):
    x = draw((2, size, size + 1, 3))
    result = layers.max_pool(x, k, s, padding=padding, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(result, slow_pool(x, k, s, padding, ceil_mode, "max"))
    for include in (True, False):
        result = layers.avg_pool(
            x, k, s, padding=padding, ceil_mode=ceil_mode, count_include_pad=include
        )
        expected = slow_pool(x, k, s, padding, ceil_mode, "avg", include)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


def test_the_global_maximums_gradient_goes_to_the_first_of_equal_values():
    x = jnp.array([[1.0, 3.0], [3.0, -2.0]])[None, :, :, None] * jnp.array([1.0, -1.0])
    value, gradient = jax.value_and_grad(lambda x: layers.global_max_pool(x).sum())(x)
    assert value == 3.0 + 2.0
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(gradient[0, :, :, 1], [[0, 0], [0, 1]])


@pytest.mark.parametrize(("size", "k", "s", "padding", "ceil_mode"), POOLS)
def test_max_pool_gradient_goes_where_the_maximum_was(size, k, s, padding, ceil_mode):
    x = draw((2, size, size + 1, 3))
    pool = lambda x: layers.max_pool(x, k, s, padding=padding, ceil_mode=ceil_mode)  # noqa: E731
    gradient = draw(pool(x).shape, 2)
    (mine,) = jax.jit(lambda x, g: jax.vjp(pool, x)[1](g))(x, gradient)
    expected = np.zeros(x.shape)
    for n, r, c, f in np.ndindex(gradient.shape):
        rows = slice(max(r * s - padding, 0), r * s - padding + k)
        columns = slice(max(c * s - padding, 0), c * s - padding + k)
        patch = x[n, rows, columns, f]
        i, j = np.unravel_index(patch.argmax(), patch.shape)
        expected[n, rows.start + i, columns.start + j, f] += gradient[n, r, c, f]
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-6)


def test_max_pool_gives_the_first_of_equals_the_gradient():
    x = jnp.zeros((1, 4, 4, 1))
    gradient = jax.grad(lambda x: layers.max_pool(x, 2, 2).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], np.kron(np.ones((2, 2)), [[1, 0], [0, 0]]))


def test_a_pool_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        layers.max_pool(jnp.zeros((1, 2, 2, 1)), 3, 2)


def test_batchnorm_trains_and_evaluates_as_torch():
    bn = layers.BatchNorm(3, eps=1e-3, momentum=0.2)
    bn.scale[...], bn.bias[...] = draw(3, 1), draw(3, 2)
    x = 5 + 2 * draw((4, 3, 3, 3))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 1e-3) * np.asarray(bn.scale) + np.asarray(bn.bias)
    np.testing.assert_allclose(bn(x), expected, rtol=1e-3, atol=1e-4)
    unbiased = var * 36 / 35
    np.testing.assert_allclose(bn.mean[...], 0.2 * mean, rtol=1e-4)
    np.testing.assert_allclose(bn.var[...], 0.8 + 0.2 * unbiased, rtol=1e-3)
    bn.eval()
    running = np.asarray(bn.mean), np.asarray(bn.var)
    expected = (x - running[0]) / np.sqrt(running[1] + 1e-3) * np.asarray(bn.scale)
    np.testing.assert_allclose(bn(x), expected + np.asarray(bn.bias), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(running[0], bn.mean[...])


def test_batchnorm_keeps_float32_statistics_of_bfloat16():
    bn = layers.BatchNorm(2, dtype=jnp.bfloat16)
    x = (1000 + draw((4, 8, 8, 2))).astype(jnp.bfloat16)
    assert bn(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(bn.mean[...], 0.1 * x.astype(jnp.float32).mean((0, 1, 2)), rtol=1e-5)


def test_folded_normalisation_equals_the_unfolded():
    conv = layers.Conv(4, 6, 3, padding=1, use_bias=True, rngs=nnx.Rngs(0))
    bn = layers.BatchNorm(6)
    conv.bias[...], bn.scale[...], bn.bias[...] = draw(6, 1), draw(6, 2), draw(6, 3)
    bn.mean[...], bn.var[...] = draw(6, 4), draw(6, 5) ** 2
    bn.eval()
    x = draw((2, 5, 5, 4))
    folded = layers.conv_bn_act(conv, bn, x)
    np.testing.assert_allclose(folded, nnx.relu(bn(conv(x))), rtol=1e-4, atol=1e-5)


def test_squeeze_excite_gates_channels():
    gate = layers.SqueezeExcite(8, 4, rngs=nnx.Rngs(0))
    x = draw((2, 3, 3, 8))
    ratio = np.asarray(gate(x)) / x
    assert ratio.min() > 0 and ratio.max() < 1
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-4)


@pytest.mark.parametrize(
    ("window", "strides", "padding", "ceil_mode"),
    [(3, 2, 1, False), (3, 2, 0, True), (2, 2, 0, False), (3, 1, 1, False)],
)
@pytest.mark.parametrize("size", [9, 12])
def test_the_tpus_maximum_equals_the_others_with_gradients(
    size, window, strides, padding, ceil_mode
):
    """Ties too: rectified maps are full of zeros; the first of equals gets the gradient."""
    x = jnp.maximum(draw((2, size, size, 3)), 0.0)
    window, strides = (window, window), (strides, strides)
    edges = pooling._pool_edges((size, size), window, strides, pooling.sides(padding), ceil_mode)

    def run(way):
        y, pull = jax.vjp(lambda x: way(x, window, strides, edges), x)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))[0]

    for ours, tpus in zip(run(pooling._maximum), run(pooling.windowed_maximum)):
        np.testing.assert_allclose(ours, tpus, atol=1e-6)
