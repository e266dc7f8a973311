"""The phases of a training in steps: trained parameters, limits, and rates of each.

In: the model config, `config.train`, the outline of the network, the number of images.  Out: a list
of `Phase`, with all options of the training checked before anything is computed.  Needs no data, so
that a run can check all networks before it trains the first.

A phase of E epochs of N images in batches of B has ceil(E N / B) steps; its epochs end at
ceil(e N / B).  Each phase starts a fresh epoch of the sampler, with new optimizer state (spec
§4.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError, near
from hpa_jax.training import augment, distributed, examples, losses, network, optimizer, schedules
from hpa_jax.training.step import Rates

MONITORS = ("loss", "focal", "macro_f1", "micro_f1", "map")
LOWER_IS_BETTER = ("loss", "focal")
AVERAGES = ("none", "last", "chosen", "swa", "ema")
ON_NONFINITE = ("stop", "skip")
History = Sequence[Sequence[Any]]  # [step, monitor (None: not finite)] of the finished epochs


@dataclass(frozen=True)
class Phase:
    """One phase; steps and epochs count from the start of the training."""

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

    def rates(self, step: int) -> Rates:
        """Return lr float32 [G] and beta1 of a step."""
        local = step - self.start
        noise = schedules.noise_factors(
            len(self.factors),
            self.options.lr_noise,
            seed=self.seed,
            phase=self.index,
            step=local if self.options.lr_noise_every == "step" else -1,
        )
        lr = self.schedule.lr(local) * self.factors * noise
        return Rates(lr.astype(np.float32), np.float32(self.schedule.beta1(local)))

    def epochs_until(self, step: int) -> int:
        """Return the number of planned epochs that end at or before a step, including those skipped
        by early stopping of earlier phases."""
        return self.first_epoch + sum(end <= step for end in self.epoch_ends)

    def ended(self, step: int, history: History, patience: int, monitor: str) -> bool:
        """Return whether the phase is over after a step: its last, or the monitor has stalled.

        history: [[step, monitor], ...] of the finished epochs.  patience: epochs without
        improvement, 0: unlimited.  Counted for each phase: early stopping of one does not end later
        ones, which have different rates, losses or frozen parts.
        """
        if step == self.end:
            return True
        return step in self.epoch_ends and self.stalled(history, patience, monitor)

    def stalled(self, history: History, patience: int, monitor: str) -> bool:
        """Return whether the best epoch of the phase is more than `patience` epochs ago.

        Non-finite values (no class with positives, overflow of a loss) count as worst.
        """
        sign = 1.0 if monitor in LOWER_IS_BETTER else -1.0
        values = [
            sign * value if value is not None and math.isfinite(value) else math.inf
            for step, value in history
            if self.start < step <= self.end
        ]
        return bool(values) and 0 < patience < len(values) - values.index(min(values))

    def last_step(self, history: History) -> int:
        """Return the step at which the phase ended."""
        return max(step for step, _ in history if self.start < step <= self.end)


def lay_out(
    config: ConfigDict,
    settings: ConfigDict,
    outline: network.Outline,
    *,
    classes: int | None,
    count: int,
    seed: int,
    devices: int,
) -> list[Phase]:
    """Return the phases of a training of `count` images, with all options checked.

    Args:
        config: `hpa_jax.config.model(...)`.
        settings: `config.train`.
        outline: of the network of `config`.
        classes: C, or None if unknown.
        count: N images of an epoch.
        seed: of the lr noise.
        devices: number of devices.

    Raises:
        InputError: names the phase, the key and the value.
    """
    from hpa_jax.models.normalization import normalizer

    _check(config, settings)
    if not config.phases:
        raise InputError(
            "phases is empty: name at least one, for example phases=(phase(epochs=8),)"
        )
    if count < 1:
        raise InputError("the training part is empty: nothing to train on; check the split")
    beta1 = optimizer.resting(config.optimizer.to_dict())
    phases: list[Phase] = []
    for index, entry in enumerate(config.phases):
        try:
            options = configs.phase(**dict(entry))
            plan = optimizer.plan(
                list(outline.params),
                list(outline.stats),
                outline.groups,
                freeze=options.freeze,
                freeze_bn=options.freeze_bn,
            )
            phase = _phase(config, options, plan, phases, count=count, seed=seed, beta1=beta1)
            distributed.check_divisible(phase.batch_size, config.accumulate, devices)
            losses.from_config(phase.loss, classes)
            augmentation(phase.augment, config.channels)
            if options.dropout is not None:
                network.rates_for(options.dropout, len(outline.dropout))
        except InputError as error:
            raise InputError(f"phases[{index}]: {error}") from None
        phases.append(phase)
    losses.from_config(plain(config.loss), classes)  # for evaluation
    augmentation(plain(config.augment), config.channels)
    examples.sampler(config.sampling, np.ones((1, 1)), seed=seed)
    normalizer(config.normalize, tuple(config.channels))
    return phases


def average_options(config: ConfigDict) -> dict[str, Any]:
    """Return config.average with defaults filled in."""
    defaults = {"kind": "none", "count": 10, "epochs": (), "decay": 0.999}
    return {**defaults, **config.average.to_dict()}


def augmentation(value: Any, channels: Sequence[str]) -> augment.Augmentation | None:
    """Return the augmentation of a phase; None for "none"."""
    return None if value in ("", "none") else augment.preset(value, channels=tuple(channels))


def epochs_of(phase: Any) -> int:
    """Return the epochs of a phase of a recipe."""
    return dict(phase).get("epochs", 1)


def learning_rates(config: ConfigDict, count: int, points: int = 200) -> dict[str, np.ndarray]:
    """Return the planned curves of a whole training, for plotting.

    Returns:
        epoch, lr (of the head), stem (its lr; NaN where frozen), beta1, all [P]; borders, the
        epochs at which later phases begin.  Without lr noise.

    Args:
        config: `hpa_jax.config.model(...)`.
        count: N images of an epoch.
        points: upper limit per phase.
    """
    beta1 = optimizer.resting(config.optimizer.to_dict())
    whole = optimizer.Plan((), (), {}, 1)
    phases: list[Phase] = []
    epochs, lr, stem, momentum = [], [], [], []
    for entry in config.phases:
        options = configs.phase(**dict(entry))
        decay, frozen = options.lr_decay, options.freeze not in ("none", "", 0, "0")
        options = configs.phase(**{**dict(entry), "lr_decay": 1.0, "freeze": "none"})
        phase = _phase(config, options, whole, phases, count=count, seed=0, beta1=beta1)
        phases.append(phase)
        at, rates, beta = phase.schedule.values(points)
        first, head = (1 / decay, 1.0) if isinstance(decay, int | float) else (decay[0], decay[-1])
        epochs.append(phase.first_epoch + at * phase.batch_size / count)
        lr.append(rates * head)
        stem.append(rates * (np.nan if frozen else first))
        momentum.append(beta)
    curves = {"epoch": epochs, "lr": lr, "stem": stem, "beta1": momentum}
    borders = np.array([phase.first_epoch for phase in phases[1:]], float)
    return {**{name: np.concatenate(x) for name, x in curves.items()}, "borders": borders}


def plain(value: Any) -> Any:
    """Return ConfigDicts as dicts, recursively; lists become tuples."""
    if isinstance(value, ConfigDict | dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(plain(item) for item in value)
    return value


def _phase(
    config: ConfigDict,
    options: ConfigDict,
    plan: optimizer.Plan,
    before: list[Phase],
    *,
    count: int,
    seed: int,
    beta1: float,
) -> Phase:
    """Create the phase after those in `before`."""
    epochs, cycles = options.epochs, options.cycles
    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"epochs: must be a whole number of at least 1, not {epochs}")
    if cycles < 1 or epochs % cycles:
        raise InputError(f"cycles={cycles}: must divide the {epochs} epochs")
    if options.lr_noise < 0 or options.lr_noise_every not in ("phase", "step"):
        raise InputError(
            f"lr_noise={options.lr_noise}, lr_noise_every={options.lr_noise_every!r}: needs a "
            "number >= 0, and phase or step"
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
    return Phase(
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


def _check_start(start_from: str, before: Sequence[Phase], kept: Sequence[int]) -> None:
    """start_from: "" (continue), "best", number of an earlier phase, or an earlier "epoch:N"."""
    source = str(start_from)
    done = before[-1].first_epoch + len(before[-1].epoch_ends) if before else 0
    epochs = [f"epoch:{epoch}" for epoch in kept if epoch <= done]
    if source in ("", "best", *epochs) or (source.isdigit() and int(source) < len(before)):
        return
    raise InputError(
        f"start_from={start_from!r}: must be '', 'best', the number of an earlier phase (0 to "
        f"{len(before) - 1}), or 'epoch:N' of an earlier epoch in keep_epochs"
    )


def _check(config: ConfigDict, settings: ConfigDict) -> None:
    """Check options that would otherwise fail at the end of an epoch, or of the training."""
    average = average_options(config)
    for name, value, known in (
        ("train.monitor", settings.monitor, MONITORS),
        ("train.on_nonfinite", settings.on_nonfinite, ON_NONFINITE),
        ("average.kind", average["kind"], AVERAGES),
    ):
        if value not in known:
            raise InputError(f"{name}: unknown {value!r}{near(str(value), known)}; known: {known}")
    if average["count"] < 1 or not 0 < average["decay"] < 1:
        raise InputError(
            f"average: count must be >= 1 and decay in (0, 1), not {average['count']} and "
            f"{average['decay']}"
        )
    epochs = sum(map(epochs_of, config.phases))
    chosen = average["epochs"]
    if average["kind"] == "chosen" and not (chosen and 1 <= min(chosen) <= max(chosen) <= epochs):
        raise InputError(f"average.epochs={chosen}: must be among the epochs 1 to {epochs}")
    if average["kind"] == "chosen" and settings.patience:
        raise InputError(
            f"train.patience={settings.patience}: may end a phase before the epochs {chosen} of "
            "average.epochs; use average.kind='last', or patience=0"
        )
