"""Devices and hosts: one mesh with the axis "data"; batches are sharded, the state is replicated.

In: JAX's devices (of several hosts after `initialize`).  Out: shardings, and host batches as global
arrays.  Each host reads only its rows; N devices give the same losses as one.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hpa_jax.core.errors import InputError


@dataclass(frozen=True)
class MeshLayout:
    """The mesh and its two shardings: rows over the devices, and the same on every device."""

    mesh: Mesh

    @property
    def rows(self) -> NamedSharding:
        """Of a batch: its rows over the devices."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    @property
    def replicated(self) -> NamedSharding:
        """Of the state: the same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Send a host's rows of a batch to its devices as global arrays; without `index`."""
        return {
            name: jax.make_array_from_process_local_data(self.rows, np.asarray(rows))
            for name, rows in batch.items()
            if name != "index"
        }

    def replicate(self, tree: Any) -> Any:
        """Put the same values on every device; arrays already there are unchanged."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.replicated)
        # device_put to other hosts' devices makes arrays that Orbax can't split
        return jax.tree.map(
            lambda x: (
                x
                if isinstance(x, jax.Array) and not x.is_fully_addressable
                else jax.make_array_from_process_local_data(
                    self.replicated, np.asarray(x), np.shape(x)
                )
            ),
            tree,
        )

    def shard_micro(self, x: jax.Array) -> jax.Array:
        """Shard the rows of each of the micro-batches [M, B / M, ...] over the devices."""
        spec = PartitionSpec(None, "data")
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


def in_mesh(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function traced with a mesh in context, as convolutions require."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def layout() -> MeshLayout:
    """Return the layout over all devices of all hosts."""
    # Auto: the compiler propagates shardings; Explicit (the default) refuses mixed operands in vmap
    return MeshLayout(jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,)))


def initialize() -> None:
    """Join the hosts of a cluster if the environment names one; call before any other use of JAX.

    Reads HPA_COORDINATOR (address:port), HPA_PROCESSES and HPA_PROCESS (index of this one); on a
    TPU pod or under SLURM, HPA_COORDINATOR=auto lets JAX find them.

    Raises:
        InputError: HPA_PROCESSES or HPA_PROCESS is missing, not a number or out of range.
    """
    coordinator = os.environ.get("HPA_COORDINATOR", "")
    if not coordinator:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    try:
        count, number = int(os.environ["HPA_PROCESSES"]), int(os.environ["HPA_PROCESS"])
        range(count).index(number)
    except (KeyError, ValueError):
        raise InputError(
            "HPA_COORDINATOR is set: HPA_PROCESSES must be the number of processes, and "
            "HPA_PROCESS the index of this one, from 0 to HPA_PROCESSES - 1"
        ) from None
    jax.distributed.initialize(coordinator, count, number)


def cores() -> int:
    """Return the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_divisible(
    batch_size: int, accumulate: int, devices: int, key: str = "batch_size"
) -> None:
    """Check that a batch is divisible into devices and micro-batches.

    Raises:
        InputError: names the key and the values.
    """
    if accumulate < 1 or batch_size < 1:
        raise InputError(f"{key}={batch_size}, accumulate={accumulate}: both must be at least 1")
    if batch_size % (accumulate * devices):
        raise InputError(
            f"{key}={batch_size}: not divisible by accumulate={accumulate} micro-batches on "
            f"{devices} devices; use a multiple of {accumulate * devices}"
        )


def gather(array: jax.Array) -> np.ndarray:
    """Return the whole of a global array on this host."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def agree(flag: bool) -> bool:
    """Return the first host's answer, on all hosts."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))
