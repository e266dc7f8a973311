"""Golden files: small originals in PyTorch, with weights from a seed and the logits they gave.

`scripts/parity --golden` writes them; here they become weight files and networks again.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from hpa_jax.models import create, pretrained
from tests.models.parity import seeded

FOLDER = Path(__file__).parent / "golden"


@functools.cache
def golden(name: str) -> dict[str, Any]:
    """The content of one golden file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def tensors(name: str) -> dict[str, np.ndarray]:
    """The original's state dict."""
    content = golden(name)
    shapes = {
        str(key): tuple(int(n) for n in str(shape).split(",") if n)
        for key, shape in zip(content["names"], content["shapes"])
    }
    return seeded.state_dict(shapes)


def network(name: str, **options: Any) -> nnx.Module:
    """Our network of the golden file's form, without arrays: for `load` to fill."""
    return nnx.clone(_network(name, **options))


@functools.cache
def _network(name: str, **options: Any) -> nnx.Module:
    content = golden(name)
    arguments = {
        "num_classes": content["logits"].shape[1],
        "in_channels": 3,
        "head": "gap",
        "dropout": 0.0,
        "width": float(content["width"]),
        "depth": tuple(map(int, content["depth"])) or None,
        **options,
    }
    return hollow(lambda: create(str(content["backbone"]), rngs=nnx.Rngs(0), **arguments))


def hollow(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `make` makes, its weights as shapes only, for `load` to fill."""
    model = nnx.eval_shape(make)
    streams = nnx.to_flat_state(nnx.state(model, nnx.RngState))
    filled = [
        (path, leaf.replace(jax.random.key(0) if isinstance(leaf, nnx.RngKey) else jnp.uint32(0)))
        for path, leaf in streams
    ]
    nnx.update(model, nnx.from_flat_state(filled))
    return model


def loaded(name: str, folder: Path, **options: Any) -> nnx.Module:
    """That network with the original's weights, by way of a safetensors file; evaluation mode."""
    path = folder / f"{name}.safetensors"
    save_file(tensors(name), path)
    model = network(name, **options)
    report = pretrained.load(model, path)
    assert not report.unused
    assert not report.missing
    model.eval()
    return model


def pictures(name: str) -> np.ndarray:
    """The two images of a golden file [2, H, W, 3]."""
    return seeded.images(2, int(golden(name)["size"]), 3)


def logits(model: nnx.Module, images: np.ndarray) -> np.ndarray:
    """Logits by one compiled call, which may change the model's statistics."""
    return np.asarray(nnx.jit(lambda model, images: model(images))(model, images))


def embedding(model: nnx.Module, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embedding by one compiled call."""
    logits, embedding = nnx.jit(lambda model, images: model.embed(images))(model, images)
    return np.asarray(logits), np.asarray(embedding)


def assert_close(ours: np.ndarray, theirs: np.ndarray, limit: float = 1e-4) -> None:
    """max |ours - theirs| / max |theirs| within the limit of the parity table."""
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= limit * np.abs(theirs).max()


def assert_groups_cover(model: nnx.Module, groups: list[list[str]]) -> None:
    """Every parameter has exactly one prefix among the groups."""
    prefixes = [prefix for group in groups for prefix in group]
    for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        name = ".".join(map(str, path))
        owners = [p for p in prefixes if name == p or name.startswith(p + ".")]
        assert len(owners) == 1, (name, owners)


def feature_shape(model: nnx.Module, height: int, width: int, channels: int) -> tuple[int, ...]:
    """The shape of `features` of one image, without computing them."""
    images = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
    return nnx.eval_shape(lambda model, images: model.features(images), model, images).shape


def small(name: str, **options: Any) -> nnx.Module:
    """A narrow network of a name, without arrays."""
    arguments = {"num_classes": 5, "width": 1 / 16, **options}
    return nnx.eval_shape(lambda: create(name, rngs=nnx.Rngs(0), **arguments))
