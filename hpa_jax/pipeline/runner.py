"""The stages in order.  `run` does what is not done; each stage is a verb of its own too.

A stage is a list of tasks (one, or one for each network); a task whose stamp holds is skipped
(`stamps.py`).  One process at a time works in a work directory; of several hosts (HPA_COORDINATOR,
see `training/distributed.py`) the first does all but the networks, which they run together.
"""

import contextlib
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax import __version__
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near
from hpa_jax.decision.stack import runner
from hpa_jax.pipeline import (
    cache,
    collect,
    decide,
    finish,
    forecast,
    networks,
    own,
    prepare,
    refit,
    replaced,
    retrieval,
    show,
    tables,
)
from hpa_jax.pipeline.context import RETRIEVAL, Context

STAGES: dict[str, Callable[[Context], list[cache.Task]]] = {
    "data": prepare.data,
    "catalog": prepare.catalog,
    "duplicates": prepare.duplicates,
    "split": prepare.split,
    "records": prepare.records,
    "train": networks.train,
    "predict": networks.predict,
    "retrieve": retrieval.retrieve,
    "features": decide.features,
    "stack": decide.stack,
    "thresholds": decide.thresholds,
    "refit": refit.refit,
    "submit": finish.submit,
    "evaluate": finish.evaluate,
    "report": show.report,
}
STAGES_OF_ALL_HOSTS = ("train", "predict")
# `run --only=NAME` prepares, works on its network alone, and leaves the decision to a run of all.
PREPARING = ("data", "catalog", "duplicates", "split", "records")
OF_NETWORKS = ("train", "predict", "refit")
OF_RETRIEVAL = ("retrieve",)  # with --only=retrieval
LONG = 60.0  # minutes of training from which on a few steps of each network are measured first


def run(config: ConfigDict, flags: dict[str, Any]) -> int:
    """All stages in order. Returns 0, or 75 if training was told to stop (call again to go on).

    Raises:
        InputError: flags that exclude each other, or what a stage raises.
    """
    names = list(STAGES)
    if flags.get("only") and flags.get("collect"):
        raise InputError("--only trains one network, --collect none: choose")
    if flags.get("only"):
        names = [name for name in names if name in (*PREPARING, *_alone(flags))]
    if flags.get("collect"):
        config, missing = collect.present(prepare.opened(config, flags))
        there = f"collected {', '.join(config.models)}"
        print(f"{there}; missing: {collect.described(missing)}" if missing else f"{there}: all")
        names = [name for name in names if name not in ("train", "predict")]
    return work(names, config, flags)


def _verb(*names: str) -> Callable[[ConfigDict, dict[str, Any]], int]:
    def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
        return work(list(names), config, flags)

    return verb


catalog = _verb("data", "catalog")
duplicates = _verb("duplicates")
split = _verb("split")
train = _verb("train")
predict_recipe = _verb("predict")
features = _verb("features")


def records(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The stage `records`; --beam packs with Apache Beam, --verify reads all bytes afterwards."""
    if flags.get("beam") and not config.records.beam:
        config.records.beam = ("--runner=DirectRunner",)
    work(["records"], config, flags)
    if flags.get("verify"):
        prepare.verify_records(prepare.opened(config, flags))
    return 0


def retrain(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The stage `refit`; `run` passes it over where it is switched off, the verb says so.

    Raises:
        InputError: it is switched off.
    """
    if not config.refit:
        raise InputError("config.refit=False: nothing to do; --config.refit=True switches it on")
    return work(["refit"], config, flags)


def retrieve(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The stage `retrieve`; `run` passes it over where it is switched off, the verb says so.

    Raises:
        InputError: it is switched off.
    """
    if config.retrieval.mode == "off":
        raise InputError("config.retrieval.mode=off: nothing to do; replace or boost switch it on")
    return work(["retrieve"], config, flags)


stack = _verb("stack")
thresholds = _verb("thresholds")
submit = _verb("submit")
evaluate = _verb("evaluate")
report = _verb("report")


def predict(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The recipe's networks on its rows, or (--bundle, --checkpoint) some ones on own images."""
    if not flags.get("bundle") and not flags.get("checkpoint"):
        return predict_recipe(config, flags)
    context = prepare.opened(config, flags)
    print(f"[predict] {own.predict(context)}")
    return 0


def work(names: list[str], config: ConfigDict, flags: dict[str, Any]) -> int:
    """Runs stages under the workdir's lock.

    Raises:
        InputError: no workdir, it can't be written, or another run is at work there.
    """
    if not flags.get("workdir"):
        raise InputError("--workdir=DIR is missing: the folder for everything that is written")
    context = Context(config, _writable(Path(flags["workdir"]).expanduser().resolve()), flags)
    cache.check_format(context.workdir)
    leads = _joins_hosts_as_first()
    one_network = [name for name in names if name in _alone(flags)]
    shared = [name for name in names if name not in one_network]
    alone = leads and bool(shared)
    lock = locked(context.path(".lock"), waits=bool(one_network))
    with lock if alone else contextlib.nullcontext():
        started = time.monotonic()
        _check_before(context, names)
        _do_all(context, shared, leads)
        if not one_network and leads:
            _say_time(started)
            record_provenance(context, names)
    if one_network:  # others may work on other networks, and prepare
        _do_all(context, one_network, leads)
        if leads:
            _say_time(started)
    return 0


@contextlib.contextmanager
def locked(path: Path, waits: bool) -> Iterator[None]:
    """Holds a lock file; while another run does, `waits` says so and waits, else it is an error."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not waits:
            there = f"{path.parent}: another run is at work there; wait for it"
            raise InputError(there) from None
        print(f"waiting: another run is at work in {path.parent} (it holds {path})", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _alone(flags: dict[str, Any]) -> tuple[str, ...]:
    """Stages that work on the one network of --only, beside other runs; none without it."""
    only = flags.get("only")
    return (OF_RETRIEVAL if only == RETRIEVAL else OF_NETWORKS) if only else ()


def _do_all(context: Context, names: list[str], leads: bool) -> None:
    """The tasks of the stages; a network's under its own lock, as another run may train it."""
    for name in names:
        if name == "records" and not context.draws:
            _check_disk(context)
        if name == (*_alone(context.flags), "train")[0]:
            _say_time_of_training(context)
        for task in STAGES[name](context):
            if leads or task.stage in STAGES_OF_ALL_HOSTS:
                folder = _network_of(context, task) if leads else None
                lock = locked(folder / ".lock", waits=True) if folder else contextlib.nullcontext()
                with lock:
                    do(context, task, _forced(context, task), leads)
            _wait_for_all(task.name)


def _forced(context: Context, task: cache.Task) -> bool:
    """Whether --force names the task or its stage, or all."""
    wanted = str(context.flags.get("force") or "").split(",")
    return not {"all", task.stage, task.name}.isdisjoint(wanted)


def _network_of(context: Context, task: cache.Task) -> Path | None:
    """The folder of the network that a task works on, models/NAME or retrieval; made if absent."""
    if task.stage not in STAGES_OF_ALL_HOSTS:
        return None
    parts = task.outputs[0].relative_to(context.workdir).parts
    folder = context.path(*parts[: 1 if parts[0] == RETRIEVAL else 2])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say_time(started: float) -> None:
    minutes, seconds_left = divmod(time.monotonic() - started, 60)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 30 if sys.platform == "darwin" else 1 << 20
    )
    print(f"done in {minutes:.0f} min {seconds_left:.0f} s, peak memory {peak:.1f} GiB")


def do(context: Context, task: cache.Task, force: bool = False, leads: bool = True) -> None:
    """Runs one task unless its result holds; prints what it reads, what it writes and the time.

    force: does it anew; what was trained or fitted is set aside, as where its key has changed.
    leads: False on all but the first of several hosts: works along, but writes no stamp.

    Raises:
        InputError: a file that the task reads is not there.
    """
    missing = [path for path in task.files if not path.exists()]
    if missing:
        raise InputError(
            f"{task.stage}: {_short(context, missing[0])} is not there; run the stage that writes "
            "it first (`run` does all in order)"
        )
    together = task.stage in STAGES_OF_ALL_HOSTS
    holds = leads and replaced.holds_or_begins(
        context.workdir, task, context.contents, force, lambda text: _say(task, text)
    )
    if _first_says(holds) if together else holds:
        return
    _say(task, f"reads {_names(context, task.files)}")
    if together:
        _wait_for_all(f"{task.name} begins")
    start = time.monotonic()
    summary = task.work()
    seconds = time.monotonic() - start
    if not leads:
        return
    cache.finish(context.workdir, task, seconds, context.contents)
    _say(task, f"{summary} -> {_names(context, task.outputs)} ({seconds:.1f} s)")


def _say(task: cache.Task, text: str) -> None:
    print(f"[{task.name}] {text}", flush=True)


def _joins_hosts_as_first() -> bool:
    """Joins the other hosts, if there are any; whether this is the first of them."""
    if not os.environ.get("HPA_COORDINATOR"):
        return True
    import jax

    from hpa_jax.training import distributed

    distributed.initialize()
    return jax.process_index() == 0


def _wait_for_all(what: str) -> None:
    """A barrier over all hosts; nothing where there is one."""
    if os.environ.get("HPA_COORDINATOR"):
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def _first_says(answer: bool) -> bool:
    """The first host's answer, on all hosts."""
    if not os.environ.get("HPA_COORDINATOR"):
        return answer
    from hpa_jax.training import distributed

    return distributed.agree(answer)


def record_provenance(context: Context, names: list[str]) -> None:
    """run.json: the resolved config, command, versions, devices, seed and times of this run."""
    import importlib.metadata

    import jax

    versions = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
    artifacts.write_json(
        context.path("run.json"),
        {
            "config": json.loads(context.config.to_json_best_effort()),
            "command": sys.argv,
            "stages": names,
            "seed": context.config.seed,
            "hpa_jax": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "devices": [str(device) for device in jax.devices()],
            "versions": versions,
            "seconds": cache.seconds(context.workdir),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def _check_before(context: Context, names: list[str]) -> None:
    """What can be known before any work: plans, views, weight files, leak tables, the disk space of
    drawn images.

    Raises:
        InputError: an option of a network is wrong, a file is not there, the stack asks for a GPU
            that is not there, or there is too little disk.
    """
    if not set(names).isdisjoint((*OF_NETWORKS, "retrieve")):
        networks.share_compiled(context)
    if not set(names).isdisjoint(("train", "refit", "retrieve")):
        networks.check_plans(context)
    if not set(names).isdisjoint(("train", "predict", "refit")):
        networks.check_views(context)
    for wanted in filter(None, str(context.flags.get("force") or "").split(",")):
        known = [*names, *(file.stem for file in context.path(".stamps").glob("*.json"))]
        if wanted not in ("all", *known):
            raise InputError(f"--force={wanted}: no step of this verb{near(wanted, known)}")
    if "stack" in names:
        distributed = context.flags.get("distributed") or ""
        runner.pick_devices(context.config.stack.device, distributed)
    if "submit" in names:
        finish.check_files(context)
    if context.draws and ("records" in names or "train" in names):
        _check_disk(context)
    if "train" in names or context.flags.get("only") == RETRIEVAL:
        networks.check_weights(context)


def _check_disk(context: Context) -> None:
    if not context.draws and not context.path("catalog.parquet").is_file():
        return  # the stage that reads it says so
    free, need = shutil.disk_usage(context.workdir).free, forecast.bytes_needed(context)
    if need > free:
        raise InputError(
            f"{context.workdir}: about {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are "
            "free; make room or name another --workdir"
        )
    print(f"disk: about {need / 1e9:.2f} GB needed, {free / 1e9:.0f} GB free")


def _say_time_of_training(context: Context) -> None:
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
    if minutes > LONG and not os.environ.get("HPA_COORDINATOR"):
        hours = forecast.measured_seconds(context, lambda text: print(text, flush=True)) / 3600
        print(f"time: {hours:.1f} h to train, from a few steps of each network")


def _writable(workdir: Path) -> Path:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--workdir={workdir}: can't write there ({error.strerror})") from None
    return workdir


def _names(context: Context, paths: tuple[Path, ...]) -> str:
    """The paths in the workdir's terms, at most four of them."""
    names = [_short(context, path) for path in paths]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"


def _short(context: Context, path: Path) -> str:
    return str(path.relative_to(context.workdir) if path.is_relative_to(context.workdir) else path)
