"""Compiled programs: made once, interruptible, kept on disk, refused if too large for a device.

In: jitted functions and the shapes of their arguments.  Out: programs, or an InputError that says
by how much a program is too large and which options make it smaller.
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
        """say: gets a line for each program.  deterministic: `train.deterministic`."""
        self._preemption, self._say = preemption, say
        self._options = options(deterministic)

    def __call__(self, jitted: Any, arguments: tuple, name: str) -> Any:
        """Compile a jitted function for arguments, or their shapes.

        Raises:
            InputError: it needs more memory than a device has.
        """
        start = time.perf_counter()
        lowered = jitted.lower(*arguments)
        program = self._preemption.interruptible(lambda: lowered.compile(self._options))
        check_memory(program, name)
        self._say(f"{name} compiled in {time.perf_counter() - start:.1f} s")
        return program


def options(deterministic: bool) -> dict[str, Any] | None:
    """Return the compiler's options for programs with the same bits each time; None: XLA's own.

    On NVIDIA GPUs XLA adds up with atomics and takes the kernels that were fastest when it tried
    them, which may be others at the next start.  `xla_gpu_deterministic_ops` ("guarantees
    run-to-run determinism on GPU") excludes the first and does no trials; a select-and-scatter
    (XLA's own gradient of max-pooling, not ours) then fails to compile (openxla.org/xla/determinism
    and openxla/xla pull requests 12520, 16635).  CPU and TPU need no option.
    """
    if not deterministic or jax.default_backend() != "gpu":
        return None
    return {"xla_gpu_deterministic_ops": True}


def keep_programs(folder: str | Path) -> None:
    """Keep compiled programs in `folder`, so that the next start need not compile them.

    A cache that is set already (by the caller or JAX_COMPILATION_CACHE_DIR) stays.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # defined at run time
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder).resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def memory_limit() -> int | None:
    """Return the bytes that JAX may use on each device of this host; None where unknown (CPU)."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    return min((limit for limit in limits if limit), default=None)


def check_memory(program: Any, name: str) -> None:
    """Refuse a compiled program that needs more than a device has.

    Raises:
        InputError: says by how much, and names the options that help.
    """
    limit, sizes = memory_limit(), program.memory_analysis()
    if limit is None or sizes is None:
        return
    need = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    need += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if need > limit:
        raise InputError(
            f"{name}: needs {_gib(need)} on each device, {_gib(need - limit)} more than the "
            f"{_gib(limit)} that JAX has there; {ADVICE}"
        )


@contextlib.contextmanager
def explaining_out_of_memory() -> Iterator[None]:
    """Turn a device's out-of-memory error, of the compiler or at run time, into one line.

    Raises:
        InputError: with the runtime's words (they say how much) and the options that help.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())
        if "RESOURCE_EXHAUSTED" not in words:
            raise
        words = words[words.index("RESOURCE_EXHAUSTED") :][:250]
        raise InputError(f"the device's memory is too small ({words}); {ADVICE}") from None


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
