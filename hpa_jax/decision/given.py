"""Prediction tables of any models, read and checked.

In: .csv, .parquet or .npz files, or pandas tables, with `id` and one column per class
(`p00`, `p01`, ..., `0`, `prob_0`, or the class's name); an .npz holds `ids` [N] and `probs`
[N, C], and `classes` [C] where its columns are not all classes in order.  Out: ids and float32
probabilities [N, C], NaN in a class that the model lacks.  Column names are case-insensitive; rows
can be in any order.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError, near
from hpa_jax.core.tables import positions, rows_by_id
from hpa_jax.data.sources import csv_tables

if TYPE_CHECKING:
    import pandas as pd

Source = Union[str, Path, "pd.DataFrame"]
SUFFIXES = (".csv", ".parquet", ".npz")
_NUMBERED = re.compile(r"(?:(?:p|prob|class|logit)_?)?(\d+)", re.ASCII)
_INDEX = re.compile(r"Unnamed: \d+")  # pandas' name of a column without one: a written index


@dataclass(frozen=True)
class Predictions:
    """One model's table: ids [N], values float64 [N, K], the names of its K columns as written."""

    name: str
    ids: np.ndarray
    values: np.ndarray
    columns: tuple[str, ...]

    def of_classes(self, names: Sequence[str]) -> np.ndarray:
        """float32[N, C]: one column per class of `names`, NaN where the table has none.

        Raises:
            InputError: an unknown column, or two columns of one class.
        """
        result = np.full((len(self.ids), len(names)), np.nan, np.float32)
        place = {name.lower(): number for number, name in enumerate(names)}
        for column, values in zip(self.columns, self.values.T):
            numbered = _NUMBERED.fullmatch(column.lower())
            c = place.get(column.lower(), int(numbered[1]) if numbered else -1)
            if not 0 <= c < len(names):
                hint = near(column, names) or f"; classes are p00 to p{len(names) - 1:02d} or names"
                raise InputError(f"predictions of {self.name}: unknown column {column!r}{hint}")
            if not np.isnan(result[:, c]).all():
                raise InputError(f"predictions of {self.name}: two columns of class {names[c]!r}")
            result[:, c] = values
        return result


def read(source: Source, name: str, logits: bool = False) -> Predictions:
    """Read a model's table, as probabilities.

    logits: the values are logits, to which the sigmoid is applied.

    Raises:
        InputError: a missing file, unknown suffix, no column id, a duplicate or empty id, a value
            that is not finite or (without `logits`) outside [0, 1]; names table, id, column.
    """
    what = f"predictions of {name}"
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".npz":
        ids, values, columns = _archive(Path(source))
    else:
        table = _table(source, what)
        columns = tuple(str(column) for column in table.columns if column != "id")
        values = np.empty((len(table), len(columns)))
        for k, column in enumerate(columns):
            values[:, k] = _numbers(table[column], table["id"], f"{what}, column {column!r}")
        ids = table["id"].to_numpy(str)
    if not len(ids) or not columns:
        raise InputError(f"{what}: {len(ids)} rows, {len(columns)} columns of classes")
    positions(ids, what)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"{what}: {values[row, column]} for id {str(ids[row])!r}, column {columns[column]!r} "
            f"({len(bad)} such values); predict it again, or leave out this model"
        )
    if logits:
        if values.min() >= 0 and values.max() <= 1:
            raise InputError(
                f"{what}: all values are in 0..1, as probabilities are; leave out --logits, which "
                "applies to all tables"
            )
        values = 1 / (1 + np.exp(-np.clip(values, -80, 80)))
    outside = np.argwhere((values < 0) | (values > 1))
    if len(outside):
        row, column = outside[0]
        raise InputError(
            f"{what}: {values[row, column]:g} for id {str(ids[row])!r}, column "
            f"{columns[column]!r} is not a probability; set --logits if the tables hold logits"
        )
    return Predictions(name, ids, values, columns)


def class_names(tables: Sequence[Predictions]) -> tuple[str, ...]:
    """Infer the classes from the columns of tables.

    The competition's classes if the columns are their names or numbers (p00, p01, ...); otherwise
    the column names in their order, or p00, p01, ... up to the highest number.

    Raises:
        InputError: the columns don't say which class has which number.
    """
    remedy = "name all classes, in the order of their numbers, with --classes"
    columns = {name.lower(): (name, table) for table in tables[::-1] for name in table.columns}
    numbers = [int(match[1]) for name in columns if (match := _NUMBERED.fullmatch(name))]
    known = {name.lower() for name in classes.NAMES}
    own = [name for name in columns if not _NUMBERED.fullmatch(name) and name not in known]
    if not own and len(numbers) < len(columns):
        return classes.NAMES
    if not own:
        if min(numbers):
            raise InputError(f"predictions: no column of class 0 (p00); {remedy}")
        count = max(numbers) + 1
        names = tuple(f"p{number:02d}" for number in range(count))
        return classes.NAMES if count == len(classes.NAMES) else names
    if len(own) < len(columns):  # a misspelt class, or a column that is no class
        name, table = columns[own[0]]
        hint = near(name, classes.NAMES) or ";"
        raise InputError(
            f"predictions of {table.name}: unknown column {name!r}{hint} rename or remove it, or "
            f"{remedy}"
        )
    names = tuple(dict.fromkeys(name.lower() for table in tables for name in table.columns))
    for table in tables:
        places = [names.index(name.lower()) for name in table.columns]
        if places != sorted(places):
            raise InputError(
                f"predictions of {table.name}: its classes are in another order than those of "
                f"{tables[0].name}; {remedy}"
            )
    return tuple(columns[name][0] for name in names)


def labels(source: Source, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read (ids [N], bool[N, C]) from a table Id,Target with numbers or names of the C classes.

    Raises:
        InputError: a missing table, other columns, a duplicate id, or an unknown class.
    """
    table = _table(source, "labels")
    if "target" not in table:
        raise InputError(f"labels: needs the columns Id,Target; has {', '.join(table)}")
    ids, result = table["id"].to_numpy(str), np.zeros((len(table), len(names)), bool)
    positions(ids, "labels")
    for row, text in enumerate(table["target"]):
        numbers, wrong = csv_tables.class_numbers(text, names)
        if wrong:
            raise InputError(
                f"labels, id {str(ids[row])!r}: {wrong!r} is not a class number "
                f"0..{len(names) - 1} or name{near(wrong, names)}"
            )
        result[row, numbers] = True
    return ids, result


def column(source: Source, name: str, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Read (ids [N], texts [N]) from a table Id,NAME.

    Raises:
        InputError: a missing table, another second column, or a duplicate id.
    """
    table = _table(source, what)
    if name not in table:
        raise InputError(f"{what}: needs the columns Id,{name.capitalize()}; has {[*table]}")
    positions(table["id"].to_numpy(str), what)
    return table["id"].to_numpy(str), table[name].to_numpy(str)


def features(
    source: Source, ids: Sequence[str], what: str = "metafeatures"
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read (float64[N, F], names) from a table of `id` and numbers, rows in the order of `ids`.

    Raises:
        InputError: a missing table, a missing or duplicate id, or a cell that is not a number.
    """
    table = _table(source, what)
    rows = rows_by_id(table["id"], ids, what)
    names = tuple(str(name) for name in table.columns if name != "id")
    columns = [_numbers(table[name], table["id"], f"{what}, column {name!r}") for name in names]
    return np.stack([values[rows] for values in columns], axis=1), names


def shares(text: str, names: Sequence[str]) -> np.ndarray:
    """Parse `.36,.04,...`, one share per class, or count them in a table Id,Target: float[C].

    Raises:
        InputError: wrong number of shares, one outside [0, 1], or a missing table.
    """
    if Path(text).suffix.lower() in SUFFIXES:
        return labels(text, names)[1].mean(axis=0)
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise InputError(
            f"--proportions={text}: needs one share per class, comma-separated, or a table "
            "Id,Target (.csv)"
        ) from None
    if len(values) != len(names) or not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            f"--proportions: {len(values)} numbers for {len(names)} classes; one in 0..1 each"
        )
    return values


def sharpness(probs: np.ndarray, labelled: np.ndarray) -> tuple[float, float, float]:
    """Return (AUC, low, high) of labelled against unlabelled rows, ranked by sharpness.

    probs: [N, C], NaN where unknown; labelled: bool[N].  Sharpness of a row is its highest
    probability.  For out-of-fold rows and images of the same kind, the 95 % interval includes .5;
    above it, the model was probably trained on the labelled rows.
    """
    from hpa_jax.decision.adversarial import auc_interval

    return auc_interval(labelled, np.nanmax(probs, axis=1))


def _table(source: Source, what: str) -> "pd.DataFrame":
    """Read a table, with lower-case `id`, `target`, `group`, `fold` as text ("" where unknown)."""
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        table = source.copy()
    elif not isinstance(source, str | Path):
        kind = type(source).__name__
        raise InputError(f"{what}: needs a file or a pandas table with a column id, not {kind}")
    elif Path(source).suffix.lower() == ".csv":
        table = csv_tables.read(Path(source).expanduser(), lower=False)
        table = table[[name for name in table if not _INDEX.fullmatch(name)]]
    elif Path(source).suffix.lower() == ".parquet":
        table = artifacts.read_table(Path(source).expanduser())
    else:
        raise InputError(f"{source}: unknown suffix; needs one of {', '.join(SUFFIXES)}")
    if str(table.index.name).lower() == "id":
        table = table.reset_index()
    table.columns = [
        str(name).lower() if str(name).lower() in ("id", "target", "group", "fold") else str(name)
        for name in table.columns
    ]
    if "id" not in table:
        where = source if isinstance(source, str | Path) else what
        raise InputError(f"{where}: has no column id, only {[*table.columns][:5]}")
    for name in {"id", "target", "group", "fold"}.intersection(table.columns):
        table[name] = table[name].astype(object).where(table[name].notna(), "").astype(str)
    if (table["id"] == "").any():
        raise InputError(f"{what}: row {int((table['id'] == '').argmax())} has an empty id")
    return table


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    path = path.expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with artifacts.parsing(
        path, "write it with numpy.savez(path, ids=ids.astype(str), probs=probs)"
    ):
        with np.load(path, allow_pickle=False) as stored:
            missing = {"ids", "probs"}.difference(stored)
            if missing:
                raise InputError(f"has no array {min(missing)}, only {', '.join(stored)}")
            ids, values = stored["ids"].astype(str), np.asarray(stored["probs"], np.float64)
            named = stored["classes"].astype(str).tolist() if "classes" in stored else None
        if values.ndim != 2 or ids.shape != values.shape[:1]:
            raise InputError(f"ids {ids.shape} and probs {values.shape}; [N] and [N, C] are needed")
        columns = named or [f"p{number:02d}" for number in range(values.shape[1])]
        if len(columns) != values.shape[1]:
            raise InputError(f"{len(columns)} classes for {values.shape[1]} columns of probs")
    return ids, values, tuple(columns)


def _numbers(cells: "pd.Series", ids: "pd.Series", what: str) -> np.ndarray:
    """float64[N] of a column; empty cells become NaN."""
    import pandas as pd

    if cells.dtype.kind in "fiub":
        return cells.to_numpy(np.float64)
    numbers = pd.to_numeric(cells.replace("", None), errors="coerce").to_numpy(np.float64)
    empty = (cells.isna() | cells.astype(str).str.lower().isin(["", "nan", "none"])).to_numpy()
    wrong = np.flatnonzero(np.isnan(numbers) & ~empty)
    if len(wrong):
        cell, id = cells.iloc[wrong[0]], ids.iloc[wrong[0]]
        raise InputError(f"{what}: {cell!r} for id {id!r} is not a number (1.5, with a point)")
    return numbers
