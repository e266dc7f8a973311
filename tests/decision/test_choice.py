"""The simplest within a standard error of the best; a choice that is nested flatters nobody."""

import numpy as np
import pytest

from hpa_jax.core import metrics
from hpa_jax.decision import choice, confidence, thresholds


def test_the_best_of_many_equal_methods_is_not_flattered():
    """Forty methods that guess: the best on these rows looks good, choosing it is worth nothing."""
    gaps = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = rng.random((120, 3)) < 0.3
        decided = {f"m{n}": rng.random((120, 3)) < 0.3 for n in range(40)}
        scores = [metrics.macro_f1(labels, own) for own in decided.values()]
        found, methods = choice.fold_by_fold(labels, decided, np.arange(120))
        assert len(methods) == 5 and set(methods) <= set(decided)
        gaps.append((max(scores) - np.mean(scores), metrics.macro_f1(labels, found) - max(scores)))
    flattery, nested = np.mean(gaps, axis=0)
    assert flattery > 0.06 and nested < -0.04


def test_a_method_that_is_best_everywhere_is_chosen_everywhere():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < 0.3
    decided = {"poor": labels ^ (rng.random((200, 3)) < 0.3), "good": labels}
    found, methods = choice.fold_by_fold(labels, decided, None)
    assert methods == ["good"] * 5 and (found == labels).all()


def flipped(labels, share, seed):
    return labels ^ (np.random.default_rng(seed).random(labels.shape) < share)


def test_the_simpler_wins_within_noise_and_loses_beyond_it():
    labels = np.random.default_rng(0).random((300, 4)) < 0.3
    weights = confidence.resamples(300, choice.DRAWS)
    near = {"simple": flipped(labels, 0.105, 1), "complex": flipped(labels, 0.1, 2)}
    scores = [metrics.macro_f1(labels, decided) for decided in near.values()]
    draws = [
        confidence.f1_intervals(labels, decided, weights=weights).draws for decided in near.values()
    ]
    error = np.std(draws[1] - draws[0])
    assert 0 < scores[1] - scores[0] < error  # worse, by less than one standard error
    assert choice.simplest(labels, near, weights) == "simple"
    far = {"simple": flipped(labels, 0.2, 1), "complex": flipped(labels, 0.1, 2)}
    assert choice.simplest(labels, far, weights) == "complex"
    # the error is that of the difference: two that err on the same rows are told apart
    both = {"simple": flipped(labels, 0.1, 2), "complex": flipped(labels, 0.1, 2)}
    wrong = np.flatnonzero(labels[:, 0] & both["simple"][:, 0])[:4]
    both["simple"][wrong, 0] = False
    assert choice.simplest(labels, both, weights) == "complex"


def separated(rows, positives, seed):
    """One class of so many positives, whose scores overlap with the others'."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) < positives
    margin = 1.5 * (2 * labels - 1) + rng.normal(size=rows)
    return labels[:, None], (1 / (1 + np.exp(-margin)))[:, None]


def test_shrunk_thresholds_lie_between_the_best_and_the_matched_ones():
    for positives, share in ((5, 5 / 15), (40, 0.8)):
        labels, probs = separated(200, positives, 1)
        best = thresholds.exact(labels, probs)
        matched = thresholds.match_proportions(probs, labels.mean(axis=0))
        found = thresholds.shrunk_to_matched(labels, probs)
        logit = lambda p: np.log(p / (1 - p))  # noqa: E731
        expected = share * logit(best) + (1 - share) * logit(matched)
        np.testing.assert_allclose(logit(found), expected)


@pytest.mark.parametrize("rule", choice.rules(np.array([0.3, 0.3, 0.1]), True, repeats=2))
def test_a_class_without_positives_gets_the_common_cut(rule):
    rng = np.random.default_rng(0)
    labels = rng.random((100, 3)) < [0.4, 0.2, 0]
    probs = np.clip(0.4 * labels + 0.6 * rng.random((100, 3)), 0, 1)
    own = choice.rules(np.array([0.3, 0.3, 0.1]), True, repeats=2)[rule]
    threshold = own.fit(labels, probs, None)[2]
    if own.on_test:  # matches its training share
        assert (probs[:, 2] >= threshold).mean() == pytest.approx(0.1)
    else:
        assert threshold == thresholds.pooled(labels, probs)


def test_a_class_that_training_did_not_have_is_never_predicted():
    labels, probs = separated(200, 40, 2)
    labels, probs = np.pad(labels, ((0, 0), (0, 1))), np.tile(probs, 2)
    for rule in choice.rules(np.array([0.2, 0.0]), True, repeats=2).values():
        assert not (probs[:, 1] >= rule.fit(labels, probs, None)[1]).any()


def test_matching_uses_the_shares_of_labelled_rows_or_of_training():
    labels, probs = separated(200, 40, 2)
    rules = choice.rules(np.array([0.1]), True, repeats=2)
    share = {
        name: (probs >= rules[name].fit(labels, probs, None)).mean()
        for name in ("match_proportions", "match_training", "match_test")
    }
    assert share == pytest.approx(
        {"match_proportions": 0.2, "match_training": 0.1, "match_test": 0.1}, abs=1e-9
    )
