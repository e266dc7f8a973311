"""ConvNeXt against timm's numbers (golden file), and under its authors' names."""

import re

from safetensors.numpy import save_file

from hpa_jax.models import pretrained
from tests.models import pinned


def test_logits_equal_timms(tmp_path):
    model = pinned.loaded("convnext_tiny", tmp_path, head="gap_norm")
    ours = pinned.logits(model, pinned.pictures("convnext_tiny"))
    pinned.assert_close(ours, pinned.golden("convnext_tiny")["logits"])


def test_the_authors_names_fill_the_same_network(tmp_path):
    renamed = {}
    for name, value in pinned.tensors("convnext_tiny").items():
        name = name.replace("stem.", "downsample_layers.0.").replace("head.fc.", "head.")
        name = re.sub(r"stages\.(\d)\.downsample\.", r"downsample_layers.\1.", name)
        name = name.replace("head.norm.", "norm.").replace(".blocks.", ".")
        name = name.replace(".conv_dw.", ".dwconv.")
        renamed[re.sub(r"\.mlp\.fc(\d)\.", r".pwconv\1.", name)] = value
    assert "stages.2.1.pwconv1.weight" in renamed
    save_file(renamed, tmp_path / "w.safetensors")
    model = pinned.network("convnext_tiny", head="gap_norm")
    report = pretrained.load(model, tmp_path / "w.safetensors")
    assert not report.unused and not report.missing
    model.eval()
    ours = pinned.logits(model, pinned.pictures("convnext_tiny"))
    pinned.assert_close(ours, pinned.golden("convnext_tiny")["logits"])
