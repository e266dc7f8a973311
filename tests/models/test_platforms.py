"""The program's own training step lowers for GPU and TPU, with the devices' convolutions."""

import re

import jax
import pytest

from hpa_jax.training import distributed
from hpa_jax.training import setup as setups
from tests.training import tiny

SMALL = {
    "se_resnext50": dict(width=1 / 8, depth=(1, 1, 1, 1), image_size=64),
    "xception": dict(width=1 / 16, depth=(1,), image_size=75),
}


def lowered(backbone, platform):
    """The text of one training step in bfloat16: augmentation, network, loss, Adam."""
    config = tiny.model(backbone=backbone, dtype="bfloat16", **SMALL[backbone])
    records = tiny.Records(16, side=config.image_size)
    half = len(records.ids) // 2
    data = setups.Data(
        records,
        train_ids=records.ids[:half],
        train_labels=records.labels[:half],
        valid_ids=records.ids[half:],
        valid_labels=records.labels[half:],
    )
    setup = setups.build(config, tiny.settings(), distributed.layout(), data, tiny.CLASSES, seed=0)
    stage = setup.stages[0]
    step = jax.jit(setup.step_function(stage), donate_argnums=0)
    exported = jax.export.export(step, platforms=[platform])(*setup.step_shapes(stage))
    return exported.mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(("backbone", "groups"), [("se_resnext50", 32), ("xception", 46)])
def test_the_training_step_lowers_with_native_convolutions(backbone, groups, platform):
    text = lowered(backbone, platform)
    assert f"feature_group_count = {groups}" in text  # forward
    assert f"batch_group_count = {groups}" in text  # the kernel's gradient
    assert re.search(r"stablehlo.convolution.*bf16", text)


def test_on_cpu_no_grouped_convolution_is_left():
    assert not re.search(r"group_count = (?!1\b)", lowered("se_resnext50", "cpu"))
