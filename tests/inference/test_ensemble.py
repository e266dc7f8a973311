"""Ensembles: formulas, joins on id, absent classes, greedy selection, duplicates."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gmean, rankdata

from hpa_jax.core.errors import InputError
from hpa_jax.inference import ensemble


def table(ids, *columns, names=("p00", "p01")):
    return pd.DataFrame({"id": ids, **dict(zip(names, columns))})


@pytest.fixture
def tables():
    return {
        "a": table(["x", "y", "z"], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]),
        "b": table(["z", "x", "y"], [0.9, 0.3, 0.6], [0.1, 0.2, 0.3]),
    }


def test_formulas_and_join(tables):
    probs, ids, columns = ensemble.joined(tables)
    a = tables["a"].set_index("id")
    b = tables["b"].set_index("id").loc[a.index]
    stacked = np.stack([a, b])
    assert ids == ["x", "y", "z"] and columns == ["p00", "p01"]
    np.testing.assert_array_equal(probs, stacked)
    expected = {
        "mean": stacked.mean(axis=0),
        "geometric": gmean(stacked, axis=0),
        "max": stacked.max(axis=0),
        "rank_mean": rankdata(stacked, axis=1).mean(axis=0) / 3,
    }
    for method, values in expected.items():
        np.testing.assert_allclose(ensemble.METHODS[method](probs, None), values, atol=1e-6)
    weighted = ensemble.mean(probs, np.array([3.0, 1.0]))
    np.testing.assert_allclose(weighted, 0.75 * a + 0.25 * b, atol=1e-6)
    only_a = ensemble.maximum(probs, np.array([1.0, 0.0]))
    np.testing.assert_array_equal(only_a, a)
    some, _, _ = ensemble.joined(tables, ids=["z", "x"])
    np.testing.assert_allclose(some.mean(axis=0)[:, 0], [0.6, 0.2], atol=1e-6)


def test_pudaes_weights_are_those_of_seven_networks():
    rng = np.random.default_rng(0)
    folds, others = rng.random((5, 20, 3)), rng.random((2, 20, 3))
    flat = ensemble.mean(np.concatenate([folds, others]), np.array([*[1 / 5] * 5, 1, 1]))
    joined = np.stack([ensemble.mean(folds), *others])  # folds of one model are joined first
    np.testing.assert_allclose(ensemble.mean(joined, np.ones(3)), flat)


def test_a_class_one_model_lacks_comes_from_the_others(tables):
    tables["c"] = tables["a"].drop(columns="p01")
    probs, _, _ = ensemble.joined(tables)
    found = ensemble.mean(probs, np.array([1.0, 2.0, 1.0]))
    np.testing.assert_allclose(
        found[:, 1], (tables["a"]["p01"] + 2 * np.array([0.2, 0.3, 0.1])) / 3, atol=1e-6
    )
    unknown = np.stack([np.full((2, 1), np.nan)] * 2)
    assert np.isnan(ensemble.mean(unknown)).all()  # a class that no model knows stays unknown
    assert np.isnan(ensemble.maximum(unknown)).all()
    with pytest.raises(InputError, match="weight 0"):
        ensemble.mean(probs, np.array([0.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:2], "predictions of b: 1 ids are missing, first 'y'"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "predictions of b: id 'z' occurs more than once"),
        (lambda t: pd.concat([t, t.assign(id="w").iloc[:1]]), "id 'w' is in no other"),
        (lambda t: t.assign(p01=[0.1, np.nan, 0.2]), "predictions of b: nan for id 'x', p01"),
    ],
)
def test_bad_tables_are_named(tables, change, message):
    tables["b"] = change(tables["b"])
    with pytest.raises(InputError, match=message):
        ensemble.joined(tables)


def test_bad_settings_are_named(tables):
    probs, _, _ = ensemble.joined(tables)
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(InputError, match="not all 0"):
            ensemble.mean(probs, np.array(weights))
    with pytest.raises(InputError, match="no models"):
        ensemble.joined({})


def test_greedy_finds_the_good_models():
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < 0.3
    good = [np.clip(labels + 0.6 * rng.normal(size=labels.shape), 0, 1) for _ in range(2)]
    bad = [rng.random(labels.shape) for _ in range(3)]
    probs = np.stack([bad[0], good[0], bad[1], good[1], bad[2]])

    def score(p):
        return -np.mean((p - labels) ** 2)

    weights = ensemble.greedy(probs, score)
    assert weights.sum() == pytest.approx(1) and weights[[1, 3]].sum() > 0.8
    assert score(ensemble.mean(probs, weights)) >= max(score(own) for own in probs)


def test_duplicates_share_their_mean():
    probs = np.array([[0.1, 0.9], [0.3, 0.5], [0.7, 0.1]])
    found = ensemble.average_duplicates(probs, [5, 2, 5])
    np.testing.assert_allclose(found, [[0.4, 0.5], [0.3, 0.5], [0.4, 0.5]])
    with pytest.raises(InputError, match="2 groups for 3"):
        ensemble.average_duplicates(probs, [1, 2])
