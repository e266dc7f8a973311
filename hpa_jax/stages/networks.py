"""Stages of the networks: train and predict, a task for each model and fold."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax import artifacts
from hpa_jax import config as configs
from hpa_jax.context import Context
from hpa_jax.stages import tables
from hpa_jax.stages.tables import Rows
from hpa_jax.stamps import Task

if TYPE_CHECKING:
    from hpa_jax.inference.predict import Seen

TRAIN_ROOMS = ("models", "training", "data/input.py", "stages/networks.py")


def train(context: Context) -> list[Task]:
    """Every network of the recipe -> models/NAME/[fold_K/]checkpoints, metrics.jsonl."""
    return [_train(context, *fit) for fit in context.fits()]


def _train(context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path) -> Task:
    config = context.config

    def work() -> str:
        from hpa_jax.training import loop

        rows = rows_to_fit(context, model, fold)
        loop.train(
            model,
            name=_task_name(name, fold),
            directory=folder,
            **rows,
            train_weights=_drawn(_fitted(context, model, fold).weights),
            settings=config.train,
            seed=config.seed,
        )
        return f"{len(rows['train_ids']):,} pictures, validated on {len(rows['valid_ids']):,}"

    settings = {
        "model": trained_by(model),
        "train": config.train.to_dict(),
        "classes": config.classes,
        "seed": config.seed,
        "fold": fold,
    }
    inputs = (context.records_of(model), *context.paths(*tables.SPLIT_TABLES))
    origin = _origin(context, model, fold)
    inputs += (origin / "checkpoints",) if origin else ()
    outputs = (folder / "checkpoints", folder / "metrics.jsonl")
    stamp = f"train-{_task_name(name, fold)}"
    return Task("train", stamp, work, settings, inputs, outputs, TRAIN_ROOMS, resume="same")


def rows_to_fit(context: Context, model: ConfigDict, fold: int | None) -> dict[str, Any]:
    """What `loop.train` and the sweep of rates take: pictures, labels of the model's classes, and
    the folder of the model that it starts from.
    """
    from hpa_jax.data.input import Records

    numbers = context.class_numbers(model)
    fitted = _fitted(context, model, fold)
    held_out = tables.split_rows(context, "valid", fold)
    return dict(
        records=Records(context.records_of(model)),
        train_ids=fitted.ids,
        train_labels=fitted.labels[:, numbers].astype(np.uint8),
        valid_ids=held_out.ids,
        valid_labels=held_out.labels[:, numbers].astype(np.uint8),
        class_names=tuple(context.config.classes[number] for number in numbers),
        init_folder=_origin(context, model, fold),
    )


def _origin(context: Context, model: ConfigDict, fold: int | None) -> Path | None:
    source = configs.started_from(model)
    return context.fit_folder(source, fold) if source else None


def _fitted(context: Context, model: ConfigDict, fold: int | None) -> Rows:
    """The training rows, without the part that the model leaves out; groups stay whole."""
    from hpa_jax.data import stratification

    rows = tables.split_rows(context, "train", fold)
    if not model.left_out:
        return rows
    part, parts = model.left_out
    dealt = stratification.folds(rows.labels, rows.groups, parts, context.config.split.seed)
    return rows.where(dealt != part)


def _drawn(weights: np.ndarray) -> np.ndarray | None:
    """How often each training picture is drawn; None: all the same, plain shuffling."""
    return weights if np.ptp(weights) > 0 else None


def trained_by(model: ConfigDict) -> dict:
    """The options of a model that its training depends on."""
    return {
        key: value for key, value in model.to_dict().items() if key not in configs.OF_PREDICTION
    }


def predict(context: Context) -> list[Task]:
    """Probabilities and embeddings of every network; folds are brought together."""
    tasks = [_predict(context, *fit) for fit in context.fits()]
    if context.folds() != [None]:
        tasks += [_join_folds(context, name) for name in context.models()]
    return tasks


def _predict(
    context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path
) -> Task:
    settings = {key: model[key] for key in configs.OF_PREDICTION}
    settings["batch_size"] = context.config.predict.batch_size
    output = folder / "predictions"

    def work() -> str:
        parts = {
            part: tables.split_rows(context, part, fold if part == "valid" else None).ids
            for part in ("valid", "test")
        }
        title = _task_name(name, fold)
        found = {
            part: _seen(context, model, folder, ids, part, title) for part, ids in parts.items()
        }
        _write_predictions(output, parts, found, context.class_numbers(model))
        artifacts.remove(folder / "predict_parts")
        counts = [len(ids) for ids in parts.values()]
        return f"{counts[0]:,} validation and {counts[1]:,} test pictures, views {model.views}"

    inputs = (folder / "checkpoints", context.records_of(model))
    inputs += context.paths(*tables.SPLIT_TABLES)
    stamp = f"predict-{_task_name(name, fold)}"
    rooms = (*TRAIN_ROOMS, "inference")
    return Task("predict", stamp, work, settings, inputs, (output,), rooms)


def _seen(
    context: Context, model: ConfigDict, folder: Path, ids: np.ndarray, part: str, title: str
) -> "Seen":
    """What the chosen weights say of some rows: of snapshots the mean, with the last embeddings."""
    from hpa_jax.data.input import Records
    from hpa_jax.inference import sweep
    from hpa_jax.training import checkpoint

    found = []
    for step in checkpoint.chosen(folder, model.checkpoint):
        network, trained, _ = checkpoint.load(folder, step)
        found.append(
            sweep.predict_records(
                network,
                trained,
                Records(context.records_of(model)),
                ids,
                batch_size=context.config.predict.batch_size,
                views=model.views,
                directory=folder / "predict_parts" / f"{part}-{step}",
                title=f"{title}, {part}",
            )
        )
    probs = np.mean([seen.probs for seen in found], axis=0)
    plain = np.mean([seen.plain for seen in found], axis=0)
    return found[-1]._replace(probs=probs, plain=plain)


def _write_predictions(
    output: Path,
    parts: dict[str, np.ndarray],
    found: "dict[str, Seen]",
    class_numbers: list[int],
) -> None:
    """Tables of probabilities, of those without test-time views, and of embeddings.

    Of several hosts the first writes.  Views that do not hold the picture as it is give no table
    of it.
    """
    import jax

    from hpa_jax.inference.tables import write_embeddings, write_table

    if jax.process_index() != 0:
        return
    with artifacts.atomic(output) as temporary:
        temporary.mkdir()
        for part, seen in found.items():
            ids = parts[part]
            write_table(temporary / f"{part}.parquet", ids, seen.probs, class_numbers)
            write_embeddings(temporary / f"{part}_embeddings.parquet", ids, seen.embeddings)
            if not np.isnan(seen.plain).any():
                plain = temporary / f"{part}_{tables.PLAIN}.parquet"
                write_table(plain, ids, seen.plain, class_numbers)


def _join_folds(context: Context, name: str) -> Task:
    """valid = union of the folds' out-of-fold rows; test = mean over the folds' networks."""
    folders = [context.path("models", name, f"fold_{fold}") for fold in context.folds()]
    output = context.path("models", name, "predictions")

    def work() -> str:
        import jax
        import pandas as pd

        if jax.process_index() != 0:  # of several hosts the first joins
            return ""
        with artifacts.atomic(output) as temporary:
            temporary.mkdir()
            for file in sorted((folders[0] / "predictions").glob("*.parquet")):
                if file.name == "test_embeddings.parquet":  # each fold's network has its own space
                    continue
                parts = [artifacts.read_table(f / "predictions" / file.name) for f in folders]
                joined = pd.concat(parts, ignore_index=True)
                if file.name.startswith("test"):
                    means = joined.groupby("id", sort=False).mean()
                    joined = means.astype(np.float32).reset_index()
                elif joined["id"].duplicated().any():
                    raise ValueError(f"{name}: a validation id stands in two folds")
                artifacts.write_table(temporary / file.name, joined)
        return f"{len(folders)} folds joined"

    inputs = tuple(folder / "predictions" for folder in folders)
    return Task("predict", f"predict-{name}", work, {}, inputs, (output,), ("stages/networks.py",))


def _task_name(name: str, fold: int | None) -> str:
    return name if fold is None else f"{name}-fold_{fold}"
