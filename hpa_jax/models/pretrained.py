"""Loading of published weights: safetensors and torch files, read as data, never executed.

In: a network of `create`, and a file with tensors under torchvision's, Cadene's or timm's names.
Out: the network with every tensor of its body filled, and a `Report` of mapped, unused and missing
tensors.  All is checked first: a network is loaded completely or left unchanged.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hpa_jax.core.errors import InputError
from hpa_jax.models import published, registry, store, weight_files
from hpa_jax.models.heads import GlobalAverage
from hpa_jax.models.initializers import ShapesOnly
from hpa_jax.models.published import Published

EXTRA_CHANNELS = ("zeros", "copy_red", "mean")

# Foreign module names -> ours: applied in order to all networks; no rule matches a name of another
# family.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^layer0\.", r""),  # Cadene's SENet
        (r"(^|\.)_(?=\w)", r"\1"),  # EfficientNet-Lite
        (r"\.se_module\.", r".se."),
        # bestfitting's aliases of DenseNet's modules
        (r"^conv1\.0\.", r"conv0."),
        (r"^conv1\.1\.", r"norm0."),
        (r"^encoder2\.0\.", r"denseblock1."),
        (r"^encoder([345])\.0\.", lambda m: f"transition{int(m[1]) - 2}."),
        (r"^encoder([345])\.1\.", lambda m: f"denseblock{int(m[1]) - 1}."),
        (r"^encoder5\.2\.", r"norm5."),
        (r"^features\.((?:conv|norm|denseblock|transition)\d)", r"\1"),  # torchvision's DenseNet
        (r"(denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2"),  # its first published files
        (r"^features\.(\d+)\.", r"blocks.\1."),  # Inception-v4
        (r"\.branch(\d)\.(\d)\.", r".branch\1_\2."),
        (r"^inception_(\d[a-e])_(\w+?)_bn\.", r"inception_\1.unit_\2.bn."),  # BN-Inception
        (r"^inception_(\d[a-e])_(\w+)\.", r"inception_\1.unit_\2.conv."),
        (r"^(conv[12]_\dx\d\w*)_bn\.", r"\1.bn."),
        (r"^(conv[12]_\dx\d\w*)\.(?!bn\.)", r"\1.conv."),
        (r"\.rep\.(\d)\.", r".rep_\1."),  # Xception
        (r"\.depthwise_conv2d\.", r".conv1."),  # NASNet
        (r"\.pointwise_conv2d\.", r".pointwise."),
        (r"\.path_(\d)\.conv\.", r".halve.path_\1."),
        (r"\.final_path_bn\.", r".halve.bn."),
    )
)
_NORM_LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_OTHER_LEAVES = {"weight": "kernel", "bias": "bias"}
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.")
_IGNORED = re.compile(r"(^|\.)num_batches_tracked$")
# timm's later SE networks: all tensors match, but their stem pools with other borders, which
# changes the logits by a tenth.
_OTHER_SQUEEZE = re.compile(r"\.se\.fc[12]\.")
# Task-specific parts of a network: a file may lack one, but only completely.
_TASK_PARTS = ("head", "AuxLogits")
# Their classifiers, which are skipped if they are for another number of classes.
_CLASSIFIERS = ("head.fc", "AuxLogits.fc")


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of a load: parameter path -> tensor name of the file; unused and missing ones."""

    mapped: Mapping[str, str]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    of_other_classes: tuple[str, ...] = ()  # unused: a classifier of another number

    def __str__(self) -> str:
        return self.text(3)

    def text(self, count: int | None = None) -> str:
        """Format on one line, with the first `count` unused and missing names, or all."""
        parts = [f"{len(self.mapped)} tensors mapped"]
        if self.unused:
            parts.append(f"{len(self.unused)} of the file unused: {_some(self.unused, count)}")
        if self.missing:
            parts.append(
                f"{len(self.missing)} of the network not in it: {_some(self.missing, count)}"
            )
        return "; ".join(parts)


def check(model: nnx.Module, path: str | Path, extra_channels: str = "zeros") -> Report:
    """Check what `load` would do, by shapes: the network may be from `nnx.eval_shape`.

    Raises:
        InputError: as `load`.
    """
    if extra_channels not in EXTRA_CHANNELS:
        raise InputError(f"extra_channels: {extra_channels!r} is not one of {EXTRA_CHANNELS}")
    return _matched(model, path, extra_channels)[1]


def load(model: nnx.Module, path: str | Path, extra_channels: str = "zeros") -> Report:
    """Fill a network with the weights of a file.

    Args:
        model: a network of `hpa_jax.models.create`.
        path: a .safetensors or a torch file (.pth, .pt, .bin), an Orbax folder that
            `import_weights` wrote, or "hf:OWNER/REPO/FILE" (downloaded by huggingface_hub).
        extra_channels: stem filters of input channels beyond the file's RGB: "zeros" (One More
            Layer), "copy_red" (bestfitting) or "mean" of the RGB filters.

    Returns:
        A report.  `missing` can only contain a whole head or auxiliary head, or their classifiers
        (`fc`) if the file's are for another number of classes.

    Raises:
        InputError: an unreadable file, NaN, two tensors for one parameter, a missing tensor of the
            network's body, or one of another shape; the network is then unchanged.
    """
    if extra_channels not in EXTRA_CHANNELS:
        raise InputError(f"extra_channels: {extra_channels!r} is not one of {EXTRA_CHANNELS}")
    values, report = _matched(model, path, extra_channels)
    _write(model, values)
    return report


def whole(model: nnx.Module, files: Mapping[str | Path, str], write: bool = True) -> Report:
    """Fill a network, including its head, with the files of a published model.

    Args:
        model: as in `load`; without `write` it may be from `nnx.eval_shape`.
        files: weight file -> prefix of its tensors' names.
        write: False: only check the files.

    Raises:
        InputError: as `load`, or a tensor of the network is missing; the network is then unchanged.
    """
    path = next(iter(files))
    tensors: dict[str, np.ndarray] = {}
    for file, prefix in files.items():
        read, _ = weight_files.read(file)
        tensors |= {prefix + name: value for name, value in read.items()}
    values, report = _fill(model, tensors, False, path, "zeros")
    if report.missing:
        why = f"it lacks {_some(report.missing)}"
        if report.of_other_classes:
            name = max(report.of_other_classes, key=lambda name: tensors[name].ndim)
            why = f"its classifier {name} {tensors[name].shape} is for other classes"
        raise InputError(f"{path}: is not a file of this model, {why}")
    if write:
        _write(model, values)
    return report


def published_network(name: str, folder: Path | None = None) -> nnx.Module:
    """Return a published model's network with its weights, in evaluation mode.

    model(images [N, H, W, K], normalised and with channels as in its entry) -> logits.

    Raises:
        InputError: not fetched, or a file that has changed or belongs to another model.
    """
    model = shapes_of(published.find(name))
    whole(model, store.files(name, folder))
    streams = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    filled = [
        (path, leaf.replace(jax.random.key(0) if isinstance(leaf, nnx.RngKey) else jnp.uint32(0)))
        for path, leaf in streams
    ]
    nnx.update(model, nnx.from_flat_state(filled))
    model.eval()
    return model


def shapes_of(entry: Published) -> nnx.Module:
    """Return the network of a published model, without arrays."""
    options = dict(entry.network)
    backbone, head_options = options.pop("backbone"), options.pop("head_options", {})
    return nnx.eval_shape(
        lambda: registry.create(
            backbone,
            num_classes=max(len(entry.class_names), 1),
            in_channels=len(entry.channels),
            rngs=ShapesOnly(0),
            **head_options,
            **options,
        )
    )


def import_weights(backbone: str, weights: str | Path, out: str | Path) -> Report:
    """Convert a published file to an Orbax folder for `load` and a model's `init_from`.

    The tensors are kept as published (three channels, 1000 classes), with our names and layout;
    channels are adapted when a network is filled.

    Args:
        backbone: a name of `list_models()`.
        weights: as the path of `load`.
        out: the folder to write; one with imported weights is replaced.

    Raises:
        InputError: as `create` and `load`, or `out` contains something else.
    """
    weight_files.writable(out)
    model = nnx.eval_shape(
        lambda: registry.create(
            backbone,
            num_classes=1000,
            in_channels=3,
            head=registry.find(backbone).head,
            rngs=ShapesOnly(0),
        )
    )
    values, report = _matched(model, weights, "zeros")
    facts = {
        "backbone": backbone,
        "source": Path(weights).name,
        "unused": report.unused,
        "missing": report.missing,
    }
    weight_files.write(out, values, facts)
    return report


def _matched(
    model: nnx.Module, path: str | Path, extra_channels: str
) -> tuple[dict[str, np.ndarray], Report]:
    """Return ({our path: value in our layout and shape}, report) without writing."""
    return _fill(model, *weight_files.read(path), path, extra_channels)


def _fill(
    model: nnx.Module,
    tensors: Mapping[str, np.ndarray],
    ours: bool,
    path: str | Path,
    extra_channels: str,
) -> tuple[dict[str, np.ndarray], Report]:
    """Match tensors, as `_matched`. ours: whether they have our names and layout."""
    if not ours and any(_OTHER_SQUEEZE.search(name) for name in tensors):
        raise InputError(
            f"{path}: is timm's seresnet or seresnext, whose stem pools with other borders; use "
            "legacy_seresnet.. or legacy_seresnext.., or Cadene's file"
        )
    if not ours and hasattr(model, "file_names"):
        tensors = model.file_names(tensors)
    shapes = _parameters(model)
    published_head = isinstance(model.head, GlobalAverage)
    bgr = getattr(model, "reads_bgr", False)
    values: dict[str, np.ndarray] = {}
    mapped: dict[str, str] = {}
    others: dict[str, str] = {}  # classifiers of another number of classes
    aliases: set[str] = set()  # further names of tensors already mapped
    for name, tensor in tensors.items():
        target = name if ours else _our_name(name, shapes, model.head.published)
        if target not in shapes or (ours and target.startswith("head.") and not published_head):
            continue
        where = f"{path}: {name}"
        if first := mapped.get(target) or others.get(target):
            if not _same(tensor, tensors[first]):
                raise InputError(f"{path}: {first} and {name} are both the network's {target}")
            aliases.add(name)
            continue
        value = _checked(tensor, where)
        value = value if ours else _our_layout(value, len(shapes[target]))
        value = _fitted(value, shapes[target], target, extra_channels, bgr, where)
        if value is None:
            others[target] = name
        else:
            values[target], mapped[target] = value, name
    _check_classifiers(others, mapped, path)
    missing = tuple(target for target in shapes if target not in values)
    used = set(mapped.values()) | aliases
    unused = tuple(name for name in tensors if name not in used and not _IGNORED.search(name))
    _check_whole(missing, unused, tuple(shapes), path)
    return values, Report(mapped, unused, missing, tuple(others.values()))


def _parameters(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Return {dotted path: shape} of all parameters and BatchNorm statistics."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    return {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}


def _our_name(name: str, shapes: Mapping[str, Any], head: Mapping[str, str]) -> str:
    """Return our path of a tensor: without wrappers, with our modules and flax's leaves.

    head: modules of published heads -> this head's; names of the body take precedence.
    """
    while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), ""):
        name = name.removeprefix(wrapper)
    module, _, leaf = name.rpartition(".")
    in_body = any(f"{module}.{kind}" in shapes for kind in ("kernel", "scale"))
    if module in head and not in_body:
        name = f"head.{head[module]}.{leaf}"
    for pattern, replacement in _RENAMES:
        name = pattern.sub(replacement, name)
    module, _, leaf = name.rpartition(".")
    leaves = _NORM_LEAVES if f"{module}.scale" in shapes else _OTHER_LEAVES
    return ".".join(filter(None, (module, leaves.get(leaf, leaf))))


def _same(first: np.ndarray, other: np.ndarray) -> bool:
    return first.shape == other.shape and bool(np.array_equal(first, other))


def _checked(tensor: np.ndarray, where: str) -> np.ndarray:
    """Return the tensor as float32; refuse other types and non-finite values."""
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise InputError(f"{where}: is {tensor.dtype}, weights must be floating point")
    value = np.asarray(tensor, np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"{where}: holds NaN or infinite numbers; the file is damaged")
    return value


def _fitted(
    value: np.ndarray, shape: tuple[int, ...], target: str, extra: str, bgr: bool, where: str
) -> np.ndarray | None:
    """Adapt a value to the network's shape; None for a classifier of other classes."""
    if value.shape == shape:
        return value
    classifier = target.rpartition(".")[0] in _CLASSIFIERS
    if classifier and value.ndim and value.shape[:-1] == shape[:-1]:
        # TensorFlow's files count a background class first; Cadene drops it for 1000 classes.
        background = shape[-1] == 1000 and value.shape == (*shape[:-1], 1001)
        return value[..., 1:] if background else None
    stem = value.ndim == 4 and value.shape[2] == 3
    if stem and value.shape[:2] + value.shape[3:] == shape[:2] + shape[3:]:
        return _stem(value, shape[2], extra, bgr)
    raise InputError(
        f"{where}: is {value.shape} (in our layout), the network's {target} is {shape}; the file "
        "is for another network, or another width"
    )


def _our_layout(value: np.ndarray, ndim: int) -> np.ndarray:
    """Convert torch's [O, I, h, w] to [h, w, I, O], [O, I] to [I, O], old norms' [1, F] to [F]."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and ndim == 1 and value.shape[0] == 1:
        return value[0]
    return value.T if value.ndim == 2 else value


def _stem(kernel: np.ndarray, channels: int, extra: str, bgr: bool) -> np.ndarray:
    """Adapt a kernel [h, w, 3, O] for RGB (or BGR) to `channels` inputs.

    More than three: RGB first, the rest by `extra`.  Fewer, as timm: the sum of the three for one
    channel (equivalent to three copies of a grey image), else the first ones, scaled by
    3 / channels.
    """
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    kernel = kernel[:, :, ::-1] if bgr else kernel
    if channels < 3:
        kernel = kernel[:, :, :channels] * (3.0 / channels)
    extra_kernel = {
        "zeros": np.zeros_like(kernel[:, :, :1]),
        "copy_red": kernel[:, :, :1],
        "mean": kernel.mean(axis=2, keepdims=True),
    }[extra]
    kernel = kernel[:, :, ::-1] if bgr else kernel
    return np.concatenate([kernel, *[extra_kernel] * (channels - 3)], axis=2)


def _check_classifiers(
    others: Mapping[str, str], mapped: Mapping[str, str], path: str | Path
) -> None:
    """Check that a classifier's kernel and bias have the same number of classes."""
    for target, name in others.items():
        for fitted, other in mapped.items():
            if fitted.rpartition(".")[0] == target.rpartition(".")[0]:
                raise InputError(f"{path}: {name} and {other} are for different numbers of classes")


def _check_whole(
    missing: tuple[str, ...], unused: tuple[str, ...], targets: tuple[str, ...], path: str | Path
) -> None:
    """Check that at most a whole head or its whole classifier is missing."""
    allowed: set[str] = set()
    for part in _TASK_PARTS + _CLASSIFIERS:
        names = {name for name in targets if name.startswith(f"{part}.")}
        if names <= set(missing):
            allowed |= names
    lacking = [name for name in missing if name not in allowed]
    if not lacking:
        return
    raise InputError(
        f"{path}: lacks {len(lacking)} of the network's {len(targets)} tensors ({_some(lacking)})"
        + (f" and has {len(unused)} unknown ones ({_some(unused)})" if unused else "")
        + "; it is for another network"
    )


def _write(model: nnx.Module, values: Mapping[str, np.ndarray]) -> None:
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    nnx.update(
        model,
        nnx.from_flat_state(
            [
                (path, leaf.replace(jnp.asarray(values[".".join(map(str, path))], leaf.dtype)))
                for path, leaf in nnx.to_flat_state(state)
                if ".".join(map(str, path)) in values
            ]
        ),
    )


def _some(names: tuple[str, ...] | list[str], count: int | None = 3) -> str:
    cut = count is not None and len(names) > count
    return ", ".join(names[:count]) + (", ..." if cut else "")
