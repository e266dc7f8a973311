"""Folds equal scikit-learn's, keep groups whole, and are balanced."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from hpa_jax.core import folds
from hpa_jax.core.errors import InputError


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_equal_to_sklearn(k):
    rng = np.random.default_rng(k)
    labels = rng.random((233, 4)) < [0.5, 0.2, 0.05, 0.9]
    seeds = [3, 104]
    found = folds.stratified(labels, k, seeds)
    for r, seed in enumerate(seeds):
        for c in range(4):
            split = StratifiedKFold(k, shuffle=True, random_state=seed).split(labels, labels[:, c])
            for number, (_, held) in enumerate(split):
                assert set(held) == set(np.flatnonzero(found[r, c] == number))


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(40, 200),
    share=st.floats(0.0, 1.0),
    biggest=st.integers(1, 30),
    seed=st.integers(0, 999),
)
def test_groups_stay_whole_and_folds_are_balanced(rows, share, biggest, seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(rows), rng.integers(1, biggest + 1, rows))[:rows]
    labels = rng.random((rows, 3)) < share
    if len(np.unique(groups)) < 5:
        with pytest.raises(InputError):
            folds.stratified(labels, 5, [seed], groups)
        return
    for fold in (
        *folds.stratified(labels, 5, [seed], groups)[0],
        folds.multilabel(labels, 5, seed, groups),
    ):
        assert set(fold) <= set(range(5))
        for group in np.unique(groups):
            assert len(set(fold[groups == group])) == 1
    sizes = np.bincount(folds.stratified(labels, 5, [seed], groups)[0, 0], minlength=5)
    assert sizes.max() - sizes.min() <= 3 * biggest + rows // 5


def test_grouped_folds_spread_positives():
    rng = np.random.default_rng(0)
    groups = np.concatenate([np.arange(400), rng.integers(0, 400, 60)])  # some pairs and triples
    labels = (rng.random(460) < 0.1)[:, None]
    fold = folds.stratified(labels, 5, [0], groups)[0, 0]
    hits = np.bincount(fold, weights=labels[:, 0], minlength=5)
    assert hits.max() - hits.min() <= 4
    sizes = np.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 25


def test_large_groups_cost_no_more_and_spread_positives_and_rows():
    """7,754 rows in groups of up to 300: level in both, and not group by group in Python."""
    rng = np.random.default_rng(0)
    sizes = np.concatenate([[300, 250, 120], rng.integers(1, 9, 1600)])
    groups = np.repeat(np.arange(len(sizes)), sizes)[:7754]
    labels = rng.random((len(groups), 28)) < np.geomspace(0.003, 0.4, 28)
    started = time.process_time()
    found = folds.stratified(labels, 5, [101 * j for j in range(20)], groups)
    assert time.process_time() - started < 1.8  # 0.5 s; one group after the other took 2.7 s
    for c in range(28):
        for fold in found[:3, c]:
            hits = np.bincount(fold, weights=labels[:, c], minlength=5)
            rows = np.bincount(fold, minlength=5)
            assert hits.max() - hits.min() <= max(3, 0.1 * hits.mean())
            assert rows.max() - rows.min() <= 0.25 * rows.mean()
    one = found[0, 0]
    assert all(len(set(one[groups == group])) == 1 for group in range(40))
    assert (found[0] != found[1]).any()


def test_multilabel_balances_the_rarest_class():
    rng = np.random.default_rng(0)
    labels = rng.random((600, 5)) < [0.5, 0.3, 0.1, 0.05, 0.017]
    fold = folds.multilabel(labels, 5, 0)
    for c in range(5):
        hits = np.bincount(fold, weights=labels[:, c], minlength=5)
        assert hits.max() - hits.min() <= max(2, 0.35 * hits.mean())
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= 12


def test_too_few_rows_is_an_error():
    with pytest.raises(InputError, match="fewer than 5"):
        folds.stratified(np.ones((4, 1), bool), 5, [0])
    with pytest.raises(InputError, match="3 independent"):
        folds.multilabel(np.ones((9, 1), bool), 5, 0, np.repeat([0, 1, 2], 3))
