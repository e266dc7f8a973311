"""Scores of multilabel decisions: F1, average precision, and their means over classes.

In: labels [N, C] in {0, 1} and predictions [N, C] (bool) or probabilities [N, C] (float).
Out: float[C] or one number.  Equal to scikit-learn's `f1_score` and `average_precision_score`
(tests prove it), but vectorised over classes and with checked inputs.

Rules: F1 of a class without positives and without predictions is 0 (scikit-learn's
`zero_division=0`, the competition's score); average precision of a class without positives is NaN,
because every ranking is equally right; NaN or infinite probabilities are an error that names row
and class.
"""

from collections.abc import Sequence

import numpy as np

from hpa_jax.core.errors import InputError


def checked_labels(labels: np.ndarray, name: str = "labels") -> np.ndarray:
    """labels as bool[N, C].

    Raises:
        InputError: not two-dimensional, or a value that is neither 0 nor 1.
    """
    array = np.asarray(labels)
    if array.ndim != 2:
        raise InputError(f"{name}: shape {array.shape}, but rows x classes are needed")
    if array.dtype != bool:
        wrong = ~np.isin(array, (0, 1))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise InputError(
                f"{name}: value {array[row, column]} in row {row}, class {column}; "
                "labels are 0 or 1 (labelled rows only)"
            )
    return array.astype(bool)


def checked_scores(
    scores: np.ndarray, shape: Sequence[int] | None = None, name: str = "probabilities"
) -> np.ndarray:
    """scores as float64[N, C].

    Raises:
        InputError: not two-dimensional, another shape than `shape`, NaN or infinity.
    """
    array = np.asarray(scores, np.float64)
    if array.ndim != 2:
        raise InputError(f"{name}: shape {array.shape}, but rows x columns are needed")
    if shape is not None and array.shape != tuple(shape):
        raise InputError(f"{name}: shape {array.shape} does not fit labels of shape {tuple(shape)}")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{name}: {array[row, column]} in row {row}, column {column} "
            f"({(~finite).sum()} such values); predict again or leave out this model"
        )
    return array


def f1_from_counts(hits: np.ndarray, predicted: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """F1 = 2 hits / (predicted + positives), 0 where both are 0."""
    total = predicted + positives
    return np.divide(2.0 * hits, total, out=np.zeros(np.shape(total)), where=total > 0)


def class_f1(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each class. labels, predicted: [N, C] in {0, 1}; returns float[C] in [0, 1].

    Raises:
        InputError: shapes that differ, or other values.
    """
    labels = checked_labels(labels)
    predicted = checked_labels(predicted, "predictions")
    if labels.shape != predicted.shape:
        raise InputError(f"predictions of shape {predicted.shape}, labels of {labels.shape}")
    hits = (labels & predicted).sum(axis=0)
    return f1_from_counts(hits, predicted.sum(axis=0), labels.sum(axis=0))


def macro_f1(labels: np.ndarray, predicted: np.ndarray, present_only: bool = False) -> float:
    """Mean of the classes' F1: the competition's score.

    labels, predicted: [N, C] in {0, 1}.  A class without positives counts as F1 = 0, as it does on
    the leaderboard; with `present_only` it is left out (for small validation parts).
    """
    scores = class_f1(labels, predicted)
    if present_only:
        present = np.asarray(labels).any(axis=0)
        return float(scores[present].mean()) if present.any() else 0.0
    return float(scores.mean()) if len(scores) else 0.0


def average_precision(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps of each class; NaN for a class without positives.

    labels: [N, C] in {0, 1}; scores: [N, C] float; equal scores enter together, as in
    scikit-learn's `average_precision_score`.
    """
    labels = checked_labels(labels)
    scores = checked_scores(scores, labels.shape)
    return np.array([_average_precision(y, p) for y, p in zip(labels.T, scores.T)], float)


def _average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    positives = labels.sum()
    if positives == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # last of equals
    hits = np.cumsum(labels[order])[ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (ends + 1)).sum() / positives)


def macro_average_precision(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean average precision over the classes that have positives; NaN if none has."""
    values = average_precision(labels, scores)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
