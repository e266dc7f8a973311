"""Losses against formulas written again in numpy, finite differences, and extreme logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.training import losses

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(0, 2, (7, 5)).astype(np.float32)
LABELS = (DRAW.random((7, 5)) < 0.4).astype(np.float32)
LABELS[3] = 0.0  # a sample without positives
LABELS[:, 4] = 0.0  # a class without positives

ALL = {
    "bce": lambda x, t: losses.bce(x, t).mean(),
    "bce_options": lambda x, t: losses.bce(x, t, smoothing=0.1, positive_weight=3.0).mean(),
    "focal": lambda x, t: losses.focal(x, t).mean(),
    "asymmetric": lambda x, t: losses.asymmetric(x, t).mean(),
    "focal_half": lambda x, t: losses.focal(x, t, gamma=0.5).mean(),
    "focal_mean": lambda x, t: losses.focal(x, t, mean=True).mean(),
    "lsep": lambda x, t: losses.lsep(x, t).mean(),
    "lovasz": losses.lovasz_hinge,
    "hard_log": losses.hard_log,
    "soft_f1": losses.soft_f1,
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def slow_bce(x, t):
    p = sigmoid(x)
    return -(t * np.log(p) + (1 - t) * np.log(1 - p))


def slow_focal(x, t, gamma=2.0):
    p = sigmoid(x)
    pt = np.where(t > 0, p, 1 - p)
    return -((1 - pt) ** gamma) * np.log(pt)


def slow_lsep(x, t):
    out = []
    for f, y in zip(x.astype(np.float64), t > 0):
        out.append(np.log(1 + sum(np.exp(v - u) for v in f[~y] for u in f[y])))
    return np.array(out)


def slow_lovasz_one_side(z, t):
    errors = np.array([1 - s * (2 * y - 1) for s, y in zip(z.astype(np.float64), t)])
    order = np.argsort(-errors, kind="stable")
    total, before, truth = 0.0, 0.0, {i for i in range(len(t)) if t[i] > 0}
    wrong = set()
    for i in order:
        wrong.add(i)
        kept = truth - wrong  # the Jaccard loss of a prediction that is wrong on `wrong`
        union = truth | (wrong - truth)
        loss = 1 - len(kept) / len(union)
        total += max(errors[i], 0) * (loss - before)
        before = loss
    return total


def slow_lovasz(x, t):
    columns = range(x.shape[1])
    sides = [
        0.5 * (slow_lovasz_one_side(x[:, c], t[:, c]) + slow_lovasz_one_side(-x[:, c], 1 - t[:, c]))
        for c in columns
    ]
    return np.mean(sides)


def slow_hard_log(x, t):
    means = []
    for c in range(x.shape[1]):
        loss = slow_bce(x[:, c], t[:, c])
        positive = t[:, c] > 0
        p, n = positive.sum(), (~positive).sum()
        k = min(n, p + max(2, int(0.5 * n)), (7 * n) // 10 + 2)
        negatives = np.flatnonzero(~positive)
        hardest = negatives[np.argsort(-x[negatives, c])[:k]]
        means.append(np.concatenate([loss[positive], loss[hardest]]).mean())
    return np.mean(means)


def slow_soft_f1(x, t):
    p = sigmoid(x)
    f1 = [
        2 * (p[:, c] * t[:, c]).sum() / (p[:, c].sum() + t[:, c].sum())
        for c in range(x.shape[1])
        if t[:, c].sum()
    ]
    return 1 - np.mean(f1)


def test_per_sample_losses_equal_their_formulas():
    close = dict(rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(losses.bce(LOGITS, LABELS), slow_bce(LOGITS, LABELS).sum(1), **close)
    np.testing.assert_allclose(
        losses.focal(LOGITS, LABELS, gamma=3.0), slow_focal(LOGITS, LABELS, 3.0).sum(1), **close
    )
    np.testing.assert_allclose(
        losses.focal(LOGITS, LABELS, mean=True), slow_focal(LOGITS, LABELS).mean(1), **close
    )
    np.testing.assert_allclose(losses.lsep(LOGITS, LABELS), slow_lsep(LOGITS, LABELS), **close)
    assert losses.lsep(LOGITS, LABELS)[3] == 0.0


def test_bce_options_equal_their_formula():
    smoothed = LABELS * 0.9 + 0.05
    p = sigmoid(LOGITS)
    weight = np.arange(1.0, 6.0)
    expected = -(weight * smoothed * np.log(p) + (1 - smoothed) * np.log(1 - p)).sum(1)
    found = losses.bce(LOGITS, LABELS, smoothing=0.1, positive_weight=weight)
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_asymmetric_loss_is_its_formula(clip):
    p = 1 / (1 + np.exp(-np.asarray(LOGITS, np.float64)))
    q, t = np.maximum(p - clip, 0), np.asarray(LABELS, np.float64)
    expected = -(t * (1 - p) * np.log(p) + (1 - t) * q**4 * np.log(1 - q)).sum(1)
    found = losses.asymmetric(LOGITS, LABELS, gamma_positive=1.0, clip=clip)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_focal_equals_optax():
    expected = optax.sigmoid_focal_loss(LOGITS, LABELS, gamma=2.0).sum(-1)
    np.testing.assert_allclose(losses.focal(LOGITS, LABELS), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        (losses.lovasz_hinge, slow_lovasz),
        (losses.hard_log, slow_hard_log),
        (losses.soft_f1, slow_soft_f1),
    ],
)
def test_batch_losses_equal_their_formulas(fast, slow):
    assert float(fast(LOGITS, LABELS)) == pytest.approx(slow(LOGITS, LABELS), rel=2e-5)


@pytest.mark.parametrize("count", [3, 10, 20, 40])
def test_hard_log_keeps_the_exact_number_at_every_size(count):
    x = DRAW.normal(size=(count, 1)).astype(np.float32)
    t = np.zeros((count, 1), np.float32)
    assert float(losses.hard_log(x, t)) == pytest.approx(slow_hard_log(x, t), rel=1e-5)


def test_arcface_equals_its_formula():
    cosines = np.clip(DRAW.normal(0, 0.6, (6, 4)), -1, 1).astype(np.float32)
    cosines[0, 1] = -0.99  # beyond pi - m
    labels = np.array([1, 0, 2, 3, 3, 1])
    s, m = 30.0, 0.5
    expected = []
    for row, label in zip(cosines.astype(np.float64), labels):
        angular = row.copy()
        c = row[label]
        angular[label] = (
            np.cos(np.arccos(c) + m) if c > np.cos(np.pi - m) else c - m * np.sin(np.pi - m)
        )

        def cross_entropy(z, label=label):
            return np.log(np.exp(z - z.max()).sum()) + z.max() - z[label]

        expected.append(0.5 * cross_entropy(s * angular) + 0.5 * cross_entropy(row))
    np.testing.assert_allclose(losses.arcface(cosines, labels), expected, rtol=1e-4)
    gradient = jax.grad(lambda c: losses.arcface(c, labels).sum())(jnp.ones((6, 4)))
    assert np.isfinite(gradient).all()


def test_arcface_gradients_equal_finite_differences():
    """Of every cosine, with the margin on the true class and beyond pi - m, where it is a line."""
    cosines = np.random.default_rng(1).uniform(-0.9, 0.9, (5, 4)).astype(np.float32)
    labels, h = np.array([1, 0, 2, 3, 3]), 1e-3
    cosines[0, 1] = -0.95  # cos(pi - m) is -0.878

    def loss(x):
        return losses.arcface(x, labels, scale=8.0).sum()

    gradient, jitted = np.asarray(jax.grad(loss)(cosines)), jax.jit(loss)
    for at in np.ndindex(cosines.shape):
        up, down = cosines.copy(), cosines.copy()
        up[at] += h
        down[at] -= h
        numeric = (float(jitted(up)) - float(jitted(down))) / (2 * h)
        assert gradient[at] == pytest.approx(numeric, rel=2e-2, abs=1e-2), at


@pytest.mark.parametrize("name", ALL)
def test_gradients_equal_finite_differences(name):
    loss = ALL[name]
    gradient = np.asarray(jax.jit(jax.grad(loss))(LOGITS, LABELS))
    jitted = jax.jit(loss)
    h = 1e-2
    for i, c in [(0, 0), (2, 3), (5, 1), (6, 4)]:
        up, down = LOGITS.copy(), LOGITS.copy()
        up[i, c] += h
        down[i, c] -= h
        numeric = (float(jitted(up, LABELS)) - float(jitted(down, LABELS))) / (2 * h)
        assert gradient[i, c] == pytest.approx(numeric, rel=2e-2, abs=2e-4)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_give_finite_losses_and_gradients(name, size):
    for logits in (np.full((7, 5), size, np.float32), size * np.sign(LOGITS)):
        value, gradient = jax.value_and_grad(ALL[name])(jnp.asarray(logits), LABELS)
        assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("terms", [{"focal": 1.0}, {"lovasz": 1.0}, {"hard_log": 1.0},
                                   {"soft_f1": 1.0}, {"lsep": 1.0}])  # fmt: skip
def test_padding_changes_nothing(terms):
    loss = losses.from_config(terms)
    real = float(loss(LOGITS, LABELS, np.ones(7, bool)))
    padded_x = np.concatenate([LOGITS, 50 * np.ones((3, 5), np.float32)])
    padded_t = np.concatenate([LABELS, np.ones((3, 5), np.float32)])
    mask = np.arange(10) < 7
    assert float(loss(padded_x, padded_t, mask)) == pytest.approx(real, rel=1e-5)
    gradient = jax.grad(lambda x: loss(x, padded_t, mask))(jnp.asarray(padded_x))
    assert not np.asarray(gradient[7:]).any()


@pytest.mark.parametrize("positives", [1, 4, 8, 12])
def test_each_bound_of_hard_log_is_met(positives):
    """18 rows: half of the negatives and the positives, seven tenths and two, or all of them."""
    x = np.random.default_rng(1).normal(size=(18, 1)).astype(np.float32)
    t = (np.arange(18) < positives).astype(np.float32)[:, None]
    n = 18 - positives
    bounds = (n, positives + max(2, n // 2), 7 * n // 10 + 2)
    tightest = {1: bounds[1], 4: bounds[1], 8: bounds[2], 12: bounds[0]}[positives]
    assert tightest == min(bounds)
    assert float(losses.hard_log(x, t)) == pytest.approx(slow_hard_log(x, t), rel=2e-5)


def test_the_mean_of_lsep_leaves_out_rows_without_positives():
    assert not LABELS[3].any() and LABELS.any(axis=1).sum() == 6
    loss = losses.from_config({"lsep": 1.0})
    expected = slow_lsep(LOGITS, LABELS).sum() / 6
    assert float(loss(LOGITS, LABELS, np.ones(7, bool))) == pytest.approx(expected, rel=2e-5)
    assert float(loss(LOGITS[3:4], LABELS[3:4], np.ones(1, bool))) == 0.0


def test_weighted_sum_of_terms():
    mask = np.ones(7, bool)
    loss = losses.from_config({"focal": 0.5, "lovasz": 0.25, "bce": {"weight": 2.0}})
    expected = (
        0.5 * losses.focal(LOGITS, LABELS).mean()
        + 0.25 * losses.lovasz_hinge(LOGITS, LABELS)
        + 2.0 * losses.bce(LOGITS, LABELS).mean()
    )
    assert float(loss(LOGITS, LABELS, mask)) == pytest.approx(float(expected), rel=1e-6)
    sharp = losses.from_config({"focal": {"weight": 1.0, "gamma": 5.0}})
    assert float(sharp(LOGITS, LABELS, mask)) == pytest.approx(
        float(losses.focal(LOGITS, LABELS, gamma=5.0).mean())
    )
    mean = losses.from_config({"bce_mean": 1.0})
    assert float(mean(LOGITS, LABELS, mask)) == pytest.approx(slow_bce(LOGITS, LABELS).mean())


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "empty"),
        ({"focla": 1.0}, "did you mean 'focal'"),
        ({"focal": -1.0}, "weight"),
        ({"focal": {"weight": 1.0, "gama": 3.0}}, "did you mean 'gamma'"),
        ({"bce": {"weight": 1.0, "smoothing": 1.5}}, "smoothing"),
        ({"bce": {"positive_weight": -1.0}}, "positive_weight: must be numbers >= 0"),
        ({"bce": {"positive_weight": (1.0, float("nan"))}}, "positive_weight: must be numbers"),
        ({"bce_mean": {"positive_weight": (1.0, 2.0)}}, "2 numbers for 5 classes"),
    ],
)
def test_bad_terms_are_refused(terms, message):
    with pytest.raises(InputError, match=message):
        losses.from_config(terms, 5)
