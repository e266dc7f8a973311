"""Weights made from a seed: the same numbers on every machine, with or without torch.

`tensor(name, shape, role)` gives one tensor of a state dict.  The golden files and the parity table
use them, so that a test can rebuild an original's weights without the original's library.
"""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np

ROLES = ("kernel", "bias", "norm_weight", "norm_bias", "norm_mean", "norm_var")


def tensor(name: str, shape: tuple[int, ...], role: str, seed: int = 0) -> np.ndarray:
    """One float32 tensor in torch's layout; each name has its own stream.

    Kernels are scaled by sqrt(2 / fan_in), so that activations neither die nor explode in depth;
    BatchNorm statistics are random, so that an error in epsilon, order or mapping shows.
    """
    # RandomState, not Generator: its streams are frozen across numpy versions.
    draw = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    if role == "kernel":
        values = draw.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    elif role in ("norm_weight", "norm_var"):
        values = draw.uniform(0.6, 1.4, shape)
    else:
        values = draw.standard_normal(shape) * 0.1
    return values.astype(np.float32)


def roles(names: Iterable[str]) -> dict[str, str]:
    """The role of each tensor of a state dict, from its name and its neighbours' names.

    A module is a BatchNorm where it has a `running_mean`, else a LayerNorm where its name has
    "norm"; counters are left out.
    """
    names = list(names)
    norms = {name.rsplit(".", 1)[0] for name in names if name.endswith(".running_mean")}
    result = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf in ("cls_token", "pos_embed", "reg_token"):
            result[name] = "bias"
            continue
        if leaf == "gamma" or (leaf == "weight" and module not in norms and "norm" in module):
            result[name] = "norm_weight"
            continue
        if module in norms:
            result[name] = {
                "weight": "norm_weight",
                "bias": "norm_bias",
                "running_mean": "norm_mean",
                "running_var": "norm_var",
            }[leaf]
        else:
            result[name] = {"weight": "kernel", "bias": "bias"}[leaf]
    return result


def state_dict(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict of seeded tensors for the names and shapes of an original."""
    return {
        name: tensor(name, tuple(shapes[name]), role, seed) for name, role in roles(shapes).items()
    }


def images(n: int, size: int, channels: int, seed: int = 0) -> np.ndarray:
    """Normalised images [n, size, size, channels] float32, as smooth as real ones."""
    draw = np.random.RandomState(seed + 12345)
    coarse = draw.standard_normal((n, -(-size // 4), -(-size // 4), channels))
    smooth = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, :size, :size]
    return (smooth + 0.3 * draw.standard_normal(smooth.shape)).astype(np.float32)
