"""Groups stay whole, shares are met, and no class is missing where it need not be."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

from hpa_jax.core import stratification
from hpa_jax.core.errors import InputError
from hpa_jax.core.stratification import folds, holdout


def competition(rng, n, classes=12):
    """Labels with frequencies from one half down to a few rows, and groups of 1 to 5."""
    frequencies = 0.5 * 0.55 ** np.arange(classes)
    labels = rng.random((n, classes)) < frequencies
    labels[:, -1] = False
    labels[rng.choice(n, 4, replace=False), -1] = True
    groups = np.repeat(np.arange(n), rng.choice([1, 1, 1, 1, 2, 5], n))[:n]
    return labels, rng.permutation(groups)


small = st.integers(4, 10).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.integers(0, 7), min_size=n, max_size=n),
    )
)


def unavoidable(labels, groups, sides, fixed=None):
    """Fewest classes that any assignment of groups leaves missing, by trying them all."""
    names = np.unique(groups)
    present = np.stack([labels[groups == name].any(axis=0) for name in names])
    present = np.column_stack([present, np.ones(len(names), bool)])
    best = present.shape[1]
    for side in itertools.product(range(sides), repeat=len(names)):
        side = np.array(side)
        if fixed is None or all(f in (-1, s) for f, s in zip(fixed, side)):
            best = min(best, stratification.missing(present, side, sides).sum())
    return best


def lacking(labels, groups, side, sides):
    names, first = np.unique(groups, return_index=True)
    present = np.stack([labels[groups == name].any(axis=0) for name in names])
    present = np.column_stack([present, np.ones(len(names), bool)])
    return stratification.missing(present, side[first], sides).sum()


def whole(groups, side):
    return all(len(set(side[groups == group])) == 1 for group in np.unique(groups))


@settings(max_examples=150, deadline=None)
@given(small, st.floats(0.05, 0.95), st.integers(0, 3))
def test_holdout_of_anything_keeps_groups_and_classes(data, fraction, seed):
    labels, groups = np.array(data[0], bool), np.array(data[1])
    if len(set(groups)) < 2:
        with pytest.raises(InputError, match="groups"):
            holdout(labels, groups, fraction, seed)
        return
    held = holdout(labels, groups, fraction, seed)
    assert held.dtype == bool and whole(groups, held)
    assert lacking(labels, groups, held.astype(int), 2) == unavoidable(labels, groups, 2)


@settings(max_examples=60, deadline=None)
@given(small, st.data())
def test_forced_rows_are_honoured(data, draw):
    labels, groups = np.array(data[0], bool), np.array(data[1])
    names = np.unique(groups)
    if len(names) < 2:
        return
    of_group = draw.draw(
        st.lists(st.sampled_from([-1, 0, 1]), min_size=len(names), max_size=len(names))
    )
    forced = np.array([of_group[np.flatnonzero(names == group)[0]] for group in groups], np.int8)
    held = holdout(labels, groups, 0.3, 0, forced)
    assert held[forced == 1].all() and not held[forced == -1].any() and whole(groups, held)
    fixed = [{1: 1, -1: 0, 0: -1}[way] for way in of_group]
    assert lacking(labels, groups, held.astype(int), 2) == unavoidable(labels, groups, 2, fixed)


def test_one_forced_row_takes_its_group_along():
    labels = np.ones((6, 1), bool)
    held = holdout(labels, np.array([0, 0, 1, 2, 3, 4]), 0.2, 0, np.array([0, 1, 0, 0, 0, 0]))
    assert held.tolist() == [True, True, False, False, False, False]


@settings(max_examples=40, deadline=None)
@given(small, st.integers(2, 3), st.integers(0, 3))
def test_folds_of_anything(data, k, seed):
    labels, groups = np.array(data[0], bool), np.array(data[1])[:7]
    labels = labels[: len(groups)]
    if len(set(groups)) < k:
        with pytest.raises(InputError, match="groups"):
            folds(labels, groups, k, seed)
        return
    side = folds(labels, groups, k, seed)
    assert set(side) == set(range(k)) and whole(groups, side)
    assert lacking(labels, groups, side, k) == unavoidable(labels, groups, k)


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_asked_for(seed):
    labels, groups = competition(np.random.default_rng(seed), 3000)
    held = holdout(labels, groups, 0.2, seed)
    common = labels.sum(axis=0) >= 100
    shares = labels[held].sum(axis=0) / labels.sum(axis=0)
    assert np.abs(shares[common] - 0.2).max() < 0.02 and abs(held.mean() - 0.2) < 0.005
    side = folds(labels, groups, 5, seed)
    in_fold = np.stack([labels[side == k].sum(axis=0) for k in range(5)]) / labels.sum(axis=0)
    assert np.abs(in_fold[:, common] - 0.2).max() < 0.02
    assert np.abs(np.bincount(side) / len(side) - 0.2).max() < 0.005


def test_without_groups_as_balanced_as_the_library():
    labels, _ = competition(np.random.default_rng(7), 1500)
    ours = folds(labels, np.arange(len(labels)), 5, 0)
    theirs = np.empty(len(labels), int)
    library = MultilabelStratifiedKFold(5, shuffle=True, random_state=0)
    for k, (_, rows) in enumerate(library.split(labels, labels)):
        theirs[rows] = k

    def spread(side):
        counts = np.stack([labels[side == k].sum(axis=0) for k in range(5)])
        return np.abs(counts - labels.sum(axis=0) / 5).sum()

    assert spread(ours) <= spread(theirs) * 1.1


def test_rarest_class_is_everywhere_though_tied_to_others():
    # Class 1 lives in two groups that the share of class 0 would put on one side.
    labels = np.zeros((402, 2), bool)
    labels[:2] = True
    labels[2:, 0] = True
    held = holdout(labels, np.arange(402), 0.01, 0)
    assert labels[held, 1].sum() == 1 and held.sum() <= 5


def test_seed_decides():
    labels, groups = competition(np.random.default_rng(0), 500)
    first, again, other = (holdout(labels, groups, 0.3, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 2)), np.arange(4), 0.2, 0), "groups"),
        ((np.ones((3, 2)), np.arange(3), 1.0, 0), "fraction"),
        ((np.ones((3, 2)), np.zeros(3), 0.2, 0), "duplicate groups"),
        ((np.ones((3, 2)), np.arange(3), 0.2, 0, np.array([2, 0, 0])), "forced"),
        ((np.ones((3, 2)), np.array([5, 5, 6]), 0.2, 0, np.array([1, -1, 0])), "two sides"),
    ],
)
def test_impossible_requests_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        holdout(*arguments)
