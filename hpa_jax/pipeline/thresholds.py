"""The step `thresholds`: blends of the models, per-class thresholds of every method, scores.

Blends and thresholds are fitted on the validation rows; every score in metrics.json is nested (each
row scored by thresholds of the other folds, groups kept together).
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
    """Return the tasks: blends of the models; thresholds of every method, with nested scores."""
    return [_ensemble(context), _thresholds(context)]


def _ensemble(context: Context) -> Task:
    """Fit blends on validation; write their out-of-fold scores there and their test scores."""
    settings = context.config.ensemble.to_dict()
    settings.pop("average_duplicates")  # used in later steps
    output = context.path("ensemble")

    def work() -> str:
        from hpa_jax.decision import blends

        seen.check(context)  # by trained_on.parquet, which was not there before all work
        rows, test = tables.split_rows(context, "valid"), tables.split_rows(context, "test")
        models = list(context.config.models)
        probs = tables.of_models(context, "valid", rows.ids)
        test_probs = tables.of_models(context, "test", test.ids)
        configured = context.config.ensemble.weights
        weights = [configured.get(name, 0.0) for name in models] if configured else None
        stored = {}
        for name, method in scores.blends(context).items():
            blend_weights = weights if name == scores.ENSEMBLE else None
            fold = tables.given_folds(context, rows.ids)
            blend, out_of_fold = blends.fit_and_score(
                method, probs, rows.labels, rows.groups, blend_weights, fold
            )
            stored[name] = blend.as_json(models)
            for part, ids, value in (
                ("valid", rows.ids, out_of_fold),
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
        probs_by_method = scores.of_methods(context, "valid", rows.ids)
        matched = dict.fromkeys(probs_by_method)
        if on_test:
            test = tables.split_rows(context, "test")
            matched = scores.of_methods(context, "test", test.ids)
        fold_caches = FoldCaches()
        class_thresholds, intervals, calibrations = {}, {}, {}
        scored, nested, rules, candidates = {}, {}, {}, {}
        for name in simplest_first(context, probs_by_method):
            probs = probs_by_method[name]
            fitted = fit(context, name, probs, rows, matched[name], fold_caches)
            rules[name], nested[name] = fitted.rule, fitted.decided
            candidates |= {(name, rule): decided for rule, decided in fitted.by_rule.items()}
            class_thresholds[name] = [
                float(threshold) if np.isfinite(threshold) else None
                for threshold in fitted.thresholds
            ]
            intervals[name] = intervals_of(
                context, name, probs, rows, matched[name], fold_caches, fitted.rule
            )
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
        in_order = {name: nested[name] for name in probs_by_method}
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
        summary = scores.summary({name: scored[name] for name in probs_by_method})
        return (
            f"macro-F1 on validation, nested: {summary}; the simplest within one standard "
            "error of the best, its choice nested too: "
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
    stamped = {
        "thresholds": context.config.thresholds,
        "submission.argmax": context.config.submission.argmax,
        "ensemble.average_duplicates": shared,
        "weights": scores.checkpoint_choice(context),
        **seen.settings(context),
        **retrieve.settings(context),
    }
    return Task("thresholds", "thresholds", work, stamped, inputs, outputs, fitted=True)


AUTO = "auto"  # in config.thresholds.method: choose among the rules of decision/choice.py
REPEATS_OF_A_RESAMPLE = 2  # of cross-validated thresholds; more would not narrow the intervals


@dataclass
class FoldCaches:
    """Caches of random folds, shared by all methods: of the rows and of resamples."""

    whole: dict[str, np.ndarray] = field(default_factory=dict)
    resampled: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """The thresholds of one method.

    thresholds: float[C], fitted on all rows by `rule`; decided: nested decisions bool[N, C],
    including the choice of a rule; by_rule: nested decisions by each rule.
    """

    thresholds: np.ndarray
    decided: np.ndarray
    rule: str
    by_rule: Mapping[str, np.ndarray]


def simplest_first(context: Context, names: Iterable[str]) -> list[str]:
    """Sort methods by the preference of `auto`: mean of models, single models, fitted weights,
    logistic regression, stack."""
    order = [scores.MEAN, *context.config.models, scores.WEIGHTED, scores.ENSEMBLE]
    return sorted(names, key=[*order, scores.LOGISTIC, scores.STACK].index)


def fit_and_nest(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    fold_caches: FoldCaches | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return thresholds [C] and nested decisions bool[N, C] of `fit`."""
    fitted = fit(context, name, probs, rows, matched, fold_caches or FoldCaches())
    return fitted.thresholds, fitted.decided


def fit(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    fold_caches: FoldCaches,
) -> Fitted:
    """Fit a method's thresholds by its rule, or by the chosen one if the method is auto.

    matched: scores of the rows whose predictions are matched to proportions, None: those of `rows`.
    The stack has out-of-fold votes and, without auto, a rule of its protocol.
    """
    from hpa_jax.decision import choice, confidence, nested
    from hpa_jax.decision.stack import stacking

    rules, seed = _rules(context, name, probs, matched is not None, fold_caches.whole)
    if name == scores.STACK:
        _, votes = stacking.load_votes(context.path("stack"))  # not rounded, unlike stored ones
        probs = retrieve.boosted(context, "valid", rows.ids, votes)
    probs = np.nan_to_num(probs)
    fold = tables.given_folds(context, rows.ids)
    by_rule = {
        rule: nested.predictions(
            rows.labels,
            probs,
            functions.fit,
            seed=seed,
            groups=rows.groups,
            argmax=context.config.submission.argmax,
            on_fold_scores=functions.on_test,
            fold=fold,
        )
        for rule, functions in rules.items()
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


def intervals_of(
    context: Context,
    name: str,
    probs: np.ndarray,
    rows: Rows,
    matched: np.ndarray | None,
    fold_caches: FoldCaches,
    rule: str = "",
) -> dict[str, np.ndarray]:
    """Return low, high, spread: float[C], of the method's thresholds on resampled rows.

    Resampled by duplicate group.  rule: one of its rules; optional if there is only one.
    """
    from hpa_jax.decision import confidence

    rules, _ = _rules(
        context, name, probs, matched is not None, fold_caches.resampled, REPEATS_OF_A_RESAMPLE
    )
    functions = rules[rule] if rule else next(iter(rules.values()))
    intervals = confidence.threshold_intervals(
        rows.labels,
        np.nan_to_num(probs),
        functions.fit,
        rows.groups,
        matched=np.nan_to_num(matched) if functions.on_test else None,
    )
    return {"low": intervals.low, "high": intervals.high, "spread": intervals.spread}


def _rules(
    context: Context,
    name: str,
    probs: np.ndarray,
    has_test: bool,
    fold_caches: dict[str, np.ndarray],
    repeats: int | None = None,
) -> "tuple[dict[str, Rule], int]":
    """Return the method's rules by name, the simplest first, and the seed of its nested folds.

    has_test: scores of the test part are available; repeats: maximum of rules with repeats.
    """
    from hpa_jax.decision import choice, thresholds
    from hpa_jax.decision.stack import stacking

    settings = context.config.thresholds.to_dict()
    method, scale = settings.pop("method"), settings.pop("scale")
    if name == scores.STACK and method != AUTO:
        protocol, _ = stacking.load_votes(context.path("stack"))
        rule = choice.Rule(stacking.threshold_fitter(protocol, repeats, fold_caches))
        return {STACKS_OWN: rule}, protocol.seed
    on_test = settings.pop("match_on") == "test"
    settings["repeats"] = min(settings["repeats"], repeats or settings["repeats"])
    if method == AUTO:
        options = {key: settings[key] for key in ("folds", "repeats", "grid", "seed")}
        rules = choice.rules(_shares(context), has_test, **options, fold_cache=fold_caches)
    else:
        fitter = thresholds.fitter(method, **settings, fold_cache=fold_caches)
        rules = {method: choice.Rule(fitter, on_test and has_test)}
    unknown = ~scores.known_classes(probs)

    def scaled(rule: "Rule") -> "Rule":
        def fit(labels: np.ndarray, probs: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
            class_thresholds = thresholds.scaled(rule.fit(labels, probs, groups), scale)
            return np.where(unknown, np.inf, class_thresholds)

        return choice.Rule(fit, rule.on_test)

    return {name: scaled(rule) for name, rule in rules.items()}, 0


STACKS_OWN = "stack's own"


def _shares(context: Context) -> np.ndarray | None:
    """Return training shares float[C] from the config, the verb decide or train.csv.

    None: the verb decide has none, so they are counted on the labelled rows.
    """
    if len(context.config.thresholds.proportions):
        return np.asarray(context.config.thresholds.proportions, float)
    if "given" in context.flags and context.flags["given"] is None:
        return None
    return tables.training_shares(context)


def calibrated(
    context: Context, probs: np.ndarray, rows: Rows
) -> tuple[np.ndarray, dict[str, float]]:
    """Return (coefficients [C, 3] of a method's calibration, NaN in missing classes; the expected
    calibration errors of its scores and of the out-of-fold calibrated ones)."""
    from hpa_jax.decision import analysis, calibration

    available = scores.known_classes(probs)
    labels, scored = rows.labels[:, available], probs[:, available].astype(float)
    fold = tables.given_folds(context, rows.ids)
    out_of_fold = calibration.out_of_fold(labels, scored, rows.groups, fold=fold)
    coefficients = np.full((len(available), 3), np.nan)
    coefficients[available] = calibration.fit(labels, scored).coefficients
    return coefficients, {
        "calibration_error": analysis.calibration_error(labels, scored),
        "calibration_error_calibrated": analysis.calibration_error(labels, out_of_fold),
    }


def automatic(
    rows: Rows,
    decided: Mapping[Any, np.ndarray],
    weights: np.ndarray,
    fold: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score `submission.method=auto`, with nested choices of method and rule, which are listed.

    decided: nested decisions by (method, rule), the simplest first.
    """
    from hpa_jax.decision import choice

    decisions, chosen = choice.fold_by_fold(rows.labels, decided, rows.groups, fold)
    return scores.score(rows.labels, decisions, weights) | {
        "chosen": [method for method, _ in chosen],
        "rules": [rule for _, rule in chosen],
    }
