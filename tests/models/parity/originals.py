"""The published networks in PyTorch that ours must equal: name -> a function that builds one.

Needs torch, torchvision, timm and pretrainedmodels (scripts/requirements-parity.txt).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pretrainedmodels
import timm
import torch
import torchvision
from torch import nn

from tests.models.parity import seeded


def _torchvision(name: str, **arguments: Any) -> Callable[[int], nn.Module]:
    return lambda classes: getattr(torchvision.models, name)(
        weights=None, num_classes=classes, **arguments
    )


def _cadene(name: str) -> Callable[[int], nn.Module]:
    return lambda classes: getattr(pretrainedmodels, name)(num_classes=classes, pretrained=None)


def _timm(name: str) -> Callable[[int], nn.Module]:
    return lambda classes: timm.create_model(name, pretrained=False, num_classes=classes)


def _xception(classes: int) -> nn.Module:
    # pretrainedmodels renames `fc` to `last_linear` for 1000 classes too; nothing else differs.
    return pretrainedmodels.xception(num_classes=classes, pretrained=None)


# our name -> library -> builder.  The first library of a name gives the row of the parity table.
ORIGINALS: dict[str, dict[str, Callable[[int], nn.Module]]] = {
    "resnet18": {"torchvision": _torchvision("resnet18"), "timm": _timm("resnet18")},
    "resnet34": {"torchvision": _torchvision("resnet34"), "timm": _timm("resnet34")},
    "resnet50": {"torchvision": _torchvision("resnet50"), "timm": _timm("resnet50")},
    "resnet101": {"torchvision": _torchvision("resnet101"), "timm": _timm("resnet101")},
    "resnext50_32x4d": {
        "torchvision": _torchvision("resnext50_32x4d"),
        "timm": _timm("resnext50_32x4d"),
    },
    "se_resnet50": {"pretrainedmodels": _cadene("se_resnet50"), "timm": _timm("legacy_seresnet50")},
    "se_resnext50_32x4d": {
        "pretrainedmodels": _cadene("se_resnext50_32x4d"),
        "timm": _timm("legacy_seresnext50_32x4d"),
    },
    "se_resnext101_32x4d": {
        "pretrainedmodels": _cadene("se_resnext101_32x4d"),
        "timm": _timm("legacy_seresnext101_32x4d"),
    },
    "senet154": {"pretrainedmodels": _cadene("senet154"), "timm": _timm("legacy_senet154")},
    "densenet121": {"torchvision": _torchvision("densenet121"), "timm": _timm("densenet121")},
    "densenet169": {"torchvision": _torchvision("densenet169"), "timm": _timm("densenet169")},
    "densenet201": {"torchvision": _torchvision("densenet201"), "timm": _timm("densenet201")},
    "inception_v3": {
        "torchvision": _torchvision("inception_v3", init_weights=False),
        "timm": _timm("inception_v3"),
    },
    "inception_v4": {"pretrainedmodels": _cadene("inceptionv4"), "timm": _timm("inception_v4")},
    "bn_inception": {"pretrainedmodels": _cadene("bninception")},
    "xception": {"pretrainedmodels": _xception, "timm": _timm("legacy_xception")},
    "nasnet_a_large": {"pretrainedmodels": _cadene("nasnetalarge")},
    "convnext_tiny": {"timm": _timm("convnext_tiny")},
    **{
        f"efficientnet_lite{number}": {"timm": _timm(f"tf_efficientnet_lite{number}")}
        for number in range(5)
    },
}


SHIFT = 2.0


def build(name: str, library: str, size: int, classes: int = 1000) -> nn.Module:
    """The original with seeded weights, in eval mode, calibrated to images of that size."""
    model = seed(ORIGINALS[name][library](classes))
    calibrate(model, seeded.images(8, size, 3, seed=100))
    return model


def seed(model: nn.Module) -> nn.Module:
    """Fills a model with seeded weights and puts it into eval mode, for any input size."""
    any_size(model)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    weights = seeded.state_dict(shapes)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()}, False)
    return model.eval()


def calibrate(model: nn.Module, images: np.ndarray) -> None:
    """Makes a seeded network as tame as a trained one, so that float32 can be compared at all.

    Every BatchNorm's statistics come near those of its input, each off by up to 40 %.  Else
    activations double from block to block and drive squeeze-excitation's sigmoids to arguments of
    800: PyTorch's float32 logits of such an se_resnext50_32x4d are 8e-5 off from its float64 ones.

    Its output moves up by SHIFT deviations.  Else rounding flips some ReLU whose input is within
    1e-6 of zero, and the gradient jumps by 1e-2: in PyTorch, between float32 and float64, with four
    of six images.
    """

    def near(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
        deviation, mean = torch.std_mean(inputs[0], (0, 2, 3))
        # What is there are the seeded statistics: means of about 0.1, variances of 0.6 to 1.4.
        norm.running_mean.mul_(deviation).add_(mean)
        norm.running_var.mul_(deviation**2 + 1e-3)  # some channels are flat after a ReLU
        norm.bias.add_(SHIFT)

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(near) for norm in norms]
    with torch.no_grad():
        model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for hook in hooks:
        hook.remove()


def any_size(model: nn.Module) -> None:
    """Replaces a global pool of fixed size (224 or 299 pixels) by the mean over the whole map.

    At the published size the two are equal; the parity table runs at smaller ones.
    """
    for name in ("avg_pool", "global_pool"):
        if isinstance(getattr(model, name, None), nn.AvgPool2d):
            setattr(model, name, nn.AdaptiveAvgPool2d(1))


@contextlib.contextmanager
def narrow(divisor: int) -> Iterator[None]:
    """Within it the originals are built with every channel count divided, for small golden files.

    All channel counts of the network but the 3 of the image must be divisible.
    """
    convolution, norm, linear = nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__

    def less(channels: int) -> int:
        if channels == 3:
            return 3
        assert channels % divisor == 0, channels
        return channels // divisor

    def conv2d(self: nn.Conv2d, inputs: int, outputs: int, *args: Any, **kwargs: Any) -> None:
        args = list(args)
        if kwargs.get("groups", 1) == inputs:
            kwargs["groups"] = less(inputs)
        elif len(args) > 4 and args[4] == inputs:
            args[4] = less(inputs)
        convolution(self, less(inputs), less(outputs), *args, **kwargs)

    def batch_norm(self: nn.BatchNorm2d, features: int, *args: Any, **kwargs: Any) -> None:
        norm(self, less(features), *args, **kwargs)

    def dense(self: nn.Linear, inputs: int, outputs: int, *args: Any, **kwargs: Any) -> None:
        linear(self, less(inputs), outputs, *args, **kwargs)

    nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__ = conv2d, batch_norm, dense
    try:
        yield
    finally:
        nn.Conv2d.__init__, nn.BatchNorm2d.__init__, nn.Linear.__init__ = convolution, norm, linear


def forward_and_gradient(model: nn.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C] and d(sum of logits * w)/d(images) [N, H, W, 3] for w = cos(0), cos(1), ...

    The model computes in the type of the images, float32 or float64.
    """
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    logits = model(inputs)
    weights = torch.cos(torch.arange(logits.numel(), dtype=logits.dtype)).reshape(logits.shape)
    (logits * weights).sum().backward()
    return logits.detach().numpy(), inputs.grad.numpy().transpose(0, 2, 3, 1)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The floating-point tensors of a model's state dict, for a safetensors file."""
    return {
        name: np.ascontiguousarray(value.detach().numpy())
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
