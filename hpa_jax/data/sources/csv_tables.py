"""CSV tables that people and other programs wrote -> text cells, or one line of what is wrong.

Excel's byte-order mark, CRLF, spaces around cells and capitals in the header don't matter.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


def read(path: str | Path, remedy: str = "") -> "pd.DataFrame":
    """All cells as text without spaces around them ("" where there is none), column names in lower
    case and of one line, as every message is.

    remedy: what to do if the file is not there.

    Raises:
        InputError: the file is missing, no CSV, has a column name twice, or rows longer than its
            header.
    """
    import pandas as pd

    table = _parsed(path, remedy).fillna("").map(str.strip)
    if not isinstance(table.index, pd.RangeIndex):  # pandas would shift the columns by one
        raise InputError(f"{path}: its rows have more cells than its header")
    table.columns = [" ".join(str(name).split()).lower() for name in table.columns]
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{path}: has two columns {doubled[0]!r}")
    return table


def rows(path: str | Path) -> "pd.DataFrame":
    """All rows as text without spaces around it, a header among them if there is one.

    Raises:
        InputError: the file is missing or no CSV.
    """
    return _parsed(path, "", header=None).fillna("").map(str.strip)


def cells(path: str | Path) -> set[str]:
    """The text of all cells of a CSV of any shape, its header included.

    Raises:
        InputError: the file is missing or no CSV.
    """
    table = _parsed(path, "", header=None)
    return {cell.strip() for column in table for cell in table[column].dropna()}


def _parsed(path: str | Path, remedy: str, **options: Any) -> "pd.DataFrame":
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)
    except FileNotFoundError:
        raise InputError(f"{path}: not there{'; ' if remedy else ''}{remedy}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: no readable CSV ({' '.join(str(error).split())})") from None
