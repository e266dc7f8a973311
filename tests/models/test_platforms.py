"""The training step lowers for GPU and TPU, with the convolutions chosen for each."""

import re

import jax
import pytest

from hpa_jax.models import convolution
from hpa_jax.training import distributed
from hpa_jax.training import setup as setups
from hpa_jax.training.examples import Examples
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
    examples = Examples(
        records,
        train_ids=records.ids[:half],
        train_labels=records.labels[:half],
        valid_ids=records.ids[half:],
        valid_labels=records.labels[half:],
    )
    setup = setups.build(
        config, tiny.settings(), distributed.layout(), examples, tiny.CLASSES, seed=0
    )
    phase = setup.phases[0]
    step = jax.jit(setup.jitted_step(phase), donate_argnums=0)
    exported = jax.export.export(step, platforms=[platform])(*setup.step_shapes(phase))
    return exported.mlir_module()


@pytest.mark.parametrize(
    ("platform", "backbone", "groups"),
    [("cuda", "se_resnext50", 32), ("cuda", "xception", 46), ("tpu", "xception", 46)],
)
def test_the_training_step_lowers_with_native_grouped_convolutions(platform, backbone, groups):
    text = lowered(backbone, platform)
    assert f"feature_group_count = {groups}" in text  # forward
    assert f"batch_group_count = {groups}" in text  # the kernel's gradient
    assert re.search(r"stablehlo.convolution.*bf16", text)


def convolution_lowered(platform, kernel, strides, groups):
    """The text of a convolution of 64 channels to 64 with both gradients."""
    edges = ((kernel // 2, kernel // 2),) * 2

    def loss(x, kernel):
        return convolution.convolve(x, kernel, (strides, strides), edges, groups).sum()

    shapes = [(2, 8, 8, 64), (kernel, kernel, 64 // groups, 64)]
    shapes = [jax.ShapeDtypeStruct(shape, "f4") for shape in shapes]
    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return jax.export.export(gradient, platforms=[platform])(*shapes).mlir_module()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_no_grouped_convolution_is_left_where_slices_are_faster(platform):
    text = convolution_lowered(platform, kernel=3, strides=1, groups=32)
    assert "stablehlo.convolution" in text
    assert not re.search(r"group_count = (?!1\b)", text)


def test_on_gpus_a_strided_1x1_convolution_is_native():
    """As slice, reshape and product its kernel gradient aborts the compiler."""
    text = convolution_lowered("cuda", kernel=1, strides=2, groups=1)
    assert "stablehlo.convolution" in text and "dot_general" not in text
    assert "dot_general" in convolution_lowered("cpu", kernel=1, strides=2, groups=1)
