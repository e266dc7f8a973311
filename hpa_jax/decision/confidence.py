"""Bootstrap intervals of thresholds, class F1 and macro-F1.

In: labels [N, C], probabilities or decisions [N, C], and optionally groups, which are resampled
whole (duplicates are one observation).  Out: [C, 2] arrays and pairs, percentile intervals, the
estimate of `scipy.stats.bootstrap(method="percentile")`.  For F1, resamples are row weights, so
that 1,000 of them are three matrix products.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.core.metrics import checked_labels, checked_scores, f1_from_counts

Fitter = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class ThresholdIntervals:
    """low, high, spread (standard deviation over resamples): float[C]; NaN: none below 1."""

    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class F1Intervals:
    """classes: [C, 2]; macro: (low, high); draws: float[B], the resampled macro-F1."""

    classes: np.ndarray
    macro: tuple[float, float]
    draws: np.ndarray


def resamples(rows: int, draws: int, seed: int = 0, groups: np.ndarray | None = None) -> np.ndarray:
    """int32 [B, N]: how often each row is in each resample; equal within a group.

    Raises:
        InputError: no rows, fewer than 2 draws, or groups of another length.
    """
    if draws < 2 or rows < 1:
        raise InputError(f"bootstrap of {rows} rows, {draws} draws; at least 1 and 2 are needed")
    unit = np.arange(rows)
    if groups is not None:
        unit = np.unique(np.asarray(groups), return_inverse=True)[1]
        if unit.shape != (rows,):
            raise InputError(f"{unit.size} groups for {rows} rows")
    units = int(unit.max()) + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(units, np.full(units, 1 / units), size=draws)
    return counts.astype(np.int32)[:, unit]


def f1_intervals(
    labels: np.ndarray,
    decided: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> F1Intervals:
    """Return intervals of class F1 and macro-F1 of fixed (best: nested) decisions.

    labels, decided: [N, C] in {0, 1}; groups: [N] or None; level: e.g. 0.95; weights: from
    `resamples`, to pair several decisions on the same rows.
    """
    labels, decided = checked_labels(labels), checked_labels(decided, "decisions")
    weights = resamples(len(labels), draws, seed, groups) if weights is None else weights
    weights = weights.astype(np.float32)
    hits, predicted, positives = (
        weights @ array.astype(np.float32) for array in (labels & decided, decided, labels)
    )
    f1 = f1_from_counts(hits.astype(float), predicted.astype(float), positives.astype(float))
    low, high = (1 - level) / 2, (1 + level) / 2
    macro = f1.mean(axis=1)
    return F1Intervals(
        np.quantile(f1, [low, high], axis=0).T,
        (float(np.quantile(macro, low)), float(np.quantile(macro, high))),
        macro,
    )


def threshold_intervals(
    labels: np.ndarray,
    scores: np.ndarray,
    fit: Fitter,
    groups: np.ndarray | None = None,
    *,
    draws: int = 100,
    level: float = 0.95,
    seed: int = 0,
    matched: np.ndarray | None = None,
) -> ThresholdIntervals:
    """Return bootstrap intervals of a rule's thresholds: `fit` is called on each resample.

    labels, scores: [N, C]; fit: (labels, scores, groups) -> [C].  Copies of a row share a group,
    so that they stay in one fold of the rule.  A resample without positives of a class (or with no
    threshold below 1) is skipped for that class, one with too few rows for the rule's folds
    altogether.  matched: scores passed to `fit` unchanged, for a rule that matches shares.
    """
    labels = checked_labels(labels)
    scores = checked_scores(scores, labels.shape)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    fitted = []
    for weight in resamples(len(labels), draws, seed, groups):
        rows = np.repeat(np.arange(len(labels)), weight)
        drawn = (scores[rows], groups[rows]) if matched is None else (matched, None)
        with contextlib.suppress(InputError):
            thresholds = np.asarray(fit(labels[rows], *drawn), float)
            fitted.append(
                np.where((thresholds <= 1) & labels[rows].any(axis=0), thresholds, np.nan)
            )
    bounds = np.full((3, labels.shape[1]), np.nan)
    table = np.array(fitted).reshape(-1, labels.shape[1])
    for c, thresholds in enumerate(table.T):
        thresholds = thresholds[~np.isnan(thresholds)]
        if len(thresholds) > 1:
            bounds[:, c] = (
                *np.quantile(thresholds, [(1 - level) / 2, (1 + level) / 2]),
                thresholds.std(),
            )
    return ThresholdIntervals(*bounds)
