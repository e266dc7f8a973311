"""Calibrated scores are probabilities, for rare classes too, and keep the order of rows."""

import numpy as np
import pytest

from hpa_jax.decision import analysis, calibration


def scored(rows=4000, seed=0):
    """(labels, overconfident scores [N, 3]): true log odds times two; classes of 40, 20 and 1 %."""
    rng = np.random.default_rng(seed)
    odds = np.log([0.4 / 0.6, 0.2 / 0.8, 0.01 / 0.99]) + 1.5 * rng.normal(size=(rows, 3))
    labels = rng.random((rows, 3)) < 1 / (1 + np.exp(-odds))
    return labels, 1 / (1 + np.exp(-2 * odds))


def test_errors_shrink_out_of_fold():
    labels, scores = scored()
    found = calibration.out_of_fold(labels, scores, groups=np.arange(len(labels)) // 2)
    before, after = (analysis.calibration_error(labels, p) for p in (scores, found))
    assert before > 0.03 and after < 0.01
    for c in range(3):
        assert found[:, c].mean() == pytest.approx(labels[:, c].mean(), rel=0.1)


def test_rows_keep_their_order_even_where_labels_say_otherwise():
    labels, scores = scored(300)
    labels[:, 2] = scores[:, 2] < np.quantile(scores[:, 2], 0.1)  # the worse the score the likelier
    found = calibration.fit(labels, scores)(np.sort(scores, axis=0))
    assert (np.diff(found, axis=0) >= 0).all()
    assert (calibration.fit(labels, scores).coefficients[:, 1:] > 0).all()


def test_a_class_without_positives_takes_the_common_curve_of_low_probability():
    labels, scores = scored(2000)
    labels[:, 2] = False
    found = calibration.fit(labels, scores)(scores)
    assert np.isfinite(found).all() and found[:, 2].mean() < 0.02


def test_weights_of_rows_count_as_repeats():
    labels, scores = scored(200)
    weights = np.random.default_rng(1).integers(0, 3, 200)
    repeated = calibration.fit(np.repeat(labels, weights, 0), np.repeat(scores, weights, 0))
    found = calibration.fit(labels, scores, weights)
    np.testing.assert_allclose(found.coefficients, repeated.coefficients, atol=1e-5)


def test_unknown_scores_stay_unknown():
    labels, scores = scored(200)
    scores[:, 1] = np.nan
    known = calibration.fit(labels[:, [0, 2]], scores[:, [0, 2]])
    coefficients = np.insert(known.coefficients, 1, 0.0, axis=0)
    found = calibration.Calibration(coefficients)(scores)
    assert np.isnan(found[:, 1]).all() and np.isfinite(found[:, [0, 2]]).all()
