"""Stratified splits of whole groups: every class gets its share on every side.

In: the number of rows of each class in each group, the shares of the sides, groups fixed to a side.
Out: the side of each group.  Two steps:

1. Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011), the algorithm of the library
   `iterative-stratification`, with whole groups in place of rows: the rarest class is dealt first,
   each group to the side that lacks that class most.  Largest groups go first, while there is room.
2. Presence: where a class that could be on every side is not, an integer program (scipy's HiGHS)
   finds the fewest rows to move.  With few groups it may move all of them, so the answer is exact;
   otherwise the groups of the rare classes, the only ones that can be missing.
"""

from collections.abc import Sequence

import numpy as np

from hpa_jax.core.errors import InputError

_ALL_UP_TO = 1500  # free groups times sides: up to this many the integer program may move all
_RARE = 40  # groups; a class with more is never missing from a side
_SAMPLE = 60  # groups of a class that the integer program may move
_SECONDS = 10.0


def holdout(
    labels: np.ndarray,
    groups: np.ndarray,
    fraction: float,
    seed: int,
    forced: np.ndarray | None = None,
) -> np.ndarray:
    """bool [N]: the rows held out, about `fraction` of all rows and of each class.

    Args:
        labels: [N, C] in {0, 1}.
        groups: int [N]; rows of one group stay together.
        fraction: between 0 and 1.
        forced: int8 [N]: 1 must be held out, -1 must not, 0 free; counts for the whole group.

    A class with two groups or more is on both sides where that is possible.

    Raises:
        InputError: shapes differ, fewer than two groups, or a group is forced both ways.
    """
    labels, groups = checked(labels, groups)
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction}: must lie between 0 and 1")
    fixed = np.full(len(groups), -1)
    if forced is not None:
        forced = np.asarray(forced)
        if forced.shape != groups.shape or not np.isin(forced, (-1, 0, 1)).all():
            raise InputError(f"forced: needs -1, 0 or 1 for each of {len(groups)} rows")
        fixed = np.select([forced == 1, forced == -1], [1, 0], -1)
    return deal_rows(labels, groups, [1 - fraction, fraction], fixed, seed) == 1


def folds(labels: np.ndarray, groups: np.ndarray, k: int, seed: int) -> np.ndarray:
    """int [N]: the fold 0..k-1 of each row, all of about equal size and shares of classes.

    labels: [N, C] in {0, 1}; groups: int [N].  A class with k groups or more is in every fold where
    that is possible, one with fewer (but at least two) in two folds or more.

    Raises:
        InputError: shapes differ, k < 2, or fewer groups than folds.
    """
    labels, groups = checked(labels, groups)
    if k < 2:
        raise InputError(f"{k} folds: at least 2")
    return deal_rows(labels, groups, [1 / k] * k, np.full(len(groups), -1), seed)


def deal(
    counts: np.ndarray,
    sizes: np.ndarray,
    shares: np.ndarray,
    fixed: np.ndarray,
    seed: int,
    balanced: np.ndarray | None = None,
) -> np.ndarray:
    """int [G]: the side of each group.

    Args:
        counts: int [G, C] rows of each class in each group.
        sizes: int [G] rows of each group, at least 1.
        shares: float [S], sum 1: the part of all rows each side should get.
        fixed: int [G]: the side a group must have, -1 where it is free.
        balanced: int [G, E], more columns that should have their shares everywhere.
    """
    columns = counts if balanced is None else np.concatenate([counts, balanced], axis=1)
    side = _iterative(columns, sizes, np.asarray(shares, float), fixed, seed)
    present = np.concatenate([counts > 0, np.ones((len(counts), 1), bool)], axis=1)
    return _everywhere(present, sizes, side, fixed, len(shares), seed)


def missing(present: np.ndarray, side: np.ndarray, sides: int) -> np.ndarray:
    """bool [C]: classes that are missing from a side where they should be.

    present: bool [G, C].  A class with at least as many groups as sides should be on every side,
    one with fewer (but at least two) on two.
    """
    counts = np.stack([present[side == s].sum(axis=0) for s in range(sides)])
    groups = present.sum(axis=0)
    everywhere = (counts > 0).all(axis=0)
    apart = (counts > 0).sum(axis=0) >= 2
    return np.where(groups >= sides, ~everywhere, (groups >= 2) & ~apart)


def _iterative(
    counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, fixed: np.ndarray, seed: int
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    side = fixed.copy()
    # The last column is the rows themselves: it deals groups without labels, and settles ties.
    counts = np.concatenate([counts, sizes[:, None]], axis=1).astype(float)
    deficit = shares[:, None] * counts.sum(axis=0)
    for s in range(len(shares)):
        deficit[s] -= counts[fixed == s].sum(axis=0)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    remaining = counts[side < 0].sum(axis=0)
    while remaining.any():
        rarest = int(np.where(remaining > 0, remaining, np.inf).argmin())
        members = order[(side[order] < 0) & (counts[order, rarest] > 0)]
        for group in members:
            lack = deficit[:, rarest]
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            if len(best) > 1:
                lack = deficit[best, -1]
                best = best[lack >= lack.max() - 1e-9]
            chosen = best[0] if len(best) == 1 else rng.choice(best)
            side[group] = chosen
            deficit[chosen] -= counts[group]
        remaining = counts[side < 0].sum(axis=0)
    return side


def _everywhere(
    present: np.ndarray,
    sizes: np.ndarray,
    side: np.ndarray,
    fixed: np.ndarray,
    sides: int,
    seed: int,
) -> np.ndarray:
    """`side` with the fewest rows moved so that no class is missing where it could be."""
    lacking = missing(present, side, sides)
    if not lacking.any():
        return side
    free = np.flatnonzero(fixed < 0)
    if len(free) * sides > _ALL_UP_TO:
        rare = lacking | (present.sum(axis=0) <= _RARE)
        rng = np.random.default_rng((seed, 1))
        chosen = [
            rng.permutation(free[present[free, c]])[:_SAMPLE]
            for c in np.flatnonzero(rare & (present[free].any(axis=0)))
        ]
        free = np.unique(np.concatenate([np.empty(0, int), *chosen]))
    moved = _solve(present, sizes, side, free, sides)
    # The result can only be worse if the solver ran out of time.
    better = missing(present, moved, sides).sum() < lacking.sum()
    return moved if better else side


def _solve(
    present: np.ndarray, sizes: np.ndarray, side: np.ndarray, free: np.ndarray, sides: int
) -> np.ndarray:
    """Integer program. Variables: x[g, s], group g is on side s; z[c], class c stays missing."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, hstack, kron, vstack

    if not len(free):
        return side
    classes = np.flatnonzero((present.sum(axis=0) >= 2) & present[free].any(axis=0))
    kept = np.ones(len(side), bool)
    kept[free] = False
    member = present[np.ix_(free, classes)].T.astype(float)  # [C, G]
    settled = np.stack([present[kept & (side == s)].sum(axis=0) for s in range(sides)], axis=1)
    settled = settled[classes]  # [C, S]
    groups = present[:, classes].sum(axis=0)
    identity = csr_array(np.eye(sides))
    coverage = kron(csr_array(member), identity)  # rows (c, s), columns (g, s)
    slack = kron(csr_array(np.eye(len(classes))), csr_array(np.ones((sides, 1))))
    # A side is short of a class (or has all of it, where groups are fewer than sides) only with z.
    many = np.repeat(groups >= sides, sides)
    settled = settled.ravel()
    low = np.where(many, 1 - settled, -np.inf)
    high = np.where(many, np.inf, np.repeat(groups, sides) - 1 - settled)
    sign = csr_array(np.diag(np.where(many, 1.0, -1.0)))
    one_side = kron(csr_array(np.eye(len(free))), csr_array(np.ones((1, sides))))
    nothing = csr_array((len(free), len(classes)))
    rows = vstack([hstack([coverage, sign @ slack]), hstack([one_side, nothing])])
    ones = np.ones(len(free))
    stay = np.zeros((len(free), sides))
    stay[np.arange(len(free)), side[free]] = 1
    cost_of_move = (sizes[free, None] * (1 - stay)).ravel() / (2 * sizes[free].sum())
    solution = milp(
        np.concatenate([cost_of_move, np.ones(len(classes))]),  # any class outweighs all moves
        integrality=np.ones(rows.shape[1]),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(
            rows, np.concatenate([low, ones]), np.concatenate([high, ones])
        ),
        options={"time_limit": _SECONDS},
    )
    if solution.x is None:
        return side
    moved = side.copy()
    moved[free] = solution.x[: len(free) * sides].reshape(-1, sides).argmax(axis=1)
    return moved


def checked(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N, C] as bool and groups [N]; InputError if their shapes don't fit."""
    labels, groups = np.asarray(labels), np.asarray(groups)
    if labels.ndim != 2 or groups.shape != labels.shape[:1]:
        raise InputError(f"labels {labels.shape} and groups {groups.shape}: need [N, C] and [N]")
    return labels.astype(bool), groups


def deal_rows(
    labels: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    fixed: np.ndarray,
    seed: int,
    external: np.ndarray | None = None,
) -> np.ndarray:
    """int [N]: the side of each row; fixed: int [N], -1 where free; counts for the whole group.

    Raises:
        InputError: fewer groups than sides, or a group forced to two sides.
    """
    unit = np.unique(groups, return_inverse=True)[1]
    total = int(unit.max(initial=-1)) + 1
    if total < len(shares):
        raise InputError(f"{total} duplicate groups can't be split into {len(shares)} sides")
    highest, lowest = np.full(total, -1), np.full(total, len(shares))
    np.maximum.at(highest, unit, fixed)
    np.minimum.at(lowest, unit, np.where(fixed < 0, len(shares), fixed))
    torn = (highest >= 0) & (highest != lowest)
    if torn.any():
        row = np.flatnonzero(torn[unit])[0]
        raise InputError(f"group {groups[row]!r} (row {row}) is forced to two sides at once")
    balanced = None
    if external is not None and external.any() and not external.all():
        balanced = sums(unit, np.column_stack([labels & external[:, None], external]))
    sizes = np.bincount(unit, minlength=total)
    side = deal(sums(unit, labels), sizes, np.asarray(shares, float), highest, seed, balanced)
    return side[unit]


def sums(unit: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """int [G, C]: rows of each group that are set in each column of bool [N, C]."""
    sums = np.zeros((int(unit.max(initial=-1)) + 1, columns.shape[1]), np.int64)
    rows, classes = np.nonzero(columns)
    np.add.at(sums, (unit[rows], classes), 1)
    return sums
