"""Embeddings by metric learning (bestfitting A): the classes are antibodies, the loss is ArcFace.

Images of one antibody show one protein.  A network that distinguishes antibodies embeds
images of the same protein close together, so that a test image can take the labels of its nearest
labelled neighbour (inference/retrieval.py).  Training is `loop.train` with one antibody per row as
label, including restarts, checkpoints and logs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.training import checkpoint, loop
from hpa_jax.training.examples import OneClass


def classes_of(antibodies: Sequence[object], min_images: int = 2) -> tuple[list[str], np.ndarray]:
    """Return (names, int[N] number or -1) of the antibodies with `min_images` or more.

    An antibody with one image has no pair, but is a negative class for others: `min_images=1`
    keeps it, as bestfitting did (12,815 classes).

    Raises:
        InputError: fewer than two classes.
    """
    names = np.array(["" if name is None else str(name) for name in antibodies])
    unique, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = (counts >= min_images) & (unique != "")
    if kept.sum() < 2:
        raise InputError(
            f"metric learning: {int(kept.sum())} antibodies with {min_images} images; needs two"
        )
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return unique[kept].tolist(), number[inverse]


def held_out(numbers: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return bool[N]: duplicate groups held out to measure recall.

    Each antibody of a held-out group keeps images in other groups, so that every held-out image
    has a match.
    """
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rows_of = {group: np.flatnonzero(groups == group) for group in order.tolist()}
    remaining = np.bincount(numbers[numbers >= 0])
    out = np.zeros(len(numbers), bool)
    for group in order.tolist():
        if out.sum() >= share * len(numbers):
            break
        rows = rows_of[group]
        present, count = np.unique(numbers[rows], return_counts=True)
        if present[0] >= 0 and (remaining[present] > count).all():
            remaining[present] -= count
            out[rows] = True
    return out


def train(
    config: ConfigDict,
    *,
    name: str,
    directory: str | Path,
    records: Any,
    ids: Sequence[str],
    antibodies: Sequence[object],
    groups: np.ndarray | None = None,
    settings: ConfigDict,
    seed: int,
    share: float = 0.05,
    min_images: int = 1,
) -> tuple[Path, np.ndarray]:
    """Train (or resume) an embedding network; returns (directory, bool[N] held-out rows).

    Args:
      config: `config.embedding_model(...)`.
      ids: N ids; antibodies: their names, None = unknown (ignored).
      groups: int[N] duplicate groups, kept together.
      settings: config.train.
      share: of held-out images.
      min_images: antibodies with fewer are ignored.

    Raises:
        InputError: as loop.train; too few antibodies.
    """
    names, numbers = classes_of(antibodies, min_images)
    groups = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    out = held_out(numbers, groups, share, seed)
    fitted = (numbers >= 0) & ~out
    if not out.any():
        raise InputError("metric learning: no antibody has enough images to hold one out")
    images = np.asarray(ids)
    loop.train(
        config,
        name=name,
        directory=directory,
        records=records,
        train_ids=images[fitted],
        train_labels=OneClass(numbers[fitted], len(names)),
        valid_ids=images[out],
        valid_labels=OneClass(numbers[out], len(names)),
        class_names=names,
        settings=settings,
        seed=seed,
    )
    return Path(directory), out


def load(directory: str | Path) -> tuple[nnx.Module, ConfigDict]:
    """Load the trained network and its config, without the class vectors of the antibodies.

    An embedding doesn't need them, and cosines to thousands of them per image need much memory.

    Raises:
        InputError: as checkpoint.load.
    """
    network: Any
    network, config, _ = checkpoint.load(directory, "final")
    vectors = network.head.weight
    network.head.weight = nnx.Param(jnp.zeros_like(vectors[...][:, :1]))
    return network, config
