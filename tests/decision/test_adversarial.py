"""AUC as sklearn's, intervals that cover, scores no model saw, a validation set like the test."""

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import roc_auc_score

from hpa_jax.core.errors import InputError
from hpa_jax.decision import adversarial


def two_sets(rng, n=600, share=0.3, shift=1.0):
    """Features of which only the second tells train from test; some are unknown."""
    is_test = rng.random(n) < share
    features = rng.normal(size=(n, 3)) + np.array([0, shift, 0]) * is_test[:, None]
    features[rng.random(n) < 0.1, 2] = np.nan
    return features, is_test


def test_shifted_sets_are_told_apart_by_the_shifted_feature():
    features, is_test = two_sets(np.random.default_rng(0), shift=2.0)
    result = adversarial.on_features(features, is_test, ("size", "mean", "std"), threads=1)
    assert result.low < result.auc < result.high
    assert result.low > 0.8  # the best possible is .92
    assert next(iter(result.importances)) == "mean"
    assert sum(result.importances.values()) == pytest.approx(1)
    assert result.as_json()["rows"] == 600


def test_equal_sets_are_not_told_apart():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(4):
        features, is_test = two_sets(rng, n=300, shift=0.0)
        result = adversarial.on_features(features, is_test, seed=seed, threads=1)
        covered += result.low < 0.5 < result.high
    assert covered >= 3


def test_copies_are_not_recognised():
    # Noise, but each row four times: without groups a row's copy gives its side away.
    rng = np.random.default_rng(2)
    features = np.repeat(rng.normal(size=(80, 3)), 4, axis=0)
    is_test = np.repeat(rng.random(80) < 0.5, 4)
    groups = np.repeat(np.arange(80), 4)
    blind = adversarial.on_features(features, is_test, threads=1)
    fair = adversarial.on_features(features, is_test, groups=groups, threads=1)
    assert blind.auc > 0.8 and 0.25 < fair.auc < 0.75


def test_no_row_is_scored_by_a_model_that_saw_it_or_its_copy():
    rng = np.random.default_rng(3)
    is_test, groups = rng.random(60) < 0.4, rng.integers(0, 25, 60)
    seen = np.zeros(60, int)

    def fit_predict(fit, score):
        assert not set(groups[fit]) & set(groups[score])
        seen[score] += 1
        return score.astype(float)

    scores = adversarial.cross_fitted(is_test, fit_predict, groups=groups, folds=3)
    assert (seen == 1).all() and (scores == np.arange(60)).all()


def test_auc_is_sklearns_and_the_interval_a_bootstraps():
    rng = np.random.default_rng(4)
    is_test = rng.random(400) < 0.3
    scores = np.round(rng.normal(size=400) + 0.8 * is_test, 1)  # with ties
    auc, low, high = adversarial.auc_interval(is_test, scores)
    assert auc == pytest.approx(roc_auc_score(is_test, scores), abs=1e-12)

    def resampled(positive, negative):
        truth = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
        return roc_auc_score(truth, np.r_[positive, negative])

    found = bootstrap(
        (scores[is_test], scores[~is_test]),
        resampled,
        n_resamples=300,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert low == pytest.approx(found.low, abs=0.015)
    assert high == pytest.approx(found.high, abs=0.015)


def test_interval_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(5)
    truth = 0.7602499389065233  # of N(1, 1) against N(0, 1): the normal distribution at 1/sqrt(2)
    covered = 0
    for _ in range(400):
        is_test = np.arange(150) < 50
        _, low, high = adversarial.auc_interval(is_test, rng.normal(size=150) + is_test)
        covered += low <= truth <= high
    assert 0.92 < covered / 400 < 0.98


def test_perfect_separation_has_an_interval():
    is_test = np.repeat([False, True], 10)
    auc, low, high = adversarial.auc_interval(is_test, np.arange(20))
    assert (auc, high) == (1, 1) and low == pytest.approx(binomtest(10, 10).proportion_ci().low)
    auc, low, high = adversarial.auc_interval(~is_test, np.arange(20))
    assert (auc, low) == (0, 0) and high == pytest.approx(binomtest(0, 10).proportion_ci().high)


def test_test_like_is_every_second_of_the_upper_half():
    scores = np.random.default_rng(6).permutation(100) / 100
    chosen = adversarial.test_like(scores, 0.25)
    assert sorted(np.rint(scores[chosen] * 100)) == list(range(50, 100, 2))
    assert adversarial.test_like(scores, 0.1).sum() == 10


def test_weights_make_train_look_like_test():
    rng = np.random.default_rng(7)
    is_test = rng.random(20000) < 0.3
    x = rng.normal(size=20000) + is_test
    # The exact probability of test at x: Bayes' rule of the two normal densities.
    odds = np.exp(x - 0.5) * 0.3 / 0.7
    found = adversarial.weights(odds / (1 + odds), is_test, limit=50)
    assert found[~is_test].mean() == pytest.approx(1)
    assert np.average(x[~is_test], weights=found[~is_test]) == pytest.approx(1, abs=0.1)
    assert adversarial.effective_size(found[~is_test]) < 0.7 * (~is_test).sum()
    assert adversarial.effective_size(np.ones(10)) == 10


def test_table_lists_the_most_unlike_first():
    is_test = np.array([0, 0, 0, 0, 1, 1], bool)
    result = adversarial.judged(np.array([0.1, 0.4, 0.6, 0.2, 0.9, 0.3]), is_test)
    rows = adversarial.table(list("abcdef"), is_test, result)
    assert "".join(rows["id"]) == "adfbce"
    assert set(rows["id"][rows["test_like"]]) <= set("bc") and rows["test_like"].sum() == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, t: adversarial.on_features(x[:-1], t), "is_test"),
        (lambda x, t: adversarial.on_features(np.full_like(x, np.inf), t), "infinite"),
        (lambda x, t: adversarial.on_features(x, t & False), "fewer than 5"),
        (lambda x, t: adversarial.test_like(x[:, 0], 0.6), "fraction"),
        (lambda x, t: adversarial.weights(x[:, 0] + 5, t), "probabilities"),
        (lambda x, t: adversarial.cross_fitted(t, lambda a, b: np.nan * b), "finite"),
    ],
)
def test_wrong_input_is_named(call, message):
    features, is_test = two_sets(np.random.default_rng(0), n=60)
    with pytest.raises(InputError, match=message):
        call(features, is_test)
