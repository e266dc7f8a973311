"""The stage `refit`: the networks once more, on all labelled pictures, for the submission alone.

The hold-out has told thresholds, blends and stack; then its pictures are worth more as training
data.  Every network is trained again by the same stages on train and valid together and judges the
test part; what was learnt on validation decides.  The price: nothing labelled is left to measure
the new networks on, so metrics.json speaks of those before, and no checkpoint can be chosen: the
last weights count (or their average).
"""

import numpy as np
from ml_collections import ConfigDict

from hpa_jax import artifacts
from hpa_jax import config as configs
from hpa_jax.context import Context
from hpa_jax.stages import networks, scores, tables
from hpa_jax.stages.tables import Rows
from hpa_jax.stamps import Task


def refit(context: Context) -> list[Task]:
    """Every network again -> models/NAME/refit/, and all ways to decide -> refit/; or nothing."""
    if not context.config.refit:
        return []
    if context.flags.get("collect"):  # trained elsewhere
        return [_decide(context)]
    tasks = []
    for name, model in context.models().items():
        model = without_choice(model)
        tasks += [_train(context, name, model), _predict(context, name, model)]
    return tasks if context.flags.get("only") else [*tasks, _decide(context)]


def without_choice(model: ConfigDict) -> ConfigDict:
    """The model with its last weights where its best by validation would be taken."""
    changed = model.copy_and_resolve_references().unlock()
    if model.checkpoint == "best" or (model.checkpoint == "final" and model.average.kind == "none"):
        changed.checkpoint = "last"
    return changed


def _train(context: Context, name: str, model: ConfigDict) -> Task:
    def rows() -> tuple[Rows, Rows]:
        # Validation is among the fitted: its curve tells that training runs, not how well.
        all_rows = networks.fitted_rows(context, model, tables.labelled_rows(context))
        return all_rows, tables.split_rows(context, "valid")

    source = configs.started_from(model)
    origin = tables.refitted(context, source) if source else None
    folder, title = tables.refitted(context, name), f"{name}-refit"
    return networks.training(context, model, title, folder, rows, origin, {"refit": True})


def _predict(context: Context, name: str, model: ConfigDict) -> Task:
    def parts() -> dict[str, np.ndarray]:
        return {"test": tables.split_rows(context, "test").ids}

    folder = tables.refitted(context, name)
    return networks.prediction(context, model, f"{name}-refit", folder, parts)


def _decide(context: Context) -> Task:
    """Blends and stack, as they were fitted on validation, on what the new networks say."""
    output = context.path("refit")

    def work() -> str:
        from hpa_jax.decision import blends, stacking

        test, models = tables.split_rows(context, "test"), list(context.config.models)
        stored = artifacts.read_json(context.path("ensemble", "blends.json"))
        probs = tables.of_models(context, tables.FINAL, test.ids)
        found = {
            name: blends.from_json(stored[name], models)(probs) for name in scores.blends(context)
        }
        inputs, _ = tables.stack_features(context, tables.FINAL, test.ids)
        found[scores.STACK] = stacking.load(context.path("stack")).predict(inputs)
        artifacts.remove(output)
        for name, values in found.items():
            path = scores.refitted_path(context, name)
            tables.write_probabilities(path, test.ids, np.asarray(values, np.float32))
        return f"{len(models)} networks on all labelled pictures, {len(test.ids):,} test pictures"

    inputs = tables.all_predictions(context, tables.FINAL)
    inputs += context.paths("stack", "ensemble", "features", *tables.SPLIT_TABLES)
    rooms = ("decision", "inference/ensemble.py", "stages")
    return Task("refit", "refit", work, {}, inputs, (output,), rooms)
