"""The examples of a training: images, labels, weights, and their order in an epoch.

In: ids with labels and weights.  Out: `Examples`, and samplers: sampler(epoch) -> int64[n] row
numbers, a pure function of (seed, epoch), so that a restart has the same order as an uninterrupted
run. Every epoch is exact: uniform has each row once; weighted ones have row i floor or ceil of n
w_i / Σw times (systematic sampling), instead of by independent draws.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpa_jax.core.errors import InputError, near

Sampler = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class OneClass:
    """Labels with one class per row, instead of uint8 [N, C]; numbers: int[N], 0 to count - 1.

    12,815 antibodies of 74,606 images are 956 MB as a matrix of bytes, and 7.6 GB as
    float64; here they are one number per row, expanded batch by batch.
    """

    numbers: np.ndarray
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C), the shape of the full matrix."""
        return len(self.numbers), self.count

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Return uint8[B, C] of some rows."""
        numbers = self.numbers[rows]
        labels = np.zeros((len(numbers), self.count), np.uint8)
        labels[np.arange(len(numbers)), numbers] = 1
        return labels


Labels = np.ndarray | OneClass


def class_frequencies(labels: Labels) -> np.ndarray:
    """Return each class's share of the rows of [N, C], float64[C]."""
    if isinstance(labels, OneClass):
        return np.bincount(labels.numbers, minlength=labels.count) / max(len(labels), 1)
    return labels.mean(axis=0)


@dataclass(frozen=True)
class Examples:
    """Packed images, and the rows of the training and the validation part.

    records: `hpa_jax.data.batches.Records`.  Ids: str[N].  Labels: [N, C] in {0, 1}, kept as
    uint8, or `OneClass`.  weights: [N] relative sampling frequency of training images, or None.
    """

    records: Any
    train_ids: np.ndarray
    train_labels: Labels
    valid_ids: np.ndarray
    valid_labels: Labels
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        for part in ("train", "valid"):
            labels = getattr(self, f"{part}_labels")
            if not isinstance(labels, OneClass):
                object.__setattr__(self, f"{part}_labels", np.asarray(labels, np.uint8))
            object.__setattr__(self, f"{part}_ids", np.asarray(getattr(self, f"{part}_ids")))

    def check(self, classes: int) -> None:
        """Check that no part is empty, and that labels fit ids and classes.

        Raises:
            InputError: names the part.
        """
        for part, ids, labels in (
            ("training", self.train_ids, self.train_labels),
            ("validation", self.valid_ids, self.valid_labels),
        ):
            if len(ids) == 0:
                raise InputError(f"the {part} part is empty; check the split")
            if labels.shape != (len(ids), classes):
                raise InputError(
                    f"{part}: labels of shape {labels.shape} for {len(ids)} images and "
                    f"{classes} classes"
                )

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any id, label or weight."""
        digest = hashlib.sha256()
        for ids, labels in (
            (self.train_ids, self.train_labels),
            (self.valid_ids, self.valid_labels),
        ):
            digest.update("\n".join(map(str, ids)).encode())
            if isinstance(labels, OneClass):
                digest.update(np.ascontiguousarray(labels.numbers, np.int64).tobytes())
            else:
                digest.update(np.ascontiguousarray(labels, np.uint8).tobytes())
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights, np.float64).tobytes())
        return digest.hexdigest()[:16]


def uniform(count: int, *, seed: int) -> Sampler:
    """Return a sampler with a fresh permutation of 0..count-1 for each epoch."""
    return lambda epoch: _generator(seed, epoch).permutation(count)


def weighted(weights: np.ndarray, *, seed: int) -> Sampler:
    """Return a sampler whose epochs have N rows, row i on average N w_i / Σw times.

    Args:
        weights: [N] >= 0, not all 0; e.g. the weight of each row's source.

    Raises:
        InputError: a weight that is negative or not finite, or no weight above 0.
    """
    weights = np.asarray(weights, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("sampling weights must be finite, >= 0, and not all 0")
    expected = weights * (len(weights) / weights.sum())

    def epoch_rows(epoch: int) -> np.ndarray:
        draw = _generator(seed, epoch)
        order = draw.permutation(len(expected))
        # systematic sampling: one comb of unit spacing over the cumulated expectations
        edges = np.cumsum(expected[order])
        teeth = draw.random() + np.arange(len(expected))
        rows = order[np.minimum(np.searchsorted(edges, teeth, side="right"), len(order) - 1)]
        return draw.permutation(rows)

    return epoch_rows


def class_weights(labels: Labels, *, power: float = 0.5) -> np.ndarray:
    """Return the weight of each row, [N]: the largest (N / n_c)^power of its classes, or 1.

    power 1 is class-balanced, 0 uniform; the square root oversamples rare classes moderately.
    labels: [N, C] in {0, 1}.
    """
    shares = class_frequencies(labels)
    rarity = np.zeros(len(shares))
    rarity[shares > 0] = shares[shares > 0] ** -power
    if isinstance(labels, OneClass):
        return rarity[labels.numbers]
    # In blocks of rows: float64 needs eight times the memory of the labels.
    starts = range(0, len(labels), _BLOCK)
    blocks = (np.asarray(labels[start : start + _BLOCK]) > 0 for start in starts)
    most = [np.where(block, rarity, 0.0).max(1) for block in blocks]
    return np.maximum(np.concatenate(most), 1.0)


def sampler(
    name: str,
    labels: Labels,
    *,
    seed: int,
    weights: np.ndarray | None = None,
) -> Sampler:
    """Return the sampler `name` (uniform | rare | balanced), times the rows' `weights`, if any.

    Raises:
        InputError: an unknown name, bad weights, or no rows.
    """
    if len(labels) == 0:
        raise InputError("the training part is empty: no rows to sample from")
    if name not in SAMPLINGS:
        raise InputError(
            f"sampling: unknown {name!r}{near(name, SAMPLINGS)}; known: {list(SAMPLINGS)}"
        )
    if name == "uniform" and weights is None:
        return uniform(len(labels), seed=seed)
    base = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    if len(base) != len(labels):
        raise InputError(f"sampling: {len(base)} weights for {len(labels)} rows")
    return weighted(base * class_weights(labels, power=SAMPLINGS[name]), seed=seed)


_BLOCK = 4096  # rows
# name -> power of `class_weights`
SAMPLINGS = {"uniform": 0.0, "rare": 0.5, "balanced": 1.0}
_PURPOSE = 0x5A3B1E  # separates this stream from others of the same seed (lr noise)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([_PURPOSE, seed & (2**64 - 1), epoch]))
