"""The runner: run unfinished tasks of steps in order, under the workdir's lock.

Tasks with a valid result are skipped (pipeline/cache.py).  With several hosts, the first one runs
all steps except those marked for all hosts.
"""

import contextlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax import __version__
from hpa_jax.core import artifacts, own_code, provenance
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import cache, checks, hosts, replaced
from hpa_jax.pipeline.context import RETRIEVAL, Context, opened, workdir_of
from hpa_jax.pipeline.steps import STEPS

# `run --only=NAME` runs these and the steps of its network; the decision is left to a full run.
PREPARING = ("data", "catalog", "duplicates", "split", "records")


def run(config: ConfigDict, flags: dict[str, Any], names: Sequence[str] = ()) -> int:
    """Run steps, by default all, in order; return 0.

    Raises:
        InputError: flags that exclude each other, a missing or read-only workdir, another run is
            using it, the only step is switched off, or an error of a step.
        SystemExit: with 75 if training was asked by a signal to stop (call again to resume).
    """
    if not names and flags.get("parallel"):
        from hpa_jax.pipeline import parallel

        plain = {**flags, "parallel": None}
        parallel.train(config, flags, lambda: run(config, plain, PREPARING))
    if not names:
        config, names = _resolve(config, flags)
    context = Context(config, _writable(flags), flags)
    cache.check_format(context.workdir)
    leads = hosts.joined_as_first()
    alone = [name for name in names if name in _of_one_network(flags)]
    shared = [name for name in names if name not in alone]
    with contextlib.ExitStack() as locks:
        if leads and shared:
            locks.enter_context(locked(context.path(".lock"), waits=bool(alone)))
        started = time.monotonic()
        checks.before(context, names)
        timed = (*alone, "embeddings", "train")
        first = next((name for name in (*alone, *names) if name in timed), "")
        for name in (*shared, *alone):
            if name in alone:  # allow other runs
                locks.close()
            if name == "records" and not context.draws:
                checks.disk(context)
            if name == first:
                checks.print_training_time(context)
            tasks = STEPS[name].tasks(context)
            if not tasks and len(names) == 1 and STEPS[name].off:
                raise InputError(f"{name}: nothing to do with {STEPS[name].off}")
            for task in tasks:
                if leads or STEPS[task.step].on_all_hosts:
                    with _of_network(context, task) if leads else contextlib.nullcontext():
                        do(context, task, leads)
                hosts.wait_for_all(task.name)
        if leads:
            _print_time(started)
            if not alone:
                record_provenance(context, names)
            page = context.path("report", "index.html")
            if "report" in names and page.is_file():
                print(f"open {page}")
    return 0


@contextlib.contextmanager
def locked(path: Path, waits: bool) -> Iterator[None]:
    """Hold a lock file; if another run holds it, wait if `waits`, else raise InputError."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not waits:
            message = f"{path.parent}: another run is at work there; wait for it"
            raise InputError(message) from None
        print(f"waiting: another run is at work in {path.parent} (it holds {path})", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def do(context: Context, task: cache.Task, leads: bool = True) -> None:
    """Run one task unless its result is valid; print inputs, outputs and time.

    With --force it runs in any case; trained or fitted results are set aside, as for a changed key.
    leads: False on all but the first of several hosts, which write no stamp.

    Raises:
        InputError: a missing input file.
    """
    missing = [path for path in task.files if not path.exists()]
    if missing:
        raise InputError(
            f"{task.step}: {_short(context, missing[0])} is not there{_writer(context, missing[0])}"
        )
    together = STEPS[task.step].on_all_hosts
    holds = leads and replaced.holds_or_begins(
        context.workdir,
        task,
        context.contents,
        _forced(context, task),
        lambda text: _print(task, text),
    )
    if hosts.value_of_first(holds) if together else holds:
        return
    _print(task, f"reads {_names(context, task.files)}")
    if together:
        hosts.wait_for_all(f"{task.name} begins")
    start = time.monotonic()
    summary = task.work()
    seconds = time.monotonic() - start
    if not leads:
        return
    cache.finish(context.workdir, task, seconds, context.contents)
    _print(task, f"{summary} -> {_names(context, task.outputs)} ({seconds:.1f} s)")


def _writer(context: Context, path: Path) -> str:
    """Which step makes a missing file of the workdir, for messages; "" for files of the user."""
    if not path.is_relative_to(context.workdir):
        return ""
    writer = "an earlier step"
    for name, step in STEPS.items():
        outputs: list[Path] = []
        with contextlib.suppress(InputError):  # tasks that need an earlier step's result
            outputs = [output for task in step.tasks(context) for output in task.outputs]
        if path.name in step.writes or any(path.is_relative_to(output) for output in outputs):
            writer = f"the step {name}"
            break
    return f"; {writer} makes it (`run` does all in order)"


def _resolve(config: ConfigDict, flags: dict[str, Any]) -> tuple[ConfigDict, list[str]]:
    """Return the config and the steps of the verb `run` for --only and --collect."""
    names = list(STEPS)
    if flags.get("only") and flags.get("collect"):
        raise InputError("--only trains one network, --collect none: give one of them")
    if flags.get("only"):
        names = [name for name in names if name in (*PREPARING, *_of_one_network(flags))]
    if flags.get("collect"):
        from hpa_jax.pipeline import collect

        config, missing = collect.present(opened(config, flags))
        rest = f"; missing: {collect.described(missing)}" if missing else ": all"
        print(f"collected {', '.join(config.models)}{rest}")
        names = [name for name in names if name not in ("embeddings", "train", "predict")]
    return config, names


def _of_one_network(flags: dict[str, Any]) -> tuple[str, ...]:
    """Return the steps of the one network of --only, which may run beside other runs."""
    only = flags.get("only")
    if only == RETRIEVAL:
        return ("retrieve",)
    return tuple(name for name, step in STEPS.items() if step.of_networks) if only else ()


@contextlib.contextmanager
def _of_network(context: Context, task: cache.Task) -> Iterator[None]:
    """Hold the lock of the network that a task trains or uses, if any."""
    if not STEPS[task.step].on_all_hosts:
        yield
        return
    parts = task.outputs[0].relative_to(context.workdir).parts
    folder = context.path(*parts[: 1 if parts[0] == RETRIEVAL else 2])
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", waits=True):
        yield


def _forced(context: Context, task: cache.Task) -> bool:
    """Whether --force names the task, its step, or all."""
    forced = str(context.flags.get("force") or "").split(",")
    return not {"all", task.step, task.name}.isdisjoint(forced)


def _print_time(started: float) -> None:
    minutes, seconds_left = divmod(time.monotonic() - started, 60)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << 30 if sys.platform == "darwin" else 1 << 20
    )
    print(f"done in {minutes:.0f} min {seconds_left:.0f} s, peak memory {peak:.1f} GiB")


def _print(task: cache.Task, text: str) -> None:
    print(f"[{task.name}] {text}", flush=True)


def record_provenance(context: Context, names: Sequence[str]) -> None:
    """Write run.json: resolved config, command, versions, devices, seed and times of this run."""
    import jax

    artifacts.write_json(
        context.path("run.json"),
        {
            "config": json.loads(context.config.to_json_best_effort()),
            "own_code": own_code.texts(context.config),
            "command": sys.argv,
            "steps": list(names),
            "seed": context.config.seed,
            "hpa_jax": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu_count": os.cpu_count(),
            "devices": [str(device) for device in jax.devices()],
            "versions": provenance.installed(),
            "seconds": cache.seconds(context.workdir),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def _writable(flags: dict[str, Any]) -> Path:
    """Return the folder of --workdir, created if missing."""
    workdir = workdir_of(flags)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another host or run may have removed it
    except OSError as error:
        raise InputError(f"--workdir={workdir}: can't write there ({error.strerror})") from None
    return workdir


def _names(context: Context, paths: tuple[Path, ...]) -> str:
    """Format at most four paths, relative to the workdir."""
    names = [_short(context, path) for path in paths]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"


def _short(context: Context, path: Path) -> str:
    return str(path.relative_to(context.workdir) if path.is_relative_to(context.workdir) else path)
