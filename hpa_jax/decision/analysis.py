"""Per-class tables of the final report: scores, intervals, calibration and confusions.

In: labels [N, C], scores [N, C], nested decisions bool[N, C], thresholds [C].  Out: plain tables
and arrays; plotting is done elsewhere.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import confidence, thresholds

if TYPE_CHECKING:
    import pandas as pd


def class_table(
    labels: np.ndarray,
    scores: np.ndarray,
    decided: np.ndarray,
    class_thresholds: np.ndarray,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    *,
    around: np.ndarray,
    draws: int = 500,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> "pd.DataFrame":
    """Return one row per class for the report's table.

    around: [C, 2], interval of the thresholds (from `confidence.threshold_intervals`); weights:
    from `confidence.resamples`, if already drawn.

    Columns: class, name, support, predicted, average_precision, f1, f1_low, f1_high (95 %,
    bootstrap over rows or groups), threshold, threshold_low, threshold_high (`around`),
    threshold_spread (standard deviation of the thresholds of 5 folds x 20 repeats).

    Raises:
        InputError: not one name and one threshold per class.
    """
    import pandas as pd

    labels = metrics.checked_labels(labels)
    scores = metrics.checked_scores(scores, labels.shape)
    if len(class_names) != labels.shape[1] or len(class_thresholds) != labels.shape[1]:
        raise InputError(
            f"{len(class_names)} names and {len(class_thresholds)} thresholds for "
            f"{labels.shape[1]} classes"
        )
    if weights is None:
        weights = confidence.resamples(len(labels), draws, seed, groups)
    f1 = confidence.f1_intervals(labels, decided, weights=weights).classes
    return pd.DataFrame(
        {
            "class": np.arange(labels.shape[1]),
            "name": list(class_names),
            "support": labels.sum(axis=0),
            "predicted": np.asarray(decided, bool).sum(axis=0),
            "average_precision": metrics.average_precision(labels, scores),
            "f1": metrics.class_f1(labels, decided),
            "f1_low": f1[:, 0],
            "f1_high": f1[:, 1],
            "threshold": np.asarray(class_thresholds, float),
            "threshold_low": around[:, 0],
            "threshold_high": around[:, 1],
            "threshold_spread": [
                part.std() if len(part) > 1 else np.nan
                for part in thresholds.per_part(labels, scores, seed=seed, groups=groups)
            ],
        }
    )


def calibration(
    labels: np.ndarray, probs: np.ndarray, bins: int = 10, spacing: str = "rows"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability, share of positives, rows) of the bins that hold rows.

    labels, probs: [N] of one class, or [N, C] of all classes pooled; spacing: "rows" (bins of equal
    size, with edges between distinct probabilities) or "probability" (bins of equal width).

    Raises:
        InputError: shapes that differ, no rows, or an unknown spacing.
    """
    y, p = np.asarray(labels, bool).ravel(), np.asarray(probs, np.float64).ravel()
    if y.shape != p.shape or not len(y):
        raise InputError(f"calibration of {p.size} probabilities and {y.size} labels")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    if spacing not in ("rows", "probability"):
        raise InputError(f"calibration spacing {spacing!r}; known: 'rows', 'probability'")
    edges = np.unique(np.quantile(p, inner)) if spacing == "rows" else inner
    place = np.searchsorted(edges, p, side="right")
    rows = np.bincount(place, minlength=len(edges) + 1)
    full = rows > 0
    mean = np.bincount(place, weights=p, minlength=len(rows))[full] / rows[full]
    share = np.bincount(place, weights=y, minlength=len(rows))[full] / rows[full]
    return mean, share, rows[full]


def calibration_error(labels: np.ndarray, probs: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean of |probability - share of positives| over equal bins.

    Bins of equal width, weighted by their rows (Naeini et al. 2015); 0 is best.
    """
    mean, share, rows = calibration(labels, probs, bins, "probability")
    return float((rows * np.abs(mean - share)).sum() / rows.sum())


def confusions(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """float[C, C]: how often class j is wrongly predicted where class i was missed, per row with i.

    Entry (i, j) = rows with i, not predicted i, predicted j without having j / rows with i.  The
    diagonal is the share of i that was missed without a wrong prediction instead.
    """
    labels, decided = metrics.checked_labels(labels), metrics.checked_labels(decided, "decisions")
    missed = (labels & ~decided).astype(float)
    wrong = (decided & ~labels).astype(float)
    counts = missed.T @ wrong
    alone = missed[~wrong.any(axis=1)].sum(axis=0)
    counts[np.diag_indices(len(counts))] = alone
    return counts / np.maximum(labels.sum(axis=0), 1)[:, None]


def largest_errors(
    labels: np.ndarray, probs: np.ndarray, count: int = 24, among: np.ndarray | None = None
) -> list[tuple[int, int, float]]:
    """(row, class, log loss) of the most confident mistakes, worst first, at most one per row.

    among: bool[N, C], the entries to consider (e.g. the missed ones); default: all.  Label errors
    of the data show up here first.
    """
    labels = metrics.checked_labels(labels)
    p = np.clip(metrics.checked_scores(probs, labels.shape), 1e-7, 1 - 1e-7)
    loss = -np.where(labels, np.log(p), np.log1p(-p))
    if among is not None:
        loss = np.where(among, loss, 0.0)
    worst = loss.argmax(axis=1)
    of_row = loss[np.arange(len(loss)), worst]
    order = np.argsort(-of_row, kind="stable")[: min(count, int((of_row > 0).sum()))]
    return [(int(row), int(worst[row]), float(of_row[row])) for row in order]
