"""One training step and one evaluation step: pure functions for `jax.jit` with a donated state.

In: `TrainState`, a batch (uint8 images), a key, the rates of this step.  Out: the next state.
Log values are summed inside the state, so that the loop reads nothing from the device within an
epoch.  uint8 -> [0, 1] -> augmentation -> normalisation -> network -> loss, all on the
device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from hpa_jax.training import optimizer as optimizers
from hpa_jax.training.augment import warp
from hpa_jax.training.network import Arrays, Skeleton, named

Array = jax.Array
Batch = dict[str, Array]
Augmentation = Callable[[Array, Array, Array], tuple[Array, Array]]
Normalizer = Callable[[Array], Array]


class Totals(NamedTuple):
    """Sums since the last log line; `bad_step` is the first non-finite step or -1."""

    loss: Array
    steps: Array
    grad_norm: Array
    skipped: Array
    bad_step: Array


class TrainState(NamedTuple):
    """All variables of the training: replicated on every device, saved in checkpoints."""

    step: Array
    params: Arrays
    stats: Arrays
    optimizer: Any
    average: Arrays  # of the parameters (EMA or SWA); {} if none
    totals: Totals


class Rates(NamedTuple):
    """lr [G] of the depth groups (stem first), and Adam's beta 1 or SGD's momentum."""

    lr: Array | np.ndarray
    b1: ArrayLike


def zero_totals(bad_step: int = -1) -> Totals:
    """Return the totals at the start of an epoch."""
    # separate arrays: the state is donated, and a buffer can't be donated twice
    return Totals(
        loss=jnp.zeros((), jnp.float32),
        steps=jnp.zeros((), jnp.int32),
        grad_norm=jnp.zeros((), jnp.float32),
        skipped=jnp.zeros((), jnp.int32),
        bad_step=jnp.asarray(bad_step, jnp.int32),
    )


def make_train_step(
    skeleton: Skeleton,
    plan: optimizers.Plan,
    transformation: optax.GradientTransformation,
    loss: Callable[[Array, Array, Array], Array],
    *,
    normalize: Normalizer,
    augment: Augmentation | None = None,
    accumulate: int = 1,
    accumulate_sum: bool = False,
    on_nonfinite: str = "stop",
    ema: float = 0.0,
    aux_weight: float = 0.0,
    shard: Callable[[Array], Array] = lambda x: x,
) -> Callable[[TrainState, Batch, Array, Rates], tuple[TrainState, Array]]:
    """step(state, batch, seed, rates) -> (state, loss); keys come from (seed, state.step, purpose).

    Args:
        skeleton: of the network in training mode.
        plan: which parameters train, and their depth groups.
        transformation: `optimizer.build(plan, ...)`.
        loss: fn(logits [N, C], labels [N, C], mask [N]) -> scalar mean over real rows.
        normalize: images in [0, 1] -> network input.
        augment: fn(key, images, labels) -> (images, labels), uint8 images to [0, 1].
        accumulate: number of micro-batches M, computed one at a time to save memory.  Batch
            losses and BatchNorm are per micro-batch.
        accumulate_sum: gradients of the micro-batches are summed (pudae), not averaged.
        on_nonfinite: "stop": from the first non-finite loss or gradient on, no step changes
            anything (the loop then stops); "skip": only such steps change nothing.
        ema: decay of the running average of the parameters, debiased, so that the random
            initial values have no weight; 0 = none.
        aux_weight: weight of the auxiliary head's loss, if there is one; 0: not computed.
        shard: distributes the rows of micro-batches over the devices.
    """

    def micro_loss(
        trained: Arrays,
        frozen: Arrays,
        stats: Arrays,
        batch: Batch,
        key: Array,
        share: Array | float = 1.0,
    ) -> tuple[Array, Arrays]:
        augment_key, model_key = jax.random.split(key)
        images, labels = batch["image"], batch["label"].astype(jnp.float32)
        if augment is not None:
            images, labels = augment(augment_key, images, labels)
        images = warp.unit_range(images)
        model = skeleton.merge({**frozen, **trained}, stats, model_key)
        images = normalize(images)
        if aux_weight and hasattr(model, "logits_and_aux"):
            logits, aux = model.logits_and_aux(images)
            value = loss(logits, labels, batch["mask"])
            value += aux_weight * loss(aux, labels, batch["mask"])
        else:
            value = loss(model(images), labels, batch["mask"])
        return share * value, statistics_of(model)

    gradient = jax.value_and_grad(micro_loss, has_aux=True)

    def gradients(
        trained: Arrays, frozen: Arrays, stats: Arrays, batch: Batch, key: Array
    ) -> tuple[Array, Arrays, Arrays]:
        if accumulate == 1:
            (value, stats), grads = gradient(trained, frozen, stats, batch, key)
            return value, grads, stats
        # rows m, m + M, m + 2M, ... form micro-batch m: every device splits its local rows
        micro = {
            name: shard(jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0))
            for name, x in batch.items()
        }
        real = jnp.maximum(batch["mask"].sum(), 1).astype(jnp.float32)

        def add(carry: tuple, item: tuple) -> tuple[tuple, None]:
            value, grads, stats = carry
            batch, number = item
            # The share scales the loss, not its gradients: a plain sum of them is what XLA needs to
            # see to sum over the devices once, after the loop, and not for every micro-batch.
            share = batch["mask"].sum().astype(jnp.float32) / real
            (v, stats), g = gradient(
                trained, frozen, stats, batch, jax.random.fold_in(key, number), share
            )
            return (value + v, jax.tree.map(jnp.add, grads, g), stats), None

        zeros = jax.tree.map(jnp.zeros_like, trained)
        start = (jnp.zeros((), jnp.float32), zeros, stats)
        (value, grads, stats), _ = jax.lax.scan(add, start, (micro, jnp.arange(accumulate)))
        if accumulate_sum:
            grads = jax.tree.map(lambda g: g * accumulate, grads)
        return value, grads, stats

    def step(
        state: TrainState, batch: Batch, seed: Array, rates: Rates
    ) -> tuple[TrainState, Array]:
        trained = {name: state.params[name] for name in plan.trainable}
        frozen = {name: x for name, x in state.params.items() if name not in trained}
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value, grads, stats = gradients(trained, frozen, state.stats, batch, key)
        grad_norm = optax.global_norm(grads)
        ok = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        if on_nonfinite == "stop":
            ok &= state.totals.bad_step < 0
        opt = optimizers.set_rates(state.optimizer, rates.lr, rates.b1)
        updates, opt = transformation.update(grads, opt, trained)
        trained = optax.apply_updates(trained, updates)
        params = {**state.params, **_where(ok, trained, state.params)}
        average = state.average
        if ema:
            share = _newest_share(ema, state.step)
            average = {n: a + share * (params[n] - a) for n, a in average.items()}
        state = TrainState(
            step=state.step + 1,
            params=params,
            stats=_where(ok, stats, state.stats),
            optimizer=jax.tree.map(lambda new, old: jnp.where(ok, new, old), opt, state.optimizer),
            average=average,
            totals=_add(state.totals, ok, value, grad_norm, state.step),
        )
        return state, value

    return step


def make_eval_step(
    skeleton: Skeleton,
    loss: Callable[[Array, Array, Array], Array],
    *,
    normalize: Normalizer,
    output_size: int = 0,
) -> Callable[[Arrays, Arrays, Batch], tuple[Array, Array]]:
    """step(params, stats, batch) -> (probabilities float32 [N, C], mean loss over real rows).

    output_size: side to which the whole image is resized, as by the augmentation; 0: unchanged.
    """

    def step(params: Arrays, stats: Arrays, batch: Batch) -> tuple[Array, Array]:
        model = skeleton.merge(params, stats, None)
        images = warp.resized(warp.unit_range(batch["image"]), output_size)
        logits = model(normalize(images)).astype(jnp.float32)
        labels = batch["label"].astype(jnp.float32)
        return jax.nn.sigmoid(logits), loss(logits, labels, batch["mask"])

    return step


def statistics_of(model: nnx.Module) -> Arrays:
    """Return {name: array} of a module's BatchNorm statistics."""
    return named(nnx.state(model, nnx.BatchStat))


def _newest_share(decay: float, step: Array) -> Array:
    """Weight of the newest of step + 1 values in their debiased exponential mean.

    (1 - d) / (1 - d^(step + 1)): 1 at the first step, towards 1 - d later; equals
    optax.ema(decay, debias=True).  expm1 avoids cancellation in 1 - d^n for d near 1.
    """
    log = jnp.log(decay)
    return jnp.minimum(jnp.expm1(log) / jnp.expm1(log * (step + 1)), 1.0)


def _where(ok: Array, new: Arrays, old: Arrays) -> Arrays:
    return {name: jnp.where(ok, x, old[name]) for name, x in new.items()}


def _add(totals: Totals, ok: Array, value: Array, grad_norm: Array, step: Array) -> Totals:
    first_bad = (totals.bad_step < 0) & ~ok
    return Totals(
        loss=totals.loss + jnp.where(ok, value, 0.0),
        steps=totals.steps + ok.astype(jnp.int32),
        grad_norm=totals.grad_norm + jnp.where(ok, grad_norm, 0.0),
        skipped=totals.skipped + (~ok).astype(jnp.int32),
        bad_step=jnp.where(first_bad, step, totals.bad_step),
    )
