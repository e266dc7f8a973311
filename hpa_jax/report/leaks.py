"""Section: test images whose labels are lent by a twin or a table, and lenders that disagree."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.report.page import Section, Table, number

if TYPE_CHECKING:
    import pandas as pd

LISTED = 30


def section(
    overlay: "pd.DataFrame",
    conflicts: "pd.DataFrame",
    classes: Sequence[str],
    tests: Sequence[str],
    used: bool,
    truth: Mapping[str, np.ndarray] | None,
) -> Section:
    """overlay, conflicts: of leak.combine (lists of class numbers); tests: ids of the test
    images; used: whether the overlay is on; truth: test id -> bool[C], if it is known."""
    lent = overlay[overlay["id"].isin(tests)]
    doing = "replace the prediction" if used else "are not used: config.leak is off"
    notes = [
        f"Labels are known for {len(lent):,} of {len(tests):,} test images "
        f"({100 * len(lent) / max(len(tests), 1):.1f} %); they {doing}."
    ]
    if truth is not None and len(lent):
        right = sum(
            set(np.flatnonzero(truth[row.id])) == set(row.labels) for row in lent.itertuples()
        )
        notes.append(f"They equal the test truth for {right} of {len(lent)}.")
    if conflicts.empty:
        return Section("leak", "The leak", [*notes, "No conflicts: all lenders agree."])
    notes.append(f"{len(conflicts)} further lenders carry other labels than the one that won.")
    won = {row.id: _cells(row, classes) for row in overlay.itertuples()}
    rows = [
        [row.id, *won.get(row.id, ["–"] * 3), *_cells(row, classes)]
        for row in conflicts.head(LISTED).itertuples()
    ]
    columns = ["test image", "won", "its labels", "bits", "lost", "its labels", "bits"]
    feet = ["Bits: Hamming distance of the hashes, summed over channels."]
    if len(conflicts) > LISTED:
        feet.append(f"The first {LISTED} are listed; all are in leak_conflicts.csv.")
    return Section("leak", "The leak", notes, Table(columns, rows, text=(0, 1, 2, 4, 5)), feet=feet)


def _cells(row: "pd.Series", classes: Sequence[str]) -> list[str]:
    """Who lends (or the table's name), which labels, how far it is."""
    names = ", ".join(classes[int(c)] for c in row.labels) or "nothing"
    return [row.origin or row.table, names, number(float(row.distance), 0)]
