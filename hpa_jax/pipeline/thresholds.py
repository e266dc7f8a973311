"""The step `thresholds`: blends of the models; per-class thresholds of every method, scored.

Rows: blends and thresholds are fitted on the validation rows; every score in metrics.json is
nested (each row scored by thresholds of the other folds, groups together).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import retrieve, scores, tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows


def thresholds(context: Context) -> list[Task]:
    """Blends of the models; per-class thresholds of every method, with nested scores."""
    return [_ensemble(context), _thresholds(context)]


def _ensemble(context: Context) -> Task:
    """Blends, fitted on validation (and scored out of fold there), of the test part too."""
    settings = context.config.ensemble.to_dict()
    settings.pop("average_duplicates")  # only of what is decided later
    output = context.path("ensemble")

    def work() -> str:
        from hpa_jax.decision import blends

        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        models = list(context.config.models)
        probs = tables.of_models(context, "valid", rows.ids)
        test_probs = tables.of_models(context, "test", test.ids)
        given = context.config.ensemble.weights
        weights = [given.get(name, 0.0) for name in models] if given else None
        stored = {}
        for name, method in scores.blends(context).items():
            own = weights if name == scores.ENSEMBLE else None
            fold = tables.given_folds(context, rows.ids)
            blend, found = blends.made(method, probs, rows.labels, rows.groups, own, fold)
            stored[name] = blend.as_json(models)
            for part, ids, value in (
                ("valid", rows.ids, found),
                ("test", test.ids, blend(test_probs)),
            ):
                tables.write_probabilities(scores.blend_path(context, name, part), ids, value)
        artifacts.write_json(output / "blends.json", stored)
        return f"{', '.join(stored)} of {len(models)} models"

    inputs = (*tables.all_predictions(context, "valid", "test"), inputs_of.fitted_on(context))
    stamped = {"ensemble": settings}
    return Task("thresholds", "ensemble", work, stamped, inputs, (output,), fitted=True)


def _thresholds(context: Context) -> Task:
    settings = {**context.config.thresholds.to_dict(), "argmax": context.config.submission.argmax}
    names = ("thresholds.json", "metrics.json", "decisions.parquet")
    outputs = tuple(context.path(name) for name in names)
    on_test = settings["match_on"] == "test"

    def work() -> str:
        rows = tables.split_rows(context, "valid")
        weights = scores.resamples(rows)
        found = scores.of_methods(context, "valid", rows.ids)
        matched = dict.fromkeys(found)
        if on_test:
            test = tables.split_rows(context, "test")
            matched = scores.of_methods(context, "test", test.ids)
        cuts, intervals, scored, nested, drawn = {}, {}, {}, {}, Drawn()
        for name, probs in found.items():
            own, decided = fit_and_nest(context, name, probs, rows, matched[name], drawn)
            cuts[name] = [float(cut) if np.isfinite(cut) else None for cut in own]
            intervals[name] = around(context, name, probs, rows, matched[name], drawn)
            nested[name] = decided
            scored[name] = (
                scores.score(rows.labels, decided, weights, scores.known_classes(probs))
                | {"macro_f1_at_half": scores.score(rows.labels, probs >= 0.5)["macro_f1"]}
                | scores.ranking(rows.labels, probs)
            )
            near, count = retrieve.replaced(context, "valid", rows.ids, decided)
            if count:
                with_near = scores.score(rows.labels, near, weights)
                scored[name]["macro_f1_with_neighbours"] = with_near["macro_f1"]
        table = {"classes": list(context.config.classes), "method": settings, "thresholds": cuts}
        artifacts.write_json(outputs[0], table | {"intervals": intervals})
        fold = tables.given_folds(context, rows.ids)
        nested_choice = automatic(rows, nested, weights, fold)
        artifacts.write_json(
            outputs[1],
            {
                "rows": f"{len(rows.ids):,} validation images; each scored by thresholds (and a "
                "stack, and weights of models) fitted without its fold; "
                f"{scores.checkpoint_choice(context)}",
                "support": rows.labels.sum(axis=0),
                "classes_without_positives": scores.absent_classes(context, rows.labels),
                "scores": scored,
                "best": max(scored, key=lambda name: scored[name]["macro_f1"]),
                "auto": nested_choice,
                "blends": artifacts.read_json(context.path("ensemble", "blends.json")),
            },
        )
        scores.write_decisions(outputs[2], rows.ids, nested)
        return (
            f"macro-F1 on validation, nested: {scores.summary(scored)}; the best of them, its "
            f"choice nested too: {nested_choice['macro_f1']:.3f}"
        )

    inputs: tuple[Path | Part, ...] = (
        *tables.all_predictions(context, "valid", *(["test"] if on_test else [])),
        *context.paths("stack", "ensemble"),
        inputs_of.fitted_on(context),
        *retrieve.files(context),
    )
    shared = on_test and context.config.ensemble.average_duplicates
    inputs += context.paths("duplicates.parquet") if shared else ()
    said = {
        "thresholds": context.config.thresholds,
        "submission.argmax": context.config.submission.argmax,
        "ensemble.average_duplicates": shared,
        "weights": scores.checkpoint_choice(context),
        **retrieve.settings(context),
    }
    return Task("thresholds", "thresholds", work, said, inputs, outputs, fitted=True)


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
        probs = retrieve.boosted(context, "valid", rows.ids, votes)
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
        fold=tables.given_folds(context, rows.ids),
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
    labels: np.ndarray,
    decided: Mapping[str, np.ndarray],
    groups: np.ndarray | None,
    fold: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:
    """bool[N, C] of "the best on validation", and the method that each fold got.

    Each fold is decided by the method with the highest macro-F1 on the other folds: a method that
    is best by chance there gains nothing here.  decided: nested decisions of every method; fold:
    int[N], in place of the folds drawn here.
    """
    from hpa_jax.core import folds, metrics

    fold = folds.multilabel(labels, 5, 0, groups) if fold is None else fold
    result, methods = np.zeros(labels.shape, bool), []
    for number in np.unique(fold):
        held = fold == number
        scored = {
            name: metrics.macro_f1(labels[~held], own[~held]) for name, own in decided.items()
        }
        methods.append(max(scored, key=scored.get))
        result[held] = decided[methods[-1]][held]
    return result, methods


def automatic(
    rows: Rows,
    decided: Mapping[str, np.ndarray],
    weights: np.ndarray,
    fold: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score of `submission.method=auto` with the choice itself nested, and what was chosen."""
    found, methods = chosen_fold_by_fold(rows.labels, decided, rows.groups, fold)
    return scores.score(rows.labels, found, weights) | {"chosen": methods}
