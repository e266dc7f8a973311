"""Which parameters train, at which rate, with which decay: against formulas of torch and fastai."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.training import optimizer

PARAMS = ("conv1.kernel", "bn1.scale", "bn1.bias", "layer.0.kernel", "layer.0.bn.scale",
          "fc.kernel", "fc.bias")  # fmt: skip
STATS = ("bn1.mean", "bn1.var", "layer.0.bn.mean", "layer.0.bn.var")
GROUPS = [["conv1", "bn1"], ["layer"], ["fc"]]


def plan(**options):
    return optimizer.plan(PARAMS, STATS, GROUPS, **options)


def run(options, steps=4, lr=(0.1, 0.2, 0.4), b1=0.9, names=PARAMS, which=None):
    """{name: values} after some steps with gradients of a fixed seed; also start and gradients."""
    which = which or plan()
    draw = np.random.default_rng(0)
    params = {name: jnp.asarray(draw.normal(size=3), jnp.float32) for name in names}
    start = dict(params)
    transformation = optimizer.build(which, options, STATS)
    state = transformation.init({name: params[name] for name in which.trainable})
    all_grads = []
    for _ in range(steps):
        grads = {n: jnp.asarray(draw.normal(size=3), jnp.float32) for n in which.trainable}
        all_grads.append(grads)
        state = optimizer.set_rates(state, jnp.asarray(lr, jnp.float32), jnp.float32(b1))
        trained = {name: params[name] for name in which.trainable}
        updates, state = transformation.update(grads, state, trained)
        params = {**params, **{n: trained[n] + updates[n] for n in updates}}
    return params, start, all_grads


def torch_adam(w, grads, lr, b1, b2=0.99, eps=1e-8, decay=0.0, decoupled=False):
    m = v = 0.0
    for t, g in enumerate(grads, 1):
        if decoupled:
            w = w * (1 - lr * decay)
        else:
            g = g + decay * w
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        w = w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return w


RATE = {"conv1": 0.1, "bn1": 0.1, "layer": 0.2, "fc": 0.4}


def rate(name):
    return RATE[name.split(".")[0]]


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("everything", [False, True])
def test_adam_with_rates_of_groups_and_decay(decoupled, everything):
    options = dict(name="adamw" if decoupled else "adam", weight_decay=0.05,
                   decay_norm_and_bias=everything)  # fmt: skip
    found, start, grads = run(options)
    for name in PARAMS:
        decayed = everything or name in ("conv1.kernel", "layer.0.kernel", "fc.kernel")
        expected = torch_adam(
            np.asarray(start[name], np.float64), [np.asarray(g[name], np.float64) for g in grads],
            rate(name), 0.9, decay=0.05 * decayed, decoupled=decoupled,
        )  # fmt: skip
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=1e-6)


def test_sgd_with_nesterov_is_torchs():
    found, start, grads = run(dict(name="sgd", momentum=0.9, nesterov=True))
    for name in PARAMS:
        w, velocity = np.asarray(start[name], np.float64), 0.0
        for g in grads:
            velocity = 0.9 * velocity + np.asarray(g[name])
            w = w - rate(name) * (np.asarray(g[name]) + 0.9 * velocity)
        np.testing.assert_allclose(found[name], w, rtol=2e-5, atol=1e-6)


def test_clipping_bounds_the_global_norm():
    found, start, grads = run(dict(name="sgd", momentum=0.0, nesterov=False, clip_norm=1.0), 1)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in grads[0].values()))
    assert norm > 1
    for name in PARAMS:
        step = (np.asarray(start[name]) - np.asarray(found[name])) / rate(name)
        np.testing.assert_allclose(step, np.asarray(grads[0][name]) / norm, rtol=1e-4)


def test_momentum_may_change_between_steps():
    which = plan()
    transformation = optimizer.build(which, dict(name="adam"), STATS)
    params = {name: jnp.ones(2) for name in PARAMS}
    state = transformation.init(params)
    update = jax.jit(transformation.update)
    lr = jnp.full(3, 0.1)
    m, g = 0.0, 0.5
    for t, b1 in enumerate((0.95, 0.9, 0.85), 1):
        updates, state = update(
            {name: jnp.full(2, g) for name in PARAMS},
            optimizer.set_rates(state, lr, jnp.float32(b1)),
            params,
        )
        m = b1 * m + (1 - b1) * g
        expected = -0.1 * (m / (1 - b1**t)) / g
        np.testing.assert_allclose(updates["fc.bias"], expected, rtol=1e-5)
    assert update._cache_size() == 1


def test_the_momentum_of_sgd_moves_with_the_schedule():
    """As fastai's one-cycle moves it: velocity <- m_t velocity + g."""
    which = plan()
    options = dict(name="sgd", momentum=0.9, nesterov=False)
    transformation = optimizer.build(which, options, STATS)
    params = {name: jnp.ones(2) for name in PARAMS}
    state, velocity, g = transformation.init(params), 0.0, 0.5
    for momentum in (0.95, 0.9, 0.85):
        rates = optimizer.set_rates(state, jnp.full(3, 0.1), jnp.float32(momentum))
        updates, state = transformation.update({name: jnp.full(2, g) for name in PARAMS}, rates)
        velocity = momentum * velocity + g
        np.testing.assert_allclose(updates["fc.bias"], -0.1 * velocity, rtol=1e-5)


def test_frozen_backbone_with_living_norms_is_fastais():
    found = plan(freeze="backbone")
    assert set(found.trainable) == {"bn1.scale", "bn1.bias", "layer.0.bn.scale", "fc.kernel",
                                    "fc.bias"}  # fmt: skip
    assert found.still_norms == ()


def test_frozen_backbone_with_still_norms_has_no_state():
    found = plan(freeze="backbone", freeze_bn=True)
    assert found.trainable == ("fc.kernel", "fc.bias")
    assert found.still_norms == ("bn1", "layer.0.bn")
    state = optimizer.build(found, dict(name="adam"), STATS).init(
        {name: jnp.ones(7) for name in found.trainable}
    )
    assert sum(x.size == 7 for x in jax.tree.leaves(state)) == 2 * 2  # two moments of two arrays


def test_freezing_by_number_counts_from_the_stem():
    assert plan(freeze=1, freeze_bn=True).still_norms == ("bn1",)
    assert plan(freeze="1", freeze_bn=True).trainable[0] == "layer.0.kernel"
    assert plan(freeze=0).trainable == PARAMS


def test_groups_go_to_the_longest_prefix_and_may_be_empty():
    found = optimizer.assign(PARAMS, [["conv1"], [], ["layer", "bn1"], ["layer.0.bn", ("fc",)]])
    assert found["layer.0.kernel"] == 2 and found["layer.0.bn.scale"] == 3 and found["fc.bias"] == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan(freeze="stem"), "unknown group 'stem'"),
        (lambda: plan(freeze=3), "3 of 3 depth groups"),
        (lambda: plan(freeze=-1), "-1 of 3"),
        (lambda: optimizer.assign(PARAMS, GROUPS[:2]), "fc.kernel belongs to no depth group"),
        (lambda: optimizer.checked(dict(name="adamm")), "did you mean 'adam'"),
        (lambda: optimizer.checked(dict(weight_deacy=1.0)), "did you mean 'weight_decay'"),
        (lambda: optimizer.checked(dict(b2=1.0)), "b2"),
        (lambda: optimizer.checked(dict(clip_norm=-1.0)), "clip_norm"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
