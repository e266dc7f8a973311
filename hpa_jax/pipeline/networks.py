"""Stages of the networks: train and predict, a task for each model and fold."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import settings as options
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import RETRIEVAL, Context
from hpa_jax.pipeline.tables import Rows

if TYPE_CHECKING:
    from hpa_jax.inference.predict import Seen

PLANNED = 1000  # images of a plan that is laid out to be checked, before the catalog is made
TRAIN_ROOMS = (
    "models",
    "training",
    "data/batches.py",
    "pipeline/networks.py",
    "pipeline/tables.py",
)


def train(context: Context) -> list[Task]:
    """Every network of the recipe -> models/NAME/[fold_K/]checkpoints, metrics.jsonl."""
    return [_train(context, *fit) for fit in context.fits()]


def check_weights(context: Context) -> None:
    """Tries the files that networks still to be trained start from, before hours of work.

    Published files are read and matched with their networks, name by name and shape by shape;
    those of the hub are downloaded.  Of a folder that `train` wrote only its presence is looked at.

    Raises:
        InputError: one is not there, cannot be read here, or belongs to another network.
    """
    from hpa_jax.training import setup as setups

    tried = set()
    fits = [(f"models.{name}", model, folder) for name, model, _, folder in context.fits()]
    if context.trains_retrieval:
        folder = context.path(RETRIEVAL, "network")
        fits.append(("retrieval.model", context.config.retrieval.model, folder))
    for key, model, folder in fits:
        given = str(model.init_from)
        if not given or configs.started_from(model) or (folder / "checkpoints").is_dir():
            continue
        if not given.startswith("hf:") and not Path(given).expanduser().exists():
            raise InputError(
                f"config.{key}.init_from={given!r}: not there; put the published file there, "
                f"or start from nothing: --config.{key}.init_from="
            )
        this = repr(inputs_of.trained_by(model))  # the folds of a model start alike
        if this not in tried and not setups.is_training(given):
            _match(key, model, len(context.class_numbers(model)))
        tried.add(this)


def _match(key: str, model: ConfigDict, num_classes: int) -> None:
    """Tries a published file on the network's shapes; names the model in what goes wrong."""
    from hpa_jax.models import pretrained
    from hpa_jax.training import network

    shapes = network.from_config(model, num_classes, arrays=False)
    try:
        pretrained.check(shapes, model.init_from, model.extra_channels)
    except InputError as error:
        raise InputError(f"config.{key}.init_from: {error}") from None


def check_views(context: Context) -> None:
    """Lays out the test-time views of every network, before hours of work.

    Raises:
        InputError: naming the network, the key and the value.
    """
    from hpa_jax.inference import views

    models = {f"models.{name}": model for name, model in context.models().items()}
    if context.trains_retrieval:
        models["retrieval.model"] = context.config.retrieval.model
    for where, model in models.items():
        try:
            views.make(model.views).count(model.image_size, model.image_size)
        except (InputError, TypeError, ValueError) as error:
            raise InputError(f"config.{where}.views={model.views!r}: {error}") from None


def check_plans(context: Context) -> None:
    """Lays out the training of every network, before any work: the seventh one's misspelt stage
    would else be told when six are trained.

    Raises:
        InputError: naming the network, the key and the value.
    """
    import jax

    from hpa_jax.training import plans

    config, drawn = context.config, {}
    wanted = [
        (f"models.{name}", model, len(context.class_numbers(model)))
        for name, model in context.models().items()
    ]
    if context.trains_retrieval:  # its classes are the antibodies of a catalog to come
        wanted.append(("retrieval.model", config.retrieval.model, None))
    planned = dict(count=PLANNED, seed=0, devices=jax.device_count())
    for where, model, classes in wanted:
        try:
            key = plans.key(model, classes or 2)
            if key not in drawn:
                drawn[key] = plans.outline(model, classes or 2)
            plans.lay(model, config.train, drawn[key], classes=classes, **planned)
        except InputError as error:
            raise InputError(f"config.{where}: {error}") from None


def share_compiled(context: Context) -> None:
    """One folder of compiled programs for all networks, folds and starts of a workdir."""
    from hpa_jax.training import distributed

    own = context.config.train.compilation_cache
    distributed.compilation_cache(own or context.path("compiled"))


def _train(context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path) -> Task:
    title, origin = _task_name(name, fold), _origin(context, model, fold)

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
    """The task that trains one network in `folder`.

    rows: gives those to fit and those to validate on.  origin: the trained model of this run that
    it starts from.  settings: what else its result depends on.  patience: whether validation may
    end training early.
    """
    config = context.config
    how = config.train.copy_and_resolve_references()
    if not patience:
        with how.unlocked():
            how.patience = 0

    def work() -> str:
        from hpa_jax.training import loop

        fitted, held_out = rows()
        loop.train(
            model,
            name=title,
            directory=folder,
            **training_data(context, model, fitted, held_out, origin),
            settings=how,
            seed=config.seed,
        )
        return f"{len(fitted.ids):,} images, validated on {len(held_out.ids):,}"

    how_trained = {k: v for k, v in how.to_dict().items() if k not in options.WITHOUT_RESULT}
    settings = {
        f"models.{title.split('-')[0]}": inputs_of.stamped(model),
        "train": how_trained,
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
    )
    inputs += (origin / "checkpoints",) if origin else ()
    outputs = (folder / "checkpoints", folder / "metrics.jsonl")
    name = f"train-{title}"
    return Task("train", name, work, settings, inputs, outputs, TRAIN_ROOMS, "same", fitted=True)


def training_data(
    context: Context, model: ConfigDict, fitted: Rows, held_out: Rows, origin: Path | None
) -> dict[str, Any]:
    """Arguments of `loop.train` and of the sweep of rates: images, labels of the model's classes,
    weights of their sources, and the folder of the model that it starts from.
    """
    from hpa_jax.data.batches import Records

    numbers = context.class_numbers(model)
    return dict(
        records=Records(context.records_of(model)),
        train_ids=fitted.ids,
        train_labels=fitted.labels[:, numbers].astype(np.uint8),
        # one weight for all is plain shuffling
        train_weights=fitted.weights if np.ptp(fitted.weights) > 0 else None,
        valid_ids=held_out.ids,
        valid_labels=held_out.labels[:, numbers].astype(np.uint8),
        class_names=tuple(context.config.classes[number] for number in numbers),
        init_folder=origin,
    )


def rows_to_fit(context: Context, model: ConfigDict, fold: int | None) -> dict[str, Any]:
    """`training_data` of one fit of the recipe."""
    fitted, held_out = _rows(context, model, fold)
    return training_data(context, model, fitted, held_out, _origin(context, model, fold))


def _rows(context: Context, model: ConfigDict, fold: int | None) -> tuple[Rows, Rows]:
    """Those to fit and those to validate on."""
    fitted, held_out = (tables.split_rows(context, part, fold) for part in ("train", "valid"))
    return fitted_rows(context, model, fitted), held_out


def fitted_rows(context: Context, model: ConfigDict, rows: Rows) -> Rows:
    """Training rows without the part that the model leaves out; groups stay whole."""
    from hpa_jax.core import stratification

    if not model.left_out:
        return rows
    part, parts = model.left_out
    dealt = stratification.folds(rows.labels, rows.groups, parts, context.config.split.seed)
    return rows.where(dealt != part)


def _origin(context: Context, model: ConfigDict, fold: int | None) -> Path | None:
    source = configs.started_from(model)
    return context.fit_folder(source, fold) if source else None


def predict(context: Context) -> list[Task]:
    """Probabilities and embeddings of every network; folds are brought together."""
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

    return prediction(context, model, _task_name(name, fold), folder, parts)


def prediction(
    context: Context,
    model: ConfigDict,
    title: str,
    folder: Path,
    parts: Callable[[], dict[str, np.ndarray]],
) -> Task:
    """The task that writes what a network says: folder/predictions/.  parts: ids by part."""
    settings = {f"models.{title.split('-')[0]}.{key}": model[key] for key in configs.OF_PREDICTION}
    settings |= inputs_of.stored(context, model)
    output = folder / "predictions"

    def work() -> str:
        ids_of = parts()
        found = {
            part: seen(context, model, folder, ids, part, title) for part, ids in ids_of.items()
        }
        _write_predictions(output, ids_of, found, context.class_numbers(model))
        artifacts.remove(folder / "predict_parts")
        counts = " and ".join(f"{len(ids):,} {part}" for part, ids in ids_of.items())
        return f"{counts} images, views {model.views}"

    def rows() -> list[Rows]:
        return [Rows(ids, *[np.zeros(len(ids))] * 3) for ids in parts().values()]

    inputs = (
        folder / "checkpoints",
        inputs_of.rows_read(context, "rows", rows, images=context.records_of(model)),
    )
    code, name = (*TRAIN_ROOMS, "inference"), f"predict-{title}"
    return Task("predict", name, work, settings, inputs, (output,), code, fitted=True)


def seen(
    context: Context, model: ConfigDict, folder: Path, ids: np.ndarray, part: str, title: str
) -> "Seen":
    """What the chosen weights say of some rows: of snapshots the mean, with the last embeddings."""
    from hpa_jax.data.batches import Records
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
    probs = np.mean([one.probs for one in found], axis=0)
    plain = np.mean([one.plain for one in found], axis=0)
    return found[-1]._replace(probs=probs, plain=plain)


def _write_predictions(
    output: Path,
    parts: dict[str, np.ndarray],
    found: "dict[str, Seen]",
    class_numbers: list[int],
) -> None:
    """Tables of probabilities, of those without test-time views, and of embeddings.

    Of several hosts the first writes.  Views that do not hold the image as it is give no table
    of it.
    """
    import jax

    from hpa_jax.inference.tables import write_embeddings, write_table

    if jax.process_index() != 0:
        return
    with artifacts.atomic(output) as temporary:
        temporary.mkdir()
        for part, result in found.items():
            ids = parts[part]
            write_table(temporary / f"{part}.parquet", ids, result.probs, class_numbers)
            write_embeddings(temporary / f"{part}_embeddings.parquet", ids, result.embeddings)
            if not np.isnan(result.plain).any():
                plain = temporary / f"{part}_{tables.PLAIN}.parquet"
                write_table(plain, ids, result.plain, class_numbers)


def _join_folds(context: Context, name: str) -> Task:
    """valid = union of the folds' out-of-fold rows; test, audit = mean over their networks."""
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
                unseen = not file.name.startswith("valid")
                if unseen and "embeddings" in file.name:  # each fold's network has its own space
                    continue
                parts = [artifacts.read_table(f / "predictions" / file.name) for f in folders]
                joined = pd.concat(parts, ignore_index=True)
                if unseen:
                    means = joined.groupby("id", sort=False).mean()
                    joined = means.astype(np.float32).reset_index()
                elif joined["id"].duplicated().any():
                    raise ValueError(f"{name}: a validation id stands in two folds")
                artifacts.write_table(temporary / file.name, joined)
        return f"{len(folders)} folds joined"

    inputs = tuple(folder / "predictions" for folder in folders)
    code = ("pipeline/networks.py",)
    return Task("predict", f"predict-{name}", work, {}, inputs, (output,), code, fitted=True)


def _task_name(name: str, fold: int | None) -> str:
    return name if fold is None else f"{name}-fold_{fold}"
