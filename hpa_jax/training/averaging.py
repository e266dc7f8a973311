"""Averages of parameters, and the BatchNorm statistics that belong to them.

In: checkpoints (or a running average kept in the state).  Out: parameters and statistics.  pudae:
mean of the checkpoints of the last ten epochs, then the statistics set to zero and re-estimated by
one pass over the training part with momentum b / (n + b), an exact mean over the samples seen.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from hpa_jax.training import warp
from hpa_jax.training.network import Arrays, Skeleton, skeleton
from hpa_jax.training.step import TrainState, statistics_of

if TYPE_CHECKING:
    from hpa_jax.training.checkpoint import Checkpoints
    from hpa_jax.training.setup import Setup

KINDS = ("none", "last", "chosen", "swa", "ema")


def averaged(
    setup: "Setup", checkpoints: "Checkpoints", state: TrainState
) -> tuple[Arrays, Arrays]:
    """(parameters, statistics) that the config's `average` asks for, at the end of a training."""
    kind = setup.average["kind"]
    params = state.average
    if kind in ("last", "chosen"):
        checkpoints.wait()
        found = checkpoints.steps("epoch")
        wanted = {
            "last": found[-setup.average["count"] :],
            "chosen": [
                s for s in found if checkpoints.metas[s]["epoch"] in setup.average["epochs"]
            ],
        }
        params = mean(lambda step: checkpoints.weights(step, state)[0], wanted[kind])
    params = setup.layout.put_whole(params)
    whole, rows = setup.layout.whole, setup.layout.rows
    statistics = jax.jit(
        make_batch_statistics(
            skeleton(setup.model, train=True, dropout=setup.dropout),
            setup.normalize,
            setup.output_size,
        ),
        in_shardings=(whole, whole, rows),
        out_shardings=whole,
    )
    size = setup.eval_batch_size
    full = max(len(setup.data.train_ids) // size, 1)  # the last, padded batch is left out
    batches = setup.eval_batches(setup.data.train_ids, setup.data.train_labels)
    sent = ((setup.layout.put_batch(b)["image"], size) for b, _ in zip(batches, range(full)))
    return params, reestimated(statistics, params, state.stats, sent)


def mean(read: Callable[[int], Arrays], steps: Sequence[int]) -> Arrays:
    """Mean of the parameters of several checkpoints; one of them in memory at a time."""
    total: Arrays = {}
    for number, step in enumerate(steps):
        total = running_mean(total, read(step), number)
    return total


def running_mean(average: Arrays, params: Arrays, count: int) -> Arrays:
    """The mean after one more: `average` is that of `count` before."""
    if count == 0:
        return jax.tree.map(jnp.copy, params)
    return {name: a + (params[name] - a) / (count + 1) for name, a in average.items()}


def make_batch_statistics(
    bare: Skeleton, normalize: Callable[[jax.Array], jax.Array], output_size: int = 0
) -> Callable[[Arrays, Arrays, Any], Arrays]:
    """fn(params, stats, images uint8 [N, H, W, K]) -> the statistics of this batch alone.

    output_size: side to which the pictures are resized, as augmentation does; 0: as they are.
    Statistics of another size would not be those of what the network sees (pudae: 512 px, seen at
    1024).

    A BatchNorm's new statistics are linear in the old ones, keep * old + (1 - keep) * batch.  Two
    passes, from old = 0 and old = 1, give keep, and so the batch's own value, for any momentum.
    (Other layers see the batch's statistics in training mode, never the stored ones.)
    """

    def statistics(params: Arrays, stats: Arrays, images: jax.Array) -> Arrays:
        def after(value: float) -> Arrays:
            old = {name: jnp.full_like(x, value) for name, x in stats.items()}
            model = bare.merge(params, old, None)
            model(normalize(warp.resized(images.astype(jnp.float32) / 255.0, output_size)))
            return statistics_of(model)

        zero, one = after(0.0), after(1.0)
        moved = {name: 1.0 - (one[name] - z) for name, z in zero.items()}
        # A head that a pass does not reach (inception_v3's auxiliary one) keeps its statistics.
        return {
            name: jnp.where(moved[name] > 0, z / jnp.maximum(moved[name], 1e-9), stats[name])
            for name, z in zero.items()
        }

    return statistics


def reestimated(
    statistics: Callable[[Arrays, Arrays, Any], Arrays],
    params: Arrays,
    stats: Arrays,
    batches: Iterable[tuple[jax.Array, int]],
) -> Arrays:
    """Statistics of `params`: means over batches (images, b), each weighted by its b samples."""
    seen, total = 0, stats
    for images, b in batches:
        momentum = b / (seen + b)
        batch = statistics(params, stats, images)
        total = {name: (1.0 - momentum) * total[name] + momentum * x for name, x in batch.items()}
        seen += b
    return total
