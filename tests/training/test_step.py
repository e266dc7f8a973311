"""One step: accumulation, freezing, keys, non-finite batches, bfloat16, auxiliary logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hpa_jax.training import losses, network, optimizer
from hpa_jax.training import step as steps
from tests.training import tiny

DRAW = np.random.default_rng(0)
BATCH = {
    "image": DRAW.integers(0, 256, (16, 8, 8, 4), np.uint8),
    "label": DRAW.integers(0, 2, (16, 5), np.uint8),
    "mask": np.arange(16) < 14,
}


def half(x):
    return (x - 0.5) / 0.5


def noisy(key, images, labels):
    return images + 0.1 * jax.random.normal(key, images.shape), labels


def build(model, *, freeze="none", freeze_bn=False, dropout=0.0, options=None, terms=None, **more):
    """(jitted step, state) of a network."""
    groups = network.depth_groups(model)
    params, stats = network.shapes(model)
    plan = optimizer.plan(list(params), list(stats), groups, freeze=freeze, freeze_bn=freeze_bn)
    transformation = optimizer.build(plan, options or dict(name="sgd", momentum=0.0), list(stats))
    skeleton = network.skeleton(
        model, train=True, still_norms=plan.still_norms, dropout=dropout or None
    )
    _, params, stats = network.split(model)
    step = steps.make_train_step(
        skeleton,
        plan,
        transformation,
        losses.from_config(terms or {"focal": 1.0}),
        normalize=half,
        **more,
    )
    trained = {name: params[name] for name in plan.trainable}
    state = steps.TrainState(
        jnp.int32(0), params, stats, transformation.init(trained), {}, steps.zero_totals()
    )
    return jax.jit(step), state


RATES = steps.Rates(np.full(3, 0.1, np.float32), np.float32(0.9))
SEED = np.uint32(7)


def net(norm=True, dropout=0.0):
    return tiny.Net(5, norm=norm, dropout=dropout, rngs=nnx.Rngs(0))


def test_micro_batches_equal_the_big_batch():
    results = {}
    for accumulate in (1, 4):
        step, state = build(net(norm=False), accumulate=accumulate)
        results[accumulate] = step(state, BATCH, SEED, RATES)
    big, small = results[1], results[4]
    assert float(small[1]) == pytest.approx(float(big[1]), rel=1e-5)
    for name, x in big[0].params.items():
        np.testing.assert_allclose(small[0].params[name], x, rtol=1e-5, atol=1e-6)
    assert float(small[0].totals.grad_norm) == pytest.approx(float(big[0].totals.grad_norm), 1e-5)


def test_summed_micro_batches_give_m_times_the_gradient():
    deltas = []
    for more in (dict(accumulate=4), dict(accumulate=4, accumulate_sum=True)):
        step, state = build(net(norm=False), **more)
        after, _ = step(state, BATCH, SEED, RATES)
        deltas.append(after.params["fc.kernel"] - state.params["fc.kernel"])
    np.testing.assert_allclose(deltas[1], 4 * deltas[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["lovasz", "hard_log", "soft_f1"])
def test_batch_losses_act_per_micro_batch(name):
    """Rows m, m + M, ... of each micro-batch alone, weighted by their real rows."""
    terms = {name: 1.0}
    step, state = build(net(norm=False), terms=terms, accumulate=2)
    big, _ = build(net(norm=False), terms=terms)
    parts = [{key: x[m::2] for key, x in BATCH.items()} for m in (0, 1)]
    shares = [part["mask"].sum() / BATCH["mask"].sum() for part in parts]
    one, two = (big(state, part, SEED, RATES) for part in parts)
    after, value = step(state, BATCH, SEED, RATES)
    expected = shares[0] * float(one[1]) + shares[1] * float(two[1])
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert float(value) != pytest.approx(float(big(state, BATCH, SEED, RATES)[1]), rel=1e-4)
    for leaf, start in state.params.items():
        moved = shares[0] * (one[0].params[leaf] - start) + shares[1] * (
            two[0].params[leaf] - start
        )
        np.testing.assert_allclose(after.params[leaf] - start, moved, rtol=1e-4, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_micro_batches():
    """compiled.memory_analysis() at 1, 4 and 16 micro-batches of 16 images of 32 pixels."""
    sizes = {}
    for accumulate in (1, 4, 16):
        step, state = build(net(), accumulate=accumulate)
        rows = 16 * accumulate
        shapes = {
            "image": jax.ShapeDtypeStruct((rows, 32, 32, 4), jnp.uint8),
            "label": jax.ShapeDtypeStruct((rows, 5), jnp.uint8),
            "mask": jax.ShapeDtypeStruct((rows,), jnp.bool_),
        }
        memory = step.lower(state, shapes, SEED, RATES).compile().memory_analysis()
        pictures = rows * 32 * 32 * 4
        sizes[accumulate] = memory.temp_size_in_bytes - pictures * (accumulate > 1)
    assert sizes[16] <= 1.05 * sizes[4] <= 1.25 * sizes[1], sizes


def test_frozen_groups_stand_still_and_norms_follow_freeze_bn():
    changed = {}
    for freeze_bn in (False, True):
        step, state = build(net(), freeze="backbone", freeze_bn=freeze_bn)
        after, _ = step(state, BATCH, SEED, RATES)
        both = {**state.params, **state.stats}, {**after.params, **after.stats}
        changed[freeze_bn] = {n for n in both[0] if not np.array_equal(both[0][n], both[1][n])}
    norms = {f"bn{i}.{x}" for i in (1, 2) for x in ("scale", "bias", "mean", "var")}
    assert changed[False] == norms | {"fc.kernel", "fc.bias"}
    assert changed[True] == {"fc.kernel", "fc.bias"}


def test_frozen_groups_with_still_norms_cost_no_backward_pass():
    flops = {}
    for name, options in dict(
        none={}, norms=dict(freeze="backbone"), still=dict(freeze="backbone", freeze_bn=True)
    ).items():
        step, state = build(net(), **options)
        cost = step.lower(state, BATCH, SEED, RATES).compile().cost_analysis()
        flops[name] = cost["flops"]
    assert flops["still"] < 0.5 * flops["none"]
    assert flops["norms"] > 0.6 * flops["none"]


def test_keys_come_from_seed_and_step():
    step, state = build(net(dropout=0.5), augment=noisy)
    one, again = step(state, BATCH, SEED, RATES)[1], step(state, BATCH, SEED, RATES)[1]
    assert one == again
    assert step(state, BATCH, np.uint32(8), RATES)[1] != one
    assert step(state._replace(step=jnp.int32(1)), BATCH, SEED, RATES)[1] != one


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_non_finite_batch_changes_nothing(on_nonfinite):
    def poisoned(key, images, labels):
        bad = labels[0, 0] == 1
        return jnp.where(bad, jnp.nan, images), labels

    step, state = build(
        net(), options=dict(name="adam"), augment=poisoned, on_nonfinite=on_nonfinite
    )
    good = {**BATCH, "label": np.zeros_like(BATCH["label"])}
    bad = {**good, "label": np.ones_like(BATCH["label"])}
    first, _ = step(state, good, SEED, RATES)
    second, _ = step(first, bad, SEED, RATES)
    for part in ("params", "stats", "optimizer"):
        for x, y in zip(
            jax.tree.leaves(getattr(first, part)), jax.tree.leaves(getattr(second, part))
        ):
            np.testing.assert_array_equal(x, y)
    assert int(second.totals.skipped) == 1 and int(second.totals.bad_step) == 1
    third, _ = step(second, good, SEED, RATES)
    moved = not np.array_equal(third.params["fc.kernel"], second.params["fc.kernel"])
    assert moved == (on_nonfinite == "skip")
    assert np.isfinite(float(third.totals.loss))


def test_padded_rows_of_evaluation_do_not_count():
    model = net()
    _, params, stats = network.split(model)
    step = jax.jit(
        steps.make_eval_step(
            network.skeleton(model, train=False), losses.from_config({"bce": 1.0}), normalize=half
        )
    )
    probs, loss = step(params, stats, BATCH)
    other = {**BATCH, "image": BATCH["image"].copy()}
    other["image"][14:] = 255
    np.testing.assert_array_equal(step(params, stats, other)[0][:14], probs[:14])
    assert float(step(params, stats, other)[1]) == pytest.approx(float(loss), rel=1e-6)
    assert probs.dtype == jnp.float32


def test_evaluation_sees_the_whole_image_at_the_side_of_training():
    model = net()
    _, params, stats = network.split(model)
    seen = []

    def normalize(images):
        seen.append(images.shape)
        return half(images)

    step = steps.make_eval_step(
        network.skeleton(model, train=False),
        losses.from_config({"bce": 1.0}),
        normalize=normalize,
        output_size=6,
    )
    jax.eval_shape(step, params, stats, BATCH)
    assert seen == [(16, 6, 6, BATCH["image"].shape[-1])]


def test_auxiliary_logits_add_their_loss():
    class WithAux(tiny.Net):
        def logits_and_aux(self, x):
            logits = self(x)
            return logits, jnp.zeros_like(logits)

    terms = {"bce": 1.0}

    def loss_of(aux_weight):
        model = WithAux(5, norm=False, dropout=0.0, rngs=nnx.Rngs(0))
        step, state = build(model, terms=terms, aux_weight=aux_weight)
        return float(step(state, BATCH, SEED, RATES)[1])

    plain, state = build(net(norm=False), terms=terms)
    alone = float(plain(state, BATCH, SEED, RATES)[1])
    assert loss_of(0.4) == pytest.approx(alone + 0.4 * 5 * np.log(2), rel=1e-5)
    assert loss_of(0.0) == pytest.approx(alone, rel=1e-6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    model = _bf16()
    step, state = build(model, options=dict(name="adam"))
    text = step.lower(state, BATCH, SEED, RATES).as_text()
    assert "bf16" in text
    after, loss = step(state, BATCH, SEED, RATES)
    assert loss.dtype == jnp.float32 and np.isfinite(loss)
    for x in jax.tree.leaves((after.params, after.stats)):
        assert x.dtype == jnp.float32 and np.isfinite(x).all()
    whole, state = build(net(), options=dict(name="adam"))
    assert float(loss) == pytest.approx(float(whole(state, BATCH, SEED, RATES)[1]), rel=0.02)


def _bf16():
    model = net()
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv):
            module.dtype = jnp.bfloat16
    return model


def test_exponential_average_is_optax_debiased():
    """The random start has no part in it: after one step it is that step's weights."""
    step, state = build(net(), ema=0.999)
    state = state._replace(average=state.params)
    theirs = optax.ema(0.999, debias=True)
    name, held = "fc.kernel", theirs.init(state.params["fc.kernel"])
    for _ in range(4):
        state, _ = step(state, BATCH, SEED, RATES)
        expected, held = theirs.update(state.params[name], held)
        np.testing.assert_allclose(state.average[name], expected, rtol=1e-4, atol=1e-6)
