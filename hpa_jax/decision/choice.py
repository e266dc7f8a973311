"""Choice of threshold rules and methods by nested scores, preferring the simpler.

In: labels [N, C] and, for every candidate in order of simplicity, decisions bool[N, C] of rows by
thresholds (and blends) that were fitted without them.  Out: the first candidate whose macro-F1 is
at most one standard error below the best one's (Breiman et al. 1984), and decisions in which the
choice itself is nested.

With few labels the candidates differ by less than their noise; the best of many is then best by
chance, most often a rule with many degrees of freedom (a free threshold per class).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.core import metrics
from hpa_jax.decision import confidence, nested, thresholds

DRAWS = 200  # resamples behind the standard error of a difference
STRENGTH = 10.0  # positives at which a class's best threshold and the matched one weigh the same
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Rule:
    """fit: (labels, scores, groups) -> thresholds [C]; on_test: the scores are those of the rows to
    decide, which need no labels."""

    fit: nested.Fitter
    on_test: bool = False


def rules(
    shares: np.ndarray | None,
    has_test: bool,
    *,
    folds: int = 5,
    repeats: int = 20,
    grid: int = 50,
    seed: int = 0,
    fold_cache: dict[str, np.ndarray] | None = None,
) -> dict[str, Rule]:
    """Return the threshold rules that `auto` chooses among, the simplest first.

    shares: float[C], of the classes in training, None if known only from the labelled rows;
    has_test: scores of the rows to decide are available; others: of `thresholds.cross_validated`.

    - match_proportions: as many rows are predicted as are positive among the labelled ones;
    - shrunk: `thresholds.shrunk_to_matched`;
    - exact: the best threshold on the labelled rows;
    - match_training, match_test: the training shares, matched on the labelled rows' scores or on
      those of the rows to decide;
    - cross_validated: One More Layer's.

    A class without positives among the labelled rows gets the best common threshold of the others
    (`thresholds.pooled`) in all but match_test, since never predicting it can't improve
    macro-F1; it is never predicted if training had no positives either.
    """
    trained_on = None if shares is None else np.asarray(shares) > 0

    def matched(labels: np.ndarray, scores: np.ndarray, _: object) -> np.ndarray:
        return thresholds.match_proportions(scores, labels.mean(axis=0))

    def trained(labels: np.ndarray, scores: np.ndarray, _: object) -> np.ndarray:
        target = labels.mean(axis=0) if shares is None else shares
        return thresholds.match_proportions(scores, target)

    cross_validated = thresholds.fitter(
        "cross_validated",
        folds=folds,
        repeats=repeats,
        grid=grid,
        seed=seed,
        fold_cache=fold_cache,
    )
    by_name = {
        "match_proportions": Rule(_with_fallback(matched, trained_on)),
        "shrunk": Rule(
            _with_fallback(lambda y, p, g: thresholds.shrunk_to_matched(y, p, STRENGTH), trained_on)
        ),
        "exact": Rule(_with_fallback(lambda y, p, g: thresholds.exact(y, p), trained_on)),
    }
    if shares is not None:
        by_name["match_training"] = Rule(_with_fallback(trained, trained_on))
    if has_test:
        by_name["match_test"] = Rule(trained, on_test=True)
    return by_name | {"cross_validated": Rule(_with_fallback(cross_validated, trained_on))}


def _with_fallback(fit: nested.Fitter, trained_on: np.ndarray | None) -> nested.Fitter:
    """Apply the rule to classes with positives; the others get the pooled threshold, or are never
    predicted if training had no positives either (trained_on: bool[C], None: unknown)."""

    def fitted(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        class_thresholds, present = fit(labels, scores, groups), labels.any(axis=0)
        if present.all():
            return class_thresholds
        common = np.full(len(class_thresholds), thresholds.pooled(labels, scores))
        if trained_on is not None:
            common[~trained_on] = thresholds.never(float(scores.max(initial=0.0)))
        return np.where(present, class_thresholds, common)

    return fitted


def simplest(labels: np.ndarray, decided: Mapping[Key, np.ndarray], weights: np.ndarray) -> Key:
    """Return the first candidate that is at most one standard error below the best.

    The error is that of the paired difference.  decided: candidate -> bool[N, C], in order of
    simplicity; weights: int[B, N], from `confidence.resamples`.
    """
    scores = {name: metrics.macro_f1(labels, labelled) for name, labelled in decided.items()}
    best = max(scores, key=scores.__getitem__)
    draws = {
        name: confidence.f1_intervals(labels, labelled, weights=weights).draws
        for name, labelled in decided.items()
    }
    for name in decided:
        error = float((draws[best] - draws[name]).std())
        if scores[best] - scores[name] <= error:
            return name
    return best


def fold_by_fold(
    labels: np.ndarray,
    decided: Mapping[Key, np.ndarray],
    groups: np.ndarray | None,
    fold: np.ndarray | None = None,
) -> tuple[np.ndarray, list[Key]]:
    """Return decisions bool[N, C] with a nested choice, and the candidate chosen for each fold.

    Each fold is decided by the candidate chosen on the other folds, so that a choice by chance
    gains nothing.  decided: nested decisions of every candidate; fold: int[N], replaces the random
    folds.
    """
    fold = folding.multilabel(labels, 5, 0, groups) if fold is None else fold
    result, chosen = np.zeros(labels.shape, bool), []
    for number in np.unique(fold):
        inside = fold == number
        within = None if groups is None else np.asarray(groups)[~inside]
        weights = confidence.resamples(int((~inside).sum()), DRAWS, groups=within)
        others = {name: labelled[~inside] for name, labelled in decided.items()}
        chosen.append(simplest(labels[~inside], others, weights))
        result[inside] = decided[chosen[-1]][inside]
    return result, chosen
