"""Thresholds equal scikit-learn loops and brute force; every rule of the docs is kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision import thresholds


def draw(seed=0, rows=300, shares=(0.4, 0.1, 0.03)):
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, len(shares))) < shares
    probs = 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 2 * labels - 1)))
    return labels, probs


def best_of(labels, probs, class_thresholds):
    scores = []
    for threshold in (
        class_thresholds
    ):  # f1_score itself takes a millisecond a call; the first threshold ties it to this
        hit, said = np.sum(labels & (probs >= threshold)), np.sum(probs >= threshold)
        scores.append(2 * hit / max(said + labels.sum(), 1))
    assert scores[0] == f1_score(labels, probs >= class_thresholds[0], zero_division=0)
    return class_thresholds[int(np.argmax(scores))]


def test_cross_validated_equals_a_sklearn_loop():
    labels, probs = draw()
    found = thresholds.cross_validated(labels, probs, folds=5, repeats=3, grid=50, seed=7)
    for c in range(labels.shape[1]):
        class_thresholds = []
        for j in range(3):
            split = StratifiedKFold(5, shuffle=True, random_state=7 + 101 * j)
            for _, held in split.split(probs, labels[:, c]):
                y, p = labels[held, c], probs[held, c]
                class_thresholds.append(best_of(y, p, np.linspace(p.min(), p.max(), 50)))
        assert found[c] == pytest.approx(np.mean(class_thresholds), abs=1e-9)


def test_rounded_and_constant_probabilities_equal_the_loop_too():
    labels, probs = draw(1)
    probs = np.round(probs, 1)
    probs[:, 2] = 0.25
    found = thresholds.per_part(labels, probs, repeats=1)
    for c in range(3):
        split = StratifiedKFold(5, shuffle=True, random_state=0).split(probs, labels[:, c])
        expected = [
            best_of(
                labels[held, c],
                probs[held, c],
                np.linspace(probs[held, c].min(), probs[held, c].max(), 50),
            )
            for _, held in split
        ]
        np.testing.assert_allclose(found[c], expected, atol=1e-12)


def test_few_positives_are_searched_on_the_whole_set():
    labels, probs = draw()
    labels[:, 2] = False
    labels[:4, 2] = True
    class_thresholds = np.linspace(probs[:, 2].min(), probs[:, 2].max(), 50)
    expected = best_of(labels[:, 2], probs[:, 2], class_thresholds)
    assert thresholds.cross_validated(labels, probs)[2] == pytest.approx(expected, abs=1e-12)


def test_a_class_without_positives_is_never_predicted():
    labels, probs = draw()
    labels[:, 1] = False
    for class_thresholds in (
        thresholds.cross_validated(labels, probs),
        thresholds.cross_validated(labels, probs, search="exact"),
        thresholds.exact(labels, probs),
        thresholds.shrunk(thresholds.exact(labels, probs), labels, probs),
    ):
        assert not (probs[:, 1] >= class_thresholds[1]).any()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 9999), rows=st.integers(1, 40), digits=st.integers(1, 4))
def test_exact_is_the_optimum_of_all_cuts(seed, rows, digits):
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 1)) < 0.3
    probs = np.round(rng.random((rows, 1)), digits)
    threshold = thresholds.exact(labels, probs)[0]
    tries = [*np.unique(probs), 2.0]
    best = max(metrics.class_f1(labels, probs >= t)[0] for t in tries)
    assert metrics.class_f1(labels, probs >= threshold)[0] == pytest.approx(best, abs=1e-12)


def test_exact_lies_between_the_neighbours():
    labels = np.array([[0], [0], [1], [1]])
    probs = np.array([[0.1], [0.2], [0.6], [0.9]])
    assert thresholds.exact(labels, probs)[0] == pytest.approx(0.4)


def test_groups_are_respected():
    labels, probs = draw(rows=200)
    groups = np.arange(200) // 2
    fold_cuts = thresholds.cross_validated(labels, probs, groups=groups)
    assert np.isfinite(fold_cuts).all()
    swapped = np.arange(200) ^ 1  # duplicates change places: nothing may change
    again = thresholds.cross_validated(labels[swapped], probs[swapped], groups=groups[swapped])
    assert fold_cuts.shape == again.shape == (3,)
    assert not np.allclose(fold_cuts, thresholds.cross_validated(labels, probs))


@pytest.mark.parametrize("search", ["grid", "exact"])
def test_a_held_out_part_without_positives_does_not_vote(search):
    labels, probs = draw(rows=200, shares=(0.1,))
    parts = np.tile(np.arange(200) % 5, (1, 1, 1))
    parts[0, 0, labels[:, 0]] = np.arange(labels.sum()) % 4  # the last part has none
    class_thresholds = thresholds.per_part(labels, probs, fold_ids=parts, search=search)[0]
    assert len(class_thresholds) == 4
    for part, threshold in enumerate(class_thresholds):
        held = parts[0, 0] == part
        y, p = labels[held, 0], probs[held, 0]
        tries = np.linspace(p.min(), p.max(), 50)
        if search == "grid":
            assert threshold == pytest.approx(best_of(y, p, tries), abs=1e-12)
        else:
            assert f1_score(y, p >= threshold) >= f1_score(y, p >= best_of(y, p, tries))


def brute_match(p, share, class_thresholds, half):
    distance = [abs(np.mean(p >= threshold) - share) for threshold in class_thresholds]
    near = [
        threshold for threshold, d in zip(class_thresholds, distance) if d <= min(distance) + 1e-12
    ]
    return min(near, key=lambda threshold: abs(threshold - 0.5)) if half else near[0]


def test_match_proportions_equals_brute_force():
    _, probs = draw(rows=60)
    shares = np.array([0.3, 0.01, 0.9])
    found = thresholds.match_proportions(probs, shares, grid=1000)
    for c in range(3):
        expected = brute_match(probs[:, c], shares[c], np.linspace(0, 1, 1000), half=True)
        assert found[c] == pytest.approx(expected, abs=1e-12)


def test_pudae_rule_is_strictly_above_by_the_next_float():
    probs = np.array([[0.05, 0.5], [0.06, 0.5], [0.07, 0.2], [0.9, 0.1]])
    found = thresholds.match_proportions(
        probs, [0.5, 0.0], thresholds.PUDAE_GRID, ties="first", strict=True
    )
    assert found[0] == np.nextafter(0.06, 1)  # two of four lie strictly above .06
    assert found[1] == np.nextafter(0.5, 1)
    assert (probs[:, 0] >= found[0]).sum() == 2 and not (probs[:, 1] >= found[1]).any()


def test_shrinkage_goes_to_the_anchor_for_rare_classes_only():
    labels, probs = draw(rows=400, shares=(0.5, 0.02))
    class_thresholds = np.array([0.5, 0.9])
    anchor = thresholds.pooled(labels, probs)
    mixed = thresholds.shrunk(class_thresholds, labels, probs, strength=10)
    n = labels.sum(axis=0)
    np.testing.assert_allclose(mixed, (n * class_thresholds + 10 * anchor) / (n + 10))
    np.testing.assert_allclose(
        thresholds.shrunk(class_thresholds, labels, probs, strength=0), class_thresholds
    )
    assert thresholds.shrunk(class_thresholds, labels, probs, 10, "proportions").shape == (2,)


def test_pooled_is_the_best_common_cut():
    labels, probs = draw(rows=100)
    threshold = thresholds.pooled(labels, probs, points=1000)
    best = max(metrics.macro_f1(labels, probs >= t) for t in np.unique(probs))
    assert metrics.macro_f1(labels, probs >= threshold) == pytest.approx(best, abs=0.01)


def test_decide_rules():
    probs = np.array([[0.2, 0.4, 0.1], [0.6, 0.5, 0.3]])
    class_thresholds = np.array([0.6, 0.9, 0.15])
    assert thresholds.decide(probs, class_thresholds).tolist() == [[False] * 3, [True, False, True]]
    empty = thresholds.decide(probs, class_thresholds, argmax="empty")
    assert empty[0].tolist() == [False, False, True]  # .1/.15 is the largest ratio
    out = thresholds.decide(probs, [0.6, 0.9, thresholds.never(0.4)], argmax="empty")
    assert out[0].tolist() == [False, True, False]  # never is never, whatever the ratio
    never = thresholds.never(0.9)
    assert thresholds.scaled([0.5, never], 0.48).tolist() == [0.24, never]
    always = thresholds.decide(probs, class_thresholds, argmax="always")
    assert always[0].tolist() == [False, True, False]
    assert thresholds.decide(probs, thresholds.scaled(class_thresholds, 0.3)).all()
    assert thresholds.scaled([0.5, 0.4], [0.5, 2.0]).tolist() == [0.25, 0.8]
    for wrong in ((), (1.0, 2.0, 3.0), 0.0):
        with pytest.raises(InputError, match="threshold scale"):
            thresholds.scaled([0.5, 0.4], wrong)


def test_fitter_serves_every_method():
    labels, probs = draw()
    given = thresholds.fitter("match_proportions", proportions=(0.5, 0.2, 0.1))(labels, probs, None)
    expected = thresholds.match_proportions(probs, [0.5, 0.2, 0.1])
    np.testing.assert_array_equal(given, expected)
    np.testing.assert_array_equal(
        thresholds.fitter("match_proportions_pudae")(labels, probs, None),
        thresholds.match_proportions(
            probs, labels.mean(axis=0), thresholds.PUDAE_GRID, ties="first", strict=True
        ),
    )
    assert thresholds.fitter("fixed", value=0.3)(labels, probs, None).tolist() == [0.3] * 3
    plain = thresholds.fitter("exact")(labels, probs, None)
    np.testing.assert_array_equal(
        thresholds.fitter("exact", shrink=5.0)(labels, probs, None),
        thresholds.shrunk(plain, labels, probs, 5.0),
    )


def test_bad_input_is_an_error():
    labels, probs = draw()
    with pytest.raises(InputError, match="NaN: 1"):
        thresholds.decide(probs, [0.5, np.nan, 0.5])
    with pytest.raises(InputError, match="one number per class"):
        thresholds.decide(probs, [])
    with pytest.raises(InputError, match="no labelled rows"):
        thresholds.exact(labels[:0], probs[:0])
    with pytest.raises(InputError, match="row 3, column 1"):
        probs[3, 1] = np.nan
        thresholds.cross_validated(labels, probs)
    with pytest.raises(InputError, match="cross_validated"):
        thresholds.fitter("crossvalidated")
    with pytest.raises(InputError, match="proportions"):
        thresholds.match_proportions(np.zeros((3, 2)), [0.5, 1.5])


def test_folds_are_drawn_once_for_methods_on_the_same_rows(monkeypatch):
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < 0.3
    probs = np.clip(labels * 0.4 + rng.random((2, 300, 3)) * 0.6, 0, 1)
    groups = np.arange(300) // 2
    plain = [thresholds.fitter("cross_validated")(labels, p, groups) for p in probs]
    drawn, calls, stratified = {}, [], thresholds.folding.stratified

    def counted(*arguments):
        calls.append(arguments)
        return stratified(*arguments)

    monkeypatch.setattr(thresholds.folding, "stratified", counted)
    fits = [thresholds.fitter("cross_validated", fold_cache=drawn) for _ in probs]
    found = [fit(labels, p, groups) for fit, p in zip(fits, probs)]
    np.testing.assert_array_equal(found, plain)
    assert len(calls) == 1
    fits[0](labels[:200], probs[0, :200], groups[:200])
    fits[0](labels, probs[0], None)
    assert len(calls) == 3


def test_median_of_the_parts_ignores_a_few_wild_ones():
    rng = np.random.default_rng(0)
    labels = rng.random((300, 2)) < [0.3, 0.03]
    probs = np.clip(labels * 0.4 + rng.random((300, 2)) * 0.6, 0, 1)
    parts = thresholds.per_part(labels, probs)
    found = thresholds.cross_validated(labels, probs, combine="median")
    np.testing.assert_array_equal(found, [np.median(part) for part in parts])
    fit = thresholds.fitter("cross_validated", combine="median")
    np.testing.assert_array_equal(fit(labels, probs, None), found)
    with pytest.raises(InputError, match="mode"):
        thresholds.cross_validated(labels, probs, combine="mode")


def test_rare_classes_shrink_towards_what_the_config_names():
    rng = np.random.default_rng(0)
    labels = rng.random((400, 2)) < [0.3, 0.02]
    probs = np.clip(labels * 0.3 + rng.random((400, 2)) * 0.6, 0, 1)
    plain = thresholds.exact(labels, probs)
    for towards in ("pooled", "proportions"):
        fit = thresholds.fitter("exact", shrink=10.0, shrink_towards=towards)
        expected = thresholds.shrunk(plain, labels, probs, 10.0, towards)
        np.testing.assert_array_equal(fit(labels, probs, None), expected)
    assert (fit(labels, probs, None) != thresholds.shrunk(plain, labels, probs, 10.0)).any()
