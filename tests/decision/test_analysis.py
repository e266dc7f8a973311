"""The report's numbers: table, calibration, confusions, errors."""

import numpy as np
import pytest

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import analysis, thresholds


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = rng.random((500, 3)) < [0.4, 0.1, 0.0]
    probs = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 2 * labels - 1)))
    return labels, probs


def test_class_table(case):
    labels, probs = case
    class_thresholds = thresholds.exact(labels, probs)
    decided = probs >= class_thresholds
    around = np.stack([class_thresholds - 0.1, class_thresholds + 0.2], axis=1)
    options = dict(around=around, draws=200)
    table = analysis.class_table(
        labels, probs, decided, class_thresholds, ["a", "b", "c"], **options
    )
    np.testing.assert_allclose(table["f1"], metrics.class_f1(labels, decided))
    assert (table["f1_low"] <= table["f1"] + 1e-9).all()
    assert (table["f1_high"] >= table["f1"] - 1e-9).all()
    assert table["support"].tolist() == labels.sum(axis=0).tolist()
    np.testing.assert_array_equal(table[["threshold_low", "threshold_high"]], around)
    # the rarer class is known less well
    width = table["f1_high"] - table["f1_low"]
    assert width[1] > width[0] and table["threshold_spread"][1] > 0
    assert np.isnan(table["threshold_spread"][2]) and np.isnan(table["average_precision"][2])
    with pytest.raises(InputError, match="2 names"):
        analysis.class_table(labels, probs, decided, class_thresholds, ["a", "b"], **options)


def test_calibration_of_true_probabilities():
    rng = np.random.default_rng(0)
    probs = rng.random(20_000)
    labels = rng.random(20_000) < probs
    mean, share, rows = analysis.calibration(labels, probs)
    assert rows.sum() == 20_000 and len(rows) == 10
    np.testing.assert_allclose(mean, share, atol=0.03)
    np.testing.assert_allclose(mean, np.arange(0.05, 1, 0.1), atol=0.02)
    mean, share, rows = analysis.calibration(labels, np.full(20_000, 0.5))
    assert len(rows) == 1 and share[0] == pytest.approx(labels.mean())


def test_confusions_count_what_replaced_a_missed_class():
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 0]], bool)
    decided = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1]], bool)
    found = analysis.confusions(labels, decided)
    assert found[0, 1] == pytest.approx(1 / 3)  # row 0: 1 in place of 0
    assert found[0, 0] == pytest.approx(1 / 3)  # row 1: nothing in place of 0
    assert found[1].tolist() == [0, 0, 0]  # class 1 was never missed


def test_largest_errors_are_the_most_confident_mistakes(case):
    labels, probs = case
    labels = labels.copy()
    probs[17, 0] = 0.9999
    labels[17, 0] = False
    found = analysis.largest_errors(labels, probs, 5)
    assert found[0][:2] == (17, 0) and len({row for row, _, _ in found}) == 5
    assert [loss for *_, loss in found] == sorted((loss for *_, loss in found), reverse=True)
