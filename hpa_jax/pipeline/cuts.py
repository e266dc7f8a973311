"""Thresholds of one method: its own rule, fitted on all rows, nested, and on resampled rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpa_jax.pipeline import retrieval, scores
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows

REPEATS_OF_A_RESAMPLE = 2  # of cross-validated cuts, whose mean over more is no less sure
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass
class Drawn:
    """Folds that are drawn once for all methods: of the rows, of their parts, of resamples."""

    whole: dict[str, np.ndarray] = field(default_factory=dict)
    resampled: dict[str, np.ndarray] = field(default_factory=dict)


def fit_and_nest(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    drawn: Drawn | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C] fitted on all rows, bool[N, C] decided fold by fold without the own.

    matched: the method's scores of the rows whose predictions are matched to proportions, None: of
    `rows` themselves.  The stack brings its own rule, and votes that are out of fold.
    """
    from hpa_jax.decision import nested
    from hpa_jax.decision.stack import stacking

    fit, seed = _fit(context, name, probs, (drawn or Drawn()).whole)
    if name == scores.STACK:
        _, votes = stacking.load_votes(context.path("stack"))  # as fitted, not rounded to be stored
        probs = retrieval.boosted(context, "valid", rows.ids, votes)
        matched = None  # its rule compares labels with votes of the same rows
    probs = np.nan_to_num(probs)
    decided = nested.predictions(
        rows.labels,
        probs,
        fit,
        seed=seed,
        groups=rows.groups,
        argmax=context.config.submission.argmax,
        on_held=matched is not None,
    )
    if matched is None:
        return fit(rows.labels, probs, rows.groups), decided
    return fit(rows.labels, np.nan_to_num(matched), None), decided


def around(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    drawn: Drawn,
) -> dict[str, np.ndarray]:
    """low, high, spread: float[C], of the method's own cut on resampled rows (twins together)."""
    from hpa_jax.decision import confidence

    fit, _ = _fit(context, name, probs, drawn.resampled, REPEATS_OF_A_RESAMPLE)
    found = confidence.cut_intervals(
        rows.labels,
        np.nan_to_num(probs),
        fit,
        rows.groups,
        matched=None if matched is None or name == scores.STACK else np.nan_to_num(matched),
    )
    return {"low": found.low, "high": found.high, "spread": found.spread}


def _fit(
    context: Context,
    name: str,
    probs: np.ndarray,
    drawn: dict[str, np.ndarray],
    repeats: int | None = None,
) -> tuple[Fit, int]:
    """The method's rule (labels, scores, groups) -> [C], and the seed of its nested folds.

    repeats: at most so many, of rules that repeat.
    """
    from hpa_jax.decision import thresholds
    from hpa_jax.decision.stack import stacking

    if name == scores.STACK:
        protocol, _ = stacking.load_votes(context.path("stack"))
        return stacking.threshold_fitter(protocol, repeats, drawn), protocol.seed
    settings = context.config.thresholds.to_dict()
    method, scale = settings.pop("method"), settings.pop("scale")
    settings.pop("match_on")
    settings["repeats"] = min(settings["repeats"], repeats or settings["repeats"])
    fit = thresholds.fitter(method, **settings, fold_cache=drawn)
    unknown = ~scores.known_classes(probs)

    def scaled(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        cuts = thresholds.scaled(fit(labels, probs, groups), scale)
        return np.where(unknown, np.inf, cuts)

    return scaled, 0


def chosen_fold_by_fold(
    labels: np.ndarray, decided: Mapping[str, np.ndarray], groups: np.ndarray | None
) -> tuple[np.ndarray, list[str]]:
    """bool[N, C] of "the best on validation", and the method that each fold got.

    Each fold is decided by the method with the highest macro-F1 on the other folds: a method that
    is best by chance there gains nothing here.  decided: nested decisions of every method.
    """
    from hpa_jax.core import folds, metrics

    fold = folds.multilabel(labels, 5, 0, groups)
    result, methods = np.zeros(labels.shape, bool), []
    for number in range(5):
        held = fold == number
        scored = {
            name: metrics.macro_f1(labels[~held], own[~held]) for name, own in decided.items()
        }
        methods.append(max(scored, key=scored.get))
        result[held] = decided[methods[-1]][held]
    return result, methods


def automatic(rows: Rows, decided: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, Any]:
    """Score of `submission.method=auto` with the choice itself nested, and what was chosen."""
    found, methods = chosen_fold_by_fold(rows.labels, decided, rows.groups)
    return scores.score(rows.labels, found, weights) | {"chosen": methods}
