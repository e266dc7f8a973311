"""How sure the numbers are: bootstrap intervals of thresholds, class F1 and macro-F1.

In: labels [N, C], probabilities or decisions [N, C], and optionally groups, which are then drawn
whole (duplicates are one observation).  Out: [C, 2] arrays and pairs, percentile intervals.
Equal to `scipy.stats.bootstrap(method="percentile")` in what they estimate, but resamples are row
weights, so that 200 searches x 28 classes x 7,754 rows are a few running sums (about 1 s).
"""

from dataclasses import dataclass

import numpy as np

from hpa_jax.decision.metrics import checked_labels, checked_scores, f1_from_counts
from hpa_jax.errors import InputError


@dataclass(frozen=True)
class F1Intervals:
    """classes: [C, 2]; macro: (low, high); draws: float[B], the resampled macro-F1."""

    classes: np.ndarray
    macro: tuple[float, float]
    draws: np.ndarray


def resamples(rows: int, draws: int, seed: int = 0, groups: np.ndarray | None = None) -> np.ndarray:
    """int32 [B, N]: how often each row is in each resample; rows of a group share the number."""
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
    """Intervals of class F1 and macro-F1 of fixed decisions (take nested ones, to stay honest).

    labels, decided: [N, C] in {0, 1}; groups: [N] or None; level: e.g. 0.95; weights: of
    `resamples`, to draw once for several decisions on the same rows, which are then paired.
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
    probs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    draws: int = 200,
    level: float = 0.95,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """[C, 2]: interval of the best cut (`thresholds.exact`) over resampled rows.

    NaN for a class without positives.  Resamples that draw no positive of a class are left out.
    weights: as in `f1_intervals`.
    """
    labels = checked_labels(labels)
    probs = checked_scores(probs, labels.shape)
    weights = resamples(len(labels), draws, seed, groups) if weights is None else weights
    bounds = np.full((labels.shape[1], 2), np.nan)
    for c in range(labels.shape[1]):
        found = _cuts(labels[:, c], probs[:, c], weights)
        if len(found):
            bounds[c] = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return bounds


def _cuts(y: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`thresholds.exact` of every resample that has a positive. weights: [B, N]."""
    order = np.argsort(p, kind="stable")
    p, y, weights = p[order], y[order], weights[:, order]
    weights = weights[(weights[:, y] > 0).any(axis=1)]
    if not len(weights):
        return np.zeros(0)
    starts = np.flatnonzero(np.diff(p, prepend=-np.inf) > 0)
    above = _sums_from(weights, starts)
    hits = _sums_from(weights * y, starts)
    f1 = f1_from_counts(hits, above, np.broadcast_to(hits[:, :1], hits.shape))
    best = f1.shape[1] - 1 - f1[:, ::-1].argmax(axis=1)  # last of equals: the highest cut
    cuts = np.empty(len(weights))
    for b, place in enumerate(best):
        first = starts[place]
        below = np.flatnonzero(weights[b, :first])
        cuts[b] = 0.5 * (p[first] + p[below[-1]]) if len(below) else p[first]
    return cuts


def _sums_from(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum of each row of weights from every start to the end: [B, len(starts)]."""
    running = np.cumsum(weights, axis=1)
    before = np.concatenate([np.zeros((len(weights), 1), running.dtype), running], axis=1)[
        :, starts
    ]
    return running[:, -1:] - before
