"""Learning-rate range test (Smith 2015, as fastai 1.0.22's lr_find; spec one_more_layer 4.4).

In: a model config and packed images.  Out: DIRECTORY/lr_find.json and lr_find.png with the
smoothed loss over an exponentially rising rate, and two suggestions.  The same rate in all depth
groups; the weights are thrown away: no checkpoint is read in another way than for its weights,
none is written.
"""

import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.training import checkpoint, distributed, network, optimizer
from hpa_jax.training import setup as setups
from hpa_jax.training import step as steps
from hpa_jax.training.preemption import Preemption

LOOK = 10  # steps between looks at the losses, so that the device need not wait for the host


def find(
    config: ConfigDict,
    *,
    name: str,
    directory: str | Path,
    records: Any,
    train_ids: Sequence[str],
    train_labels: np.ndarray,
    valid_ids: Sequence[str],
    valid_labels: np.ndarray,
    class_names: Sequence[str],
    settings: ConfigDict,
    seed: int,
    stage: int = 0,
    which: str = "",
    iterations: int = 1000,
    low: float = 1e-7,
    high: float = 10.0,
    train_weights: np.ndarray | None = None,
    init_folder: Path | None = None,
) -> dict[str, Any]:
    """Sweeps the rate of one stage; arguments as `loop.train`, and:

    Args:
        stage: number of the stage whose freezing, loss and augmentation hold.
        which: "" starts from fresh weights (or init_from), else that checkpoint of `directory`.
        iterations: steps from `low` to `high`.
        low: first rate.
        high: last rate.

    Returns:
        What lr_find.json holds: lr, loss (smoothed), steepest, minimum_tenth, diverged_at (or
        None).

    Raises:
        InputError: bad options, or a loss that was never finite.
    """
    if not 0 < low < high or iterations < 10:
        raise InputError(
            f"lr_find: low={low}, high={high}, iterations={iterations}: needs 0 < low < high and "
            "at least 10 iterations"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    distributed.compilation_cache(settings.compilation_cache or directory / "compilation_cache")
    data = setups.Data(
        records,
        np.asarray(train_ids),
        np.asarray(train_labels, np.uint8),
        np.asarray(valid_ids),
        np.asarray(valid_labels, np.uint8),
        train_weights,
    )
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, data, class_names, seed, init_folder)
    if not 0 <= stage < len(setup.stages):
        raise InputError(f"lr_find: stage={stage}, but there are {len(setup.stages)} stages")
    rates = np.geomspace(low, high, iterations)
    losses = _sweep(setup, setup.stages[stage], rates, directory if which else None, which, name)
    found = suggest(rates, losses)
    if jax.process_index() == 0:
        artifacts.write_json(directory / "lr_find.json", found)
        with artifacts.atomic(directory / "lr_find.png") as temporary:
            draw(found, temporary, name)
    return found


def smoothed(losses: Sequence[float], beta: float = 0.98) -> np.ndarray:
    """Exponential mean of the losses, bias-corrected: sum of (1-b) b^(i-k) x_k / (1 - b^(i+1))."""
    mean, out = 0.0, []
    for i, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        out.append(mean / (1 - beta ** (i + 1)))
    return np.array(out)


def diverged(losses: Sequence[float], times: float = 4.0) -> int | None:
    """The first step at which the smoothed loss is over `times` its best before, or not finite."""
    curve = smoothed(losses)
    best = np.minimum.accumulate(np.where(np.isfinite(curve), curve, np.inf))
    over = np.flatnonzero(~np.isfinite(curve) | (curve > times * best))
    return int(over[0]) if len(over) else None


def suggest(rates: np.ndarray, losses: Sequence[float]) -> dict[str, Any]:
    """The curve up to where it diverges, the rate of its steepest fall and a tenth of its lowest's.

    Raises:
        InputError: no finite loss at all.
    """
    end = diverged(losses)
    count = len(losses) if end is None else end
    curve = smoothed(losses[:count])
    if count < 2:
        raise InputError("lr_find: the loss is not finite from the first steps on")
    slope = np.gradient(curve, np.log(rates[:count]))
    settled = min(count // 10, count - 1)  # the first means rest on few batches
    steepest = settled + int(np.argmin(slope[settled:]))
    return {
        "lr": rates[:count].tolist(),
        "loss": curve.tolist(),
        "steepest": float(rates[steepest]),
        "minimum_tenth": float(rates[int(np.argmin(curve))] / 10),
        "diverged_at": None if end is None else float(rates[end]),
    }


def draw(found: dict[str, Any], path: Path, title: str) -> None:
    """The curve and both suggestions as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogx(found["lr"], found["loss"], color="black", linewidth=1)
    for key, color in (("steepest", "tab:blue"), ("minimum_tenth", "tab:orange")):
        axes.axvline(found[key], color=color, label=f"{key.replace('_', ' ')}: {found[key]:.2g}")
    axes.set(xlabel="learning rate", ylabel="smoothed loss", title=title)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def _sweep(
    setup: setups.Setup,
    stage: Any,
    rates: np.ndarray,
    directory: Path | None,
    which: str,
    name: str,
) -> list[float]:
    """Loss of each step at its rate; ends where it diverges."""

    def say(text: str) -> None:
        print(f"[lr_find {name}] {text}", flush=True)

    params, stats = setups.initial(setup)
    if directory is not None:
        with_weights, _, _ = checkpoint.load(directory, which)
        _, params, stats = network.split(with_weights)
    state = setup.layout.put_whole(setup.state(stage, params, stats, stage.start))
    groups, seed = len(stage.factors), np.uint32(setup.seed)
    momentum = np.float32(optimizer.resting(setup.config.optimizer.to_dict()))
    losses: list[float] = []
    waiting: deque[Any] = deque()
    with Preemption() as preemption:
        train_step = setup.train_step(stage, preemption, say)
        batches = setup.train_batches(stage, 0)
        with distributed.Feeder(batches, setup.layout.put_batch) as feeder:
            for number, rate in enumerate(rates):
                lr = np.full(groups, rate, np.float32)
                state, loss = train_step(state, next(feeder), seed, steps.Rates(lr, momentum))
                waiting.append(loss)
                if len(waiting) < LOOK and number + 1 < len(rates):
                    continue
                losses += [float(x) for x in waiting]
                waiting.clear()
                if preemption.requested():
                    raise SystemExit(75)
                if not math.isfinite(losses[-1]) or diverged(losses) is not None:
                    break
    say(f"{len(losses)} of {len(rates)} steps, up to a rate of {rates[len(losses) - 1]:.2g}")
    return losses
