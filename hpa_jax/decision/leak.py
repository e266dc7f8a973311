"""The leak: test images that are also in the external collection take its labels.

In: matches of test images with labelled ones (leak.parquet), or published tables (id, labels).
Out: one table with one row per test image, the conflicts, and the overlay.
Source: all three teams overlay whole predictions as the last step.

Order of trust, least first: a later table wins over an earlier one (pudae's rule).  Among the
matches of one image, the smallest sum of channel distances wins, of equal ones the first id.
Rows that lose with different labels are listed as conflicts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data.sources import csv_tables

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "labels", "origin", "distance", "table")


def of_matches(matches: "pd.DataFrame") -> "pd.DataFrame":
    """Return a leak table for `combine`: the most trusted match of a test image comes last.

    matches: columns test_id, match_id, labels and distance_* (any number of channels).
    """
    channels = [name for name in matches.columns if name.startswith("distance")]
    table = matches.assign(distance=matches[channels].fillna(0).sum(axis=1).astype(float))
    table = table.sort_values(["test_id", "distance", "match_id"], ascending=[True, False, False])
    return table.rename(columns={"test_id": "id", "match_id": "origin"})[
        ["id", "labels", "origin", "distance"]
    ]


def read(path: str | Path) -> "pd.DataFrame":
    """Read a published leak table: a CSV file with the columns Id and Target ("16 0").

    Raises:
        InputError: the file or one of the columns is missing.
    """
    table = csv_tables.read(path, "submission.leak_tables names it")
    if not {"id", "target"} <= set(table.columns):
        raise InputError(f"leak table {path}: needs the columns Id,Target")
    return table.rename(columns={"target": "labels"})[["id", "labels"]]


def combine(tables: Mapping[str, "pd.DataFrame"]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return (leak table, conflicts), sorted by id, of tables in ascending order of trust.

    tables: name -> columns id, labels (list of class numbers or text "16 0"), optionally origin and
    distance.  Inside one table the last row of an id wins, as in the teams' code.  Conflicts: the
    rows that lost with other labels.  Columns of both: `COLUMNS`.

    Raises:
        InputError: a table without these columns, or an invalid label.
    """
    import pandas as pd

    rows = []
    for name, table in reversed(list(tables.items())):
        for column in ("id", "labels"):
            if column not in table.columns:
                raise InputError(f"leak table {name}: no column {column!r}; needs id and labels")
        for position, row in reversed([*enumerate(table.to_dict("records"))]):
            numbers = _numbers(row["labels"], f"leak table {name}, row {position}")
            if not numbers:  # no labels: a less trusted table may have some
                continue
            origin, distance = str(row.get("origin", "")), float(row.get("distance", 0.0))
            rows.append((str(row["id"]), numbers, origin, distance, name))
    best: dict[str, tuple] = {}
    conflicts = []
    for row in rows:
        if row[0] not in best:
            best[row[0]] = row
        elif best[row[0]][1] != row[1]:
            conflicts.append(row)
    won, lost = (pd.DataFrame(rows, columns=COLUMNS) for rows in (list(best.values()), conflicts))
    return won.sort_values("id", ignore_index=True), lost.sort_values("id", ignore_index=True)


def _numbers(labels: "str | Sequence[int]", where: str) -> list[int]:
    try:
        items = labels.split() if isinstance(labels, str) else list(labels)
        return sorted({int(item) for item in items})
    except (TypeError, ValueError):
        raise InputError(f"{where}: labels {labels!r} are not class numbers") from None


def overlay(
    decided: np.ndarray, ids: Sequence[str], table: "pd.DataFrame"
) -> tuple[np.ndarray, list[str]]:
    """Return (decisions bool[N, C] with leaked rows replaced, ids whose decision changed).

    decided: bool[N, C] in the order of `ids`; table: `id, labels`.  Rows of the table for other
    images, or without labels, are ignored.

    Raises:
        InputError: a label beyond C.
    """
    result = np.array(decided, bool)
    position = {name: row for row, name in enumerate(ids)}
    changed = []
    for name, labels in zip(table["id"], table["labels"]):
        numbers = _numbers(labels, f"leak table, id {name!r}")
        if name not in position or not numbers:
            continue
        try:
            mask = classes.encode_numbers(numbers, result.shape[1])
        except ValueError as error:
            raise InputError(f"leak table, id {name!r}: {error}") from None
        if (result[position[name]] != mask).any():
            changed.append(name)
        result[position[name]] = mask
    return result, changed
