"""Learning-rate and momentum curves of a phase, and noise on the rates.

In: a phase's options and its number of steps.  Out: `Schedule`: step 0..n-1 -> (lr of the head
without factors, beta 1), plotted in the report and evaluated on the host; the compiled step gets
the values as arguments, so that schedules need no compilation.  One More Layer's one-cycle follows
spec §4.5 exactly; the other curves are optax's, evaluated in float64 by numpy where optax would
give float32 (`one_cycle_cosine` and `cyclic_cosine` are tested equal to it).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hpa_jax.core.errors import InputError, near

Curve = Callable[[float], float]


@dataclass(frozen=True)
class Schedule:
    """lr(step) of the head and beta1(step), for steps 0..steps-1."""

    lr: Curve
    beta1: Curve
    steps: int

    def values(self, points: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(steps, lr, beta1), at most `points` of each, for plotting."""
        at = np.unique(np.linspace(0, max(self.steps - 1, 0), points).astype(int))
        return at, np.array([self.lr(s) for s in at]), np.array([self.beta1(s) for s in at])


def build(
    name: str,
    *,
    lr: float,
    steps: int,
    steps_per_epoch: float,
    beta1: float = 0.9,
    div_factor: float = 25.0,
    pct_start: float = 0.3,
    cycles: int = 1,
    warmup: float = 0.0,
) -> Schedule:
    """Return the schedule `name` over `steps` steps.

    Args:
        name: one_cycle (One More Layer), one_cycle_cosine (optax), cyclic_cosine (restarts),
            cyclic_triangular, constant, or a table "25: 3e-4, 30: 1.5e-4" (until epoch: lr; the
            last lr continues).
        lr: the highest rate, of the head; a table states its own rates.
        steps: n > 0.
        steps_per_epoch: for tables and warm-up.
        beta1: for schedules that don't change it.
        div_factor: one-cycle starts at lr / div_factor and ends at a 10,000th of that.
        pct_start: share of the rising phase.
        cycles: of the cyclic schedules.
        warmup: epochs of linear rise from lr / div_factor to the curve, for all other names.

    Raises:
        InputError: an unknown name, lr <= 0, or an invalid table.
    """
    if not lr > 0 or not math.isfinite(lr):
        raise InputError(f"lr: must be > 0, not {lr}")
    if steps < 1 or cycles < 1:
        raise InputError(f"{steps} steps in {cycles} cycles; both must be at least 1")
    fixed: Curve = lambda step: beta1  # noqa: E731
    if ":" in name:
        return Schedule(
            _warmed(table(name), warmup * steps_per_epoch, div_factor, steps_per_epoch),
            fixed,
            steps,
        )
    if name not in NAMES:
        raise InputError(f"schedule: unknown {name!r}{near(name, NAMES)}; known: {NAMES}")
    if name == "one_cycle":
        return one_cycle(lr, steps, div_factor=div_factor, pct_start=pct_start)
    length = steps / cycles
    if name == "one_cycle_cosine":
        curve = one_cycle_cosine(lr, steps, div_factor=div_factor, pct_start=pct_start)
    elif name == "cyclic_cosine":
        curve = lambda step: lr * 0.5 * (1 + math.cos(math.pi * (step % length) / length))  # noqa: E731
    elif name == "cyclic_triangular":
        curve = _triangular(lr, length, div_factor)
    else:
        curve = lambda step: lr  # noqa: E731
    return Schedule(_warmed(curve, warmup * steps_per_epoch, div_factor, 1.0), fixed, steps)


NAMES = ("one_cycle", "one_cycle_cosine", "cyclic_cosine", "cyclic_triangular", "constant")


def one_cycle(
    lr: float, steps: int, *, div_factor: float = 25.0, pct_start: float = 0.3
) -> Schedule:
    """fastai 1.0.22's one-cycle (spec §4.5): linear up, cosine down, momentum opposite.

    a = int(pct_start * n).  Steps 0..a: lr/div -> lr linearly, beta1 .95 -> .85.  Steps a..n:
    cosine lr -> lr/div/1e4, beta1 .85 -> .95.
    """
    rising = int(pct_start * steps)
    low = lr / div_factor

    def at(step: float, ends: tuple[float, float, float]) -> float:
        start, top, end = ends
        if step < rising:
            return start + (top - start) * step / rising
        share = (step - rising) / (steps - rising)
        return end + (top - end) / 2 * (1 + math.cos(math.pi * share))

    return Schedule(
        lambda step: at(step, (low, lr, low / 1e4)),
        lambda step: at(step, (0.95, 0.85, 0.95)),
        steps,
    )


def one_cycle_cosine(lr: float, steps: int, *, div_factor: float, pct_start: float) -> Curve:
    """optax.cosine_onecycle_schedule(steps, lr, pct_start, div_factor, 1e4): cosine up and down."""
    rising = int(pct_start * steps)
    low, end = lr / div_factor, lr / (div_factor * 1e4)

    def curve(step: float) -> float:
        if step < rising:
            return lr + (low - lr) / 2 * (1 + math.cos(math.pi * step / rising))
        share = (step - rising) / (steps - rising)
        return end + (lr - end) / 2 * (1 + math.cos(math.pi * share))

    return curve


def table(text: str) -> Callable[[float], float]:
    """Parse epoch -> lr from a step table "25: 3e-4, 30: 1.5e-4": 3e-4 until epoch 25, then 1.5e-4.

    Raises:
        InputError: invalid text, epochs that do not increase, or a rate <= 0.
    """
    try:
        rows = [part.split(":") for part in text.split(",")]
        until = [float(epoch) for epoch, _ in rows]
        rates = [float(rate) for _, rate in rows]
    except ValueError:
        raise InputError(
            f"schedule: {text!r} is not a step table such as '25: 3e-4, 30: 1.5e-4'"
        ) from None
    if any(b <= a for a, b in zip([0.0, *until[:-1]], until, strict=True)) or min(rates) <= 0:
        raise InputError(f"schedule: {text!r}: epochs must increase and rates be > 0")
    return lambda epoch: rates[
        min(int(np.searchsorted(until, epoch, side="right")), len(rates) - 1)
    ]


def group_factors(groups: int, lr_decay: float | Sequence[float]) -> np.ndarray:
    """Return the lr factors of the depth groups, stem first, [G].

    lr_decay: factors are log-spaced from 1 / lr_decay to 1, or as listed.

    Raises:
        InputError: a list of another length, or a number that is not > 0.
    """
    if isinstance(lr_decay, int | float):
        if not lr_decay > 0:
            raise InputError(f"lr_decay: must be > 0, not {lr_decay}")
        return np.geomspace(1.0 / lr_decay, 1.0, groups) if groups > 1 else np.ones(1)
    factors = np.asarray(list(lr_decay), np.float64)
    if len(factors) != groups or not (factors > 0).all():
        raise InputError(
            f"lr_decay: the network has {groups} depth groups, needs {groups} factors > 0, "
            f"not {list(lr_decay)}"
        )
    return factors


_NOISE = 0x10153  # separates this stream from others of the same seed (sampler)


def noise_factors(
    groups: int, sigma: float, *, seed: int, phase: int, step: int = -1
) -> np.ndarray:
    """Return 1 + N(0, sigma) for each group, [G].

    Sampled per phase (step = -1, as the team did) or per step.

    One More Layer's "random lr": lr + N(0, (.01 lr)^2) per group is sigma = .01 (spec §4.4).
    """
    if sigma == 0.0:
        return np.ones(groups)
    draw = np.random.Generator(np.random.Philox([_NOISE, seed, phase, step + 1]))
    return np.maximum(1.0 + sigma * draw.standard_normal(groups), 0.0)


def _triangular(lr: float, length: float, div_factor: float) -> Curve:
    low = lr / div_factor

    def curve(step: float) -> float:
        share = (step % length) / length
        return low + (lr - low) * (1 - abs(2 * share - 1))

    return curve


def _warmed(curve: Curve, warmup_steps: float, div_factor: float, per_unit: float) -> Curve:
    """curve(step / per_unit), rising linearly from 1 / div_factor of it for `warmup_steps`."""

    def warmed(step: float) -> float:
        rise = 1.0
        if step < warmup_steps:
            rise = 1 / div_factor + (1 - 1 / div_factor) * step / warmup_steps
        return rise * curve(step / per_unit)

    return warmed
