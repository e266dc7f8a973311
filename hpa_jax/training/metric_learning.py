"""Embeddings by metric learning (bestfitting A): the classes are antibodies, the loss is ArcFace.

Images of one antibody show one protein.  A network that tells antibodies apart puts images of
the same protein close together, and a test image may then take the labels of its nearest
labelled neighbour (inference/retrieval.py).  Training is `loop.train` with one antibody a row for
labels; restarts, checkpoints and logs are the loop's.
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
    """Antibodies with at least so many images: (names, int[N] number or -1).

    An antibody of one image can teach nothing about what its images have in common, but it is
    a class to be told apart from: `min_images=1` keeps it, as bestfitting did (12,815 classes).

    Raises:
        InputError: fewer than two classes.
    """
    names = np.array(["" if name is None else str(name) for name in antibodies])
    known, inverse, counts = np.unique(names, return_inverse=True, return_counts=True)
    kept = (counts >= min_images) & (known != "")
    if kept.sum() < 2:
        raise InputError(
            f"metric learning: {int(kept.sum())} antibodies with {min_images} images; needs two"
        )
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    return known[kept].tolist(), number[inverse]


def held_out(numbers: np.ndarray, groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool[N]: duplicate groups held out to measure recall on, none the last of its antibody.

    A group leaves only while each antibody in it keeps images in other groups, so that every
    held-out image has a partner to be found by.
    """
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    rows_of = {group: np.flatnonzero(groups == group) for group in order.tolist()}
    left = np.bincount(numbers[numbers >= 0])
    held = np.zeros(len(numbers), bool)
    for group in order.tolist():
        if held.sum() >= share * len(numbers):
            break
        rows = rows_of[group]
        own, count = np.unique(numbers[rows], return_counts=True)
        if own[0] >= 0 and (left[own] > count).all():
            left[own] -= count
            held[rows] = True
    return held


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
    """Trains (or goes on with) an embedding network; (directory, bool[N] rows held out).

    Args:
      config: `config.embedding_model(...)`.
      ids: N ids; antibodies: their names, None = unknown (left out).
      groups: int[N] duplicate groups, which stay on one side.
      settings: config.train.
      share: of the images held out.
      images: antibodies with fewer are left out.

    Raises:
        InputError: as loop.train; too few antibodies.
    """
    names, numbers = classes_of(antibodies, min_images)
    groups = np.arange(len(numbers)) if groups is None else np.asarray(groups)
    held = held_out(numbers, groups, share, seed)
    fitted = (numbers >= 0) & ~held
    if not held.any():
        raise InputError("metric learning: no antibody has images enough to hold one out")
    images = np.asarray(ids)
    loop.train(
        config,
        name=name,
        directory=directory,
        records=records,
        train_ids=images[fitted],
        train_labels=OneClass(numbers[fitted], len(names)),
        valid_ids=images[held],
        valid_labels=OneClass(numbers[held], len(names)),
        class_names=names,
        settings=settings,
        seed=seed,
    )
    return Path(directory), held


def load(directory: str | Path) -> tuple[nnx.Module, ConfigDict]:
    """The trained network and its config, without the vectors of the antibodies.

    They are of no use to an embedding, and cosines to thousands of them for each image would fill
    the memory.

    Raises:
        InputError: as checkpoint.load.
    """
    network: Any
    network, config, _ = checkpoint.load(directory, "final")
    vectors = network.head.weight
    network.head.weight = nnx.Param(jnp.zeros_like(vectors[...][:, :1]))
    return network, config
