"""Writes the golden files: small originals with seeded weights, and the logits they give.

    scripts/parity --golden [NAME ...]

Each is an original with its channels divided and its repeated modules taken out, so that a test can
rebuild it here in seconds.  A file holds the tensors' names and shapes, not their values, which
`seeded` makes again; images likewise.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from pretrainedmodels.models import nasnet, senet
from torch import nn

from tests.models.parity import originals, published, seeded

FOLDER = Path(__file__).resolve().parents[1] / "golden"
CLASSES = 7


def _torchvision_resnet(divisor: int, block: type, **arguments: int) -> nn.Module:
    with originals.narrow(divisor):
        return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES, **arguments)


def _senet(divisor: int, block: type, **arguments: int | bool | float) -> nn.Module:
    with originals.narrow(divisor):
        return senet.SENet(
            block, [1, 1, 1, 1], reduction=16, dropout_p=None, num_classes=CLASSES, **arguments
        )


def _inception_v3() -> nn.Module:
    with originals.narrow(16):
        model = originals.ORIGINALS["inception_v3"]["torchvision"](CLASSES)
    for name in ("Mixed_5d", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7c"):
        setattr(model, name, nn.Identity())
    return model


def _inception_v4() -> nn.Module:
    with originals.narrow(32):
        model = originals.ORIGINALS["inception_v4"]["pretrainedmodels"](CLASSES)
    kept = (*range(7), 10, 11, 18, 19)
    model.features = nn.Sequential(*(model.features[index] for index in kept))
    return model


def _bn_inception() -> nn.Module:
    with originals.narrow(32):
        return originals.ORIGINALS["bn_inception"]["pretrainedmodels"](CLASSES)


def _xception() -> nn.Module:
    with originals.narrow(8):
        model = originals.ORIGINALS["xception"]["pretrainedmodels"](CLASSES)
    model.block5 = model.block12  # ours counts on after the one middle block that is left
    for index in range(6, 13):
        setattr(model, f"block{index}", nn.Identity())
    return model


def _efficientnet_lite() -> nn.Module:
    with originals.narrow(8):
        return originals.ORIGINALS["efficientnet_lite0"]["timm"](CLASSES)


class ShortNASNet(nn.Module):
    """Cadene's cells, wired as he wires them, with (2, 1, 1) normal cells instead of (6, 6, 6)."""

    def __init__(self, filters: int = 12, stem: int = 7) -> None:
        super().__init__()
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, stem, 3, stride=2, bias=False))
        self.conv0.add_module("bn", nn.BatchNorm2d(stem, eps=0.001))
        f = filters
        self.cell_stem_0 = nasnet.CellStem0(stem, num_filters=f // 4)
        self.cell_stem_1 = nasnet.CellStem1(stem, num_filters=f // 2)
        self.cell_0 = nasnet.FirstCell(f, f // 2, 2 * f, f)
        self.cell_1 = nasnet.NormalCell(2 * f, f, 6 * f, f)
        self.reduction_cell_0 = nasnet.ReductionCell0(6 * f, 2 * f, 6 * f, 2 * f)
        self.cell_2 = nasnet.FirstCell(6 * f, f, 8 * f, 2 * f)
        self.reduction_cell_1 = nasnet.ReductionCell1(8 * f, 4 * f, 12 * f, 4 * f)
        self.cell_3 = nasnet.FirstCell(8 * f, 2 * f, 16 * f, 4 * f)
        self.last_linear = nn.Linear(24 * f, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        conv0 = self.conv0(x)
        stem_0 = self.cell_stem_0(conv0)
        stem_1 = self.cell_stem_1(conv0, stem_0)
        cell_0 = self.cell_0(stem_1, stem_0)
        cell_1 = self.cell_1(cell_0, stem_1)
        reduced_0 = self.reduction_cell_0(cell_1, cell_0)
        cell_2 = self.cell_2(reduced_0, cell_0)
        reduced_1 = self.reduction_cell_1(cell_2, reduced_0)
        cell_3 = self.cell_3(reduced_1, reduced_0)
        return self.last_linear(torch.relu(cell_3).mean((2, 3)))


# name of the file -> (our backbone, our width and depth, pixels, the original)
GOLDEN: dict[str, tuple[str, dict, int, Callable[[], nn.Module]]] = {
    "resnet18": (
        "resnet18",
        {"width": 1 / 16, "depth": (1, 1, 1, 1)},
        75,
        lambda: _torchvision_resnet(16, torchvision.models.resnet.BasicBlock),
    ),
    "resnext50": (
        "resnext50_32x4d",
        {"width": 1 / 4, "depth": (1, 1, 1, 1)},
        80,
        lambda: _torchvision_resnet(
            4, torchvision.models.resnet.Bottleneck, groups=32, width_per_group=4
        ),
    ),
    "se_resnet50": (
        "se_resnet50",
        {"width": 1 / 4, "depth": (1, 1, 1, 1)},
        79,
        lambda: _senet(
            4, senet.SEResNetBottleneck, groups=1, inplanes=64, input_3x3=False,
            downsample_kernel_size=1, downsample_padding=0,
        ),
    ),
    "se_resnext50": (
        "se_resnext50_32x4d",
        {"width": 1 / 4, "depth": (1, 1, 1, 1)},
        96,
        lambda: _senet(
            4, senet.SEResNeXtBottleneck, groups=32, inplanes=64, input_3x3=False,
            downsample_kernel_size=1, downsample_padding=0,
        ),
    ),
    "senet154": (
        "senet154",
        {"width": 1 / 2, "depth": (1, 1, 1, 1)},
        75,
        lambda: _senet(2, senet.SEBottleneck, groups=64),
    ),
    "densenet121": (
        "densenet121",
        {"width": 1 / 8, "depth": (2, 3, 2, 1)},
        75,
        lambda: torchvision.models.DenseNet(4, (2, 3, 2, 1), 8, num_classes=CLASSES),
    ),
    "inception_v3": ("inception_v3", {"width": 1 / 16, "depth": (2, 1, 1)}, 107, _inception_v3),
    "inception_v4": ("inception_v4", {"width": 1 / 32, "depth": (1, 1, 1)}, 107, _inception_v4),
    "bn_inception": ("bn_inception", {"width": 1 / 32}, 96, _bn_inception),
    "xception": ("xception", {"width": 1 / 8, "depth": (1,)}, 75, _xception),
    "efficientnet_lite0": ("efficientnet_lite0", {"width": 1 / 8}, 75, _efficientnet_lite),
    "convnext_tiny": (
        "convnext_tiny", {"width": 1 / 12, "depth": (1, 1, 2, 1)}, 75,
        lambda: timm.models.convnext.ConvNeXt(
            depths=(1, 1, 2, 1), dims=(8, 16, 32, 64), num_classes=CLASSES
        ),
    ),
    "nasnet_a_large": ("nasnet_a_large", {"width": 1 / 14, "depth": (2, 1, 1)}, 96, ShortNASNet),
}  # fmt: skip

_VIT = {"width": 1 / 3, "depth": (2,)}  # of vit_small: 128 features
# Published models: -> (our backbone, options, (height, width, channels) of an image, the original).
PUBLISHED: dict[str, tuple[str, dict, tuple[int, int, int], Callable[[], nn.Module]]] = {
    "hpa_densenet121": (
        "densenet121", {"width": 1 / 8, "depth": (2, 3, 2, 1)}, (125, 125, 4),
        lambda: published.HPADenseNet(4, (2, 3, 2, 1), 8, large=True),
    ),
    "hpa_densenet121_512": (
        "densenet121", {"width": 1 / 8, "depth": (2, 3, 2, 1)}, (75, 75, 4),
        lambda: published.HPADenseNet(4, (2, 3, 2, 1), 8, large=False),
    ),
    "vit": (
        "vit_small_patch16", _VIT, (48, 64, 3),
        lambda: published.ViT(128, 2, 16, 14, 3, classes=CLASSES),
    ),
    "dinov2": (
        "vit_small_patch14", _VIT, (56, 84, 3),
        lambda: published.ViT(128, 2, 14, 37, 3, rule="offset", scale=True),
    ),
    "dinov2_reg": (
        "vit_small_patch14", _VIT, (56, 84, 3),
        lambda: published.ViT(128, 2, 14, 37, 3, rule="antialias", scale=True, registers=4),
    ),
    "dinov2_giant": (
        "vit_giant_patch14", {"width": 1 / 12, "depth": (2,)}, (56, 84, 3),
        lambda: published.ViT(128, 2, 14, 37, 3, rule="offset", scale=True, swiglu=True),
    ),
    "dino4cells": (
        "vit_base_patch16", {"width": 1 / 6, "depth": (2,)}, (224, 224, 4),
        lambda: published.ViT(128, 2, 16, 14, 4, rule="offset"),
    ),
    "cell_dino": (
        "vit_small_patch8", {"width": 1 / 3, "depth": (4,)}, (40, 64, 5),
        lambda: published.ViT(128, 4, 8, 16, 5, rule="offset", scale=True),
    ),
    "cell_dino_channels": (
        "vit_small_patch16", _VIT, (32, 48, 3),
        lambda: published.PerChannel(128, 2, 16, 14, 1, rule="offset", scale=True),
    ),
    "subcell": (
        "vit_base_patch16", {"width": 1 / 6, "depth": (2,)}, (64, 80, 4),
        lambda: published.SubCell(published.ViT(128, 2, 16, 28, 4, eps=1e-12), 128, 31),
    ),
}  # fmt: skip


def write_published(name: str) -> Path:
    """Writes golden/NAME.npz of a published model: its outputs on images in [0, 1]."""
    backbone, options, (height, width, channels), build = PUBLISHED[name]
    model = originals.seed(build())
    shapes = {key: tuple(value.shape) for key, value in originals.arrays(model).items()}
    images = seeded.images(2, max(height, width), channels)[:, :height, :width] * 0.2 + 0.4
    with torch.no_grad():
        logits, features = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(
        path,
        backbone=backbone,
        width=options["width"],
        depth=np.asarray(options["depth"], int),
        size=(height, width, channels),
        names=np.asarray(list(shapes)),
        shapes=np.asarray([",".join(map(str, shape)) for shape in shapes.values()]),
        logits=np.zeros((2, 0), np.float32) if logits is None else logits.numpy(),
        features=features.numpy(),
    )
    return path


def write(name: str) -> Path:
    """Writes golden/NAME.npz."""
    backbone, options, size, build = GOLDEN[name]
    model = originals.seed(build())
    shapes = {key: tuple(value.shape) for key, value in originals.arrays(model).items()}
    content = {
        "backbone": backbone,
        "width": options.get("width", 1.0),
        "depth": np.asarray(options.get("depth", ()), int),
        "size": size,
        "names": np.asarray(list(shapes)),
        "shapes": np.asarray([",".join(map(str, shape)) for shape in shapes.values()]),
    }
    content["logits"], _ = originals.forward_and_gradient(model, seeded.images(2, size, 3))
    if name == "inception_v3":
        content["aux"] = _auxiliary(model)
    if name == "densenet121":
        content.update(_training(model, seeded.images(2, size, 3)))
    path = FOLDER / f"{name}.npz"
    np.savez_compressed(path, **content)
    return path


def _auxiliary(model: nn.Module) -> np.ndarray:
    """Logits of inception_v3's auxiliary head on a 17x17 map, that of 299 pixels."""
    maps = seeded.images(1, 17, 768 // 16, seed=1).transpose(0, 3, 1, 2).copy()
    with torch.no_grad():
        return model.AuxLogits(torch.from_numpy(maps)).numpy()


def _training(model: nn.Module, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Logits in training mode, and what one step makes of the first BatchNorm's statistics."""
    model.train()
    with torch.no_grad():
        logits = model(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())).numpy()
    state = originals.arrays(model)
    return {
        "training_logits": logits,
        "mean_after": state["features.norm0.running_mean"],
        "var_after": state["features.norm0.running_var"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in sys.argv[1:] or (*GOLDEN, *PUBLISHED):
        print((write if given in GOLDEN else write_published)(given), flush=True)
