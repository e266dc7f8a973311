"""The leak: test pictures that also lie in the external collection take the labels found there.

In: pairs of matching pictures (as `duplicates.parquet` has them) and the labels of the catalog, or
ready tables (id, labels).  Out: one table, one row a test picture, the conflicts, and the overlay.
Source: all three teams overlay whole predictions, last of all steps.

Order of trust, least first: a later table wins over an earlier one (pudae's rule).  Inside the
matches of one picture: an image of which all channels agree best (smallest sum of distances) wins;
of equal ones the first id.  Whatever loses with other labels is listed as a conflict.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax import classes
from hpa_jax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "labels", "origin", "distance", "table")


def from_matches(
    pairs: "pd.DataFrame", labels: Mapping[str, Sequence[int]], test_ids: Sequence[str]
) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """(leak table, conflicts) from matching pairs between test pictures and labelled ones.

    pairs: columns id_a, id_b and distance_* (any number of channels); labels: id -> class numbers
    of pictures that may lend theirs (train and external); test_ids: pictures that may borrow.
    Pairs inside one side are left out.  Columns of both tables: `COLUMNS`; in conflicts, the row
    that lost.
    """
    import pandas as pd

    wanted = set(test_ids)
    channels = [name for name in pairs.columns if name.startswith("distance")]
    distance = pairs[channels].sum(axis=1) if channels else pd.Series(0, index=pairs.index)
    rows = []
    for a, b, d in zip(pairs["id_a"], pairs["id_b"], distance):
        for test, origin in ((a, b), (b, a)):
            if test in wanted and origin not in wanted and labels.get(origin) is not None:
                numbers = sorted({int(number) for number in labels[origin]})
                rows.append((test, numbers, origin, float(d), "matches"))
    rows.sort(key=lambda row: (row[0], row[3], row[2]))
    return _first_wins(rows)


def combine(tables: Mapping[str, "pd.DataFrame"]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """(leak table, conflicts) of several tables, given in ascending order of trust.

    tables: name -> columns id, labels (list of class numbers or text "16 0"), optionally origin and
    distance.  Inside one table the last row of an id wins, as in the teams' code.

    Raises:
        InputError: a table without these columns, or a label that is no number.
    """
    rows = []
    for name, table in reversed(list(tables.items())):
        for column in ("id", "labels"):
            if column not in table.columns:
                raise InputError(f"leak table {name}: no column {column!r}; it needs id and labels")
        for position in reversed(range(len(table))):
            row = table.iloc[position]
            numbers = _numbers(row["labels"], f"leak table {name}, row {position}")
            origin = str(row["origin"]) if "origin" in table.columns else ""
            distance = float(row["distance"]) if "distance" in table.columns else 0.0
            own = str(row["table"]) if "table" in table.columns else name
            rows.append((str(row["id"]), numbers, origin, distance, own))
    return _first_wins(rows)


def _first_wins(rows: list[tuple]) -> tuple["pd.DataFrame", "pd.DataFrame"]:
    import pandas as pd

    best: dict[str, tuple] = {}
    conflicts = []
    for row in rows:
        if row[0] not in best:
            best[row[0]] = row
        elif best[row[0]][1] != row[1]:
            conflicts.append(row)
    return pd.DataFrame(list(best.values()), columns=COLUMNS), pd.DataFrame(
        conflicts, columns=COLUMNS
    )


def _numbers(labels: "str | Sequence[int]", where: str) -> list[int]:
    try:
        items = labels.split() if isinstance(labels, str) else list(labels)
        return sorted({int(item) for item in items})
    except (TypeError, ValueError):
        raise InputError(f"{where}: labels {labels!r} are no class numbers") from None


def overlay(
    decided: np.ndarray, ids: Sequence[str], table: "pd.DataFrame"
) -> tuple[np.ndarray, list[str]]:
    """(decisions bool[N, C] with leaked rows replaced whole, ids whose decision changed).

    decided: bool[N, C] in the order of `ids`; table: `id, labels`.  Rows of the table for other
    pictures, and rows with no labels, are left out.

    Raises:
        InputError: a label beyond C.
    """
    result = np.array(decided, bool)
    position = {name: row for row, name in enumerate(ids)}
    changed = []
    for name, labels in zip(table["id"], table["labels"]):
        numbers = _numbers(labels, f"leak table, id {name}")
        if name not in position or not numbers:
            continue
        try:
            mask = classes.encode_numbers(numbers, result.shape[1])
        except ValueError as error:
            raise InputError(f"leak table, id {name}: {error}") from None
        if (result[position[name]] != mask).any():
            changed.append(name)
        result[position[name]] = mask
    return result, changed
