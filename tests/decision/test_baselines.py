"""The baselines: weights of highest likelihood, no row judged by its own label."""

import numpy as np
import pytest
from scipy.optimize import minimize

from hpa_jax.decision import baselines, stack_inputs


@pytest.fixture
def case():
    """Two classes, three models (good, poor, noise), 400 rows, one metafeature."""
    rng = np.random.default_rng(0)
    labels = rng.random((400, 2)) < [0.4, 0.15]
    logits = [skill * (2 * labels - 1) + rng.normal(size=labels.shape) for skill in (1.5, 0.7, 0.0)]
    probs = np.stack([1 / (1 + np.exp(-z)) for z in logits])
    features = np.concatenate([rng.normal(size=(400, 1)), *probs], axis=1).astype(np.float32)
    names = ["meta/size", *(f"m{m}/p{c:02d}" for m in range(3) for c in range(2))]
    return features, stack_inputs.layout(names, 7, 2), labels, probs


def test_mean(case):
    features, where, _, probs = case
    np.testing.assert_allclose(baselines.mean(features, where), probs.mean(axis=0), atol=1e-6)


def test_weights_have_the_highest_likelihood(case):
    *_, labels, probs = case

    def loss(z):
        w = np.exp(z) / np.exp(z).sum()
        p = np.clip(np.tensordot(w, probs, axes=1), 1e-9, 1 - 1e-9)
        return -np.mean(np.where(labels, np.log(p), np.log(1 - p)))

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 4000})
    found = baselines.model_weights(probs, labels, steps=2000)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    assert loss(np.log(found + 1e-12)) == pytest.approx(best.fun, abs=1e-4)
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize("method", [baselines.weighted_mean, baselines.logistic_regression])
def test_a_row_is_not_judged_by_its_own_label(case, method):
    features, where, labels, _ = case
    other = labels.copy()
    other[7, 0] ^= True  # stratification moves folds, so compare how far row 7 follows its label
    scores, changed = (method(features, where, y, folds=5) for y in (labels, other))
    assert abs(scores[7, 0] - changed[7, 0]) < 0.05
    assert np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1


def test_logistic_regression_beats_the_mean_of_unequal_models(case):
    features, where, labels, _ = case

    def loss(p):
        p = np.clip(p, 1e-6, 1 - 1e-6)
        return -np.mean(np.where(labels, np.log(p), np.log(1 - p)))

    mean = loss(baselines.mean(features, where))
    weighted = loss(baselines.weighted_mean(features, where, labels))
    regressed = loss(baselines.logistic_regression(features, where, labels))
    assert weighted < mean and regressed < mean


def test_single_models_and_unknown_classes_keep_the_mean(case):
    features, _, labels, _ = case
    where = stack_inputs.layout(["meta/size", "m0/p00"], 2, 2)
    found = baselines.weighted_mean(features[:, :2], where, labels)
    np.testing.assert_allclose(found[:, 0], features[:, 1])
    assert (found[:, 1] == 0).all()
