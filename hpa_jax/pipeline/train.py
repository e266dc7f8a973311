"""The step `train`: one task per model and fold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import settings as options
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows


def train(context: Context) -> list[Task]:
    """Return a task per network -> models/NAME/[fold_K/]checkpoints, metrics.jsonl."""
    return [_train(context, *fit) for fit in context.fits()]


def share_compiled(context: Context) -> None:
    """Set the compilation cache, shared by all networks and runs of a workdir."""
    from hpa_jax.training import compilation

    folder = context.config.train.compilation_cache
    compilation.keep_programs(folder or context.path("compiled"))


def _train(context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path) -> Task:
    title, origin = task_name(name, fold), _origin(context, model, fold)

    def rows() -> tuple[Rows, Rows]:
        return _rows(context, model, fold)

    return training(context, model, title, folder, rows, origin, {"fold": fold})


def training(
    context: Context,
    model: ConfigDict,
    title: str,
    folder: Path,
    rows: Callable[[], tuple[Rows, Rows]],
    origin: Path | None,
    settings: dict[str, Any],
    patience: bool = True,
) -> Task:
    """Return the task that trains one network in `folder`.

    rows: returns (training, validation) rows.  origin: folder of the model of this run that it
    starts from.  settings: further dependencies of the result.  patience: whether validation may
    end training early.
    """
    config = context.config
    train_settings = config.train.copy_and_resolve_references()
    if not patience:
        with train_settings.unlocked():
            train_settings.patience = 0

    def work() -> str:
        from hpa_jax.training import loop

        fitted, held_out = rows()
        loop.train(
            model,
            name=title,
            directory=folder,
            **training_data(context, model, fitted, held_out, origin),
            settings=train_settings,
            seed=config.seed,
        )
        return f"{len(fitted.ids):,} images, validated on {len(held_out.ids):,}"

    stamped_settings = {
        k: v for k, v in train_settings.to_dict().items() if k not in options.WITHOUT_RESULT
    }
    settings = {
        f"models.{title.split('-')[0]}": inputs_of.stamped(model),
        "train": stamped_settings,
        **inputs_of.stored(context, model),
        "classes": config.classes,
        "seed": config.seed,
        **settings,
    }
    inputs: tuple[Path | Part, ...] = (
        inputs_of.rows_read(
            context,
            "training rows",
            rows,
            context.class_numbers(model),
            images=context.records_of(model),
        ),
        *inputs_of.started_with(model),
        *inputs_of.embeddings_read(context, model, rows),
    )
    inputs += (origin / "checkpoints",) if origin else ()
    outputs = (folder / "checkpoints", folder / "metrics.jsonl")
    name = f"train-{title}"
    return Task("train", name, work, settings, inputs, outputs, "same", fitted=True)


def training_data(
    context: Context, model: ConfigDict, fitted: Rows, held_out: Rows, origin: Path | None
) -> dict[str, Any]:
    """Return arguments of `loop.train` and `lr_finder.find`: images, labels of the model's classes,
    sampling weights, and the folder of the model that it starts from.
    """
    numbers = context.class_numbers(model)
    return dict(
        records=inputs_of.images_of(context, model),
        train_ids=fitted.ids,
        train_labels=fitted.labels[:, numbers].astype(np.uint8),
        # equal weights: plain shuffling
        train_weights=fitted.weights if np.ptp(fitted.weights) > 0 else None,
        valid_ids=held_out.ids,
        valid_labels=held_out.labels[:, numbers].astype(np.uint8),
        class_names=tuple(context.config.classes[number] for number in numbers),
        init_folder=origin,
    )


def rows_to_fit(context: Context, model: ConfigDict, fold: int | None) -> dict[str, Any]:
    """Return `training_data` of one fit of the recipe."""
    fitted, held_out = _rows(context, model, fold)
    return training_data(context, model, fitted, held_out, _origin(context, model, fold))


def _rows(context: Context, model: ConfigDict, fold: int | None) -> tuple[Rows, Rows]:
    """Return (training, validation) rows."""
    fitted, held_out = (tables.split_rows(context, part, fold) for part in ("train", "valid"))
    return fitted_rows(context, model, fitted), held_out


def fitted_rows(context: Context, model: ConfigDict, rows: Rows) -> Rows:
    """Return training rows without the part that the model leaves out; groups stay together."""
    from hpa_jax.core import stratification

    if not model.left_out:
        return rows
    part, parts = model.left_out
    folds = stratification.folds(rows.labels, rows.groups, parts, context.config.split.seed)
    return rows.where(folds != part)


def _origin(context: Context, model: ConfigDict, fold: int | None) -> Path | None:
    source = configs.started_from(model)
    return context.fit_folder(source, fold) if source else None


def task_name(name: str, fold: int | None) -> str:
    """Return a fit's name in tasks, after "train-" or "predict-"."""
    return name if fold is None else f"{name}-fold_{fold}"
