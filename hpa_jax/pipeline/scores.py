"""Scores and decisions of every method on one set of rows.

Methods: each model; the blends of the models (their mean, weighted mean, logistic regression, and
the config's ensemble if it is another); the stack.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config.defaults import METHODS, has_ensemble
from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError, near
from hpa_jax.pipeline import retrieve, tables
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows

if TYPE_CHECKING:
    from hpa_jax.decision.validated import Validated

DRAWS = 1000  # resamples behind every published interval
AGAIN = "run the step thresholds again"
MEAN, WEIGHTED, LOGISTIC, ENSEMBLE, STACK = METHODS


def blends(context: Context) -> dict[str, str]:
    """Return the blends of this run: name -> method of decision/blends.py."""
    methods = {MEAN: "mean", WEIGHTED: "likelihood", LOGISTIC: "logistic"}
    if has_ensemble(context.config):
        methods[ENSEMBLE] = context.config.ensemble.method
    return methods


def blend_path(context: Context, name: str, split: str) -> Path:
    """Return the path of a blend's scores of one split; those of validation are out of fold."""
    if split == tables.AUDIT:
        return audited_path(context, name)
    if split == tables.FINAL and context.config.refit:
        return refitted_path(context, name)
    return context.path("ensemble", name.replace(" ", "_"), f"{tables.rows_of(split)}.parquet")


def stack_path(context: Context, split: str) -> Path:
    """Return the path of the stack's votes of one split; those of validation are out of fold."""
    if split == tables.AUDIT:
        return audited_path(context, STACK)
    if split == tables.FINAL and context.config.refit:
        return refitted_path(context, STACK)
    return context.path("stack", f"{tables.rows_of(split)}.parquet")


def refitted_path(context: Context, name: str) -> Path:
    """Return the path of a blend's or the stack's test scores by refitted networks."""
    return context.path("refit", f"{name.replace(' ', '_')}.parquet")


def audited_path(context: Context, name: str) -> Path:
    """Return the path of a blend's or the stack's scores of the audit part."""
    return context.path("audit", f"{name.replace(' ', '_')}.parquet")


def refitted_files(context: Context) -> tuple[Path, ...]:
    """Return the files of refitted networks, inputs of later steps."""
    if not context.config.refit:
        return ()
    return (*tables.all_predictions(context, tables.FINAL), context.path("refit"))


def of_methods(context: Context, split: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return scores [N, C] of every method; NaN in classes that it lacks.

    split: valid, test, tables.AUDIT, or tables.FINAL (test by the networks of the submission).
    With config.ensemble.average_duplicates, near-duplicates among the test images get their mean.
    """
    paths = {name: tables.predictions(context, name, split) for name in context.config.models}
    paths |= {name: blend_path(context, name, split) for name in blends(context)}
    paths[STACK] = stack_path(context, split)
    split = tables.rows_of(split)
    probs_by_method = {
        name: retrieve.boosted(context, split, ids, tables.probabilities(path, ids, context))
        for name, path in paths.items()
    }
    if split == "test" and context.config.ensemble.average_duplicates:
        from hpa_jax.inference import ensemble

        duplicates = tables.duplicate_groups(context, ids)
        probs_by_method = {
            name: ensemble.average_duplicates(probs, duplicates)
            for name, probs in probs_by_method.items()
        }
    return probs_by_method


def decisions(
    context: Context, ids: np.ndarray, split: str = tables.FINAL
) -> dict[str, np.ndarray]:
    """Return decisions bool[N, C] of every method by thresholds.json, without leak overlay.

    split: tables.FINAL, "test" (networks before refit), or tables.AUDIT.

    Raises:
        InputError: the thresholds were made for other classes or methods.
    """
    thresholds, decided = class_thresholds(context), {}
    for name, probs in of_methods(context, split, ids).items():
        if name not in thresholds:
            raise InputError(f"thresholds.json: method {name!r} is missing; {AGAIN}")
        decided[name] = decide(context, probs, thresholds[name])
    return decided


def class_thresholds(context: Context) -> dict[str, np.ndarray]:
    """Return thresholds float[C] of every method in thresholds.json; inf: never predicted.

    Raises:
        InputError: made for other classes, or a method without one number per class.
    """
    path, names = context.path("thresholds.json"), list(context.config.classes)
    table, thresholds = artifacts.read_json(path), {}
    with artifacts.parsing(path, AGAIN):
        if table["classes"] != names:
            raise InputError("made for other classes")
        for name, values in table["thresholds"].items():
            thresholds[name] = np.array(
                [np.inf if threshold is None else threshold for threshold in values], float
            )
            if len(values) != len(names) or np.isnan(thresholds[name]).any():
                raise InputError(f"{len(values)} thresholds of {name!r} for {len(names)} classes")
    return thresholds


def validated(context: Context, method: str) -> "Validated | None":
    """Return calibration, F1 and support of a method's classes on validation.

    None without thresholds of the method, or if an earlier version fitted them without calibration.

    Raises:
        InputError: a damaged file.
    """
    from hpa_jax.decision.validated import Validated

    path, metrics_path = context.paths("thresholds.json", "metrics.json")
    if not (path.is_file() and metrics_path.is_file()):
        return None
    table, metrics = artifacts.read_json(path), artifacts.read_json(metrics_path)
    with artifacts.parsing(path, f"{AGAIN} (--force=thresholds)"):
        if method not in table.get("calibrations", {}):
            return None
        fields = {"calibration": table["calibrations"][method], "support": metrics["support"]}
        fields["f1"] = metrics["scores"][method]["class_f1"]
        return Validated.from_json(fields, len(table["classes"]))


def decide(context: Context, probs: np.ndarray, class_thresholds: np.ndarray) -> np.ndarray:
    """Apply thresholds to probs [N, C] by the submission's argmax rule."""
    from hpa_jax.decision import thresholds

    argmax = context.config.submission.argmax
    return thresholds.decide(np.nan_to_num(probs), class_thresholds, argmax=argmax)


def chosen_method(context: Context) -> str:
    """Return the submission's method: config.submission.method, or for "auto" the simplest within
    one standard error of the best on validation (nested).

    Raises:
        InputError: an unknown method.
    """
    method = context.config.submission.method
    table = artifacts.read_json(context.path("metrics.json"))
    if method == "auto":
        return table.get("chosen", table["best"])  # earlier versions took the best
    if method not in table["scores"]:
        hint = near(method, table["scores"])
        raise InputError(f"config.submission.method={method!r}: unknown method{hint}")
    return method


def score(
    labels: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return macro-F1 over all classes and over those with positives, and F1 by class.

    weights: of `confidence.resamples`, adds 95 % bootstrap intervals of macro-F1 and of each F1.
    known: bool[C], classes that the method has (None: all); if some are missing, adds the macro-F1
    over the known ones, the headline of such a method.
    """
    from hpa_jax.core import metrics
    from hpa_jax.decision import confidence

    result = {
        "macro_f1": metrics.macro_f1(labels, predicted),
        "macro_f1_classes_present": metrics.macro_f1(labels, predicted, present_only=True),
        "class_f1": metrics.class_f1(labels, predicted),
    }
    if weights is not None:
        intervals = confidence.f1_intervals(labels, predicted, weights=weights)
        result["macro_f1_interval"] = list(intervals.macro)
        result["class_f1_interval"] = intervals.classes
    if known is not None and not known.all():
        result["classes_known"] = int(known.sum())
        result["macro_f1_classes_known"] = metrics.macro_f1(labels[:, known], predicted[:, known])
    return result


def known_classes(probs: np.ndarray) -> np.ndarray:
    """Return bool[C], the classes that a method's scores [N, C] have; the others are NaN."""
    return ~np.isnan(probs).all(axis=0)


def resamples(rows: Rows) -> np.ndarray:
    """Return bootstrap weights of rows by duplicate group, the same for every method."""
    from hpa_jax.decision import confidence

    return confidence.resamples(len(rows.ids), DRAWS, groups=rows.groups)


def ranking(labels: np.ndarray, probs: np.ndarray) -> dict[str, Any]:
    """Return mean average precision over classes with positives, and chance (mean prevalence)."""
    from hpa_jax.core import metrics

    scored = labels.any(axis=0) & known_classes(probs)
    return {
        "mean_average_precision": metrics.macro_average_precision(
            labels[:, scored], probs[:, scored]
        ),
        "mean_average_precision_of_chance": float(labels[:, scored].mean()),
    }


def absent_classes(context: Context, labels: np.ndarray) -> list[str]:
    """Return the names of classes without positives, whose F1 counts as 0."""
    present = np.asarray(labels.any(axis=0))
    return [name for name, is_present in zip(context.config.classes, present) if not is_present]


def summary(scores: dict[str, dict[str, Any]]) -> str:
    """Format as "small .612, rare .598 (its 10 classes), stack .640"."""
    return ", ".join(f"{name} {headline(value)}" for name, value in scores.items())


def headline(score: dict[str, Any]) -> str:
    """Format the macro-F1 of one method, over its known classes if it lacks some."""
    notes = [score["seen"]] if score.get("seen") else []
    value = score["macro_f1"]
    if "classes_known" in score:
        notes.append(f"its {score['classes_known']} classes")
        value = score["macro_f1_classes_known"]
    return f"{value:.3f}" + (f" ({', '.join(notes)})" if notes else "")


def checkpoint_choice(context: Context) -> str:
    """Describe whether and how the networks' weights were chosen on the validation rows."""
    if "given" in context.flags:
        return "their scores must be out of fold for the models; the verb decide can't prove it"
    models, train = context.config.models, context.config.train
    monitor = f"{train.monitor} on these rows"
    by_choice: dict[str, list[str]] = {}
    for name, model in models.items():
        by_choice.setdefault(_weights(model), []).append(name)
    texts = {
        "best": f"the epoch of {{}} was chosen by the best {monitor}",
        "last": "the weights of {} are the last ones, not chosen on these rows",
        "snapshots": "the snapshots of {} (ends of cycles and phases), not chosen on these rows",
    }
    other = "the weights of {} are an {} of epochs, not chosen on these rows"
    named = "the weights of {} are those at the end of {}, not chosen on these rows"
    texts |= {kind: named for kind in by_choice if ":" in kind}
    kinds = sorted(by_choice, key=lambda kind: kind != "best")
    parts = [texts.get(kind, other).format(" and ".join(by_choice[kind]), kind) for kind in kinds]
    for name, model in models.items():
        if _restarts_from_best(model):
            parts.append(f"a phase of {name} began at the epoch of the best {monitor}")
        source = configs.started_from(model)
        if source is not None and source in models and _chosen_somewhere(context, source):
            parts.append(f"{name} began with weights of {source} that were chosen on these rows")
    if train.patience:
        parts.append(f"the end of training was chosen by the {monitor}")
    return "; ".join(parts)


def _weights(model: ConfigDict) -> str:
    """Return which weights predict: best, last, snapshots, or the kind of average."""
    if model.checkpoint != "final":
        return model.checkpoint
    return "best" if model.average.kind == "none" else f"average ({model.average.kind})"


def _restarts_from_best(model: ConfigDict) -> bool:
    return any(dict(phase).get("start_from") == "best" for phase in model.phases[1:])


def _chosen_somewhere(context: Context, name: str) -> bool:
    """Whether a model's final or initial weights were chosen on validation rows."""
    model = context.config.models[name]
    source = configs.started_from(model)
    in_recipe = source is not None and source in context.config.models
    before = in_recipe and _chosen_somewhere(context, str(source))
    best = model.average.kind == "none" and not model.checkpoint.startswith("epoch:")
    return best or _restarts_from_best(model) or before


def write_decisions(path: Path, ids: np.ndarray, decided: dict[str, np.ndarray]) -> None:
    """Write the table id, METHOD, ...: class numbers as text, as in a submission."""
    import pandas as pd

    columns = {name: [classes.decode(row) for row in array] for name, array in decided.items()}
    artifacts.write_table(path, pd.DataFrame({"id": ids, **columns}))


def read_decisions(
    path: Path, names: Sequence[str], ids: np.ndarray, context: Context
) -> dict[str, np.ndarray]:
    """Read bool[N, C] of each named method from a table of `write_decisions`, rows as `ids`."""
    table = artifacts.read_table(path).set_index("id").loc[ids]
    return {name: _encoded(table[name], context) for name in names}


def _encoded(texts: Iterable[str], context: Context) -> np.ndarray:
    rows = [classes.encode(text, context.num_classes) for text in texts]
    return np.array(rows, bool).reshape(len(rows), context.num_classes)
