"""Section: what each step from one network to the submission adds, in the order they are taken."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.decision import confidence
from hpa_jax.report import intervals
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.page import Figure, Section, Table, number, signed, span

COLUMNS = ["macro-F1", "95 %", "change", "95 %", "own cuts"]


@dataclass(frozen=True)
class Step:
    """decided: name of the scored rows -> bool[N, C] after this step (absent: it does nothing
    there); cut: the same with cuts fitted for this step, to see what they alone give."""

    name: str
    decided: Mapping[str, np.ndarray]
    cut: Mapping[str, np.ndarray]


def section(found: Findings, steps: Sequence[Step], note: str) -> Section:
    """Table and dots of the chain. note: what could not be taken apart."""
    names = [step.name for step in steps]
    series, columns = {}, []
    for part in found.parts:
        measured = [_measured(part, step) for step in steps]
        values = [(m.mean, *m.macro) if m else (np.nan,) * 3 for m in measured]
        series[part.where] = tuple(np.array(values).T)
        columns.append(_cells(part, steps, measured))
    rows = [[name, *itertools.chain(*cells)] for name, *cells in zip(names, *columns)]
    groups = [("", 1), *((part.where, len(COLUMNS)) for part in found.parts)]
    table = Table(["step", *(COLUMNS * len(found.parts))], rows, groups=groups)
    uri = intervals.dots(names, series, "macro-F1 after each step")
    notes = [
        "Each step is added to those above it. Up to the thresholds a class is predicted from a "
        "score of 0.5 on; the last column shows what cuts of its own would give at that step."
    ]
    return Section(
        "steps",
        "Step by step",
        [*notes, note] if note else notes,
        table,
        [Figure(uri, "Macro-F1 after each step with its interval")],
        feet=[
            "Change: against the step above, paired over the same resampled rows; an interval that "
            "holds 0 means no evidence. The single network is the best one on validation, which "
            "flatters it there a little. The leak table concerns test images only. The last row "
            "is submission.csv as it was written, not a step more.",
            *(f"{part.name.capitalize()}: {part.note}." for part in found.parts),
        ],
    )


@dataclass(frozen=True)
class _Measured:
    mean: float
    macro: tuple[float, float]
    draws: np.ndarray


def _measured(part: Scored, step: Step) -> _Measured | None:
    if part.name not in step.decided:
        return None
    around = confidence.f1_intervals(part.labels, step.decided[part.name], weights=part.weights)
    mean = metrics.macro_f1(part.labels, step.decided[part.name])
    return _Measured(mean, around.macro, around.draws)


def _cells(
    part: Scored, steps: Sequence[Step], measured: Sequence[_Measured | None]
) -> list[list[str]]:
    cells, before = [], None
    for step, own in zip(steps, measured):
        if own is None:
            cells.append(["–"] * len(COLUMNS))
            continue
        change = ["–", "–"]
        if before is not None:
            low, high = np.quantile(own.draws - before.draws, [0.025, 0.975])
            change = [signed(own.mean - before.mean), f"{signed(low)} to {signed(high)}"]
        cut = step.cut.get(part.name)
        alone = number(None if cut is None else metrics.macro_f1(part.labels, cut))
        cells.append([number(own.mean), span(own.macro), *change, alone])
        before = own
    return cells
