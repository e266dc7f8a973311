"""Section: how long each stage took."""

from collections.abc import Mapping, Sequence

from hpa_jax.report.canvas import axes, colours, svg
from hpa_jax.report.page import Figure, Section, Table


def section(seconds: Mapping[str, float], stages: Sequence[str]) -> Section:
    """seconds: of each task ("train-tiny") as stamped; stages: their order."""
    order = {name: place for place, name in enumerate(stages)}
    tasks = sorted(seconds, key=lambda task: (order.get(_stage(task), len(order)), task))
    total = sum(seconds.values())
    rows = [[task, clock(seconds[task]), _share(seconds[task], total)] for task in tasks]
    rows.append(["all", clock(total), _share(total, total)])
    of_stage = {}
    for task in tasks:
        of_stage[_stage(task)] = of_stage.get(_stage(task), 0.0) + seconds[task]
    figure, (axis,) = axes(1, width=8.6, height=0.24 * len(of_stage) + 1)
    places = range(len(of_stage))
    axis.barh(places, list(of_stage.values()), color=colours(1)[0])
    axis.set_yticks(places, list(of_stage), fontsize=8)
    axis.invert_yaxis()
    for place, value in zip(places, of_stage.values()):
        axis.annotate(
            f" {clock(value)}, {_share(value, total)}", (value, place), va="center", fontsize=7
        )
    axis.set(xlabel="seconds", xlim=(0, 1.25 * max(of_stage.values(), default=1)))
    notes = [
        "Wall time of each task when it last ran (this page apart). The resolved config, command, "
        "versions and devices are in run.json of the workdir."
    ]
    table = Table(["task", "time", "share"], rows, len(rows) - 1)
    return Section("cost", "What it cost", notes, table, [Figure(svg(figure), "Time by stage")])


def clock(seconds: float) -> str:
    """A time for people: "0.4 s", "12 s", "5 min 18 s", "3 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _stage(task: str) -> str:
    return task.partition("-")[0]


def _share(value: float, total: float) -> str:
    return f"{100 * value / total:.1f} %" if total else "–"
