"""The step `predict`: probabilities and embeddings of every model and fold, joined over folds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows
from hpa_jax.pipeline.train import task_name

if TYPE_CHECKING:
    from hpa_jax.inference.predict import Outputs


def predict(context: Context) -> list[Task]:
    """Return the tasks that predict with every network and join folds."""
    tasks = [_predict(context, *fit) for fit in context.fits()]
    if context.folds() != [None]:
        tasks += [_join_folds(context, name) for name in context.models()]
    return tasks


def _predict(
    context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path
) -> Task:
    def parts() -> dict[str, np.ndarray]:
        return {
            part: tables.split_rows(context, part, fold if part == "valid" else None).ids
            for part in ("valid", *tables.unseen_parts(context))
        }

    return prediction(context, model, task_name(name, fold), folder, parts)


def prediction(
    context: Context,
    model: ConfigDict,
    title: str,
    folder: Path,
    parts: Callable[[], dict[str, np.ndarray]],
) -> Task:
    """Return the task that writes a network's predictions to folder/predictions/.

    parts: ids by part.
    """
    settings = {f"models.{title.split('-')[0]}.{key}": model[key] for key in configs.OF_PREDICTION}
    settings |= inputs_of.stored(context, model)
    output = folder / "predictions"

    def work() -> str:
        ids_of = parts()
        outputs = {
            part: predict_rows(context, model, folder, ids, part, title)
            for part, ids in ids_of.items()
        }
        _write_predictions(output, ids_of, outputs, context.class_numbers(model))
        artifacts.remove(folder / "predict_parts")
        counts = " and ".join(f"{len(ids):,} {part}" for part, ids in ids_of.items())
        return f"{counts} images, views {model.views}"

    def rows() -> list[Rows]:
        return [Rows(ids, *[np.zeros(len(ids))] * 3) for ids in parts().values()]

    inputs = (
        folder / "checkpoints",
        inputs_of.rows_read(context, "rows", rows, images=context.records_of(model)),
        *inputs_of.embeddings_read(context, model, rows),
    )
    name = f"predict-{title}"
    return Task("predict", name, work, settings, inputs, (output,), fitted=True)


def predict_rows(
    context: Context, model: ConfigDict, folder: Path, ids: np.ndarray, part: str, title: str
) -> "Outputs":
    """Predict rows with the chosen weights; snapshots are averaged, embeddings are the last's."""
    from hpa_jax.inference import sweep
    from hpa_jax.inference import views as view_sets
    from hpa_jax.training import checkpoint

    images, views, outputs = inputs_of.images_of(context, model), model.views, []
    if model.frozen.head:
        views = view_sets.stored(model.views, model.image_size)
    for step in checkpoint.chosen(folder, model.checkpoint):
        network, trained, _ = checkpoint.load(folder, step)
        if model.frozen.head:
            trained = configs.model(**{**dict(trained.items()), "normalize": "none"})
        outputs.append(
            sweep.predict_records(
                network,
                trained,
                images,
                ids,
                batch_size=context.config.predict.batch_size,
                views=views,
                directory=folder / "predict_parts" / f"{part}-{step}",
                title=f"{title}, {part}",
            )
        )
    probs = np.mean([output.probs for output in outputs], axis=0)
    plain = np.mean([output.plain for output in outputs], axis=0)
    return outputs[-1]._replace(probs=probs, plain=plain)


def _write_predictions(
    output: Path,
    parts: dict[str, np.ndarray],
    results: "dict[str, Outputs]",
    class_numbers: list[int],
) -> None:
    """Write tables of probabilities, with and without test-time views, and of embeddings.

    Only the first host writes.  Views without the unchanged image give no table without views.
    """
    import jax

    from hpa_jax.inference.tables import write_embeddings, write_table

    if jax.process_index() != 0:
        return
    with artifacts.atomic(output) as temporary:
        temporary.mkdir()
        for part, result in results.items():
            ids = parts[part]
            write_table(temporary / f"{part}.parquet", ids, result.probs, class_numbers)
            write_embeddings(temporary / f"{part}_embeddings.parquet", ids, result.embeddings)
            if not np.isnan(result.plain).any():
                plain = temporary / f"{part}_{tables.PLAIN}.parquet"
                write_table(plain, ids, result.plain, class_numbers)


def _join_folds(context: Context, name: str) -> Task:
    """Join folds: out-of-fold rows for valid, the mean over networks for test and audit."""
    folders = [context.path("models", name, f"fold_{fold}") for fold in context.folds()]
    output = context.path("models", name, "predictions")

    def work() -> str:
        import jax
        import pandas as pd

        if jax.process_index() != 0:
            return ""
        with artifacts.atomic(output) as temporary:
            temporary.mkdir()
            for file in sorted((folders[0] / "predictions").glob("*.parquet")):
                unseen = not file.name.startswith("valid")
                if unseen and "embeddings" in file.name:  # each fold's network has its own space
                    continue
                parts = [artifacts.read_table(f / "predictions" / file.name) for f in folders]
                joined = pd.concat(parts, ignore_index=True)
                if unseen:
                    means = joined.groupby("id", sort=False).mean()
                    joined = means.astype(np.float32).reset_index()
                elif joined["id"].duplicated().any():
                    raise ValueError(f"{name}: a validation id is in two folds")
                artifacts.write_table(temporary / file.name, joined)
        return f"{len(folders)} folds joined"

    inputs = tuple(folder / "predictions" for folder in folders)
    return Task("predict", f"predict-{name}", work, {}, inputs, (output,), fitted=True)
