"""Devices and hosts: one mesh with the axis "data"; batches are cut along it, the state is whole.

In: what JAX sees (several hosts after `initialize`).  Out: shardings, and host batches as global
arrays.  Each host reads only its own rows; N devices give the losses of one.
"""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hpa_jax.core.errors import InputError


@dataclass(frozen=True)
class Layout:
    """The mesh and its two shardings: rows over the devices, and the same on every device."""

    mesh: Mesh
    rows: NamedSharding
    whole: NamedSharding

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """A host's rows of a batch -> global arrays; without `index`, which no device needs."""
        return {
            name: jax.make_array_from_process_local_data(self.rows, np.asarray(rows))
            for name, rows in batch.items()
            if name != "index"
        }

    def put_whole(self, tree: Any) -> Any:
        """The same values on every device; what is there already stays."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.whole)
        # device_put to other hosts' devices makes arrays that Orbax can't take apart
        return jax.tree.map(
            lambda x: (
                x
                if isinstance(x, jax.Array) and not x.is_fully_addressable
                else jax.make_array_from_process_local_data(self.whole, np.asarray(x), np.shape(x))
            ),
            tree,
        )

    def traced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, traced with the mesh in context, where a convolution looks for it."""
        return in_mesh(self.mesh, function)

    def micro(self, x: jax.Array) -> jax.Array:
        """Micro-batches [M, B / M, ...] with the rows of each over the devices."""
        spec = PartitionSpec(None, "data")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def in_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced with a mesh in context."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def layout() -> Layout:
    """The layout over all devices of all hosts."""
    # Auto: the compiler propagates shardings; Explicit (the default) refuses mixed operands in vmap
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return Layout(
        mesh, NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    )


def initialize() -> None:
    """Joins the hosts of a cluster if the environment names one; call before any other use of JAX.

    Reads HPA_COORDINATOR (address:port), HPA_PROCESSES and HPA_PROCESS (number of this one); on a
    TPU pod or under SLURM, HPA_COORDINATOR=auto lets JAX find them.

    Raises:
        InputError: HPA_PROCESSES or HPA_PROCESS is missing or no number.
    """
    coordinator = os.environ.get("HPA_COORDINATOR", "")
    if not coordinator:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    try:
        count, number = int(os.environ["HPA_PROCESSES"]), int(os.environ["HPA_PROCESS"])
    except (KeyError, ValueError):
        raise InputError(
            "HPA_COORDINATOR is set: HPA_PROCESSES and HPA_PROCESS must be the number of processes "
            "and the number of this one"
        ) from None
    jax.distributed.initialize(coordinator, count, number)


def compilation_cache(folder: str | Path) -> None:
    """Keeps compiled programs in `folder`, so that the next start need not compile them.

    A cache that is set already (by the caller or JAX_COMPILATION_CACHE_DIR) stays.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def compiler_options(deterministic: bool) -> dict[str, Any] | None:
    """Options with which a program is compiled that gives the same bits each time; None: XLA's own.

    On NVIDIA GPUs XLA adds up with atomics and takes the kernels that were fastest when it tried
    them, which may be others at the next start.  `xla_gpu_deterministic_ops` ("guarantees
    run-to-run determinism on GPU") excludes the first and does no trials; a select-and-scatter
    (XLA's own gradient of max-pooling, not ours) then fails to compile (openxla.org/xla/determinism
    and openxla/xla pull requests 12520, 16635).  CPU and TPU need no option.
    """
    if not deterministic or jax.default_backend() != "gpu":
        return None
    return {"xla_gpu_deterministic_ops": True}


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_divisible(
    batch_size: int, accumulate: int, devices: int, key: str = "batch_size"
) -> None:
    """Refuses a batch that the devices and micro-batches can't share evenly.

    Raises:
        InputError: naming the key and the values.
    """
    if accumulate < 1 or batch_size < 1:
        raise InputError(f"{key}={batch_size}, accumulate={accumulate}: both must be at least 1")
    if batch_size % (accumulate * devices):
        raise InputError(
            f"{key}={batch_size}: not divisible by accumulate={accumulate} micro-batches on "
            f"{devices} devices; use a multiple of {accumulate * devices}"
        )


def gather(array: jax.Array) -> np.ndarray:
    """The whole of a global array on this host."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def agree(flag: bool) -> bool:
    """The first host's answer, on all hosts."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


class Feeder:
    """Iterates batches on the device, read and sent ahead by a thread; a context manager."""

    def __init__(
        self,
        batches: Iterator[Mapping[str, np.ndarray]],
        put: Callable[[Mapping[str, np.ndarray]], Any],
        ahead: int = 2,
    ) -> None:
        self._queue: Queue = Queue(max(ahead, 1))
        self._stop = Event()
        self._thread = Thread(target=self._read, args=(batches, put), daemon=True)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> "Feeder":
        return self

    def __next__(self) -> Any:
        kind, item = self._queue.get()
        if kind == "batch":
            return item
        self._queue.put((kind, item))  # whoever asks again gets the same end
        raise item

    def _read(self, batches: Iterator[Any], put: Callable[[Any], Any]) -> None:
        end: BaseException = StopIteration()
        try:
            for batch in batches:
                if not self._offer(("batch", put(batch))):
                    break
        except BaseException as error:  # handed to the loop, which raises it
            end = error
        finally:
            if hasattr(batches, "close"):
                batches.close()
            self._offer(("end", end))

    def _offer(self, item: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False
