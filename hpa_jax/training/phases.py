"""The stages of a training, laid out in steps: what each trains, at which rates, from where to
where.

In: the model config, names of the network's parameters, the number of images.  Out: a list of
`Stage`, checked: what is wrong with a stage is said before the first step of the first.

A stage of E epochs of N images in batches of B has ceil(E N / B) steps; its epochs end at
ceil(e N / B).  Each stage starts a fresh epoch of the sampler, with new optimizer state (spec
§4.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.training import distributed, losses, optimizer, schedules


@dataclass(frozen=True)
class Stage:
    """One stage; steps and epochs count from the start of the training."""

    index: int
    options: ConfigDict
    start: int
    end: int
    first_epoch: int
    batch_size: int
    epoch_ends: tuple[int, ...]
    kept_ends: tuple[int, ...]
    schedule: schedules.Schedule
    factors: np.ndarray
    plan: optimizer.Plan
    loss: dict[str, Any]
    augment: Any
    seed: int

    def rates(self, step: int) -> tuple[np.ndarray, np.float32]:
        """(lr float32 [G], beta1) of a step."""
        local = step - self.start
        noise = schedules.noise_factors(
            len(self.factors),
            self.options.lr_noise,
            seed=self.seed,
            stage=self.index,
            step=local if self.options.lr_noise_every == "step" else -1,
        )
        lr = self.schedule.lr(local) * self.factors * noise
        return lr.astype(np.float32), np.float32(self.schedule.beta1(local))

    def epochs_until(self, step: int) -> int:
        """Epochs of the plan that end at or before a step; those that an earlier stage left out,
        because it ended early, count."""
        return self.first_epoch + sum(end <= step for end in self.epoch_ends)


def resolve(
    config: ConfigDict,
    *,
    params: Sequence[str],
    stats: Sequence[str],
    depth_groups: Sequence[Sequence[str]],
    count: int,
    seed: int,
    devices: int = 1,
) -> list[Stage]:
    """All stages of a model config.

    Args:
        config: `hpa_jax.config.model(...)`.
        params: dotted names of the parameters.
        stats: dotted names of the BatchNorm statistics.
        depth_groups: path prefixes, stem first.
        count: N images of an epoch.
        seed: of the lr noise.
        devices: that share a batch.

    Raises:
        InputError: naming the stage, the key and the value.
    """
    if not config.stages:
        raise InputError(
            "stages is empty: name at least one, for example stages=(stage(epochs=8),)"
        )
    if count < 1:
        raise InputError("the training part is empty: there is nothing to train on")
    beta1 = optimizer.resting(config.optimizer.to_dict())
    found: list[Stage] = []
    for index, given in enumerate(config.stages):
        try:
            options = given if isinstance(given, ConfigDict) else configs.stage(**dict(given))
            options = configs.stage(**dict(options))
            plan = optimizer.plan(
                params, stats, depth_groups, freeze=options.freeze, freeze_bn=options.freeze_bn
            )
            stage = _lay(config, options, plan, found, count=count, seed=seed, beta1=beta1)
            distributed.check_divisible(stage.batch_size, config.accumulate, devices)
            losses.from_config(stage.loss)
            found.append(stage)
        except InputError as error:
            raise InputError(f"stages[{index}]: {error}") from None
    return found


def _lay(
    config: ConfigDict,
    options: ConfigDict,
    plan: optimizer.Plan,
    before: list[Stage],
    *,
    count: int,
    seed: int,
    beta1: float,
) -> Stage:
    """A stage after those `before` it."""
    epochs, cycles = options.epochs, options.cycles
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs: must be a whole number of at least 1, not {epochs}")
    if cycles < 1 or epochs % cycles:
        raise InputError(f"cycles={cycles}: must divide the stage's {epochs} epochs")
    if options.lr_noise < 0 or options.lr_noise_every not in ("stage", "step"):
        raise InputError(
            f"lr_noise={options.lr_noise}, lr_noise_every={options.lr_noise_every!r}: needs a "
            "number >= 0, drawn every stage or step"
        )
    _check_start(options.start_from, before, config.keep_epochs)
    batch_size = options.batch_size or config.batch_size
    start = before[-1].end if before else 0
    per_epoch = count / batch_size
    ends = tuple(start + math.ceil(e * per_epoch) for e in range(1, epochs + 1))
    schedule = schedules.build(
        options.schedule,
        lr=options.lr,
        steps=ends[-1] - start,
        steps_per_epoch=per_epoch,
        beta1=beta1,
        div_factor=options.div_factor,
        pct_start=options.pct_start,
        cycles=cycles,
        warmup=options.warmup,
    )
    return Stage(
        index=len(before),
        options=options,
        start=start,
        end=ends[-1],
        first_epoch=before[-1].first_epoch + len(before[-1].epoch_ends) if before else 0,
        batch_size=batch_size,
        epoch_ends=ends,
        kept_ends=tuple(ends[(i + 1) * epochs // cycles - 1] for i in range(cycles)),
        schedule=schedule,
        factors=schedules.group_factors(plan.groups, options.lr_decay),
        plan=plan,
        loss=plain(options.loss or config.loss),
        augment=plain(options.augment or config.augment),
        seed=seed,
    )


def epochs_of(stage: Any) -> int:
    """Epochs of a stage as a recipe gives it."""
    return dict(stage).get("epochs", 1)


def learning_rates(config: ConfigDict, count: int, points: int = 200) -> dict[str, np.ndarray]:
    """The planned curves of a whole training, for drawing.

    Returns:
        epoch, lr (of the head), stem (its lr; NaN where it is frozen), beta1, all [P]; borders, the
        epochs at which a later stage begins.  The lr noise is left out.

    Args:
        config: `hpa_jax.config.model(...)`.
        count: N images of an epoch.
        points: at most, a stage.
    """
    beta1 = optimizer.resting(config.optimizer.to_dict())
    whole = optimizer.Plan((), (), {}, 1)
    laid: list[Stage] = []
    epochs, lr, stem, momentum = [], [], [], []
    for given in config.stages:
        decay = configs.stage(**dict(given)).lr_decay
        options = configs.stage(**{**dict(given), "lr_decay": 1.0, "freeze": "none"})
        stage = _lay(config, options, whole, laid, count=count, seed=0, beta1=beta1)
        laid.append(stage)
        at, rates, beta = stage.schedule.values(points)
        first, head = (1 / decay, 1.0) if isinstance(decay, int | float) else (decay[0], decay[-1])
        frozen = configs.stage(**dict(given)).freeze not in ("none", "", 0, "0")
        epochs.append(stage.first_epoch + at * stage.batch_size / count)
        lr.append(rates * head)
        stem.append(rates * (np.nan if frozen else first))
        momentum.append(beta)
    join = np.concatenate
    curves = {"epoch": epochs, "lr": lr, "stem": stem, "beta1": momentum}
    borders = np.array([stage.first_epoch for stage in laid[1:]], float)
    return {**{name: join(parts) for name, parts in curves.items()}, "borders": borders}


def _check_start(start_from: str, before: Sequence[Stage], kept: Sequence[int]) -> None:
    """start_from: "" (go on), "best", the number of an earlier stage, or an earlier "epoch:N"."""
    given = str(start_from)
    done = before[-1].first_epoch + len(before[-1].epoch_ends) if before else 0
    epochs = [f"epoch:{epoch}" for epoch in kept if epoch <= done]
    if given in ("", "best", *epochs) or (given.isdigit() and int(given) < len(before)):
        return
    raise InputError(
        f"start_from={start_from!r}: must be '', 'best', the number of an earlier stage (0 to "
        f"{len(before) - 1}), or 'epoch:N' of an earlier epoch in keep_epochs"
    )


def plain(value: Any) -> Any:
    """ConfigDicts as dicts, all the way down; tuples stay."""
    if isinstance(value, ConfigDict | dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return value
