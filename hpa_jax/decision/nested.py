"""Nested scores: every row is decided by thresholds that were fitted without it.

In: labels, out-of-fold scores, and a function that fits thresholds.  Out: decisions bool[N, C] and
their scores.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.core import metrics
from hpa_jax.decision import confidence, thresholds

Fitter = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


def predictions(
    labels: np.ndarray,
    scores: np.ndarray,
    fit: Fitter,
    folds: int = 5,
    seed: int = 0,
    groups: np.ndarray | None = None,
    *,
    argmax: str = "off",
    on_fold_scores: bool = False,
    fold: np.ndarray | None = None,
) -> np.ndarray:
    """bool[N, C]: `scores >= fit(all rows but those of the fold)`, fold by fold.

    labels, scores: [N, C]; fit: (labels, scores, groups) -> [C]; a group stays in one fold;
    argmax: as thresholds.decide; on_fold_scores: `fit` gets the labels of the other folds and
    the scores of the fold itself, for a rule that matches its thresholds to the rows it decides;
    fold: int[N], replaces the random folds.
    """
    labels = metrics.checked_labels(labels)
    scores = metrics.checked_scores(scores, labels.shape)
    groups = None if groups is None else np.asarray(groups)
    fold = folding.multilabel(labels, folds, seed, groups) if fold is None else fold
    decided = np.zeros(labels.shape, bool)
    for number in np.unique(fold):
        rest = fold != number
        if on_fold_scores:
            class_thresholds = fit(labels[rest], scores[~rest], None)
        else:
            class_thresholds = fit(
                labels[rest], scores[rest], None if groups is None else groups[rest]
            )
        decided[~rest] = thresholds.decide(scores[~rest], class_thresholds, argmax=argmax)
    return decided


def summary(
    labels: np.ndarray,
    scores: np.ndarray,
    decided: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return nested macro-F1 and average precision, overall and by class.

    `macro_f1_present` leaves out classes without positives on these rows; weights: from
    `confidence.resamples`, shared by all methods that are compared.
    """
    return {
        "macro_f1": metrics.macro_f1(labels, decided),
        "macro_f1_interval": confidence.f1_intervals(labels, decided, weights=weights).macro,
        "macro_f1_present": metrics.macro_f1(labels, decided, present_only=True),
        "macro_average_precision": metrics.macro_average_precision(labels, scores),
        "class_f1": metrics.class_f1(labels, decided),
        "class_average_precision": metrics.average_precision(labels, scores),
        "rows": len(labels),
    }
