"""Each learner equals the library's, starts from the mean, and tells what it did."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs as stack_inputs
from hpa_jax.decision.stack import learners, protocols, units
from hpa_jax.decision.stack.inputs import ClassInputs


def inputs(rows=300, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    linear = np.concatenate([np.ones((rows, 1)), rng.normal(size=(rows, columns))], axis=1)
    penalty = np.r_[0.0, np.ones(columns)]
    y = (linear[:, 1] + 0.5 * linear[:, 2] + rng.normal(size=rows) > 0.8).astype(float)
    trees = linear[:, 1:].astype(np.float32)
    names = tuple("abcdefgh"[:columns])
    return ClassInputs(linear, trees, penalty, np.zeros(columns + 1), names), y


def test_logistic_equals_sklearn():
    own, y = inputs()
    rows = np.arange(0, 300, 2)
    found = learners.logistic(own, y, rows, strength=3.0)
    model = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=1000)
    model.fit(own.linear[rows, 1:], y[rows])
    np.testing.assert_allclose(found, np.r_[model.intercept_, model.coef_[0]], atol=1e-4)


def test_ridge_equals_sklearn():
    own, y = inputs()
    rows = np.arange(200)
    found = learners.ridge(own, y, rows, alpha=2.0)
    model = Ridge(2.0).fit(own.linear[rows, 1:], y[rows])
    np.testing.assert_allclose(found, np.r_[model.intercept_, model.coef_], atol=1e-9)


def test_a_strong_penalty_gives_the_mean_of_the_models():
    rng = np.random.default_rng(0)
    probs = rng.random((400, 3))
    names = [f"m{m}/p00" for m in range(3)]
    own, _ = stack_inputs.class_inputs(stack_inputs.named(names, 1).split(probs), 0)
    y = (rng.random(400) < probs.mean(axis=1)).astype(float)
    weights = learners.logistic(own, y, np.arange(400), strength=1e7)
    assert weights[1] == pytest.approx(1, abs=0.02) and np.abs(weights[2:]).max() < 1e-3


def test_booster_learns_what_is_left_and_stops():
    own, y = inputs(2000)
    y = (np.sin(3 * own.linear[:, 1]) > 0.3).astype(float)
    protocol = protocols.resolve({"rounds": 80})
    booster = learners.Booster(own.trees, own.names, y, protocol, "cpu")
    rows, stop, new = np.arange(1200), np.arange(1200, 1600), np.arange(1600, 2000)
    margin = np.full(2000, -0.5)
    after, raw, rounds, gains = booster.fit(margin, rows, stop, 0)
    assert raw is not None and 0 < rounds <= 80
    assert max(gains, key=gains.get) == "a"
    assert learners.log_loss(y[new], after[new]) < 0.5 * learners.log_loss(y[new], margin[new])
    again = margin + learners.tree_margin(raw, own.trees)
    np.testing.assert_allclose(again, after, atol=1e-5)  # cached margins are those of the file


def test_rows_of_weight_zero_change_nothing():
    own, y = inputs(600)
    rows = np.arange(400)
    protocol = protocols.resolve({"rounds": 10, "patience": 10})
    results = []
    for flip in (False, True):
        target = y.copy()
        if flip:
            target[500:] = 1 - target[500:]
        booster = learners.Booster(own.trees, own.names, target, protocol, "cpu")
        results.append(booster.fit(np.zeros(600), rows, np.arange(400, 500), 0)[0])
    np.testing.assert_array_equal(*results)


def test_noise_gets_no_trees():
    own, _ = inputs(400)
    y = (np.random.default_rng(1).random(400) < 0.3).astype(float)
    protocol = protocols.resolve({"rounds": 40})
    booster = learners.Booster(own.trees, own.names, y, protocol, "cpu")
    rows = np.arange(250)
    margin = np.full(400, np.log(0.3 / 0.7))
    _, _, rounds, _ = booster.fit(margin, rows, np.arange(250, 400), 0)
    assert rounds <= 3


def test_a_rare_class_uses_the_configured_kinds_of_columns():
    rng = np.random.default_rng(0)
    names = ["meta/green_mean", "meta/size", *(f"{m}/p0{c}" for m in "ab" for c in (0, 1))]
    table = stack_inputs.named(names, 2).split(rng.random((200, 6)))
    own, _ = stack_inputs.class_inputs(table, 0)
    assert own.kinds[1] == ("own", "own", "own", "meta", "size", "others")
    y = (np.arange(200) < 12).astype(float)
    protocol = protocols.resolve(
        {"protocol": "talk", "rare_features": ("own", "meta"), "ridge_alpha": 0.1}
    )
    fitter = units.UnitFitter(own, y, protocol, "cpu", None)
    (weights,) = fitter.linear([(np.arange(0, 200, 2), np.arange(1, 200, 2))])
    left = np.isin(own.kinds[0], ("size", "others"))
    assert (weights[left] == 0).all() and (weights[~left] != 0).all() and left.sum() == 2
    assert (fitter.inputs.trees[:, 4:] == 0).all() and (fitter.inputs.trees[:, :4] != 0).any()
    common = units.UnitFitter(own, (np.arange(200) < 50).astype(float), protocol, "cpu", None)
    assert common.inputs is own


@pytest.mark.parametrize(("boost_from", "kind"), [(12, "boosted"), (13, "logistic")])
def test_few_positives_get_no_trees(boost_from, kind):
    rng = np.random.default_rng(0)
    table = stack_inputs.named(["meta/green_mean", "a/p00", "b/p00"], 1).split(rng.random((200, 3)))
    own, _ = stack_inputs.class_inputs(table, 0)
    y = (np.arange(200) < 12).astype(float)
    protocol = protocols.resolve({"rare_below": 0, "boost_from": boost_from})
    fitter = units.UnitFitter(own, y, protocol, "cpu", None)
    halves = np.arange(0, 200, 2), np.arange(1, 200, 2)
    fitter.outer_fold([halves], np.arange(5))
    assert [model.kind for model in fitter.models] == [kind]


def test_rare_classes_have_repeats_of_their_own():
    main = protocols.resolve({"protocol": "main", "rare_repeats": 20})
    assert [main.models(count) for count in (14, 15)] == [20 * 5 * 20 * 3, 225]
    table = protocols.resolve("by_frequency")
    assert [table.models(n) for n in (14, 109, 249, 999, 1000)] == [6000, 2500, 1715, 1225, 441]
    with pytest.raises(InputError, match="rare_features"):
        protocols.resolve({"rare_features": ("own", "metas")})
