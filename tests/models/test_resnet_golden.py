"""The ResNet family against torchvision's and Cadene's numbers (golden files), one of each kind."""

import pytest

from tests.models import pinned


@pytest.mark.parametrize(
    "name", ["resnet18", "resnext50", "se_resnet50", "se_resnext50", "senet154"]
)
def test_logits_equal_the_originals(name, tmp_path):
    model = pinned.loaded(name, tmp_path)
    ours = pinned.logits(model, pinned.pictures(name))
    pinned.assert_close(ours, pinned.golden(name)["logits"])
