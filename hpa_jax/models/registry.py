"""Networks by name: the table of all backbones, `create` and `list_models`.

A row is data: constructor, matching published weights, and figures of the published form (1000
classes, 3 channels), which are checked by tests.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from hpa_jax.core import host_memory, own_code
from hpa_jax.core.errors import InputError, near
from hpa_jax.models.backbone import Backbone, Groups
from hpa_jax.models.bn_inception import BNInception
from hpa_jax.models.convnext import ConvNeXt
from hpa_jax.models.densenet import DenseNet
from hpa_jax.models.efficientnet_lite import EfficientNetLite
from hpa_jax.models.heads import TOKEN_HEADS, create_head
from hpa_jax.models.inception import InceptionV3
from hpa_jax.models.inception_v4 import InceptionV4
from hpa_jax.models.nasnet import NASNetALarge
from hpa_jax.models.resnet import Layout, ResNet
from hpa_jax.models.vit import ViT
from hpa_jax.models.xception import Xception

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Row:
    """One backbone.

    build: called with in_channels, width, depth, remat, dtype, rngs (and large_stem, and a
        transformer's options).
    parameters: number in the published form with 1000-class head (and auxiliary head).
    gmacs: multiply-adds of the body at 512 x 512 x 3, in 1e9, as implemented here (Cadene's NASNet
        has 53.75: it computes some borders that it crops); with patches of 14 pixels at 518 x 518.
    weights: published files, each as "torchvision FILE", "Cadene FILE", "timm FILE", or in the
        form of `init_from`, "hf:OWNER/REPO/FILE".
    """

    build: Callable[..., nnx.Module]
    parameters: int
    gmacs: float
    out_features: int
    input_size: int
    normalize: str
    weights: tuple[str, ...]
    paper: str
    head: str = "gap"  # of the published form


_SENET = dict(ceil_pool=True, squeeze=16)
_NEXT = dict(groups=32, inner=2.0)


def _lite(
    number: int, widen: float, deepen: float, side: int, parameters: int, gmacs: float
) -> Row:
    return Row(
        functools.partial(EfficientNetLite, widen, deepen),
        parameters,
        gmacs,
        1280,
        side,
        "lite",
        (f"hf:timm/tf_efficientnet_lite{number}.in1k/model.safetensors",),
        "Liu 2020; Tan & Le 2019, 1905.11946",
    )


def _vit(
    features: int, blocks: int, patch: int, grid: int, parameters: int, gmacs: float, file: str
) -> Row:
    swiglu = features == 1536
    return Row(
        functools.partial(ViT, features, blocks, patch, grid, swiglu),
        parameters,
        gmacs,
        features,
        patch * grid,
        "imagenet",
        (f"hf:timm/{file}/model.safetensors",),
        "Dosovitskiy 2020, 2010.11929",
    )


BACKBONES: dict[str, Row] = {
    "resnet18": Row(
        functools.partial(ResNet, Layout((2, 2, 2, 2), bottleneck=False)),
        11_689_512, 9.47, 512, 224, "imagenet",
        ("torchvision resnet18-5c106cde.pth", "hf:timm/resnet18.tv_in1k/model.safetensors"),
        "He 2015, 1512.03385",
    ),
    "resnet34": Row(
        functools.partial(ResNet, Layout(bottleneck=False)),
        21_797_672, 19.14, 512, 224, "imagenet",
        ("torchvision resnet34-333f7ec4.pth", "hf:timm/resnet34.tv_in1k/model.safetensors"),
        "He 2015, 1512.03385",
    ),
    "resnet50": Row(
        functools.partial(ResNet, Layout()),
        25_557_032, 21.35, 2048, 224, "imagenet",
        ("torchvision resnet50-19c8e357.pth", "hf:timm/resnet50.tv_in1k/model.safetensors"),
        "He 2015, 1512.03385",
    ),
    "resnet101": Row(
        functools.partial(ResNet, Layout((3, 4, 23, 3))),
        44_549_160, 40.75, 2048, 224, "imagenet",
        ("torchvision resnet101-5d3b4d8f.pth", "hf:timm/resnet101.tv_in1k/model.safetensors"),
        "He 2015, 1512.03385",
    ),
    "se_resnet50": Row(
        functools.partial(ResNet, Layout(stride_first=True, **_SENET)),
        28_088_024, 20.15, 2048, 224, "imagenet",
        ("Cadene se_resnet50-ce0d4300.pth",),
        "Hu 2017, 1709.01507",
    ),
    "resnext50_32x4d": Row(
        functools.partial(ResNet, Layout(**_NEXT)),
        25_028_904, 22.09, 2048, 224, "imagenet",
        ("torchvision resnext50_32x4d-7cdf4587.pth",
         "hf:timm/resnext50_32x4d.tv_in1k/model.safetensors"),
        "Xie 2016, 1611.05431",
    ),
    "se_resnext50_32x4d": Row(
        functools.partial(ResNet, Layout(**_NEXT, **_SENET)),
        27_559_896, 22.09, 2048, 224, "imagenet",
        ("Cadene se_resnext50_32x4d-a260b3a4.pth",
         "timm legacy_se_resnext50_32x4d-f3651bad.pth"),
        "Hu 2017, 1709.01507",
    ),
    "se_resnext101_32x4d": Row(
        functools.partial(ResNet, Layout((3, 4, 23, 3), **_NEXT, **_SENET)),
        48_955_416, 41.63, 2048, 224, "imagenet",
        ("Cadene se_resnext101_32x4d-3b2fe3d8.pth",
         "timm legacy_se_resnext101_32x4d-37725eac.pth"),
        "Hu 2017, 1709.01507",
    ),
    "senet154": Row(
        functools.partial(
            ResNet,
            Layout((3, 8, 36, 3), groups=64, inner=4.0, reduce=2.0, stem="3x3",
                   wide_downsample=True, **_SENET),
        ),
        115_088_984, 108.05, 2048, 224, "imagenet",
        ("Cadene senet154-c7b49a05.pth", "timm legacy_senet154-e9eb9fe6.pth"),
        "Hu 2017, 1709.01507",
    ),
    "densenet121": Row(
        functools.partial(DenseNet, (6, 12, 24, 16)),
        7_978_856, 14.80, 1024, 224, "imagenet",
        ("torchvision densenet121-a639ec97.pth", "hf:timm/densenet121.tv_in1k/model.safetensors"),
        "Huang 2016, 1608.06993",
    ),
    "densenet169": Row(
        functools.partial(DenseNet, (6, 12, 32, 32)),
        14_149_480, 17.54, 1664, 224, "imagenet",
        ("torchvision densenet169-b2777c0a.pth", "hf:timm/densenet169.tv_in1k/model.safetensors"),
        "Huang 2016, 1608.06993",
    ),
    "densenet201": Row(
        functools.partial(DenseNet, (6, 12, 48, 32)),
        20_013_928, 22.41, 1920, 224, "imagenet",
        ("torchvision densenet201-c1103571.pth", "hf:timm/densenet201.tv_in1k/model.safetensors"),
        "Huang 2016, 1608.06993",
    ),
    "inception_v3": Row(
        InceptionV3,
        27_161_264, 17.52, 2048, 299, "inception",
        ("torchvision inception_v3_google-0cc3c7bd.pth",
         "hf:timm/inception_v3.tv_in1k/model.safetensors"),
        "Szegedy 2015, 1512.00567",
    ),
    "inception_v4": Row(
        InceptionV4,
        42_679_816, 37.69, 1536, 299, "inception",
        ("Cadene inceptionv4-8e4777a0.pth", "hf:timm/inception_v4.tf_in1k/model.safetensors"),
        "Szegedy 2016, 1602.07261",
    ),
    "bn_inception": Row(
        BNInception,
        11_295_240, 10.61, 1024, 224, "bn_inception",
        ("Cadene bn_inception-52deb4733.pth",),
        "Ioffe 2015, 1502.03167",
    ),
    "xception": Row(
        Xception,
        22_855_952, 23.90, 2048, 299, "inception",
        ("Cadene xception-43020ad28.pth",),
        "Chollet 2016, 1610.02357",
    ),
    "nasnet_a_large": Row(
        NASNetALarge,
        88_753_150, 53.71, 4032, 331, "inception",
        ("Cadene nasnetalarge-a1897284.pth",),
        "Zoph 2017, 1707.07012",
    ),
    "convnext_tiny": Row(
        ConvNeXt,
        28_589_128, 23.27, 768, 224, "imagenet",
        ("hf:timm/convnext_tiny.fb_in1k/model.safetensors",),
        "Liu 2022, 2201.03545",
        "gap_norm",
    ),
    "efficientnet_lite0": _lite(0, 1.0, 1.0, 224, 4_652_008, 2.01),
    "efficientnet_lite1": _lite(1, 1.0, 1.1, 240, 5_416_680, 2.62),
    "efficientnet_lite2": _lite(2, 1.1, 1.2, 260, 6_092_072, 3.01),
    "efficientnet_lite3": _lite(3, 1.2, 1.4, 280, 8_197_096, 4.45),
    "efficientnet_lite4": _lite(4, 1.4, 1.8, 300, 13_006_568, 7.03),
    "vit_small_patch16": _vit(
        384, 12, 16, 14, 22_050_664, 31.76, "vit_small_patch16_224.augreg_in1k"
    ),
    "vit_base_patch16": _vit(
        768, 12, 16, 14, 86_567_656, 107.04, "vit_base_patch16_224.augreg_in1k"
    ),
    "vit_large_patch16": _vit(
        1024, 24, 16, 14, 304_326_632, 362.01, "vit_large_patch16_224.augreg_in21k_ft_in1k"
    ),
    "vit_small_patch8": _vit(
        384, 12, 8, 16, 21_852_520, 242.02, "vit_small_patch8_224.dino"
    ),
    "vit_small_patch14": _vit(
        384, 12, 14, 37, 22_431_976, 46.7, "vit_small_patch14_dinov2.lvd142m"
    ),
    "vit_base_patch14": _vit(
        768, 12, 14, 37, 87_330_280, 151.57, "vit_base_patch14_dinov2.lvd142m"
    ),
    "vit_large_patch14": _vit(
        1024, 24, 14, 37, 305_343_464, 506.8, "vit_large_patch14_dinov2.lvd142m"
    ),
    "vit_giant_patch14": _vit(
        1536, 40, 14, 37, 1_137_893_352, 1783.34, "vit_giant_patch14_dinov2.lvd142m"
    ),
    "se_resnext_tiny": Row(
        functools.partial(
            ResNet,
            Layout((1, 1, 1, 1), groups=8, inner=2.0, planes=16, stem="light", stem_width=24,
                   squeeze=16),
        ),
        1_096_348, 0.59, 512, 128, "hpa", (), "se_resnext50's blocks, made for a laptop's CPU",
    ),
}  # fmt: skip

VIT_OPTIONS = ("grid", "positions", "registers", "layer_scale", "eps", "per_channel")
ALIASES = {"se_resnext50": "se_resnext50_32x4d", "se_resnext101": "se_resnext101_32x4d"}
NAMES = (*BACKBONES, *ALIASES)


def create(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 4,
    head: str = "adaptive_concat",
    dropout: float = 0.5,
    width: float = 1.0,
    depth: float | Sequence[int] | None = None,
    large_stem: bool = False,
    as_run: bool = False,
    remat: str = "none",
    dtype: Any = jnp.float32,
    rngs: nnx.Rngs,
    backbone_options: Mapping[str, Any] = MappingProxyType({}),
    **head_options: Any,
) -> nnx.Module:
    """Create a network with random weights, in training mode.

    model(images [N, H, W, in_channels]) -> logits [N, num_classes] float32; see
    `hpa_jax.models.backbone.Backbone` for the rest.

    Args:
        name: a row of `list_models()`, or an alias ("se_resnext50"); or "my_file.py:function",
            function(in_channels, dtype, rngs) -> nnx.Module with `features(images [N, H, W, K])
            -> [N, h, w, F]` and `out_features` F, to which the head is added.
        num_classes: C of the head.
        in_channels: K of the images.
        head: a name of `hpa_jax.models.heads.HEADS`; its options (`hidden`, `pool_order`, `size`)
            follow as further arguments.
        dropout: rate before the last dense layer, in [0, 1).
        width: multiplies the channel numbers.
        depth: blocks of each stage, or a factor on them; None or (): as published.
        large_stem: a second 2x2 max-pool after the stem (bestfitting, 1024 pixels).
        as_run: One More Layer's accidental form of xception.
        remat: "blocks" recomputes the blocks in the backward pass instead of storing them.
        dtype: of the layers' computations; parameters, statistics and the head stay float32.
        rngs: of the weights and of dropout.
        backbone_options: of a transformer: grid, positions, registers, layer_scale, eps,
            per_channel (`hpa_jax.models.vit.ViT`).

    Raises:
        InputError: an unknown name (with suggestions) or option, or a number out of range.
    """
    host_memory.keep_freed()
    is_custom = own_code.is_reference(name)
    row = None if is_custom else find(name)
    if num_classes < 1 or in_channels < 1:
        raise InputError(f"num_classes={num_classes}, in_channels={in_channels}: at least 1")
    if remat not in ("none", "blocks"):
        raise InputError(f"remat={remat!r}: one of none, blocks")
    kind = _check_form(name, large_stem, as_run)
    for option in backbone_options:
        if kind is not ViT or option not in VIT_OPTIONS:
            available = f"has {', '.join(VIT_OPTIONS)}" if kind is ViT else "has none"
            raise InputError(f"backbone_options: {name} has no {option!r}; it {available}")
    if head in TOKEN_HEADS and kind is not ViT:
        raise InputError(f"head={head!r}: needs a transformer's tokens; {name} has none")
    options = dict(remat=remat == "blocks", dtype=dtype, rngs=rngs)
    if large_stem:
        options["large_stem"] = True
    if as_run:
        options["as_run"] = True
    depth = depth if isinstance(depth, int | float) else tuple(depth or ()) or None
    options |= backbone_options
    if is_custom:
        if width != 1.0 or depth is not None:
            raise InputError(
                f"{name}: width and depth apply to the package's networks only; set width=1.0, "
                "depth=()"
            )
        body = own_code.load(name)(in_channels=in_channels, dtype=dtype, rngs=rngs)
        model = body if isinstance(body, Backbone) else CustomBackbone(name, body, dtype)
    else:
        model = row.build(in_channels=in_channels, width=width, depth=depth, **options)
    model.in_channels = in_channels
    model.head = create_head(
        head, model.out_features, num_classes, dropout=dropout, rngs=rngs, **head_options
    )
    if isinstance(model, InceptionV3):
        model.add_aux_head(num_classes, rngs=rngs)
    return model


class CustomBackbone(Backbone):
    """A module from the user's file as a backbone, with a depth group per child."""

    def __init__(self, name: str, body: nnx.Module, dtype: Any) -> None:
        for needed in ("features", "out_features"):
            if not hasattr(body, needed):
                raise InputError(f"{name}: the module has no `{needed}`")
        self.body, self.dtype, self.out_features = body, dtype, int(body.out_features)
        self.name = name

    def features(self, images: jax.Array) -> jax.Array:
        """Return the body's last feature map [N, h, w, F]."""
        images = self.enter(images, self.dtype)
        with own_code.raising(self.name):
            found = self.body.features(images)
        if found.ndim != 4 or found.shape[-1] != self.out_features:
            raise InputError(
                f"{self.name}: `features` returned shape {found.shape}, not [N, h, w, "
                f"{self.out_features}] (its out_features)"
            )
        return found

    def body_groups(self) -> Groups:
        """Return one group per child of the body with parameters, in the order of names."""
        state = nnx.to_flat_state(nnx.state(self.body, nnx.Param))
        return [[name] for name in dict.fromkeys(f"body.{path[0]}" for path, _ in state)]


def find(name: str) -> Row:
    """Return the row of a name or alias.

    Raises:
        InputError: an unknown name; the message suggests near ones.
    """
    row = BACKBONES.get(ALIASES.get(name, name))
    if row is None:
        names = [*BACKBONES, *ALIASES]
        hint = near(name, names) or f": one of {', '.join(names)}"
        raise InputError(f"unknown backbone {name!r}{hint}")
    return row


def check(name: str, image_size: int, large_stem: bool = False, as_run: bool = False) -> None:
    """Check options of a backbone without creating it.

    Raises:
        InputError: an unknown name, an unsupported stem or form, or images too small for its pools
            and convolutions (a large stem needs more, which its layers check).
    """
    smallest = _check_form(name, large_stem, as_run).smallest
    if image_size < smallest:
        raise InputError(f"{name} needs sides of at least {smallest} pixels, not {image_size}")


def _check_form(name: str, large_stem: bool, as_run: bool) -> Any:
    """Return the class of a backbone; refuse a stem or form that it does not have."""
    if own_code.is_reference(name):
        own_code.load(name)
        if large_stem or as_run:
            raise InputError(f"{name}: large_stem and as_run apply to the package's networks only")
        return CustomBackbone
    kind: Any = getattr(find(name).build, "func", find(name).build)
    if large_stem and kind not in (ResNet, DenseNet):
        raise InputError(f"large_stem: {name} does not support it; resnets and densenets do")
    if as_run and kind is not Xception:
        raise InputError(f"as_run: {name} does not support it; xception does")
    return kind


def list_models() -> "pd.DataFrame":
    """Return all backbones, one row each: parameters, multiply-adds, sizes, weights, paper."""
    import pandas as pd

    rows = [
        dict(
            name=name,
            parameters=row.parameters,
            gmacs_512=row.gmacs,
            out_features=row.out_features,
            input_size=row.input_size,
            normalize=row.normalize,
            weights=", ".join(row.weights),
            paper=row.paper,
        )
        for name, row in BACKBONES.items()
    ]
    return pd.DataFrame(rows)
