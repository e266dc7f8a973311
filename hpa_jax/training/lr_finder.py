"""Learning-rate range test (Smith 2015, as fastai 1.0.22's lr_find; spec one_more_layer 4.4).

In: a model config and packed images.  Out: DIRECTORY/lr_find.json and lr_find.png with the
smoothed loss over an exponentially rising rate, and two suggestions.  The rate is the same in all
depth groups; the trained weights are discarded, no checkpoint is written.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.training import checkpoint, compilation, distributed, network, optimizer
from hpa_jax.training import setup as setups
from hpa_jax.training.compilation import Compiler
from hpa_jax.training.examples import Examples, Labels
from hpa_jax.training.phases import Phase
from hpa_jax.training.preemption import TRY_AGAIN, Preemption
from hpa_jax.training.step import Rates

READ_EVERY = 10  # steps between readings of the losses, to keep the device busy


def find(
    config: ConfigDict,
    *,
    name: str,
    directory: str | Path,
    records: Any,
    train_ids: Sequence[str],
    train_labels: Labels,
    valid_ids: Sequence[str],
    valid_labels: Labels,
    class_names: Sequence[str],
    settings: ConfigDict,
    seed: int,
    phase: int = 0,
    which: str = "",
    iterations: int = 1000,
    low: float = 1e-7,
    high: float = 10.0,
    train_weights: np.ndarray | None = None,
    init_folder: Path | None = None,
) -> dict[str, Any]:
    """Sweep the rate of one phase; arguments as `loop.train`, and:

    Args:
        phase: number of the phase whose freezing, loss and augmentation apply.
        which: "": initial weights (or init_from); else a checkpoint of `directory`.
        iterations: steps from `low` to `high`.
        low: first rate.
        high: last rate.

    Returns:
        The content of lr_find.json: lr, loss (smoothed), steepest, minimum_tenth, diverged_at (or
        None).

    Raises:
        InputError: invalid options, or a loss that was never finite.
    """
    if not 0 < low < high or iterations < 10:
        raise InputError(
            f"lr_find: low={low}, high={high}, iterations={iterations}: needs 0 < low < high and "
            "at least 10 iterations"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    compilation.keep_programs(settings.compilation_cache or directory / "compilation_cache")
    ids = np.asarray(train_ids), np.asarray(valid_ids)
    examples = Examples(records, ids[0], train_labels, ids[1], valid_labels, train_weights)
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, examples, class_names, seed, init_folder)
    if not 0 <= phase < len(setup.phases):
        raise InputError(f"lr_find: phase={phase}, but there are {len(setup.phases)} phases")
    params, stats, _ = setups.initial(setup)
    if which:
        _, params, stats = network.split(checkpoint.load(directory, which)[0])
    rates = np.geomspace(low, high, iterations)
    losses = _sweep(setup, setup.phases[phase], rates, params, stats, name)
    result = suggest(rates, losses)
    if jax.process_index() == 0:
        artifacts.write_json(directory / "lr_find.json", result)
        with artifacts.atomic(directory / "lr_find.png") as temporary:
            draw(result, temporary, name)
    return result


def smoothed(losses: Sequence[float], beta: float = 0.98) -> np.ndarray:
    """Return the bias-corrected exponential mean: sum of (1-b) b^(i-k) x_k / (1 - b^(i+1))."""
    mean, out = 0.0, []
    for i, loss in enumerate(losses):
        mean = beta * mean + (1 - beta) * loss
        out.append(mean / (1 - beta ** (i + 1)))
    return np.array(out)


def diverged(losses: Sequence[float], times: float = 4.0) -> int | None:
    """Return the first step whose smoothed loss is over `times` its best before, or not finite."""
    curve = smoothed(losses)
    best = np.minimum.accumulate(np.where(np.isfinite(curve), curve, np.inf))
    over = np.flatnonzero(~np.isfinite(curve) | (curve > times * best))
    return int(over[0]) if len(over) else None


def suggest(rates: np.ndarray, losses: Sequence[float]) -> dict[str, Any]:
    """Return the curve until it diverges, the rate of steepest descent, a tenth of the minimum's.

    Raises:
        InputError: no finite loss.
    """
    end = diverged(losses)
    count = len(losses) if end is None else end
    curve = smoothed(losses[:count])
    if count < 2:
        raise InputError(
            "lr_find: the loss is not finite from the first steps; use a lower rate (low)"
        )
    slope = np.gradient(curve, np.log(rates[:count]))
    settled = min(count // 10, count - 1)  # the first means are of few batches
    steepest = settled + int(np.argmin(slope[settled:]))
    return {
        "lr": rates[:count].tolist(),
        "loss": curve.tolist(),
        "steepest": float(rates[steepest]),
        "minimum_tenth": float(rates[int(np.argmin(curve))] / 10),
        "diverged_at": None if end is None else float(rates[end]),
    }


def draw(result: dict[str, Any], path: Path, title: str) -> None:
    """Plot the curve and both suggestions as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.semilogx(result["lr"], result["loss"], color="black", linewidth=1)
    for key, color in (("steepest", "tab:blue"), ("minimum_tenth", "tab:orange")):
        axes.axvline(result[key], color=color, label=f"{key.replace('_', ' ')}: {result[key]:.2g}")
    axes.set(xlabel="learning rate", ylabel="smoothed loss", title=title)
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def _sweep(
    setup: setups.Setup,
    phase: Phase,
    rates: np.ndarray,
    params: network.Arrays,
    stats: network.Arrays,
    name: str,
) -> list[float]:
    """Loss of each step at its rate, until it diverges."""

    def say(text: str) -> None:
        print(f"[lr_find {name}] {text}", flush=True)

    state = setup.layout.replicate(setup.state(phase, params, stats, phase.start))
    groups, seed = len(phase.factors), np.uint32(setup.seed)
    momentum = np.float32(optimizer.resting(setup.config.optimizer.to_dict()))
    losses: list[float] = []
    unread: list[jax.Array] = []
    with Preemption() as preemption:
        train_step = setup.train_step(
            phase, Compiler(preemption, say, setup.settings.deterministic)
        )
        with contextlib.closing(setup.train_batches(phase, phase.start)) as batches:
            for number, rate in enumerate(rates):
                batch = setup.layout.put_batch(next(batches))
                lr = np.full(groups, rate, np.float32)
                state, loss = train_step(state, batch, seed, Rates(lr, momentum))
                unread.append(loss)
                if len(unread) < READ_EVERY and number + 1 < len(rates):
                    continue
                losses += [float(x) for x in unread]
                unread.clear()
                if preemption.requested():
                    raise SystemExit(TRY_AGAIN)
                if not math.isfinite(losses[-1]) or diverged(losses) is not None:
                    break
    say(f"{len(losses)} of {len(rates)} steps, up to a rate of {rates[len(losses) - 1]:.2g}")
    return losses
