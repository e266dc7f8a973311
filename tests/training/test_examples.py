"""Epochs are exact, repeatable, and weighted as asked."""

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.training import examples
from hpa_jax.training.examples import OneClass


def test_uniform_epochs_are_permutations_that_differ_and_repeat():
    sampler = examples.uniform(50, seed=3)
    first, second = sampler(0), sampler(1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(examples.uniform(50, seed=3)(1), second)
    assert not np.array_equal(examples.uniform(50, seed=4)(1), second)


def test_weighted_epochs_show_each_row_floor_or_ceil_of_its_share():
    weights = np.array([1.0, 2.0, 0.5, 0.0, 4.0, 1.3, 0.2, 3.0])
    sampler = examples.weighted(weights, seed=0)
    expected = weights / weights.sum() * 8
    total = np.zeros(8)
    for epoch in range(400):
        counts = np.bincount(sampler(epoch), minlength=8)
        assert counts.sum() == 8
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()
        total += counts
    np.testing.assert_allclose(total / 400, expected, atol=0.08)


def test_rare_classes_are_shown_more_often():
    labels = np.zeros((100, 2), np.uint8)
    labels[:, 0] = 1
    labels[:4, 1] = 1
    counts = {
        name: np.mean([np.isin(examples.sampler(name, labels, seed=0)(e), range(4)).sum()
                       for e in range(50)])
        for name in ("uniform", "rare", "balanced")
    }  # fmt: skip
    assert counts["uniform"] == 4
    # weights 5 and 25 against 1 of the other 96 rows
    assert counts["rare"] == pytest.approx(100 * 20 / 116, rel=0.05)
    assert counts["balanced"] == pytest.approx(100 * 100 / 196, rel=0.05)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_are_the_formulas_by_blocks_and_of_one_class_a_row(power):
    draw = np.random.default_rng(0)
    labels = (draw.random((9000, 6)) < [0.5, 0.2, 0.1, 0.01, 0.001, 0]).astype(np.uint8)
    counts = np.maximum(labels.sum(0), 1)
    expected = np.maximum((labels * (9000 / counts) ** power).max(1), 1.0)
    np.testing.assert_allclose(examples.class_weights(labels, power=power), expected)
    numbers = draw.integers(0, 50, 3000)
    one = OneClass(numbers, 50)
    dense = one[np.arange(3000)]
    assert dense.sum() == 3000 and (dense.argmax(1) == numbers).all()
    np.testing.assert_allclose(
        examples.class_weights(one, power=power), examples.class_weights(dense, power=power)
    )


def test_source_weights_multiply():
    labels = np.ones((10, 1), np.uint8)
    weights = np.array([1.0] * 5 + [0.0] * 5)
    assert set(examples.sampler("uniform", labels, seed=0, weights=weights)(0)) == set(range(5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: examples.sampler("rarest", np.ones((3, 1)), seed=0), "did you mean 'rare'"),
        (lambda: examples.sampler("uniform", np.ones((0, 1)), seed=0), "empty"),
        (lambda: examples.weighted([1.0, -1.0], seed=0), ">= 0"),
        (lambda: examples.weighted([0.0, 0.0], seed=0), "not all 0"),
        (lambda: examples.sampler("rare", np.ones((3, 1)), seed=0, weights=[1.0]), "3 rows"),
    ],
)
def test_bad_sampling_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
