"""Curves against the teams' words and optax."""

import math

import numpy as np
import optax
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.training import examples, schedules


def test_one_cycle_is_that_of_the_spec():
    # spec §4.5 with n = 100: a = 30; linear lr/25 -> lr, then cosine to lr/250,000
    schedule = schedules.build("one_cycle", lr=1e-3, steps=100, steps_per_epoch=10)
    assert schedule.lr(0) == pytest.approx(1e-3 / 25)
    assert schedule.lr(15) == pytest.approx((1e-3 / 25 + 1e-3) / 2)
    assert schedule.lr(30) == pytest.approx(1e-3)
    assert schedule.lr(65) == pytest.approx((1e-3 + 1e-3 / 250_000) / 2)
    assert schedule.lr(100) == pytest.approx(1e-3 / 250_000)
    assert [schedule.beta1(s) for s in (0, 30, 100)] == pytest.approx([0.95, 0.85, 0.95])
    assert schedule.beta1(15) == pytest.approx(0.90)


def test_one_cycle_follows_fastai_step_by_step():
    """fastai 1.0.22's two Steppers, advanced after each batch."""
    n, lr, div = 37, 5e-3, 50.0
    a = int(n * 0.3)
    phases = [
        (a, lambda s, e, p: s + p * (e - s), (lr / div, lr), (0.95, 0.85)),
        (
            n - a,
            lambda s, e, p: e + (s - e) / 2 * (math.cos(math.pi * p) + 1),
            (lr, lr / div / 1e4),
            (0.85, 0.95),
        ),
    ]
    rates, momenta, phase, at = [lr / div], [0.95], 0, 0
    for _ in range(n - 1):
        at += 1
        length, curve, ends, moms = phases[phase]
        rates.append(curve(*ends, at / length))
        momenta.append(curve(*moms, at / length))
        if at >= length:
            phase, at = phase + 1, 0
    schedule = schedules.build("one_cycle", lr=lr, steps=n, steps_per_epoch=n, div_factor=div)
    np.testing.assert_allclose([schedule.lr(s) for s in range(n)], rates, rtol=1e-12)
    np.testing.assert_allclose([schedule.beta1(s) for s in range(n)], momenta, rtol=1e-12)


def test_cosine_curves_equal_optax():
    ours = schedules.build("one_cycle_cosine", lr=2e-3, steps=50, steps_per_epoch=5)
    theirs = optax.cosine_onecycle_schedule(50, 2e-3)
    np.testing.assert_allclose([ours.lr(s) for s in range(50)],
                               [float(theirs(s)) for s in range(50)], rtol=1e-4)  # fmt: skip
    ours = schedules.build("cyclic_cosine", lr=2e-3, steps=60, steps_per_epoch=5, cycles=3)
    theirs = optax.sgdr_schedule(
        [dict(init_value=2e-3, peak_value=2e-3, decay_steps=20, warmup_steps=0)] * 3
    )
    np.testing.assert_allclose([ours.lr(s) for s in range(60)],
                               [float(theirs(s)) for s in range(60)], rtol=1e-4)  # fmt: skip


def test_triangles_rise_and_fall():
    schedule = schedules.build(
        "cyclic_triangular", lr=1.0, steps=40, steps_per_epoch=10, cycles=2, div_factor=10
    )
    assert schedule.lr(0) == schedule.lr(20) == pytest.approx(0.1)
    assert schedule.lr(10) == schedule.lr(30) == pytest.approx(1.0)
    assert schedule.lr(5) == schedule.lr(15) == pytest.approx(0.55)


def test_step_table_is_bestfittings():
    text = "25: 3e-4, 30: 1.5e-4, 35: 7.5e-5, 40: 3e-5, 45: 1e-5"
    schedule = schedules.build(text, lr=1.0, steps=4600, steps_per_epoch=100)
    epochs = [0, 24.99, 25, 29.99, 30, 39.9, 40, 44, 45.5]
    rates = [3e-4, 3e-4, 1.5e-4, 1.5e-4, 7.5e-5, 3e-5, 1e-5, 1e-5, 1e-5]
    assert [schedule.lr(100 * e) for e in epochs] == pytest.approx(rates)


def test_warm_up_rises_to_the_curve():
    schedule = schedules.build("constant", lr=1.0, steps=40, steps_per_epoch=10, warmup=2.0)
    assert schedule.lr(0) == pytest.approx(1 / 25)
    assert schedule.lr(10) == pytest.approx((1 / 25 + 1) / 2)
    assert schedule.lr(20) == schedule.lr(39) == 1.0
    assert schedule.beta1(3) == 0.9


def test_group_factors_are_log_spaced_or_listed():
    np.testing.assert_allclose(schedules.group_factors(3, 16), [1 / 16, 1 / 4, 1])
    np.testing.assert_allclose(schedules.group_factors(5, 1.0), np.ones(5))
    listed = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    np.testing.assert_allclose(schedules.group_factors(6, listed), listed)
    with pytest.raises(InputError, match="4 depth groups, needs 4 factors"):
        schedules.group_factors(4, listed)
    with pytest.raises(InputError, match="lr_decay"):
        schedules.group_factors(4, 0.0)


def test_noise_is_drawn_per_group_and_phase_or_step():
    one = schedules.noise_factors(1000, 0.01, seed=1, phase=0)
    assert one.std() == pytest.approx(0.01, rel=0.1) and one.mean() == pytest.approx(1, abs=2e-3)
    np.testing.assert_array_equal(one, schedules.noise_factors(1000, 0.01, seed=1, phase=0))
    others = [dict(seed=2, phase=0), dict(seed=1, phase=1), dict(seed=1, phase=0, step=0),
              dict(seed=1, phase=0, step=1)]  # fmt: skip
    for other in others:
        assert not np.array_equal(one, schedules.noise_factors(1000, 0.01, **other))
    np.testing.assert_array_equal(schedules.noise_factors(3, 0.0, seed=1, phase=0), np.ones(3))


def test_noise_and_the_order_of_an_epoch_share_no_draws():
    """Both come from (seed, a small number): the purpose keeps them apart."""
    noise = schedules.noise_factors(4, 1.0, seed=5, phase=0) - 1.0
    order = examples._generator(5, 0).standard_normal(4)
    assert not np.allclose(np.maximum(1.0 + order, 0.0) - 1.0, noise)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="one_cyle"), "did you mean 'one_cycle'"),
        (dict(lr=0.0), "lr: must be > 0, not 0.0"),
        (dict(lr=float("nan")), "lr: must be > 0"),
        (dict(name="3: x"), "not a step table"),
        (dict(name="5: 1e-3, 5: 1e-4"), "must increase"),
        (dict(name="5: 1e-3, 6: 0"), "rates be > 0"),
    ],
)
def test_bad_schedules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        schedules.build(**{**dict(name="constant", lr=1e-3, steps=5, steps_per_epoch=1), **options})
