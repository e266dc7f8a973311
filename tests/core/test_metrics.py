"""F1 and average precision equal scikit-learn's; bad input is named."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 6)) < [0.5, 0.2, 0.05, 0.01, 0.0, 1.0]
    scores = np.round(rng.random((200, 6)) + 0.4 * labels, 1)  # many equal scores
    return labels, scores


def test_f1_equals_sklearn(case):
    labels, scores = case
    predicted = scores >= 0.7
    expected = f1_score(labels, predicted, average=None, zero_division=0)
    np.testing.assert_allclose(metrics.class_f1(labels, predicted), expected, atol=1e-12)
    assert metrics.macro_f1(labels, predicted) == pytest.approx(expected.mean(), abs=1e-12)


def test_present_only_leaves_out_classes_without_positives(case):
    labels, scores = case
    predicted = scores >= 0.7
    present = labels.any(axis=0)
    assert not present.all()
    expected = metrics.class_f1(labels, predicted)[present].mean()
    assert metrics.macro_f1(labels, predicted, present_only=True) == pytest.approx(expected)


def test_average_precision_equals_sklearn_with_ties(case):
    labels, scores = case
    found = metrics.average_precision(labels, scores)
    for c in range(labels.shape[1]):
        if labels[:, c].any():
            expected = average_precision_score(labels[:, c], scores[:, c])
            assert found[c] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(found[c])
    mean = metrics.macro_average_precision(labels, scores)
    assert mean == pytest.approx(found[labels.any(axis=0)].mean())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_probabilities_are_named(case, value):
    labels, scores = case
    scores[17, 3] = value
    with pytest.raises(InputError, match="row 17, column 3"):
        metrics.average_precision(labels, scores)


def test_bad_labels_are_named():
    with pytest.raises(InputError, match="row 1, class 0"):
        metrics.class_f1(np.array([[0, 1], [2, 0]]), np.zeros((2, 2)))
    with pytest.raises(InputError, match="shape"):
        metrics.class_f1(np.zeros((2, 2)), np.zeros((2, 3)))
