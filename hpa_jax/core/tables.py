"""Joins of tables by id, whatever the order of their rows.

A missing or duplicate id is an error that names it: a join never drops, repeats or invents a row.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def rows_by_id(ids: Iterable[str], keys: Sequence[str], what: str, remedy: str = "") -> np.ndarray:
    """Return int[N]: for each of the N ids in `keys`, its row in `ids`.

    what: names the table in messages ("predictions of resnet18"); remedy: what to do about missing
    ids, added to the message.

    Raises:
        InputError: an id of the table occurs twice, or an id of `keys` is missing.
    """
    place = positions(ids, what)
    missing = [str(name) for name in keys if str(name) not in place]
    if missing:
        raise InputError(
            f"{what}: {len(missing)} of {len(keys)} ids are missing, first {missing[0]!r}"
            + (f"; {remedy}" if remedy else "")
        )
    return np.array([place[str(name)] for name in keys], np.int64)


def positions(ids: Iterable[str], what: str) -> dict[str, int]:
    """Return id -> row.

    Raises:
        InputError: an id occurs twice.
    """
    place: dict[str, int] = {}
    for row, name in enumerate(map(str, ids)):
        if name in place:
            raise InputError(f"{what}: id {name!r} occurs more than once")
        place[name] = row
    return place


def by_id(
    table: "pd.DataFrame", keys: Sequence[str], what: str, remedy: str = ""
) -> "pd.DataFrame":
    """Return the rows of the ids in `keys`, in that order, of a table with the column `id`.

    Raises:
        InputError: no column id, a duplicate id in the table, or an id of `keys` is missing.
    """
    if "id" not in table.columns:
        raise InputError(f"{what}: has no column id, only {list(table.columns)[:5]}")
    return table.iloc[rows_by_id(table["id"], keys, what, remedy)]


def cell(text: str) -> str:
    """Escape a text for a CSV, so that a spreadsheet doesn't read it as a formula.

    A text that begins like a formula gets a leading apostrophe; numbers stay.
    """
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
