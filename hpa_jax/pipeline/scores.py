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
    """The blends of this run: name -> method of decision/blends.py."""
    found = {MEAN: "mean", WEIGHTED: "likelihood", LOGISTIC: "logistic"}
    if has_ensemble(context.config):
        found[ENSEMBLE] = context.config.ensemble.method
    return found


def blend_path(context: Context, name: str, split: str) -> Path:
    """Where a blend's scores of one split lie; those of validation are out of fold."""
    if split == tables.AUDIT:
        return audited_path(context, name)
    if split == tables.FINAL and context.config.refit:
        return refitted_path(context, name)
    return context.path("ensemble", name.replace(" ", "_"), f"{tables.rows_of(split)}.parquet")


def stack_path(context: Context, split: str) -> Path:
    """Where the stack's votes of one split lie; those of validation are out of fold."""
    if split == tables.AUDIT:
        return audited_path(context, STACK)
    if split == tables.FINAL and context.config.refit:
        return refitted_path(context, STACK)
    return context.path("stack", f"{tables.rows_of(split)}.parquet")


def refitted_path(context: Context, name: str) -> Path:
    """Where a blend's or the stack's scores by refitted networks lie, test part alone."""
    return context.path("refit", f"{name.replace(' ', '_')}.parquet")


def audited_path(context: Context, name: str) -> Path:
    """Where a blend's or the stack's scores of the audit part lie."""
    return context.path("audit", f"{name.replace(' ', '_')}.parquet")


def refitted_files(context: Context) -> tuple[Path, ...]:
    """What later steps read of refitted networks."""
    if not context.config.refit:
        return ()
    return (*tables.all_predictions(context, tables.FINAL), context.path("refit"))


def of_methods(context: Context, split: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Scores [N, C] of every method; NaN in classes that it does not know.

    split: valid, test, tables.AUDIT, or tables.FINAL, the test part by the networks of the
    submission.  With
    config.ensemble.average_duplicates, near-duplicates among the test images share their mean.
    """
    paths = {name: tables.predictions(context, name, split) for name in context.config.models}
    paths |= {name: blend_path(context, name, split) for name in blends(context)}
    paths[STACK] = stack_path(context, split)
    split = tables.rows_of(split)
    found = {
        name: retrieve.boosted(context, split, ids, tables.probabilities(path, ids, context))
        for name, path in paths.items()
    }
    if split == "test" and context.config.ensemble.average_duplicates:
        from hpa_jax.inference import ensemble

        duplicates = tables.duplicate_groups(context, ids)
        found = {
            name: ensemble.average_duplicates(probs, duplicates) for name, probs in found.items()
        }
    return found


def decisions(
    context: Context, ids: np.ndarray, split: str = tables.FINAL
) -> dict[str, np.ndarray]:
    """bool[N, C] of every method on the test rows, by thresholds.json; before any leak overlay.

    split: tables.FINAL, "test" for the networks that were not refitted, or tables.AUDIT.

    Raises:
        InputError: the thresholds were made for other classes or methods.
    """
    found, decided = class_thresholds(context), {}
    for name, probs in of_methods(context, split, ids).items():
        if name not in found:
            raise InputError(f"thresholds.json: has no {name!r}; {AGAIN}")
        decided[name] = decide(context, probs, found[name])
    return decided


def class_thresholds(context: Context) -> dict[str, np.ndarray]:
    """float[C] of every method in thresholds.json; inf: never predicted.

    Raises:
        InputError: they were made for other classes, or a method has not one number a class.
    """
    path, known = context.path("thresholds.json"), list(context.config.classes)
    table, found = artifacts.read_json(path), {}
    with artifacts.parsing(path, AGAIN):
        if table["classes"] != known:
            raise InputError("made for other classes")
        for name, own in table["thresholds"].items():
            found[name] = np.array(
                [np.inf if threshold is None else threshold for threshold in own], float
            )
            if len(own) != len(known) or np.isnan(found[name]).any():
                raise InputError(f"{len(own)} thresholds of {name!r} for {len(known)} classes")
    return found


def validated(context: Context, method: str) -> "Validated | None":
    """Return what validation says of a method's scores of each class.

    None where the run has no thresholds of the method, or an earlier version fitted them, which
    calibrated nothing.

    Raises:
        InputError: a damaged file.
    """
    from hpa_jax.decision.validated import Validated

    path, measured = context.paths("thresholds.json", "metrics.json")
    if not (path.is_file() and measured.is_file()):
        return None
    table, metrics = artifacts.read_json(path), artifacts.read_json(measured)
    with artifacts.parsing(path, f"{AGAIN} (--force=thresholds)"):
        if method not in table.get("calibrations", {}):
            return None
        found = {"calibration": table["calibrations"][method], "support": metrics["support"]}
        found["f1"] = metrics["scores"][method]["class_f1"]
        return Validated.from_json(found, len(table["classes"]))


def decide(context: Context, probs: np.ndarray, class_thresholds: np.ndarray) -> np.ndarray:
    """bool[N, C] of test rows by the submission's rule."""
    from hpa_jax.decision import thresholds

    argmax = context.config.submission.argmax
    return thresholds.decide(np.nan_to_num(probs), class_thresholds, argmax=argmax)


def chosen_method(context: Context) -> str:
    """The submission's method: config.submission.method, or the simplest that is at most one
    standard error below the best on validation (nested).

    Raises:
        InputError: there is no such method; names the near ones.
    """
    method = context.config.submission.method
    table = artifacts.read_json(context.path("metrics.json"))
    if method == "auto":
        return table.get("chosen", table["best"])  # earlier versions took the best
    if method not in table["scores"]:
        hint = near(method, table["scores"])
        raise InputError(f"config.submission.method={method!r}: no such method{hint}")
    return method


def score(
    labels: np.ndarray,
    predicted: np.ndarray,
    weights: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> dict[str, Any]:
    """Macro-F1 over all classes and over those with positives, and each class' F1.

    weights: of `confidence.resamples`; adds the 95 % bootstrap intervals of macro-F1 and of each
    class's F1.
    known: bool[C], classes that the method knows (None: all); if some are not, also the macro-F1
    over those, which is what such a method is judged by.
    """
    from hpa_jax.core import metrics
    from hpa_jax.decision import confidence

    found = {
        "macro_f1": metrics.macro_f1(labels, predicted),
        "macro_f1_classes_present": metrics.macro_f1(labels, predicted, present_only=True),
        "class_f1": metrics.class_f1(labels, predicted),
    }
    if weights is not None:
        around = confidence.f1_intervals(labels, predicted, weights=weights)
        found["macro_f1_interval"] = list(around.macro)
        found["class_f1_interval"] = around.classes
    if known is not None and not known.all():
        found["classes_known"] = int(known.sum())
        found["macro_f1_classes_known"] = metrics.macro_f1(labels[:, known], predicted[:, known])
    return found


def known_classes(probs: np.ndarray) -> np.ndarray:
    """bool[C]: the classes that a method's scores [N, C] hold; the others are NaN."""
    return ~np.isnan(probs).all(axis=0)


def resamples(rows: Rows) -> np.ndarray:
    """Bootstrap weights of one split's rows, by duplicate group: the same for every method."""
    from hpa_jax.decision import confidence

    return confidence.resamples(len(rows.ids), DRAWS, groups=rows.groups)


def ranking(labels: np.ndarray, probs: np.ndarray) -> dict[str, Any]:
    """Mean average precision over classes with positives, and chance (their mean prevalence)."""
    from hpa_jax.core import metrics

    known = labels.any(axis=0) & known_classes(probs)
    return {
        "mean_average_precision": metrics.macro_average_precision(
            labels[:, known], probs[:, known]
        ),
        "mean_average_precision_of_chance": float(labels[:, known].mean()),
    }


def absent_classes(context: Context, labels: np.ndarray) -> list[str]:
    """Names of the classes without a positive among the rows: scored 0."""
    present = np.asarray(labels.any(axis=0))
    return [name for name, held in zip(context.config.classes, present) if not held]


def summary(scores: dict[str, dict[str, Any]]) -> str:
    """One line: "small .612, rare .598 (its 10 classes), stack .640"."""
    return ", ".join(f"{name} {headline(value)}" for name, value in scores.items())


def headline(score: dict[str, Any]) -> str:
    """Macro-F1 of one method; of one that knows some classes alone, over these."""
    notes = [score["seen"]] if score.get("seen") else []
    value = score["macro_f1"]
    if "classes_known" in score:
        notes.append(f"its {score['classes_known']} classes")
        value = score["macro_f1_classes_known"]
    return f"{value:.3f}" + (f" ({', '.join(notes)})" if notes else "")


def checkpoint_choice(context: Context) -> str:
    """Whether, and how, the networks' weights were chosen on the validation rows."""
    if "given" in context.flags:
        return "their scores must be out of fold for the models; the verb decide can't prove it"
    models, train = context.config.models, context.config.train
    monitor = f"{train.monitor} on these rows"
    by_choice: dict[str, list[str]] = {}
    for name, model in models.items():
        by_choice.setdefault(_weights(model), []).append(name)
    said = {
        "best": f"the epoch of {{}} was chosen by the best {monitor}",
        "last": "the weights of {} are the last ones, not chosen on these rows",
        "snapshots": "the snapshots of {} (ends of cycles and phases), not chosen on these rows",
    }
    other = "the weights of {} are an {} of epochs, not chosen on these rows"
    named = "the weights of {} are those at the end of {}, not chosen on these rows"
    said |= {kind: named for kind in by_choice if ":" in kind}
    kinds = sorted(by_choice, key=lambda kind: kind != "best")
    parts = [said.get(kind, other).format(" and ".join(by_choice[kind]), kind) for kind in kinds]
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
    """Which weights predict: best, last, snapshots, or an average of some kind."""
    if model.checkpoint != "final":
        return model.checkpoint
    return "best" if model.average.kind == "none" else f"average ({model.average.kind})"


def _restarts_from_best(model: ConfigDict) -> bool:
    return any(dict(phase).get("start_from") == "best" for phase in model.phases[1:])


def _chosen_somewhere(context: Context, name: str) -> bool:
    """Whether validation rows chose the final weights of a model, or what it began with."""
    model = context.config.models[name]
    source = configs.started_from(model)
    known = source is not None and source in context.config.models
    before = known and _chosen_somewhere(context, str(source))
    best = model.average.kind == "none" and not model.checkpoint.startswith("epoch:")
    return best or _restarts_from_best(model) or before


def write_decisions(path: Path, ids: np.ndarray, decided: dict[str, np.ndarray]) -> None:
    """Writes the table id, METHOD, ...: class numbers as text, as in a submission."""
    import pandas as pd

    columns = {name: [classes.decode(row) for row in array] for name, array in decided.items()}
    artifacts.write_table(path, pd.DataFrame({"id": ids, **columns}))


def read_decisions(
    path: Path, names: Sequence[str], ids: np.ndarray, context: Context
) -> dict[str, np.ndarray]:
    """bool[N, C] of each named method in a table of `write_decisions`, in the order of `ids`."""
    table = artifacts.read_table(path).set_index("id").loc[ids]
    return {name: _encoded(table[name], context) for name in names}


def _encoded(texts: Iterable[str], context: Context) -> np.ndarray:
    rows = [classes.encode(text, context.num_classes) for text in texts]
    return np.array(rows, bool).reshape(len(rows), context.num_classes)
