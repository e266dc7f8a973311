"""The step `thresholds`: blends of the models; per-class thresholds of every method, scored.

Rows: blends and thresholds are fitted on the validation rows; every score in metrics.json is
nested (each row scored by thresholds of the other folds, groups together).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import retrieve, scores, seen, tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows

if TYPE_CHECKING:
    from hpa_jax.decision.choice import Rule


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
            blend, found = blends.fit_and_score(method, probs, rows.labels, rows.groups, own, fold)
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
    on_test = settings["match_on"] == "test" or settings["method"] == AUTO

    def work() -> str:
        from hpa_jax.decision import choice

        rows = tables.split_rows(context, "valid")
        weights = scores.resamples(rows)
        found = scores.of_methods(context, "valid", rows.ids)
        matched = dict.fromkeys(found)
        if on_test:
            test = tables.split_rows(context, "test")
            matched = scores.of_methods(context, "test", test.ids)
        class_thresholds, intervals, scored, nested, rules, drawn = {}, {}, {}, {}, {}, Drawn()
        candidates, calibrations = {}, {}
        for name in simplest_first(context, found):
            probs = found[name]
            fitted = fit(context, name, probs, rows, matched[name], drawn)
            rules[name], nested[name] = fitted.rule, fitted.decided
            candidates |= {(name, rule): own for rule, own in fitted.by_rule.items()}
            class_thresholds[name] = [
                float(threshold) if np.isfinite(threshold) else None
                for threshold in fitted.thresholds
            ]
            intervals[name] = around(context, name, probs, rows, matched[name], drawn, fitted.rule)
            scored[name] = (
                scores.score(rows.labels, nested[name], weights, scores.known_classes(probs))
                | {"macro_f1_at_half": scores.score(rows.labels, probs >= 0.5)["macro_f1"]}
                | scores.ranking(rows.labels, probs)
            )
            calibrations[name], errors = calibrated(context, probs, rows)
            scored[name] |= errors
            near, count = retrieve.replaced(context, "valid", rows.ids, nested[name])
            if count:
                with_near = scores.score(rows.labels, near, weights)
                scored[name]["macro_f1_with_neighbours"] = with_near["macro_f1"]
        in_order = {name: nested[name] for name in found}
        scored = seen.marked(context, scored)
        table = {
            "classes": list(context.config.classes),
            "method": settings,
            "thresholds": class_thresholds,
        }
        table |= {"intervals": intervals, "rules": rules, "calibrations": calibrations}
        artifacts.write_json(outputs[0], table)
        fold = tables.given_folds(context, rows.ids)
        nested_choice = automatic(rows, candidates, weights, fold)
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
                "chosen": choice.simplest(rows.labels, nested, weights),
                "auto": nested_choice,
                "rules": rules,
                "blends": artifacts.read_json(context.path("ensemble", "blends.json")),
            },
        )
        scores.write_decisions(outputs[2], rows.ids, in_order)
        return (
            f"macro-F1 on validation, nested: {scores.summary({n: scored[n] for n in found})}; the "
            "simplest within one standard error of the best, its choice nested too: "
            f"{nested_choice['macro_f1']:.3f}"
        )

    inputs: tuple[Path | Part, ...] = (
        *tables.all_predictions(context, "valid", *(["test"] if on_test else [])),
        *context.paths("stack", "ensemble"),
        inputs_of.fitted_on(context),
        *retrieve.files(context),
    )
    if settings["method"] == AUTO:
        inputs += (inputs_of.training_shares(context),)
    shared = on_test and context.config.ensemble.average_duplicates
    inputs += context.paths("duplicates.parquet") if shared else ()
    said = {
        "thresholds": context.config.thresholds,
        "submission.argmax": context.config.submission.argmax,
        "ensemble.average_duplicates": shared,
        "weights": scores.checkpoint_choice(context),
        **seen.settings(context),
        **retrieve.settings(context),
    }
    return Task("thresholds", "thresholds", work, said, inputs, outputs, fitted=True)


AUTO = "auto"  # of config.thresholds.method: the rules of decision/choice.py
REPEATS_OF_A_RESAMPLE = 2  # of cross-validated thresholds, whose mean over more is no less sure


@dataclass
class Drawn:
    """Folds that are drawn once for all methods: of the rows, of their parts, of resamples."""

    whole: dict[str, np.ndarray] = field(default_factory=dict)
    resampled: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """The thresholds of one method.

    thresholds: float[C], fitted on all rows by `rule`; decided: bool[N, C], fold by fold without
    the row's own fold, the choice of a rule included; by_rule: the same by each rule.
    """

    thresholds: np.ndarray
    decided: np.ndarray
    rule: str
    by_rule: Mapping[str, np.ndarray]


def simplest_first(context: Context, names: Iterable[str]) -> list[str]:
    """The methods in the order in which `auto` prefers them: the mean of models, a single model,
    weights that labels teach, a regression a class, the stack."""
    order = [scores.MEAN, *context.config.models, scores.WEIGHTED, scores.ENSEMBLE]
    return sorted(names, key=[*order, scores.LOGISTIC, scores.STACK].index)


def fit_and_nest(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    drawn: Drawn | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C] and nested decisions bool[N, C] of `fit`."""
    fitted = fit(context, name, probs, rows, matched, drawn or Drawn())
    return fitted.thresholds, fitted.decided


def fit(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    drawn: Drawn,
) -> Fitted:
    """A method's thresholds by its rule, or with config.thresholds.method=auto by the chosen one.

    matched: the method's scores of the rows whose predictions are matched to proportions, None: of
    `rows` themselves.  The stack brings votes that are out of fold and, without auto, its own rule.
    """
    from hpa_jax.decision import choice, confidence, nested
    from hpa_jax.decision.stack import stacking

    rules, seed = _rules(context, name, probs, matched is not None, drawn.whole)
    if name == scores.STACK:
        _, votes = stacking.load_votes(context.path("stack"))  # as fitted, not rounded to be stored
        probs = retrieve.boosted(context, "valid", rows.ids, votes)
    probs = np.nan_to_num(probs)
    fold = tables.given_folds(context, rows.ids)
    by_rule = {
        rule: nested.predictions(
            rows.labels,
            probs,
            own.fit,
            seed=seed,
            groups=rows.groups,
            argmax=context.config.submission.argmax,
            on_fold_scores=own.on_test,
            fold=fold,
        )
        for rule, own in rules.items()
    }
    if len(rules) == 1:
        (chosen,) = rules
        decided = by_rule[chosen]
    else:
        weights = confidence.resamples(len(rows.ids), choice.DRAWS, groups=rows.groups)
        chosen = choice.simplest(rows.labels, by_rule, weights)
        decided, _ = choice.fold_by_fold(rows.labels, by_rule, rows.groups, fold)
    if rules[chosen].on_test:
        class_thresholds = rules[chosen].fit(rows.labels, np.nan_to_num(matched), None)
    else:
        class_thresholds = rules[chosen].fit(rows.labels, probs, rows.groups)
    return Fitted(class_thresholds, decided, chosen, by_rule)


def around(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    drawn: Drawn,
    rule: str = "",
) -> dict[str, np.ndarray]:
    """low, high, spread: float[C], of the method's own thresholds on resampled rows.

    Duplicates stay together in a resample.

    rule: which of its rules; not needed where there is one.
    """
    from hpa_jax.decision import confidence

    rules, _ = _rules(
        context, name, probs, matched is not None, drawn.resampled, REPEATS_OF_A_RESAMPLE
    )
    own = rules[rule] if rule else next(iter(rules.values()))
    found = confidence.threshold_intervals(
        rows.labels,
        np.nan_to_num(probs),
        own.fit,
        rows.groups,
        matched=np.nan_to_num(matched) if own.on_test else None,
    )
    return {"low": found.low, "high": found.high, "spread": found.spread}


def _rules(
    context: Context,
    name: str,
    probs: np.ndarray,
    has_test: bool,
    drawn: dict[str, np.ndarray],
    repeats: int | None = None,
) -> "tuple[dict[str, Rule], int]":
    """The method's rules by name, the simplest first, and the seed of its nested folds.

    has_test: scores of the test part are at hand; repeats: at most so many, of rules that repeat.
    """
    from hpa_jax.decision import choice, thresholds
    from hpa_jax.decision.stack import stacking

    settings = context.config.thresholds.to_dict()
    method, scale = settings.pop("method"), settings.pop("scale")
    if name == scores.STACK and method != AUTO:
        protocol, _ = stacking.load_votes(context.path("stack"))
        own = choice.Rule(stacking.threshold_fitter(protocol, repeats, drawn))
        return {STACKS_OWN: own}, protocol.seed
    on_test = settings.pop("match_on") == "test"
    settings["repeats"] = min(settings["repeats"], repeats or settings["repeats"])
    if method == AUTO:
        kept = {key: settings[key] for key in ("folds", "repeats", "grid", "seed")}
        rules = choice.rules(_shares(context), has_test, **kept, fold_cache=drawn)
    else:
        own = thresholds.fitter(method, **settings, fold_cache=drawn)
        rules = {method: choice.Rule(own, on_test and has_test)}
    unknown = ~scores.known_classes(probs)

    def scaled(rule: "Rule") -> "Rule":
        def fit(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
            class_thresholds = thresholds.scaled(rule.fit(labels, probs, groups), scale)
            return np.where(unknown, np.inf, class_thresholds)

        return choice.Rule(fit, rule.on_test)

    return {rule: scaled(own) for rule, own in rules.items()}, 0


STACKS_OWN = "stack's own"


def _shares(context: Context) -> np.ndarray | None:
    """float[C]: training shares, of the config, of the verb decide or of train.csv; None: decide
    was given none, and the labelled rows tell them."""
    if len(context.config.thresholds.proportions):
        return np.asarray(context.config.thresholds.proportions, float)
    if "given" in context.flags and context.flags["given"] is None:
        return None
    return tables.training_shares(context)


def calibrated(
    context: Context, probs: np.ndarray, rows: Rows
) -> tuple[np.ndarray, dict[str, float]]:
    """(coefficients [C, 3] of a method's calibration, NaN in classes that it does not know; the
    expected calibration errors of its scores and, out of fold, of the calibrated ones)."""
    from hpa_jax.decision import analysis, calibration

    known = scores.known_classes(probs)
    labels, own = rows.labels[:, known], probs[:, known].astype(float)
    fold = tables.given_folds(context, rows.ids)
    found = calibration.out_of_fold(labels, own, rows.groups, fold=fold)
    coefficients = np.full((len(known), 3), np.nan)
    coefficients[known] = calibration.fit(labels, own).coefficients
    return coefficients, {
        "calibration_error": analysis.calibration_error(labels, own),
        "calibration_error_calibrated": analysis.calibration_error(labels, found),
    }


def automatic(
    rows: Rows,
    decided: Mapping[Any, np.ndarray],
    weights: np.ndarray,
    fold: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score of `submission.method=auto` with the choice of method and rule nested, and what was
    chosen. decided: nested decisions by (method, rule), the simplest first."""
    from hpa_jax.decision import choice

    found, chosen = choice.fold_by_fold(rows.labels, decided, rows.groups, fold)
    return scores.score(rows.labels, found, weights) | {
        "chosen": [method for method, _ in chosen],
        "rules": [rule for _, rule in chosen],
    }
