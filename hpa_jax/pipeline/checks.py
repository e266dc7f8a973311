"""Checks before any work: training plans, views, weight files, leak tables, GPUs, disk space.

Also prints an estimate of the training time.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import own_code
from hpa_jax.core.errors import InputError, near
from hpa_jax.pipeline import forecast, hosts, seen, submit, tables, train
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline.context import RETRIEVAL, Context

PLANNED = 1000  # number of images assumed when a plan is checked before the catalog exists
LONG = 60.0  # minutes of training above which a few steps of each network are measured first


def before(context: Context, names: Sequence[str]) -> None:
    """Check the requirements of these steps.

    Raises:
        InputError: an invalid option of a network, a missing file or function of the user, a
            missing GPU that the stack needs, or too little disk space.
    """
    if not set(names).isdisjoint(("embeddings", "train", "predict", "refit", "retrieve")):
        train.share_compiled(context)
    if not set(names).isdisjoint(("train", "refit", "retrieve")):
        check_plans(context)
    if not set(names).isdisjoint(("embeddings", "train", "predict", "refit")):
        check_views(context)
    for forced in filter(None, str(context.flags.get("force") or "").split(",")):
        tasks = [*names, *(file.stem for file in context.path(".stamps").glob("*.json"))]
        if forced not in ("all", *tasks):
            raise InputError(f"--force={forced}: not a step of this verb{near(forced, tasks)}")
    if not set(names).isdisjoint(("stack", "thresholds")):
        seen.check(context)
    if "thresholds" in names and own_code.is_reference(context.config.thresholds.method):
        own_code.load(context.config.thresholds.method)
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
    """Check that the disk has room for what the run writes, and print how much that is.

    Raises:
        InputError: too little disk space.
    """
    if not context.draws and not context.path("catalog.parquet").is_file():
        return  # the step that reads it raises the error
    free, need = shutil.disk_usage(context.workdir).free, forecast.bytes_needed(context)
    if need > free:
        raise InputError(
            f"{context.workdir}: about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free; make room or name another --workdir"
        )
    print(f"disk: about {need / 1e9:.2f} GB needed, {free / 1e9:.0f} GB free")


def check_weights(context: Context) -> None:
    """Check the weight files that untrained networks start from.

    Published files are read and matched with their networks by parameter names and shapes; those of
    the hub are downloaded.  A folder that `train` wrote only has to exist.

    Raises:
        InputError: a file is missing, unreadable, or belongs to another network.
    """
    from hpa_jax.training import setup as setups

    tried = set()
    fits = [(f"models.{name}", model, folder) for name, model, _, folder in context.fits()]
    if context.trains_retrieval:
        folder = context.path(RETRIEVAL, "network")
        fits.append(("retrieval.model", context.config.retrieval.model, folder))
    for key, model, folder in fits:
        init_from = str(model.init_from)
        if not init_from or configs.started_from(model) or (folder / "checkpoints").is_dir():
            continue
        remote = init_from.startswith(("hf:", "published:"))
        if not remote and not Path(init_from).expanduser().exists():
            raise InputError(
                f"config.{key}.init_from={init_from!r}: not there; put the published file there, "
                f"or start from random weights: --config.{key}.init_from="
            )
        training_key = repr(inputs_of.trained_by(model))  # the folds of a model start alike
        if training_key not in tried and not setups.is_training(init_from):
            _match(key, model, len(context.class_numbers(model)))
        tried.add(training_key)


def _match(key: str, model: ConfigDict, num_classes: int) -> None:
    """Match a published file with the network's shapes; errors name the model."""
    from hpa_jax.models import pretrained
    from hpa_jax.training import network

    shapes = network.from_config(network.frozen_part(model), num_classes, arrays=False)
    try:
        pretrained.check(shapes, model.init_from, model.extra_channels)
    except InputError as error:
        raise InputError(f"config.{key}.init_from: {error}") from None


def check_views(context: Context) -> None:
    """Build the test-time views of every network.

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
    """Plan the training of every network.

    Otherwise a misspelt option of the last network would be reported after the others are trained.

    Raises:
        InputError: naming the network, the key and the value.
    """
    import jax

    from hpa_jax.training import network, phases

    config = context.config
    outlines: dict[str, network.Outline] = {}
    networks: list[tuple[str, ConfigDict, int | None]] = [
        (f"models.{name}", model, len(context.class_numbers(model)))
        for name, model in context.models().items()
    ]
    if context.trains_retrieval:  # its classes are the antibodies of a catalog to come
        networks.append(("retrieval.model", config.retrieval.model, None))
    planned = dict(count=PLANNED, seed=0, devices=jax.device_count())
    for where, model, classes in networks:
        try:
            key = network.outline_key(model, classes or 2)
            if key not in outlines:
                outlines[key] = network.outline(model, classes or 2)
            phases.lay_out(model, config.train, outlines[key], classes=classes, **planned)
        except InputError as error:
            raise InputError(f"config.{where}: {error}") from None


def check_files(context: Context) -> None:
    """Check that the leak tables exist.

    Raises:
        InputError: a missing file.
    """
    for name in context.config.submission.leak_tables:
        if name != submit.MATCHES and not Path(name).expanduser().is_file():
            raise InputError(f"config.submission.leak_tables: no file {name!r}")


def print_training_time(context: Context) -> None:
    """Print the estimated training time; called once the split is known."""
    tables_there = all(path.is_file() for path in context.paths(*tables.SPLIT_TABLES))
    minutes = forecast.training_seconds(context) / 60 if tables_there else 0
    if not minutes:
        return
    print(
        f"time: about {max(minutes, 0.1):.1f} min to train the remaining networks, from this "
        "machine's matrix speed (within a factor of two)",
        flush=True,
    )
    if minutes > LONG and not hosts.several():
        hours = forecast.measured_seconds(context, lambda text: print(text, flush=True)) / 3600
        print(f"time: {hours:.1f} h to train, from a few steps of each network")
