"""Ensembles: formulas, joins on id, absent classes, greedy selection, duplicates."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gmean, rankdata

from hpa_jax.errors import InputError
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
    a = tables["a"].set_index("id")
    b = tables["b"].set_index("id").loc[a.index]
    stacked = np.stack([a, b])
    expected = {
        "mean": stacked.mean(axis=0),
        "geometric": gmean(stacked, axis=0),
        "max": stacked.max(axis=0),
        "rank_mean": rankdata(stacked, axis=1).mean(axis=0) / 3,
    }
    for method, values in expected.items():
        found = ensemble.combine(tables, method)
        assert found["id"].tolist() == ["x", "y", "z"]
        np.testing.assert_allclose(found[["p00", "p01"]], values, atol=1e-6)
    weighted = ensemble.combine(tables, weights={"a": 3, "b": 1})
    np.testing.assert_allclose(weighted[["p00", "p01"]], 0.75 * a + 0.25 * b, atol=1e-6)
    some = ensemble.combine(tables, ids=["z", "x"])
    np.testing.assert_allclose(some["p00"], [0.6, 0.2], atol=1e-6)


def test_a_class_one_model_lacks_comes_from_the_others(tables):
    tables["c"] = tables["a"].drop(columns="p01")
    found = ensemble.combine(tables, weights={"a": 1, "b": 2, "c": 1})
    np.testing.assert_allclose(
        found["p01"], (tables["a"]["p01"] + 2 * np.array([0.2, 0.3, 0.1])) / 3, atol=1e-6
    )
    unknown = np.stack([np.full((2, 1), np.nan)] * 2)
    assert np.isnan(ensemble.mean(unknown)).all()  # a class that no model knows stays unknown
    with pytest.raises(InputError, match="weight 0"):
        ensemble.combine(tables, weights={"c": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.iloc[:2], "predictions of b: 1 ids are missing, first 'y'"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "predictions of b: id 'z' is there more than once"),
        (lambda t: pd.concat([t, t.assign(id="w").iloc[:1]]), "id 'w' is in no other"),
        (lambda t: t.assign(p01=[0.1, np.nan, 0.2]), "predictions of b: nan for id 'x', p01"),
    ],
)
def test_bad_tables_are_named(tables, change, message):
    tables["b"] = change(tables["b"])
    with pytest.raises(InputError, match=message):
        ensemble.combine(tables)


def test_bad_settings_are_named(tables):
    with pytest.raises(InputError, match="known: mean"):
        ensemble.combine(tables, "median")
    with pytest.raises(InputError, match="'q', which is no model"):
        ensemble.combine(tables, weights={"q": 1})
    with pytest.raises(InputError, match="not all 0"):
        ensemble.combine(tables, weights={"a": -1})
    with pytest.raises(InputError, match="no models"):
        ensemble.combine({})


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
