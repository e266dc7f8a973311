"""Which images an epoch shows: sampler(epoch) -> int64[n] row numbers.

In: N, or the labels or weights of the rows.  Out: a pure function of (seed, epoch), so a restart
draws what the uninterrupted run draws.  Every epoch is exact: uniform shows each row once;
weighted ones show row i floor or ceil of n w_i / Σw times (systematic draws), never by independent
luck.
"""

from collections.abc import Callable

import numpy as np

from hpa_jax.core.errors import InputError, near
from hpa_jax.training.labels import Labels, OneClass, frequencies

Sampler = Callable[[int], np.ndarray]


def uniform(count: int, *, seed: int) -> Sampler:
    """A fresh permutation of 0..count-1 for each epoch."""
    return lambda epoch: _generator(seed, epoch).permutation(count)


def weighted(weights: np.ndarray, *, seed: int) -> Sampler:
    """Epochs of N rows, row i on average N w_i / Σw times.

    Args:
        weights: [N] >= 0, not all 0; for example the weight of each row's source.

    Raises:
        InputError: a weight that is negative or no number, or no weight above 0.
    """
    weights = np.asarray(weights, np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
        raise InputError("sampling weights must be finite, >= 0, and not all 0")
    expected = weights * (len(weights) / weights.sum())

    def sampler(epoch: int) -> np.ndarray:
        draw = _generator(seed, epoch)
        order = draw.permutation(len(expected))
        # systematic sampling: one comb of unit spacing over the cumulated expectations
        edges = np.cumsum(expected[order])
        teeth = draw.random() + np.arange(len(expected))
        rows = order[np.minimum(np.searchsorted(edges, teeth, side="right"), len(order) - 1)]
        return draw.permutation(rows)

    return sampler


def class_weights(labels: Labels, *, power: float = 0.5) -> np.ndarray:
    """Weight of each row, [N]: the largest (N / n_c)^power over its classes (rows without: 1).

    power 1 is class-balanced, 0 uniform; the square root between them shows rare classes more often
    without drowning the others.  labels: [N, C] in {0, 1}.
    """
    shares = frequencies(labels)
    rarity = np.zeros(len(shares))
    rarity[shares > 0] = shares[shares > 0] ** -power
    if isinstance(labels, OneClass):
        return rarity[labels.numbers]
    # A block of rows at a time: a float64 a label would be eight times the labels.
    starts = range(0, len(labels), _BLOCK)
    blocks = (np.asarray(labels[start : start + _BLOCK]) > 0 for start in starts)
    most = [np.where(block, rarity, 0.0).max(1) for block in blocks]
    return np.maximum(np.concatenate(most), 1.0)


def build(
    name: str,
    labels: Labels,
    *,
    seed: int,
    weights: np.ndarray | None = None,
) -> Sampler:
    """The sampler called `name` (uniform | rare | balanced), times the rows' own `weights` if
    given.

    Raises:
        InputError: an unknown name, bad weights, or no rows.
    """
    if len(labels) == 0:
        raise InputError("the training part is empty: no rows to sample from")
    if name not in POWERS:
        raise InputError(f"sampling: unknown {name!r}{near(name, POWERS)}; known: {list(POWERS)}")
    if name == "uniform" and weights is None:
        return uniform(len(labels), seed=seed)
    own = np.ones(len(labels)) if weights is None else np.asarray(weights, np.float64)
    if len(own) != len(labels):
        raise InputError(f"sampling: {len(own)} weights for {len(labels)} rows")
    return weighted(own * class_weights(labels, power=POWERS[name]), seed=seed)


_BLOCK = 4096  # rows
POWERS = {"uniform": 0.0, "rare": 0.5, "balanced": 1.0}


_PURPOSE = 0x5A3B1E  # keeps these draws apart from others of the same seed (the lr noise's)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox([_PURPOSE, seed & (2**64 - 1), epoch]))
