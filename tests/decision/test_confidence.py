"""Bootstrap intervals equal scipy's and a plain loop, and keep groups together."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hpa_jax.decision import confidence, thresholds
from hpa_jax.errors import InputError


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < [0.4, 0.1, 0.0]
    probs = np.round(1 / (1 + np.exp(-(rng.normal(size=(300, 3)) + 2 * labels - 1))), 2)
    return labels, probs


def test_f1_interval_agrees_with_scipy(case):
    labels, probs = case
    decided = probs >= 0.5
    found = confidence.f1_intervals(labels, decided, draws=3000)
    for c in range(2):
        expected = bootstrap(
            (labels[:, c], decided[:, c]),
            lambda y, p: 2 * np.sum(y & p) / np.sum(y.astype(int) + p),
            paired=True,
            vectorized=False,
            n_resamples=600,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        np.testing.assert_allclose(found.classes[c], expected, atol=0.03)
    assert found.macro[0] < np.mean(found.draws) < found.macro[1]
    assert found.classes[2].tolist() == [0, 0]


def test_threshold_cuts_equal_exact_on_each_resample(case):
    labels, probs = case
    weights = confidence.resamples(300, 20, seed=3)
    for c in range(2):
        found = confidence._cuts(labels[:, c], probs[:, c], weights)
        for b in range(20):
            rows = np.repeat(np.arange(300), weights[b])
            expected = thresholds.exact(labels[rows][:, [c]], probs[rows][:, [c]])[0]
            assert found[b] == pytest.approx(expected, abs=1e-12)


def test_threshold_interval_holds_the_threshold(case):
    labels, probs = case
    bounds = confidence.threshold_intervals(labels, probs)
    cuts = thresholds.exact(labels, probs)
    assert (bounds[:2, 0] <= cuts[:2]).all() and (cuts[:2] <= bounds[:2, 1]).all()
    assert np.isnan(bounds[2]).all()


def test_groups_are_drawn_whole():
    groups = np.repeat(np.arange(50), 4)
    weights = confidence.resamples(200, 10, groups=groups)
    assert (weights.reshape(10, 50, 4) == weights.reshape(10, 50, 4)[:, :, :1]).all()
    labels = np.repeat(np.random.default_rng(0).random((50, 1)) < 0.3, 4, axis=0)
    decided = labels ^ np.repeat(np.random.default_rng(1).random((50, 1)) < 0.2, 4, axis=0)
    alone = confidence.f1_intervals(labels, decided)
    together = confidence.f1_intervals(labels, decided, groups)
    assert np.ptp(together.macro) > 1.5 * np.ptp(alone.macro)  # 50 observations, not 200


def test_bad_numbers_are_errors():
    with pytest.raises(InputError, match="3 groups for 4"):
        confidence.resamples(4, 10, groups=[1, 2, 3])
    with pytest.raises(InputError, match="1 draws"):
        confidence.resamples(4, 1)
