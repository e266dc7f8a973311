"""Early stopping: a stage ends when the monitor has not got better for some epochs.

In: the history of a run, [[step, value], ...] of its finished epochs.  Each stage counts for
itself: one that ends early does not end the later ones, which begin with rates, losses or parts of
the network of their own.
"""

import math
from collections.abc import Sequence

from hpa_jax.training.checkpoint import LOWER_IS_BETTER
from hpa_jax.training.phases import Stage

History = Sequence[tuple[int, float | None]]


def stalled(history: History, stage: Stage, patience: int, monitor: str) -> bool:
    """Whether the best epoch of a stage lies more than `patience` (0: never) epochs back.

    A value that is no number (no class with positives, a loss beyond float32) is the worst there
    is.
    """
    sign = 1.0 if monitor in LOWER_IS_BETTER else -1.0
    values = [_number(sign, value) for step, value in history if stage.start < step <= stage.end]
    return 0 < patience < len(values) - values.index(min(values)) if values else False


def last_step(history: History, stage: Stage) -> int:
    """The step at which a stage ended."""
    return max(step for step, _ in history if stage.start < step <= stage.end)


def _number(sign: float, value: float | None) -> float:
    return sign * value if value is not None and math.isfinite(value) else math.inf
