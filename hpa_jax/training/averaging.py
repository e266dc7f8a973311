"""Averages of parameters, with re-estimated BatchNorm statistics.

In: checkpoints (or a running average in the state).  Out: parameters and statistics.  pudae: mean
of the checkpoints of the last ten epochs, then the statistics are reset and re-estimated by one
pass over the training part with momentum b / (n + b), an exact mean over all samples so far.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.training import distributed
from hpa_jax.training.augment import warp
from hpa_jax.training.checkpoint import Checkpoints
from hpa_jax.training.compilation import Compiler
from hpa_jax.training.distributed import MeshLayout
from hpa_jax.training.network import Arrays, Skeleton, skeleton
from hpa_jax.training.phases import Phase
from hpa_jax.training.setup import Setup
from hpa_jax.training.step import TrainState, statistics_of

Statistics = Callable[[Arrays, Arrays, Any], Arrays]  # (params, stats, images) -> statistics


def averaged(
    setup: Setup,
    checkpoints: Checkpoints,
    state: TrainState,
    phase: Phase,
    compile: Compiler,
    before_batch: Callable[[], None],
) -> tuple[Arrays, Arrays]:
    """Return the (parameters, statistics) of the config's `average`, after training.

    Args:
        setup: the training.
        checkpoints: its checkpoints.
        state: the last one.
        phase: the last one; its frozen norms keep their statistics.
        compile: compiles jitted functions.
        before_batch: called before every batch; exits if a stop was requested.

    Raises:
        FloatingPointError: a statistic is not finite.
    """
    params = state.average
    if of_checkpoints(setup):
        checkpoints.wait()
        params = mean(lambda step: checkpoints.weights(step, state)[0], _steps(setup, checkpoints))
    params = setup.layout.replicate(params)
    still = phase.plan.still_norms
    dropout = setup.outline.dropout
    bare = skeleton(setup.outline.model, train=True, still_norms=still, dropout=dropout)
    statistics = make_batch_statistics(
        bare, setup.normalize, output_size=setup.output_size, still=still
    )
    batches = setup.eval_batches(setup.examples.train_ids, setup.examples.train_labels)

    def device_batches() -> Iterator[tuple[jax.Array, int]]:
        for batch in batches:
            before_batch()
            yield real_rows(setup.layout, batch)

    stats = reestimated(
        _by_size(statistics, setup.layout, compile), params, state.stats, device_batches()
    )
    bad = [name for name, x in stats.items() if not jnp.isfinite(x).all()]
    if bad:
        raise FloatingPointError(f"averaging: the statistics {bad[0]} are not finite")
    return params, stats


def of_checkpoints(setup: Setup) -> bool:
    """Return whether the average is computed from checkpoints at the end, not kept in the state.

    Also for `swa` with early stopping, where the last epochs are only known at the end.
    """
    kind = setup.average["kind"]
    return kind in ("last", "chosen") or (kind == "swa" and setup.settings.patience > 0)


def needed(setup: Setup) -> int:
    """Return the number of newest epoch checkpoints to keep for the average."""
    newest = of_checkpoints(setup) and setup.average["kind"] != "chosen"
    return setup.average["count"] if newest else 0


def after_epoch(setup: Setup, state: TrainState, epoch: int) -> Arrays:
    """Return the state's average after an epoch (from 1); SWA includes that epoch."""
    before = epoch - 1 - max(setup.epochs - setup.average["count"], 0)
    if setup.average["kind"] != "swa" or of_checkpoints(setup) or before < 0:
        return state.average
    return running_mean(state.average, state.params, before)


def _steps(setup: Setup, checkpoints: Checkpoints) -> list[int]:
    """Steps of the checkpoints to average."""
    steps = checkpoints.steps("epoch")
    if setup.average["kind"] == "chosen":
        return [s for s in steps if checkpoints.metas[s]["epoch"] in setup.average["epochs"]]
    return steps[-setup.average["count"] :]


def mean(read: Callable[[int], Arrays], steps: Sequence[int]) -> Arrays:
    """Return the mean parameters of several checkpoints, reading one at a time."""
    total: Arrays = {}
    for number, step in enumerate(steps):
        total = running_mean(total, read(step), number)
    return total


def running_mean(average: Arrays, params: Arrays, count: int) -> Arrays:
    """Return the mean including `params`; `average` is that of the `count` before."""
    if count == 0:
        return jax.tree.map(jnp.copy, params)
    return {name: a + (params[name] - a) / (count + 1) for name, a in average.items()}


def make_batch_statistics(
    bare: Skeleton,
    normalize: Callable[[jax.Array], jax.Array],
    *,
    output_size: int = 0,
    still: Sequence[str] = (),
) -> Statistics:
    """Return fn(params, stats, images uint8 [N, H, W, K]) -> statistics of this batch.

    output_size: side to which the images are resized, as by the augmentation; 0: unchanged.
    The statistics depend on the size (pudae: 512 px, resized to 1024).

    A BatchNorm's new statistics are linear in the old ones, keep * old + (1 - keep) * batch.  Two
    passes, from old = 0 and old = 1, give keep, hence the batch's value, for any momentum.
    (In training mode other layers depend on the batch's statistics, not on the stored ones; the
    norms in `still`, which use the stored ones, are unchanged.)  An unused norm, keep = 1, keeps
    its statistics.
    """

    def statistics(params: Arrays, stats: Arrays, images: jax.Array) -> Arrays:
        def after(value: float) -> Arrays:
            old = {
                name: x if name.rpartition(".")[0] in still else jnp.full_like(x, value)
                for name, x in stats.items()
            }
            model = bare.merge(params, old, None)
            # the auxiliary head has norms, too
            run = model.logits_and_aux if hasattr(model, "logits_and_aux") else model
            run(normalize(warp.resized(images.astype(jnp.float32) / 255.0, output_size)))
            return statistics_of(model)

        zero, one = after(0.0), after(1.0)
        return {
            name: z if name.rpartition(".")[0] in still else _of_batch(stats[name], z, one[name])
            for name, z in zero.items()
        }

    return statistics


def _of_batch(old: jax.Array, zero: jax.Array, one: jax.Array) -> jax.Array:
    """The batch's value, from the results for 0 and for 1; `old` if the norm was not used."""
    # one value per norm: the median is robust to rounding in channels with large values
    keep = jnp.median(one - zero)
    idle = keep == 1.0
    return jnp.where(idle, old, zero / jnp.where(idle, 1.0, 1.0 - keep))


def real_rows(layout: MeshLayout, batch: Mapping[str, np.ndarray]) -> tuple[jax.Array, int]:
    """Return (images on the devices, their number) of a host's batch, without padded rows.

    A full batch is sharded over the devices; the real rows of a padded one (the last) are
    replicated, as their number may not be divisible.
    """
    device_batch = layout.put_batch({name: batch[name] for name in ("image", "mask")})
    mask = distributed.gather(device_batch["mask"])
    if mask.all():
        return device_batch["image"], len(mask)
    return layout.replicate(distributed.gather(device_batch["image"])[mask]), int(mask.sum())


def _by_size(statistics: Statistics, layout: MeshLayout, compile: Compiler) -> Statistics:
    """`statistics`, compiled on first use for each batch size of a pass."""
    programs: dict[int, Any] = {}
    whole = layout.replicated

    def compute(params: Arrays, stats: Arrays, images: jax.Array) -> Arrays:
        count = len(images)
        if count not in programs:
            traced = distributed.in_mesh(layout.mesh, statistics)
            shardings = (whole, whole, images.sharding)
            jitted = jax.jit(traced, in_shardings=shardings, out_shardings=whole)
            name = f"statistics of {count} images"
            programs[count] = compile(jitted, (params, stats, images), name)
        return programs[count](params, stats, images)

    return compute


def reestimated(
    statistics: Statistics,
    params: Arrays,
    stats: Arrays,
    batches: Iterable[tuple[jax.Array, int]],
) -> Arrays:
    """Return the statistics of `params`: mean over batches (images, b), weighted by b."""
    count, total = 0, stats
    for images, b in batches:
        batch = statistics(params, stats, images)
        momentum = b / (count + b)
        # in this form equal values stay unchanged
        moved = {name: old + momentum * (batch[name] - old) for name, old in total.items()}
        total = moved if count else batch
        count += b
    return total
