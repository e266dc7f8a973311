"""Every family's training step compiles for TPUs and fits; augmentation gathers no pixels.

Compiled for four v5e chips without one (scripts/bench_accelerator.py); scripts/test --tpu makes the
environment and runs these.
"""

import importlib.util

import pytest

from tests.accelerators import small_steps

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs libtpu: scripts/test --tpu"
    ),
]
# {part of a convolution's traced operation or source: why it is not in bfloat16}; the compiler for
# TPU writes every matrix product as a convolution.
FLOAT32 = {
    "Linear.__call__": "dense layers of the heads are float32: [N, F] by [F, C], next to no work",
    " _matrix": "products of 3 x 3 matrices, which say where a pixel comes from",
    " compose": "the same",
    " attend": "gradients of attention's scores, which are float32; the TPU multiplies these, too, "
    "in one pass of bfloat16",
}


@pytest.mark.parametrize("name", small_steps.STEPS)
def test_the_step_compiles_and_scales(name):
    row, program = small_steps.compiled("v5e", 4, name)
    assert small_steps.faults(row, program, FLOAT32) == []


@pytest.mark.parametrize("augment", ["demo", "oml", "bestfitting", "pudae"])
def test_augmentation_gathers_no_pixels(augment):
    row, program = small_steps.compiled("v5e", 4, "resnet18", augment=augment)
    assert program is not None, row["error"]
    assert small_steps.pixel_gathers(program) == []


def test_gradients_of_micro_batches_are_summed_over_the_devices_once():
    row, program = small_steps.compiled("v5e", 4, "resnet18", accumulate=4, batch_size=16)
    assert program is not None, row["error"]
    assert small_steps.gradients_in_loops(program) == []
