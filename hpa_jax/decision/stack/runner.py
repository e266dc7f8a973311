"""Runs the units of the stack in this process, a process pool, on GPUs, or on a Dask cluster.

In: the data shared by all units, and the list of jobs.  Out: finished units.  A finished unit is
written to `directory` and read back by the next run if all it depends on is unchanged, so that a
killed fit resumes.
"""

import contextlib
import ctypes
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import processes
from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import files
from hpa_jax.decision.stack.inputs import StackData
from hpa_jax.decision.stack.protocols import Protocol
from hpa_jax.decision.stack.units import StackUnit, fit_joint, fit_unit

VERSION = 4
_IRRELEVANT_TO_UNITS = (
    "repeats",
    "threshold",
    "threshold_repeats",
    "shrink",
    "min_positives",
    "device",
)


@dataclasses.dataclass(frozen=True)
class StackJob:
    """One repeat of one class, or of all `classes` in one booster if `joint`."""

    classes: tuple[int, ...]
    repeat: int
    joint: bool = False


def jobs(labels: np.ndarray, protocol: Protocol) -> list[StackJob]:
    """Return all jobs of a protocol, longest first, to balance the workers."""
    positives = labels.sum(axis=0)
    enough = np.minimum(positives, len(labels) - positives) >= protocol.min_positives
    fitted = [int(c) for c in np.flatnonzero(enough)]
    if protocol.learner == "multi_output_tree":
        return [StackJob(tuple(fitted), k, True) for k in range(protocol.repeats if fitted else 0)]
    fitted.sort(key=lambda c: -int(positives[c]) * protocol.of(c).models(int(positives[c])))
    repeats = {c: protocol.of(c).counts(int(positives[c]))[0] for c in fitted}
    return [StackJob((c,), k) for c in fitted for k in range(repeats[c])]


def run(
    data: StackData,
    todo: Sequence[StackJob],
    *,
    directory: str | Path | None = None,
    workers: int = 1,
    distributed: str = "",
    devices: Sequence[str] = ("cpu",),
    progress: bool = False,
) -> list[StackUnit]:
    """Run all jobs and return their units, sorted by class and repeat.

    devices: ("cpu",): `workers` processes; GPUs of this machine ("cuda:0", "cuda:1"): one process
    each.  distributed: "" (not), the address of a Dask scheduler ("tcp://host:8786"), or "local" (a
    Dask cluster of `workers` processes on this machine).
    """
    from tqdm import tqdm

    units, missing, stamps = [], [], stamps_of(data, todo)
    bar = tqdm(total=len(todo), desc="stack", unit="unit", disable=not progress)
    for job in todo:
        stored = _stored(directory, job, stamps[job])
        if stored is None:
            missing.append(job)
        else:
            units += stored
            bar.update()
    if distributed:
        results = _dask(data, missing, distributed, workers)
    elif list(devices) != ["cpu"]:
        results = _on_devices(data, missing, devices)
    elif data.device == "cpu" and min(workers, len(missing)) > 1:
        results = _processes(data, missing, min(workers, len(missing)))
    else:
        results = (do(data, job) for job in missing)
    with contextlib.closing(bar), contextlib.closing(results):
        job_of = {(c, job.repeat): job for job in missing for c in job.classes}
        for finished in results:
            for unit in finished:
                unit.stamp = stamps[job_of[unit.c, unit.repeat]]
                if directory is not None:
                    files.write(directory, unit)
            units += finished
            bar.update()
    return sorted(units, key=lambda unit: (unit.c, unit.repeat))


def do(data: StackData, job: StackJob) -> list[StackUnit]:
    """Run one job."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # one process per core: threads inside would oversubscribe
        if job.joint:
            return fit_joint(data, job.classes, job.repeat)
        return [fit_unit(data, job.classes[0], job.repeat)]


def _processes(data: StackData, todo: list[StackJob], workers: int) -> Generator[list[StackUnit]]:
    import joblib

    # loky starts fresh interpreters (jax in this process forbids fork) and maps the large arrays.
    parallel = joblib.Parallel(
        workers,
        return_as="generator_unordered",
        batch_size=1,
        initializer=processes.follow,
        initargs=(os.getpid(),),
    )
    yield from parallel(joblib.delayed(do)(data, job) for job in todo)


_shared: list[StackData] = []  # in a process of `_worker`: sent once, not with every job


def _on_devices(
    data: StackData, todo: list[StackJob], devices: Sequence[str]
) -> Generator[list[StackUnit]]:
    """Run jobs in one process per device; the first free one gets the next job.

    The processes are fresh interpreters without jax: the first use of JAX on a GPU takes 75 % of
    the memory of all cards for good (docs.jax.dev, "GPU memory allocation"), and this process may
    have trained before.  `hpa_jax.cli` limits JAX to that share; XGBoost uses the rest.
    """
    from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait

    from xgboost.core import XGBoostError

    waiting, finished = iter(todo), 0
    pools = {device: _worker(dataclasses.replace(data, device=device)) for device in devices}
    try:
        # one job at a time: with queued jobs, loky prints a traceback when its process is killed
        running = {pools[on].submit(_do_shared, job): on for on, job in zip(pools, waiting)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                device = running.pop(future)
                kept = f"{finished} of {len(todo)} units are finished and kept"
                try:
                    units = future.result()
                except XGBoostError as error:
                    raise InputError(
                        f"stack: XGBoost failed on {device} ({_line(error)[:300]}); {kept}; if it "
                        "ran out of memory, run the verb stack alone, which leaves all memory to "
                        "XGBoost, or use --config.stack.device=cpu"
                    ) from None
                except BrokenExecutor:
                    raise InputError(
                        f"stack: the process on {device} was killed, perhaps out of memory; "
                        f"{kept}, run it again"
                    ) from None
                for job in itertools.islice(waiting, 1):
                    running[pools[device].submit(_do_shared, job)] = device
                finished += 1
                yield units
    finally:
        for pool in pools.values():
            pool.shutdown(wait=True, kill_workers=True)


def _worker(data: StackData) -> Any:
    """Return an executor of one process that holds `data`."""
    from joblib.externals.loky import ProcessPoolExecutor  # as in `_processes`: no fork

    return ProcessPoolExecutor(max_workers=1, initializer=_share, initargs=(data,))


def _share(data: StackData) -> None:
    processes.follow(os.getppid())
    _shared[:] = [data]


def _do_shared(job: StackJob) -> list[StackUnit]:
    return do(_shared[0], job)


def _dask(
    data: StackData, todo: list[StackJob], address: str, workers: int
) -> Generator[list[StackUnit]]:
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise InputError(
            "the stack on a cluster needs Dask: pip install 'distributed>=2025.1'"
        ) from None
    if address == "local":
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        target: object = cluster
    else:
        cluster, target = None, address
    done = 0
    try:
        with _client(Client, target, address) as client:
            shared = client.scatter(data, broadcast=True)
            futures = [client.submit(do, shared, job, pure=False) for job in todo]
            for future in as_completed(futures):
                yield future.result()
                future.release()
                done += 1
    except OSError as error:
        raise InputError(
            f"Dask scheduler {address}: lost after {done} of {len(todo)} units ({_line(error)}); "
            "finished units are kept, run it again"
        ) from None
    finally:
        if cluster is not None:
            cluster.close()


def _client(kind: Callable[..., Any], target: object, address: str) -> Any:
    try:
        return kind(target)
    except (OSError, ValueError) as error:  # ValueError: an address of unknown protocol
        raise InputError(f"Dask scheduler {address}: can't be reached ({_line(error)})") from None


def _line(error: Exception) -> str:
    """An error's text in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _stored(directory: str | Path | None, job: StackJob, stamp: str) -> list[StackUnit] | None:
    if directory is None:
        return None
    units = [files.read(directory, c, job.repeat, stamp) for c in job.classes]
    return None if any(unit is None for unit in units) else units


def stamps_of(data: StackData, todo: Sequence[StackJob]) -> dict[StackJob, str]:
    """Return the hash of exactly what the units of each job depend on.

    Only settings that differ from the defaults enter, so that a new setting changes no stamp.
    VERSION is raised when the results of unchanged stamps change.
    """
    shared = hashlib.sha256(f"{VERSION} {data.device} {data.inputs.names!r}".encode())
    tables = [table for table in (data.inputs, data.test) if table is not None]
    for array in (data.groups, *(array for table in tables for array in (table.meta, table.probs))):
        if array is not None:
            shared.update(f"{array.dtype}{array.shape}".encode())
            shared.update(np.ascontiguousarray(array))
    stamps, defaults = {}, dataclasses.asdict(Protocol())
    for job in todo:
        digest = shared.copy()
        settings = {
            key: value
            for key, value in dataclasses.asdict(data.protocol.of(job.classes[0])).items()
            if key not in _IRRELEVANT_TO_UNITS and value != defaults[key]
        }
        digest.update(repr((job, sorted(settings.items()))).encode())
        for c in job.classes:
            digest.update(np.ascontiguousarray(data.labels[:, c]))
            digest.update(repr(None if data.prior is None else data.prior[c]).encode())
        stamps[job] = digest.hexdigest()[:16]
    return stamps


def pick_devices(device: str, distributed: str = "") -> tuple[str, ...]:
    """Return the devices to fit trees on: ("cpu",), or all GPUs, ("cuda:0", "cuda:1", ...).

    device: "cpu", "cuda", or "auto" (GPUs, if available and XGBoost is built for them).
    distributed: as in `run`; "cuda" then means the GPUs visible to each worker.

    Raises:
        InputError: "cuda", but XGBoost can't use a GPU (it would silently use the CPU).
    """
    if device == "cpu" or (device == "cuda" and distributed):
        return (device,)
    count = gpus()
    if device == "auto" and not count:
        return ("cpu",)
    import xgboost  # not before: it takes a second or two of every run's start

    built = xgboost.build_info().get("USE_CUDA", False)
    if device == "cuda" and not (built and count):
        why = (
            "the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES hides those not in it)"
            if built
            else "this XGBoost is built without CUDA (requirements-gpu.txt names one with it)"
        )
        raise InputError(f"config.stack.device='cuda': {why}; auto or cpu fit without a GPU")
    return tuple(f"cuda:{number}" for number in range(count)) if built else ("cpu",)


def gpus() -> int:
    """Return the number of GPUs visible to CUDA (CUDA_VISIBLE_DEVICES); 0 without NVIDIA's driver.

    Queries the driver, which allocates no GPU memory, unlike `jax.devices()`.
    """
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value
