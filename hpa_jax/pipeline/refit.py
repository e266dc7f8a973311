"""The step `refit`: train the networks again on all labelled images, for the submission.

After thresholds, blends and stack are fitted on the hold-out, its images are worth more as training
data.  Every network is trained again by the same phases on train and valid together and predicts
the test part; thresholds, blends and stack stay as fitted on validation.  With folds, one network
replaces those of the folds.  The price: no labelled images are left to score the new networks, so
metrics.json describes the earlier ones, and nothing can be chosen: if the first training took the
best epoch, the second takes the epoch of that number (median over folds), and phases that ended
early are given the length they had.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import predict, scores, tables, train
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows

History = list[tuple[int, float | None]]  # (phase, monitor) of each finished epoch


def refit(context: Context) -> list[Task]:
    """Return the tasks: train every model, predict, then apply blends and stack."""
    if not context.config.refit:
        return []
    if context.flags.get("collect"):
        return [_decide(context)]
    tasks = []
    for name in context.models():
        model = planned(context, name)
        tasks += [_train(context, name, model), _predict(context, name, model)]
    return tasks if context.flags.get("only") else [*tasks, _decide(context)]


def planned(context: Context, name: str) -> ConfigDict:
    """Return a model's config for training on all labelled images, with validation choices fixed.

    Raises:
        InputError: a hold-out training that made a choice is missing.
    """
    model, settings = context.config.models[name], context.config.train
    if not (chooses(model) or _restarts(model) or settings.patience):
        return without_choice(model)
    trainings = [_history(context.fit_folder(name, fold), settings.monitor)
                 for fold in context.folds()]  # fmt: skip
    return without_choice(model, trainings, settings.monitor, settings.patience > 0)


def without_choice(
    model: ConfigDict, trainings: Sequence[History] = (), monitor: str = "loss", early: bool = False
) -> ConfigDict:
    """Return the model's config with the choices of its hold-out trainings fixed.

    Args:
        trainings: history of each; not needed if nothing was chosen on validation.
        monitor: the value that selected the best epoch.
        early: whether phases could end early; they get the length they had.
    """
    changed = model.copy_and_resolve_references().unlock()
    phases = [configs.phase(**dict(phase)).unlock() for phase in model.phases]
    for number, phase in enumerate(phases if early else ()):
        ran = [sum(of == number for of, _ in training) for training in trainings]
        phase.epochs = max(
            phase.cycles, round(statistics.median(ran)) // phase.cycles * phase.cycles
        )
    kept = set(model.keep_epochs)
    for number, phase in enumerate(phases):
        if phase.start_from == "best":
            kept.add(epoch := _best(trainings, monitor, phases[:number]))
            phase.start_from = f"epoch:{epoch}"
    if chooses(model):
        kept.add(epoch := _best(trainings, monitor, phases))
        changed.checkpoint = f"epoch:{epoch}"
    changed.phases, changed.keep_epochs = tuple(phases), tuple(sorted(kept))
    return changed.lock()


def chooses(model: ConfigDict) -> bool:
    """Whether the model predicts with its best epoch by validation."""
    without_average = model.checkpoint == "final" and model.average.kind == "none"
    return model.checkpoint == "best" or without_average


def _restarts(model: ConfigDict) -> bool:
    return any(dict(phase).get("start_from") == "best" for phase in model.phases)


def _best(trainings: Sequence[History], monitor: str, phases: Sequence[ConfigDict]) -> int:
    """Return the best epoch within the phases, counted from 1, the median over trainings."""
    from hpa_jax.training.phases import LOWER_IS_BETTER

    sign = 1.0 if monitor in LOWER_IS_BETTER else -1.0
    epochs = []
    for training in trainings:
        ranked = [(sign * score, row) for row, (number, score) in enumerate(training)
                 if number < len(phases) and score is not None]  # fmt: skip
        row = min(ranked)[1] if ranked else len(training) - 1
        number = training[row][0]
        inside = 1 + sum(of == number for of, _ in training[:row])
        before = sum(phase.epochs for phase in phases[:number])
        epochs.append(before + min(inside, phases[number].epochs))
    return round(statistics.median(epochs))


def _history(folder: Path, monitor: str) -> History:
    """Read (phase, monitor on validation) of each epoch of a training from its metrics.jsonl.

    Raises:
        InputError: the model is not trained yet.
    """
    from hpa_jax.training import logs

    log = folder / "metrics.jsonl"
    if not log.is_file():
        raise InputError(f"refit: {log} is not there; train the model first (`run` does)")
    rows = logs.read(log)
    phases: dict[int, int] = {
        row["epoch"]: row["phase"] if "phase" in row else row["stage"]
        for row in rows
        if row.get("split") == "train"
    }
    of_epochs = [row for row in rows if row.get("split") == "valid" and "weights" not in row]
    return [(phases[row["epoch"]], row[monitor]) for row in of_epochs]


def _train(context: Context, name: str, model: ConfigDict) -> Task:
    def rows() -> tuple[Rows, Rows]:
        # Validation rows are trained on: their curve shows progress, not performance.
        all_rows = train.fitted_rows(context, model, tables.labelled_rows(context))
        return all_rows, tables.split_rows(context, "valid")

    source = configs.started_from(model)
    origin = tables.refitted(context, source) if source else None
    folder, title = tables.refitted(context, name), f"{name}-refit"
    return train.training(context, model, title, folder, rows, origin, {"refit": True}, False)


def _predict(context: Context, name: str, model: ConfigDict) -> Task:
    def parts() -> dict[str, np.ndarray]:
        parts = tables.unseen_parts(context)
        return {part: tables.split_rows(context, part).ids for part in parts}

    folder = tables.refitted(context, name)
    return predict.prediction(context, model, f"{name}-refit", folder, parts)


def _decide(context: Context) -> Task:
    """Apply blends and stack, as fitted on validation, to the new networks' predictions."""
    output = context.path("refit")

    def work() -> str:
        from hpa_jax.decision import blends
        from hpa_jax.decision.stack import stacking

        test, models = tables.split_rows(context, "test"), list(context.config.models)
        stored = artifacts.read_json(context.path("ensemble", "blends.json"))
        probs = tables.of_models(context, tables.FINAL, test.ids)
        outputs = {
            name: blends.from_json(stored[name], models)(probs) for name in scores.blends(context)
        }
        inputs = tables.stack_inputs(context, tables.FINAL, test.ids)
        outputs[scores.STACK] = stacking.load(context.path("stack")).predict(inputs)
        artifacts.remove(output)
        for name, values in outputs.items():
            path = scores.refitted_path(context, name)
            tables.write_probabilities(path, test.ids, np.asarray(values, np.float32))
        return f"{len(models)} networks on all labelled images, {len(test.ids):,} test images"

    inputs = tables.all_predictions(context, tables.FINAL)
    inputs += context.paths("stack", "ensemble", "features", *tables.SPLIT_TABLES)
    return Task("refit", "refit", work, {}, inputs, (output,), fitted=True)
