"""Every family's training step compiles for NVIDIA GPUs, in bfloat16, and gathers no batch.

Compiled for H100s without one (scripts/bench_accelerator.py); each step in a process of its own,
as a fault of the compiler ends the process.  scripts/test --cuda makes the environment and runs
these.
"""

import importlib.util

import pytest

from tests.accelerators import small_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_plugins") is None
        or importlib.util.find_spec("jax_plugins.xla_cuda13") is None,
        reason="needs jax's CUDA plugin: scripts/test --cuda",
    ),
]
# {part of a convolution's traced operation or source: why it is not in bfloat16}
FLOAT32: dict[str, str] = {}


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("name", small_steps.STEPS)
def test_the_step_compiles_and_scales(name, devices):
    row, program = small_steps.compiled("h100", devices, name)
    assert small_steps.faults(row, program, FLOAT32) == []


def test_gradients_of_micro_batches_are_summed_over_the_devices_once():
    row, program = small_steps.compiled("h100", 4, "resnet18", accumulate=4, batch_size=16)
    assert program is not None, row["error"]
    assert small_steps.gradients_in_loops(program) == []
