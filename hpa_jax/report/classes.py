"""Section: each class by the submitted method: how many, how good, how sure, where it is cut."""

import numpy as np
import pandas as pd

from hpa_jax.decision import analysis
from hpa_jax.report import intervals
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.page import Figure, Section, Table, number, span


def section(found: Findings, train: np.ndarray) -> Section:
    """Table of all classes and the dots of those that occur. train: int[C], training images."""
    tables = [_table(found, part) for part in found.parts]
    rows = []
    for c, name in enumerate(found.classes):
        valid = tables[0].iloc[c]
        cells = [f"{c} {name}", number(int(train[c])), *_scores(valid)]
        cells += [number(valid["threshold"]), span(valid[["threshold_low", "threshold_high"]], 3)]
        cells.append(number(valid["threshold_spread"]))
        for table in tables[1:]:
            cells += _scores(table.iloc[c])
        rows.append(cells)
    columns = ["class", "pictures", "pictures", "AP", "F1", "95 %", "cut", "95 %", "± folds"]
    groups = [("", 1), ("train", 1), (found.valid.where, 4), ("threshold", 3)]
    if found.test:
        columns += ["pictures", "AP", "F1", "95 %"]
        groups.append((found.test.where, 4))
    return Section(
        "classes",
        "Classes",
        _notes(found),
        Table(columns, rows, groups=groups),
        [Figure(_dots(found, tables), "F1 of each class with its interval")],
        feet=[
            "AP: average precision. 95 %: bootstrap over rows, twins together; of the cut, by the "
            "method's own rule on each resample. ± folds: standard deviation of the cuts "
            "found on 5 folds × 20 repeats. A dash: no positive there, or never predicted."
        ],
    )


def _notes(found: Findings) -> list[str]:
    notes = [f"Method: {found.chosen}, the submitted one."]
    for part in found.parts:
        absent = [name for name, count in zip(found.classes, part.support) if not count]
        if absent:
            fate = ", so never predicted" if part is found.valid else ", so scored 0"
            notes.append(f"Without a positive in {part.name}{fate}: {', '.join(absent)}.")
    return notes


def _table(found: Findings, part: Scored) -> pd.DataFrame:
    probs = np.nan_to_num(part.probs[found.chosen])
    decided, cuts = part.decided[found.chosen], found.cuts[found.chosen]
    table = analysis.class_table(
        part.labels,
        probs,
        decided,
        cuts,
        found.classes,
        part.groups,
        around=found.around,
        weights=part.weights,
    )
    table.loc[table["support"] == 0, ["f1", "f1_low", "f1_high"]] = np.nan
    table.loc[table["threshold"] > 1, ["threshold", "threshold_low", "threshold_high"]] = np.nan
    return table


def _scores(row: pd.Series) -> list[str]:
    cells = [number(int(row["support"])), number(row["average_precision"]), number(row["f1"])]
    return [*cells, span(row[["f1_low", "f1_high"]])]


def _dots(found: Findings, tables: list[pd.DataFrame]) -> str:
    shown = np.flatnonzero(sum(part.support for part in found.parts) > 0)
    series = {}
    for part, table in zip(found.parts, tables):
        own = table.iloc[shown]
        series[part.where] = tuple(own[name].to_numpy() for name in ("f1", "f1_low", "f1_high"))
    return intervals.dots([found.classes[c] for c in shown], series, f"F1 of {found.chosen}")
