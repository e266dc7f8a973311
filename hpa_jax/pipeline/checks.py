"""What can be known before any work: a run that can't end well does not begin.

Plans, views, weight files, leak tables, GPUs, disk space; and how long training will take.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError, near
from hpa_jax.pipeline import forecast, hosts, seen, submit, tables, train
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline.context import RETRIEVAL, Context

PLANNED = 1000  # images of a plan that is laid out to be checked, before the catalog is made
LONG = 60.0  # minutes of training from which on a few steps of each network are measured first


def before(context: Context, names: Sequence[str]) -> None:
    """Checks what the steps of these names will need.

    Raises:
        InputError: an option of a network is wrong, a file is not there, the stack asks for a GPU
            that is not there, or there is too little disk.
    """
    if not set(names).isdisjoint(("embeddings", "train", "predict", "refit", "retrieve")):
        train.share_compiled(context)
    if not set(names).isdisjoint(("train", "refit", "retrieve")):
        check_plans(context)
    if not set(names).isdisjoint(("embeddings", "train", "predict", "refit")):
        check_views(context)
    for wanted in filter(None, str(context.flags.get("force") or "").split(",")):
        known = [*names, *(file.stem for file in context.path(".stamps").glob("*.json"))]
        if wanted not in ("all", *known):
            raise InputError(f"--force={wanted}: no step of this verb{near(wanted, known)}")
    if not set(names).isdisjoint(("stack", "thresholds")):
        seen.check(context)
    if "stack" in names:
        from hpa_jax.decision.stack import runner as stack_runner

        distributed = context.flags.get("distributed") or ""
        stack_runner.pick_devices(context.config.stack.device, distributed)
    if "submit" in names:
        check_files(context)
    if context.draws and ("records" in names or "train" in names):
        disk(context)
    if {"embeddings", "train"} & {*names} or context.flags.get("only") == RETRIEVAL:
        check_weights(context)


def disk(context: Context) -> None:
    """Checks that the disk has room for what the run writes, and tells how much that is.

    Raises:
        InputError: it has not.
    """
    if not context.draws and not context.path("catalog.parquet").is_file():
        return  # the step that reads it says so
    free, need = shutil.disk_usage(context.workdir).free, forecast.bytes_needed(context)
    if need > free:
        raise InputError(
            f"{context.workdir}: about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free; make room or name another --workdir"
        )
    print(f"disk: about {need / 1e9:.2f} GB needed, {free / 1e9:.0f} GB free")


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
        elsewhere = given.startswith(("hf:", "published:"))
        if not elsewhere and not Path(given).expanduser().exists():
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

    shapes = network.from_config(network.frozen_part(model), num_classes, arrays=False)
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
    """Lays out the training of every network, before any work: a misspelt option of the seventh
    would otherwise be reported when six are trained.

    Raises:
        InputError: naming the network, the key and the value.
    """
    import jax

    from hpa_jax.training import network, phases

    config = context.config
    outlines: dict[str, network.Outline] = {}
    wanted: list[tuple[str, ConfigDict, int | None]] = [
        (f"models.{name}", model, len(context.class_numbers(model)))
        for name, model in context.models().items()
    ]
    if context.trains_retrieval:  # its classes are the antibodies of a catalog to come
        wanted.append(("retrieval.model", config.retrieval.model, None))
    planned = dict(count=PLANNED, seed=0, devices=jax.device_count())
    for where, model, classes in wanted:
        try:
            key = network.outline_key(model, classes or 2)
            if key not in outlines:
                outlines[key] = network.outline(model, classes or 2)
            phases.lay_out(model, config.train, outlines[key], classes=classes, **planned)
        except InputError as error:
            raise InputError(f"config.{where}: {error}") from None


def check_files(context: Context) -> None:
    """Looks for the leak tables, before hours of work.

    Raises:
        InputError: one is not there.
    """
    for name in context.config.submission.leak_tables:
        if name != submit.MATCHES and not Path(name).expanduser().is_file():
            raise InputError(f"config.submission.leak_tables: no file {name!r}")


def say_time_of_training(context: Context) -> None:
    """Before the first network, when the split has told the number of images."""
    tables_there = all(path.is_file() for path in context.paths(*tables.SPLIT_TABLES))
    minutes = forecast.training_seconds(context) / 60 if tables_there else 0
    if not minutes:
        return
    print(
        f"time: about {max(minutes, 0.1):.1f} min to train what is not trained yet, from this "
        "machine's matrix speed (within a factor of two; the first steps tell better)",
        flush=True,
    )
    if minutes > LONG and not hosts.several():
        hours = forecast.measured_seconds(context, lambda text: print(text, flush=True)) / 3600
        print(f"time: {hours:.1f} h to train, from a few steps of each network")
