"""Calibration of scores to probabilities, by class.

In: labels [N, C] and scores [N, C] in [0, 1] (out of fold).  Out: a `Calibration`, which maps
scores of any rows to probabilities [N, C].

Beta calibration (Kull, Silva Filho and Flach 2017): logit q = c + a ln s - b ln(1 - s) for each
class, the fewer its positives the more shrunk to the fit of all classes pooled; a, b > 0, so that
the order of rows stays.  Isotonic regression needs more positives than most
classes have.
"""

from dataclasses import dataclass

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.core import metrics
from hpa_jax.decision.stack.inputs import LIMIT
from hpa_jax.decision.stack.learners import sigmoid

STRENGTH = 5.0  # of the shrinkage to the pooled fit
LEAST_SLOPE = 1e-3


@dataclass(frozen=True)
class Calibration:
    """coefficients: float[C, 3], intercept and weights of ln s and -ln(1 - s), these above 0."""

    coefficients: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [N, C] of scores [N, C]; NaN stays NaN."""
        columns = _columns(np.asarray(scores, float))
        return sigmoid(np.einsum("dnc,cd->nc", columns, self.coefficients))


def fit(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> Calibration:
    """Fit the calibration of these rows. weights: float[N], of the rows; None: equal.

    Raises:
        InputError: shapes that differ, or scores that are not finite.
    """
    labels = metrics.checked_labels(labels)
    scores = metrics.checked_scores(scores, labels.shape, "scores")
    columns, y = _columns(scores), labels.astype(float)
    weight = np.ones(len(labels)) if weights is None else np.asarray(weights, float)
    common = _newton(
        columns.reshape(3, -1), y.ravel(), np.repeat(weight, y.shape[1]), np.array([0.0, 1.0, 1.0])
    )
    of_class = [_newton(columns[..., c], y[:, c], weight, common) for c in range(y.shape[1])]
    return Calibration(np.array(of_class))


def out_of_fold(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    fold: np.ndarray | None = None,
) -> np.ndarray:
    """Return probabilities [N, C] by calibrations of the other folds; groups stay together.

    fold: int[N], replaces the random folds.
    """
    labels = metrics.checked_labels(labels)
    fold = folding.multilabel(labels, folds, seed, groups) if fold is None else fold
    result = np.empty(labels.shape)
    for number in np.unique(fold):
        rest = fold != number
        result[~rest] = fit(labels[rest], scores[rest])(scores[~rest])
    return result


def _columns(scores: np.ndarray) -> np.ndarray:
    """[3, N, C]: one, ln s, -ln(1 - s)."""
    inside = np.clip(scores, LIMIT, 1 - LIMIT)
    return np.stack([np.ones_like(inside), np.log(inside), -np.log1p(-inside)])


def _newton(x: np.ndarray, y: np.ndarray, weight: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Weights [3] that minimise log loss plus the penalty towards `centre`; a negative slope is set
    to LEAST_SLOPE and the others are refitted.  x: [3, N]."""
    x = np.ascontiguousarray(x)
    free = np.ones(3, bool)
    w = centre.copy()
    for _ in range(3):
        w = _weighted(x, y, weight, centre, free)
        negative = free & (w < LEAST_SLOPE) & (np.arange(3) > 0)
        if not negative.any():
            break
        free &= ~negative
    return w


def _weighted(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, centre: np.ndarray, free: np.ndarray
) -> np.ndarray:
    w = np.where(free, centre, LEAST_SLOPE)
    for _ in range(30):
        p = sigmoid(w @ x)
        gradient = x @ (weight * (p - y)) + STRENGTH * (w - centre)
        curvature = (x * (weight * np.maximum(p * (1 - p), 1e-6))) @ x.T
        curvature[np.diag_indices(3)] += STRENGTH
        step = np.zeros(3)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        w -= step * min(1.0, 3.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return w
