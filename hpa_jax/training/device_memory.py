"""The memory of a device: whether a compiled program fits into it, and which batch would.

In: compiled programs, and figures of compiled training steps.  Out: an InputError that says by how
much a program is too large and which options make it smaller, or a recommended batch size.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError

ADVICE = (
    "raise accumulate (micro-batches, one in memory at a time), set remat='blocks', or lower "
    "batch_size"
)
# (backbone, platform) -> bytes of temporaries an image of 512 x 512 px costs in a training step:
# temporaries of the compiled step / its images a device (docs/accelerators.md).
TEMPORARIES = {
    ("se_resnext50_32x4d", "tpu"): 8.79e9 / 32,
}
STATE = 16  # bytes a parameter: weight, gradient and two moments in float32
SHARE = 0.9  # of the memory; the rest is for what the figures leave out, batches on their way


def limit() -> int | None:
    """Bytes that JAX may use on a device, the least of this host's; None where none says (CPU)."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [found for found in limits if found]
    return min(known) if known else None


def check(program: Any, name: str) -> None:
    """Refuses a compiled program that needs more than a device has.

    Raises:
        InputError: says by how much, and names the options that help.
    """
    most, sizes = limit(), program.memory_analysis()
    if most is None or sizes is None:
        return
    need = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    need += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    if need > most:
        raise InputError(
            f"{name}: needs {_gib(need)} on each device, {_gib(need - most)} more than the "
            f"{_gib(most)} that JAX has there; {ADVICE}"
        )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns a device's out-of-memory error, of the compiler or at run time, into one line.

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


def recommended(
    model: ConfigDict, side: int, parameters: int, platform: str, memory: int | None
) -> int | None:
    """The largest power of two of images a device that fits; None where no figure is known.

    side: in pixels, of what the network sees.  parameters: their number.  platform: of the devices
    ("gpu", "tpu").  memory: `limit()`.
    """
    each = TEMPORARIES.get((model.backbone, platform))
    unusual = model.remat != "none" or model.width != 1.0 or model.depth or model.large_stem
    if each is None or memory is None or unusual:
        return None
    count = int((SHARE * memory - STATE * parameters) / (each * (side / 512) ** 2))
    return 1 << (count.bit_length() - 1) if count >= 1 else None


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
