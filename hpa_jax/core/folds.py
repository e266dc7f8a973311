"""Stratified folds of labelled rows, one assignment per class and repeat.

In: labels [N, C], number of folds, seeds of the repeats, and optionally the duplicate group of each
row.  Out: int8 [R, C, N], the fold of each row.  Without groups they are exactly scikit-learn's
`StratifiedKFold(k, shuffle=True, random_state=seed)` per class (a test proves it), some five times
faster because the strata are found once per class.  With groups, a group stays whole: groups are
dealt out in an order by (positives, size), so folds stay balanced in both.  `stratified` costs
about 0.1 s for 28 classes x 20 repeats of 7,754 rows; several methods on the same rows can share
the folds (`fold_cache` of `thresholds.fitter`).

Rule: a class with fewer positives than folds still gets folds; some then hold no positive.
"""

from collections.abc import Sequence

import numpy as np

from hpa_jax.core.errors import InputError


def stratified(
    labels: np.ndarray, folds: int, seeds: Sequence[int], groups: np.ndarray | None = None
) -> np.ndarray:
    """int8[R, C, N] in 0..folds-1. labels: [N, C] bool; seeds: one per repeat; groups: [N] or None.

    Raises:
        InputError: fewer rows (or groups) than folds, or groups of another length.
    """
    labels = np.asarray(labels, bool)
    rows, num_classes = labels.shape
    if not 2 <= folds <= 127:
        raise InputError(f"{folds} folds; 2 to 127 are possible")
    unit = _units(groups, rows)
    units = rows if unit is None else int(unit.max(initial=-1)) + 1
    if units < folds:
        raise InputError(f"{units} independent rows (duplicate groups), fewer than {folds} folds")
    result = np.empty((len(seeds), num_classes, rows), np.int8)
    for c in range(num_classes):
        if unit is None:
            strata, sizes = _strata(labels[:, c], folds)
            for r, seed in enumerate(seeds):
                result[r, c] = _dealt(strata, sizes, rows, seed)
        else:
            for r, seed in enumerate(seeds):
                result[r, c] = _grouped(labels[:, c], unit, folds, seed)
    return result


def _units(groups: np.ndarray | None, rows: int) -> np.ndarray | None:
    """Group numbers 0..G-1 of the rows; None if every row is its own group."""
    if groups is None:
        return None
    groups = np.asarray(groups)
    if groups.shape != (rows,):
        raise InputError(f"groups of shape {groups.shape} for {rows} labelled rows")
    unit = np.unique(groups, return_inverse=True)[1]
    return None if unit.max(initial=-1) + 1 == rows else unit


def _strata(positive: np.ndarray, folds: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of each stratum in scikit-learn's order (first seen first), and their fold numbers."""
    first = bool(positive[0]) if len(positive) else False
    strata = [np.flatnonzero(positive == first), np.flatnonzero(positive != first)]
    strata = [rows for rows in strata if len(rows)]
    stratum_of_sorted = np.repeat(np.arange(len(strata)), [len(rows) for rows in strata])
    allocation = [
        np.bincount(stratum_of_sorted[fold::folds], minlength=len(strata)) for fold in range(folds)
    ]
    numbers = np.arange(folds, dtype=np.int8)
    return strata, [np.repeat(numbers, [a[k] for a in allocation]) for k in range(len(strata))]


def _dealt(strata: list[np.ndarray], sizes: list[np.ndarray], rows: int, seed: int) -> np.ndarray:
    # The legacy generator: scikit-learn draws from it, and the folds must be the same.
    rng = np.random.RandomState(seed)
    fold = np.empty(rows, np.int8)
    for members, numbers in zip(strata, sizes):
        shuffled = numbers.copy()
        rng.shuffle(shuffled)
        fold[members] = shuffled
    return fold


def _grouped(positive: np.ndarray, unit: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Folds of whole groups, balanced in positives first and in rows second."""
    rng = np.random.default_rng(seed)
    size = np.bincount(unit)
    hits = np.bincount(unit, weights=positive).astype(int)
    order = np.lexsort((rng.random(len(size)), -size, -hits))
    fold_of_unit = np.empty(len(size), np.int8)
    if (size == 1).mean() > 0.5 and size.max() <= max(2, len(unit) // (20 * folds)):
        # Mostly single rows: deal rounds of `folds` groups, each round in a random order.
        rounds = -(-len(order) // folds)
        deal = rng.permuted(np.tile(np.arange(folds, dtype=np.int8), (rounds, 1)), axis=1)
        fold_of_unit[order] = deal.ravel()[: len(order)]
        return fold_of_unit[unit]
    # Largest groups first; groups of one kind (positives, rows) fill the emptiest folds together.
    filled = np.zeros((folds, 2), int)
    kinds = np.flatnonzero(np.diff(hits[order]) | np.diff(size[order])) + 1
    for groups in np.split(order, kinds):
        weight = np.array([hits[groups[0]], size[groups[0]]])
        column = 0 if weight[0] else 1
        counts = _filling(filled[:, column] // weight[column], filled[:, 1], len(groups), rng)
        fold_of_unit[groups] = rng.permutation(np.repeat(np.arange(folds, dtype=np.int8), counts))
        filled += counts[:, None] * weight
    return fold_of_unit[unit]


def _filling(
    height: np.ndarray, rows: np.ndarray, number: int, rng: np.random.Generator
) -> np.ndarray:
    """int[folds]: how many of `number` equal groups each fold gets, the lowest filled up first.

    height: number of such groups already in each fold; ties go to the fold with fewer rows.
    """
    order = np.lexsort((rng.random(len(height)), rows, height))
    below = height[order]
    counts = np.zeros(len(height), int)
    for lowest in range(1, len(height) + 1):
        level, rest = divmod(number + below[:lowest].sum(), lowest)
        if lowest == len(height) or level < below[lowest]:
            counts[order[:lowest]] = level - below[:lowest]
            counts[order[:rest]] += 1
            return counts
    return counts


def multilabel(
    labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """int8[N]: one fold assignment for all classes together, rare classes balanced first.

    labels: [N, C] bool; a group stays whole.  From the rarest class to the commonest, its groups
    that have no fold yet are dealt, in random order, to the folds with the fewest of that class.

    Raises:
        InputError: fewer independent rows than folds.
    """
    labels = np.asarray(labels, bool)
    unit = _units(groups, len(labels))
    unit = np.arange(len(labels)) if unit is None else unit
    units = int(unit.max(initial=-1)) + 1
    if units < folds:
        raise InputError(f"{units} independent rows (duplicate groups), fewer than {folds} folds")
    has = np.zeros((units, labels.shape[1]), bool)
    np.logical_or.at(has, unit, labels)
    rng = np.random.default_rng(seed)
    fold = np.full(units, -1, np.int8)
    for c in np.argsort(has.sum(axis=0), kind="stable"):
        counts = np.bincount(fold[has[:, c] & (fold >= 0)], minlength=folds)
        free = rng.permutation(np.flatnonzero(has[:, c] & (fold < 0)))
        fold[free] = _levelled(counts, len(free), rng)
    free = rng.permutation(np.flatnonzero(fold < 0))
    fold[free] = _levelled(np.bincount(fold[fold >= 0], minlength=folds), len(free), rng)
    return fold[unit]


def _levelled(counts: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Folds for `number` new members, so that fold sizes end as equal as possible."""
    folds = len(counts)
    height = (
        counts[:, None] + np.arange(number)[None, :]
    )  # a fold's size before its j-th new member
    order = np.lexsort((rng.random(folds * number), height.ravel()))[:number]
    return (order // max(number, 1)).astype(np.int8)
