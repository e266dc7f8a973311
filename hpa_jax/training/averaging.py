"""Averages of parameters, and the BatchNorm statistics that belong to them.

In: checkpoints (or a running average kept in the state).  Out: parameters and statistics.  pudae:
mean of the checkpoints of the last ten epochs, then the statistics set to zero and re-estimated by
one pass over the training part with momentum b / (n + b), an exact mean over the samples seen.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from hpa_jax.training.augment import warp
from hpa_jax.training.distributed import Layout, gather
from hpa_jax.training.network import Arrays, Skeleton, skeleton
from hpa_jax.training.phases import Stage
from hpa_jax.training.step import TrainState, statistics_of

if TYPE_CHECKING:
    from hpa_jax.training.checkpoint import Checkpoints
    from hpa_jax.training.setup import Setup

KINDS = ("none", "last", "chosen", "swa", "ema")
Compile = Callable[[Any, tuple, str], Any]  # (jitted, arguments, name) -> compiled


def averaged(
    setup: "Setup",
    checkpoints: "Checkpoints",
    state: TrainState,
    stage: Stage,
    compiled: Compile,
    asked: Callable[[], None],
) -> tuple[Arrays, Arrays]:
    """(parameters, statistics) that the config's `average` asks for, at the end of a training.

    Args:
        setup: the training.
        checkpoints: its checkpoints.
        state: the last one.
        stage: in which training ended: its norms that stand still keep their statistics.
        compiled: compiles what is jitted.
        asked: called before every batch; leaves the program if it was told to stop.

    Raises:
        FloatingPointError: a statistic is not finite.
    """
    params = state.average
    if of_checkpoints(setup):
        checkpoints.wait()
        params = mean(lambda step: checkpoints.weights(step, state)[0], _steps(setup, checkpoints))
    params = setup.layout.put_whole(params)
    still = stage.plan.still_norms
    bare = skeleton(setup.model, train=True, still_norms=still, dropout=setup.dropout)
    step = make_batch_statistics(bare, setup.normalize, output_size=setup.output_size, still=still)
    compute = _by_size(step, setup.layout, compiled)
    batches = setup.eval_batches(setup.data.train_ids, setup.data.train_labels)

    def sent() -> Iterator[tuple[jax.Array, int]]:
        for batch in batches:
            asked()
            yield real_rows(setup.layout, batch)

    stats = reestimated(compute, params, state.stats, sent())
    bad = [name for name, x in stats.items() if not jnp.isfinite(x).all()]
    if bad:
        raise FloatingPointError(f"averaging: the statistics {bad[0]} are not finite")
    return params, stats


def of_checkpoints(setup: "Setup") -> bool:
    """Whether the average is made of checkpoints at the end, not kept in the state.

    So is `swa` where training may end early: which epochs are the last ones is known only then.
    """
    kind = setup.average["kind"]
    return kind in ("last", "chosen") or (kind == "swa" and setup.settings.patience > 0)


def needed(setup: "Setup") -> int:
    """How many ends of epochs, the newest ones, have to be kept for the average."""
    newest = of_checkpoints(setup) and setup.average["kind"] != "chosen"
    return setup.average["count"] if newest else 0


def _steps(setup: "Setup", checkpoints: "Checkpoints") -> list[int]:
    """Steps of the checkpoints that are averaged."""
    found = checkpoints.steps("epoch")
    if setup.average["kind"] == "chosen":
        return [s for s in found if checkpoints.metas[s]["epoch"] in setup.average["epochs"]]
    return found[-setup.average["count"] :]


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
    bare: Skeleton,
    normalize: Callable[[jax.Array], jax.Array],
    *,
    output_size: int = 0,
    still: Sequence[str] = (),
) -> Callable[[Arrays, Arrays, Any], Arrays]:
    """fn(params, stats, images uint8 [N, H, W, K]) -> the statistics of this batch alone.

    output_size: side to which the images are resized, as augmentation does; 0: as they are.
    Statistics of another size would not be those of what the network sees (pudae: 512 px, seen at
    1024).

    A BatchNorm's new statistics are linear in the old ones, keep * old + (1 - keep) * batch.  Two
    passes, from old = 0 and old = 1, give keep, and so the batch's own value, for any momentum.
    (Other layers see the batch's statistics in training mode, never the stored ones; those of the
    norms `still`, which do use them, are not touched.)  A norm that is not run, keep = 1, keeps its
    own.
    """

    def statistics(params: Arrays, stats: Arrays, images: jax.Array) -> Arrays:
        def after(value: float) -> Arrays:
            old = {
                name: x if name.rpartition(".")[0] in still else jnp.full_like(x, value)
                for name, x in stats.items()
            }
            model = bare.merge(params, old, None)
            # the auxiliary head has norms of its own
            run = model.logits_and_aux if hasattr(model, "logits_and_aux") else model
            run(normalize(warp.resized(images.astype(jnp.float32) / 255.0, output_size)))
            return statistics_of(model)

        zero, one = after(0.0), after(1.0)
        return {
            name: z if name.rpartition(".")[0] in still else _own(stats[name], z, one[name])
            for name, z in zero.items()
        }

    return statistics


def _own(old: jax.Array, zero: jax.Array, one: jax.Array) -> jax.Array:
    """The batch's value, from what became of 0 and of 1; `old` where the batch did not come in."""
    # one number a norm: the median is exact where large values of a channel round it away
    keep = jnp.median(one - zero)
    idle = keep == 1.0
    return jnp.where(idle, old, zero / jnp.where(idle, 1.0, 1.0 - keep))


def real_rows(layout: Layout, batch: Mapping[str, np.ndarray]) -> tuple[jax.Array, int]:
    """(images on the devices, their number) of a host's batch, without padded rows.

    A whole batch is cut over the devices; of one with padding, the last of a pass, every device
    gets all real rows, whose number they can't share evenly.
    """
    sent = layout.put_batch({name: batch[name] for name in ("image", "mask")})
    mask = gather(sent["mask"])
    if mask.all():
        return sent["image"], len(mask)
    return layout.put_whole(gather(sent["image"])[mask]), int(mask.sum())


def _by_size(
    step: Callable[[Arrays, Arrays, Any], Arrays], layout: Layout, compiled: Compile
) -> Callable[[Arrays, Arrays, Any], Arrays]:
    """`step`, compiled for each of the two batch sizes of a pass when it comes."""
    programs: dict[int, Any] = {}
    whole = layout.whole

    def compute(params: Arrays, stats: Arrays, images: jax.Array) -> Arrays:
        count = len(images)
        if count not in programs:
            shardings = (whole, whole, images.sharding)
            traced = layout.traced(step)
            jitted = jax.jit(traced, in_shardings=shardings, out_shardings=whole)
            name = f"statistics of {count} images"
            programs[count] = compiled(jitted, (params, stats, images), name)
        return programs[count](params, stats, images)

    return compute


def reestimated(
    statistics: Callable[[Arrays, Arrays, Any], Arrays],
    params: Arrays,
    stats: Arrays,
    batches: Iterable[tuple[jax.Array, int]],
) -> Arrays:
    """Statistics of `params`: means over batches (images, b), each weighted by its b samples."""
    seen, total = 0, stats
    for images, b in batches:
        batch = statistics(params, stats, images)
        momentum = b / (seen + b)
        # written so that equal values stay as they are
        moved = {name: old + momentum * (batch[name] - old) for name, old in total.items()}
        total = moved if seen else batch
        seen += b
    return total
