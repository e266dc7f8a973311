"""Blends: weights of highest likelihood, greedy selection, no row judged by its own label."""

import json

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from hpa_jax.core import artifacts, folds, metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import blends


def draw(skills=(1.5, 0.7, 0.0), rows=400, seed=0):
    """Two classes, one model a skill (good, poor, noise): probs [M, N, 2], labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 2)) < [0.4, 0.15]
    logits = [skill * (2 * labels - 1) + rng.normal(size=labels.shape) for skill in skills]
    return np.stack([1 / (1 + np.exp(-z)) for z in logits]), labels


def loss(probs, labels):
    p = np.clip(probs, 1e-6, 1 - 1e-6)
    return -np.mean(np.where(labels, np.log(p), np.log(1 - p)))


def test_likelihood_finds_the_likeliest_weights():
    probs, labels = draw()

    def of(z):
        w = np.exp(z) / np.exp(z).sum()
        return loss(np.tensordot(w, probs, axes=1), labels)

    best = minimize(of, np.zeros(3), method="Nelder-Mead", options={"maxiter": 4000})
    found = np.array(blends.likelihood(probs, labels, steps=2000).weights)
    assert found.sum() == pytest.approx(1, abs=1e-6) and (found > 0).all()
    assert of(np.log(found)) == pytest.approx(best.fun, abs=1e-4)
    assert found[0] > found[1] > found[2]


def test_greedy_leaves_the_noise_out_and_beats_the_best_single_model():
    probs, labels = draw((1.2, 1.2, 0.0))
    blend = blends.greedy(probs, labels)
    assert blend.weights[2] < 0.1
    score = metrics.macro_average_precision
    assert score(labels, blend(probs)) > max(score(labels, own) for own in probs)


def test_logistic_equals_scikit_learn():
    probs, labels = draw()
    logits = np.log(probs / (1 - probs))
    blend = blends.logistic(probs, labels, strength=2.0)
    for c in range(2):
        x = logits[:, :, c].T
        centre, deviation = x.mean(axis=0), x.std(axis=0)
        theirs = LogisticRegression(C=1 / 2.0, tol=1e-9, max_iter=500)
        theirs.fit((x - centre) / deviation, labels[:, c])
        expected = theirs.predict_proba((x - centre) / deviation)[:, 1]
        np.testing.assert_allclose(blend(probs)[:, c], expected, atol=1e-4)


def test_taught_blends_beat_the_mean_of_unequal_models():
    probs, labels = draw()
    mean = loss(probs.mean(axis=0), labels)
    for fit in blends.FITTED.values():
        assert loss(blends.out_of_fold(fit, probs, labels), labels) < mean


@pytest.mark.parametrize("method", blends.FITTED)
def test_no_row_is_judged_by_its_own_label_nor_its_duplicate_by_it(method):
    probs, labels = draw()
    groups = np.arange(400) // 2
    seen = []

    def spy(p, y):
        seen.append({tuple(row) for row in p[0]})
        return blends.FITTED[method](p, y)

    found = blends.out_of_fold(spy, probs, labels, groups)
    fold = folds.multilabel(labels, 5, 0, groups)
    assert (fold[::2] == fold[1::2]).all()
    for number, rows in enumerate(seen):
        held = {tuple(row) for row in probs[0, fold == number]}
        assert held and not held & rows
        expected = blends.FITTED[method](probs[:, fold != number], labels[fold != number])
        np.testing.assert_allclose(found[fold == number], expected(probs[:, fold == number]))


def test_shuffled_labels_teach_no_ranking():
    probs, labels = draw(rows=1000)
    shuffled = labels[np.random.default_rng(1).permutation(1000)]
    for fit in blends.FITTED.values():
        found = blends.out_of_fold(fit, probs, shuffled)
        assert metrics.macro_average_precision(shuffled, found) < shuffled.mean() + 0.06


def test_classes_that_models_lack_come_from_the_others():
    probs, labels = draw()
    labels = np.concatenate([labels, labels[:, :1]], axis=1)
    unknown = np.full((3, 400, 1), np.nan)
    wide = np.concatenate([probs, unknown], axis=2)
    wide[0, :, 1] = np.nan  # the best model lacks class 1, nobody knows class 2
    for fit in blends.FITTED.values():
        found = fit(wide, labels)(wide)
        assert np.isfinite(found[:, :2]).all() and np.isnan(found[:, 2]).all()
    wide[0, :, 0] = labels[:, 0]  # nothing can be added to it
    greedy = blends.greedy(wide, labels)
    assert greedy.weights[0] > 0.99
    # of the class it lacks the others speak, though they have no weight
    np.testing.assert_allclose(greedy(wide)[:, 1], wide[1:, :, 1].mean(axis=0))


def test_a_class_without_positives_keeps_the_mean_in_the_regression():
    probs, labels = draw()
    labels[:, 1] = False
    np.testing.assert_allclose(blends.logistic(probs, labels)(probs)[:, 1], probs[:, :, 1].mean(0))


def test_blends_come_back_from_json():
    probs, labels = draw()
    labels[:, 1] = False  # its regression is a row of NaN
    models = ["a", "b", "c"]
    made = [fit(probs, labels) for fit in blends.FITTED.values()]
    for blend in (*made, blends.Formula("geometric"), blends.Formula("max", (1.0, 0.0, 2.0))):
        stored = json.loads(json.dumps(artifacts.plain(blend.as_json(models))))
        again = blends.from_json(stored, models)
        np.testing.assert_allclose(again(probs), blend(probs), atol=1e-12)
        turned = blends.from_json(stored, models[::-1])  # weights go by name, not by place
        np.testing.assert_allclose(turned(probs[::-1]), blend(probs), atol=1e-12)
    with pytest.raises(InputError, match="doesn't fit"):
        blends.from_json(stored, ["a", "b"])


def test_made_scores_what_is_taught_out_of_fold_and_the_rest_directly():
    probs, labels = draw()
    blend, found = blends.fit_and_score("rank_mean", probs, labels, weights=[1, 1, 0])
    np.testing.assert_array_equal(found, blend(probs))
    blend, found = blends.fit_and_score("logistic", probs, labels)
    assert loss(found, labels) > loss(blend(probs), labels)
    np.testing.assert_array_equal(found, blends.out_of_fold(blends.logistic, probs, labels))
