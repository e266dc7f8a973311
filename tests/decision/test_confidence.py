"""Bootstrap intervals equal scipy's and a plain loop, and keep groups together."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from hpa_jax.core.errors import InputError
from hpa_jax.decision import confidence, thresholds


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


def test_cut_intervals_are_those_of_a_plain_bootstrap(case):
    """The rule itself is fitted on every resample, scale and all."""
    labels, probs = case

    def fit(labels, probs, groups):
        return 0.5 * thresholds.exact(labels, probs)

    found = confidence.threshold_intervals(labels, probs, fit, draws=60, seed=3)
    class_thresholds = []
    for weight in confidence.resamples(300, 60, seed=3):
        rows = np.repeat(np.arange(300), weight)
        class_thresholds.append(0.5 * thresholds.exact(labels[rows], probs[rows]))
    low, high = np.quantile(class_thresholds, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(found.low[:2], low[:2])
    np.testing.assert_allclose(found.high[:2], high[:2])
    np.testing.assert_allclose(found.spread[:2], np.std(class_thresholds, axis=0)[:2])
    threshold = fit(labels, probs, None)
    assert (found.low[:2] <= threshold[:2]).all() and (threshold[:2] <= found.high[:2]).all()
    assert np.isnan([found.low[2], found.high[2], found.spread[2]]).all()  # without positives


def test_copies_of_a_row_stay_in_one_fold_of_the_rule(case):
    labels, probs = case
    seen = []

    def fit(labels, probs, groups):
        seen.append((probs, groups))
        return np.full(3, 0.5)

    found = confidence.threshold_intervals(labels, probs, fit, np.arange(300) // 2, draws=3)
    assert found.low[0] == found.high[0] == 0.5 and found.spread[0] == 0
    for rows, groups in seen:
        assert len(rows) == len(groups) == 300 and len(np.unique(groups)) < 110
        place = {tuple(row): group for row, group in zip(rows, groups)}
        assert all(place[tuple(row)] == group for row, group in zip(rows, groups))
    confidence.threshold_intervals(labels, probs, fit, draws=2, matched=probs[:7])
    assert len(seen[-1][0]) == 7 and seen[-1][1] is None


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
