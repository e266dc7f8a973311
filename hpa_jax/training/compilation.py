"""Compilation: interruptible, cached on disk, with a check against the device's memory.

In: jitted functions and the shapes of their arguments.  Out: programs, or an InputError with the
excess memory and the options that reduce it.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from hpa_jax.core.errors import InputError
from hpa_jax.training.preemption import Preemption

ADVICE = (
    "raise accumulate (micro-batches, one in memory at a time), set remat='blocks', or lower "
    "batch_size"
)


class Compiler:
    """compile(jitted, arguments, name) -> the program, for the functions of one training."""

    def __init__(
        self, preemption: Preemption, say: Callable[[str], None], deterministic: bool = False
    ) -> None:
        """say: called with a line for each program.  deterministic: `train.deterministic`."""
        self._preemption, self._say = preemption, say
        self._options = options(deterministic)

    def __call__(self, jitted: Any, arguments: tuple, name: str) -> Any:
        """Compile a jitted function for arguments, or their shapes.

        Raises:
            InputError: the program needs more memory than a device has.
        """
        start = time.perf_counter()
        lowered = jitted.lower(*arguments)
        program = self._preemption.interruptible(lambda: lowered.compile(self._options))
        check_memory(program, name)
        self._say(f"{name} compiled in {time.perf_counter() - start:.1f} s")
        return program


def options(deterministic: bool) -> dict[str, Any] | None:
    """Return the compiler's options for bitwise reproducible programs; None: XLA's defaults.

    On NVIDIA GPUs XLA sums with atomics and autotunes kernels, which may differ at the next start.
    `xla_gpu_deterministic_ops` ("guarantees run-to-run determinism on GPU") excludes both; a
    select-and-scatter (XLA's gradient of max-pooling, not ours) then fails to compile
    (openxla.org/xla/determinism and openxla/xla pull requests 12520, 16635).  CPU and TPU need no
    option.
    """
    if not deterministic or jax.default_backend() != "gpu":
        return None
    return {"xla_gpu_deterministic_ops": True}


def keep_programs(folder: str | Path) -> None:
    """Cache compiled programs in `folder`, for the next start.

    A cache that is already set (by the caller or JAX_COMPILATION_CACHE_DIR) is kept.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # defined at run time
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def memory_limit() -> int | None:
    """Return the bytes that JAX may use on each device of this host; None if unknown (CPU)."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    return min((limit for limit in limits if limit), default=None)


def check_memory(program: Any, name: str) -> None:
    """Check that a compiled program fits into a device's memory.

    Raises:
        InputError: names the excess and the options that reduce it.
    """
    limit, sizes = memory_limit(), program.memory_analysis()
    if limit is None or sizes is None:
        return
    need = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    need += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if need > limit:
        raise InputError(
            f"{name}: needs {_gib(need)} on each device, {_gib(need - limit)} more than the "
            f"{_gib(limit)} available to JAX; {ADVICE}"
        )


@contextlib.contextmanager
def explaining_out_of_memory() -> Iterator[None]:
    """Report a device's out-of-memory error, at compile or run time, in one line.

    Raises:
        InputError: with the runtime's message and the options that help.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        message = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in message:
            raise
        message = message[message.index("RESOURCE_EXHAUSTED") :][:250]
        raise InputError(f"the device's memory is too small ({message}); {ADVICE}") from None


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
