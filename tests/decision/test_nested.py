"""Nested scores: no row's label reaches its own threshold, nor its group's."""

import numpy as np
import pytest

from hpa_jax.core import folds, metrics
from hpa_jax.decision import nested, thresholds


def draw(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 3)) < [0.4, 0.1, 0.05]
    scores = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 2 * labels - 1)))
    return labels, scores


def fit(labels, scores, groups):
    return thresholds.exact(labels, scores)


def test_equal_to_a_loop():
    labels, scores = draw()
    found = nested.predictions(labels, scores, fit, folds=4, seed=3)
    fold = folds.multilabel(labels, 4, 3)
    for number in range(4):
        class_thresholds = thresholds.exact(labels[fold != number], scores[fold != number])
        np.testing.assert_array_equal(
            found[fold == number], scores[fold == number] >= class_thresholds
        )


def test_groups_are_passed_on_and_kept_whole():
    labels, scores = draw()
    groups = np.arange(300) // 3
    seen = []

    def spy(y, p, g):
        seen.append(set(g))
        return thresholds.exact(y, p)

    nested.predictions(labels, scores, spy, groups=groups)
    assert len(seen) == 5
    for rest in seen:
        held = set(groups) - rest
        assert held and not held & rest


def test_nested_is_lower_than_tuned_on_the_same_rows():
    differences = []
    for seed in range(6):
        labels, scores = draw(150, seed)
        honest = metrics.macro_f1(labels, nested.predictions(labels, scores, fit))
        tuned = metrics.macro_f1(labels, scores >= thresholds.exact(labels, scores))
        differences.append(tuned - honest)
    assert np.mean(differences) > 0.02 and min(differences) >= 0


def test_summary_has_what_is_published():
    labels, scores = draw()
    decided = nested.predictions(labels, scores, fit)
    found = nested.summary(labels, scores, decided)
    assert found["macro_f1"] == pytest.approx(metrics.macro_f1(labels, decided))
    low, high = found["macro_f1_interval"]
    assert low < found["macro_f1"] < high
    assert found["rows"] == 300 and len(found["class_average_precision"]) == 3


@pytest.mark.parametrize("method", ["cross_validated", "exact"])
def test_shuffled_labels_give_chance(method):
    """Not above the better of predicting every row and guessing at the class's share, two standard
    errors allowed; `exact` thresholds tuned on the rows that they decide lie .04 above."""
    rule = thresholds.fitter(method, repeats=4)
    above = []
    for seed in range(25):
        labels, scores = draw(120, seed)
        shuffled = labels[np.random.default_rng(seed).permutation(120)]
        share = shuffled.mean(axis=0)
        every_row = (2 * share / (1 + share)).mean()  # F1 of guessing is the share itself: less
        decided = nested.predictions(shuffled, scores, rule)
        above.append(metrics.macro_f1(shuffled, decided) - every_row)
    assert np.mean(above) <= 2 * np.std(above) / np.sqrt(len(above))
