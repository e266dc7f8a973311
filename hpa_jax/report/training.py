"""Sections on training: loss, validation score and learning rate over time; computing time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpa_jax.report.figures import axes, colours, marker, svg
from hpa_jax.report.page import Figure, Section, Table

COLUMNS = 4  # of the planned schedules
Log = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


def training(logs: Mapping[str, Log], schedules: Mapping[str, Mapping[str, np.ndarray]]) -> Section:
    """Return the curves of every network, and the planned learning rates of every model."""
    figures = [
        Figure(curves(logs), "Loss and validation macro-F1 over epochs"),
        Figure(learning_rates(logs), "Learning rate over steps"),
        Figure(planned(schedules), "Planned rates and momentum of every model over epochs"),
    ]
    return Section("training", "Training", figures=figures)


def curves(logs: Mapping[str, Log]) -> str:
    """Return loss (train, validation) and validation macro-F1 at 0.5 over epochs."""
    figure, (losses, scores) = axes(2)
    for number, ((name, log), colour) in enumerate(zip(logs.items(), colours(len(logs)))):
        for split, style in (("train", ":"), ("valid", "-")):
            points = [line for line in log if line.get("split") == split and "loss" in line]
            epochs, values = [p["epoch"] for p in points], [p["loss"] for p in points]
            style_options = dict(color=colour, marker=marker(number, len(points)), markersize=4)
            losses.plot(epochs, values, style, label=f"{name}, {split}", **style_options)
        points = [p for p in log if p.get("split") == "valid" and p.get("macro_f1") is not None]
        values = [p["macro_f1"] for p in points]
        style_options = dict(color=colour, marker=marker(number, len(points)), markersize=4)
        scores.plot([p["epoch"] for p in points], values, label=name, **style_options)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    scores.set(xlabel="epoch", ylabel="macro-F1 at 0.5", title="Validation", ylim=(0, 1))
    for axis in (losses, scores):
        axis.legend(fontsize=7)
    return svg(figure)


def learning_rates(logs: Mapping[str, Log]) -> str:
    """Return the head's learning rate over steps, as applied."""
    figure, (axis,) = axes(1)
    for number, ((name, log), colour) in enumerate(zip(logs.items(), colours(len(logs)))):
        points = [p for p in log if p.get("split") == "train" and p.get("lr") is not None]
        style_options = dict(color=colour, marker=marker(number, len(points)), markersize=4)
        axis.plot(
            [p["step"] for p in points],
            [_head(p["lr"]) for p in points],
            label=name,
            **style_options,
        )
    axis.set(xlabel="step", ylabel="learning rate", title="Learning rate")
    axis.legend(fontsize=7)
    return svg(figure)


def _head(rate: float | Sequence[float] | Mapping[str, float]) -> float:
    """Return the rate of the last (head's) group if one is logged for each group."""
    if isinstance(rate, Mapping):
        return list(rate.values())[-1]
    return rate[-1] if isinstance(rate, Sequence) else rate


def planned(schedules: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Return the planned rates of head (solid) and stem (dotted) and beta 1, one column per model.

    schedules: name -> epoch, lr, stem (NaN where it is frozen), beta1, and the borders of the
    phases, drawn as vertical lines.
    """
    columns = min(len(schedules), COLUMNS)
    rows = -(-len(schedules) // columns)
    figure, panels = axes(columns, 2 * rows, max(3.2 * columns, 4.5), 4 * rows)
    for panel in panels:
        panel.axis("off")
    for number, ((name, plan), colour) in enumerate(
        zip(schedules.items(), colours(len(schedules)))
    ):
        place = 2 * columns * (number // columns) + number % columns
        rates, momentum = panels[place], panels[place + columns]
        rates.semilogy(plan["epoch"], plan["lr"], color=colour, label="head")
        rates.semilogy(plan["epoch"], plan["stem"], ":", color=colour, label="stem")
        momentum.plot(plan["epoch"], plan["beta1"], color=colour)
        for panel in (rates, momentum):
            panel.axis("on")
            panel.tick_params(which="both", labelsize=7)
            for border in plan["borders"]:
                panel.axvline(border, color="#999999", linewidth=0.6)
        rates.set_title(name, fontsize=9)
        momentum.set_xlabel("epoch", fontsize=8)
        if place % columns == 0:
            rates.set_ylabel("learning rate", fontsize=8)
            momentum.set_ylabel("beta 1", fontsize=8)
    panels[0].legend(fontsize=7)
    return svg(figure)


def cost(seconds: Mapping[str, float]) -> Section:
    """Return how long each task took. seconds: task ("train-tiny") -> time, in order."""
    total = sum(seconds.values())
    rows = [[task, duration(spent), _share(spent, total)] for task, spent in seconds.items()]
    rows.append(["all", duration(total), _share(total, total)])
    of_step: dict[str, float] = {}
    for task, spent in seconds.items():
        step = task.partition("-")[0]
        of_step[step] = of_step.get(step, 0.0) + spent
    figure, (axis,) = axes(1, width=8.6, height=0.24 * len(of_step) + 1)
    places = range(len(of_step))
    axis.barh(places, list(of_step.values()), color=colours(1)[0])
    axis.set_yticks(places, list(of_step), fontsize=8)
    axis.invert_yaxis()
    for place, spent in zip(places, of_step.values()):
        axis.annotate(
            f" {duration(spent)}, {_share(spent, total)}", (spent, place), va="center", fontsize=7
        )
    axis.set(xlabel="seconds", xlim=(0, 1.25 * max(of_step.values(), default=1)))
    notes = [
        "Wall time of the last run of each task (without this page). The resolved config, "
        "command, versions and devices are in run.json of the workdir."
    ]
    table = Table(["task", "time", "share"], rows, len(rows) - 1)
    return Section("cost", "Computing time", notes, table, [Figure(svg(figure), "Time by step")])


def duration(seconds: float) -> str:
    """Return a time as text: "0.4 s", "12 s", "5 min 18 s", "3 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _share(value: float, total: float) -> str:
    return f"{100 * value / total:.1f} %" if total else "–"
