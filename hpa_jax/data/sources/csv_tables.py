"""Tables that people and other programs wrote -> text cells, class numbers, or one line of what is
wrong.

Excel's exports (byte-order mark, UTF-16, semicolons, tabs), CRLF, spaces around cells and capitals
in the header don't matter.
"""

import io
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near
from hpa_jax.data.problems import Problems

if TYPE_CHECKING:
    import pandas as pd

LABELS = ("labels", "label", "target", "targets", "class", "classes")
PREDICTED = ("predicted", "prediction", "predictions", "predictionstring")
IDS = ("id", "image", "image_id", "imageid", "name", "file", "filename")

_SEPARATOR_LINE = re.compile(r"\Asep=.\r?\n", re.IGNORECASE)  # Excel's first line


def read(path: str | Path, remedy: str = "", lower: bool = True) -> "pd.DataFrame":
    """All cells as text without spaces around them ("" where there is none), column names of one
    line, as every message is.

    remedy: what to do if the file is not there; lower: column names in lower case.

    Raises:
        InputError: the file is missing, no CSV, has a column name twice, or rows longer than its
            header.
    """
    import pandas as pd

    table = _parsed(path, remedy).fillna("").map(str.strip)
    if not isinstance(table.index, pd.RangeIndex):  # pandas would shift the columns by one
        raise InputError(f"{path}: its rows have more cells than its header")
    cased = [" ".join(str(name).split()) for name in table.columns]
    table.columns = [name.lower() for name in cased]
    doubled = table.columns[table.columns.duplicated()]
    if len(doubled):
        raise InputError(f"{path}: has two columns {doubled[0]!r}")
    return table if lower else table.set_axis(cased, axis=1)


def read_any(path: str | Path, remedy: str = "") -> "pd.DataFrame":
    """As `read`, of a Parquet file too.

    Raises:
        InputError: as `read`, or no readable Parquet.
    """
    if Path(path).suffix.lower() != ".parquet":
        return read(path, remedy)
    table = artifacts.read_table(path)
    table.columns = [str(name).lower() for name in table.columns]
    return table.astype(object).where(table.notna(), "").astype(str)


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


def composed(text: str) -> str:
    """A name in Unicode's composed form: macOS writes decomposed letters, tables composed ones."""
    return unicodedata.normalize("NFC", text)


def class_numbers(text: str, class_names: Sequence[str]) -> tuple[list[int], str]:
    """Class numbers of a label text, ascending, and its first part that is no class ("": all are).

    Names or numbers, separated by ; | or , (numbers also by spaces), in brackets or not; names
    count before numbers, as classes may be called "1" and "2"; 16.0 is 16 (pandas writes it so).
    """
    numbers = {" ".join(name.split()).casefold(): at for at, name in enumerate(class_names)}
    text = " ".join(text.split())
    if text.casefold() in numbers:
        return [numbers[text.casefold()]], ""
    if text[:1] + text[-1:] in ("[]", "()", "{}"):
        text = text[1:-1]
    labels: set[int] = set()
    for token in re.split(r"[;|,]", text):
        token = token.strip().strip("'\"").strip()
        parts = [token] if token.casefold() in numbers else token.split()
        if not all(part.casefold() in numbers or _number(part) is not None for part in parts):
            return sorted(labels), token
        for part in parts:
            named = numbers.get(part.casefold())
            number = named if named is not None else _number(part)
            if number is None or number >= len(class_names):
                return sorted(labels), part
            labels.add(number)
    return sorted(labels), ""


def _number(text: str) -> int | None:
    digits = re.fullmatch(r"([0-9]{1,9})(?:\.0*)?", text, re.ASCII)
    return int(digits[1]) if digits else None


def read_labels(
    path: Path, class_names: Sequence[str], problems: Problems, known_ids: Collection[str] = ()
) -> dict[str, list[int]]:
    """id -> class numbers of a label table; {} without the file, empty labels left out.

    Columns are recognised by their header (LABELS, IDS).  A table of two columns may have another
    header (where the labels are names, as numbers may be plates) or none: a first row that names
    one of `known_ids`, or whose labels are classes, counts.

    Raises:
        InputError: no readable CSV, or the column of labels is ambiguous.
    """
    if not path.is_file():
        return {}
    table = rows(path)
    if table.shape[1] < 2:
        raise InputError(f"{path}: needs two columns, id and labels")
    cells = table.to_numpy().tolist()
    names = [name.lower() for name in cells[0]]
    id_at, label_at, header = _columns(path, names, cells, class_names, known_ids)
    known: dict[str, list[int]] = {}
    seen = set()
    for row, line in enumerate(cells[header:], start=1 + header):
        place, id = f"{path} row {row}", composed(line[id_at])
        if id in seen:
            problems.add(place, id, "the id is there twice")
            continue
        seen.add(id)
        if not line[label_at]:
            continue
        labels, wrong = class_numbers(line[label_at], class_names)
        if wrong:
            hint = near(wrong, class_names)
            problems.add(place, id, f"{wrong!r} is no class name or number{hint}")
        elif labels:
            known[id] = labels
    return known


def _columns(
    path: Path,
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    class_names: Sequence[str],
    known_ids: Collection[str],
) -> tuple[int, int, bool]:
    """Where the ids and the labels are, and whether the first row is a header."""
    labelled = [at for at, name in enumerate(names) if name in LABELS]
    if len(labelled) > 1:
        raise InputError(
            f"{path}: columns {', '.join(names[at] for at in labelled)}: which are the labels? "
            "Leave one"
        )
    if labelled:
        named = [at for at, name in enumerate(names) if name in IDS]
        if not named and len(names) == 2:
            named = [1 - labelled[0]]
        if not named:
            raise InputError(f"{path}: needs a column id beside {names[labelled[0]]!r}")
        return named[0], labelled[0], True
    if len(names) > 2:
        raise InputError(
            f"{path}: which column has the labels? Name it labels (or {', '.join(LABELS[1:])}); "
            f"its first row is {', '.join(names)}"
        )
    first, wrong = class_numbers(cells[0][1], class_names)
    header = composed(cells[0][0]) not in known_ids and (bool(wrong) or not first)
    if header and names[1] not in PREDICTED and any(_number(line[1]) is not None for line in cells):
        raise InputError(
            f"{path}: numbers in a column {names[1]!r}: are they class numbers? Name it labels"
        )
    return 0, 1, header


def _parsed(path: str | Path, remedy: str, **options: Any) -> "pd.DataFrame":
    import pandas as pd

    try:
        text = _SEPARATOR_LINE.sub("", _text(Path(path).read_bytes()))
        separator = _separator(text)
        return pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, **options
        )
    except FileNotFoundError:
        raise InputError(f"{path}: not there{'; ' if remedy else ''}{remedy}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: no readable CSV ({' '.join(str(error).split())})") from None


def _text(content: bytes) -> str:
    """Text of UTF-8, of UTF-16 with its mark, or of Windows' western code page."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in content:
            raise
        return content.decode("cp1252")


def _separator(text: str) -> str:
    """Of comma, semicolon and tab the one that the first line has most of (of equals the first)."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    counts = {mark: line.count(mark) for mark in ",;\t"}
    most = max(counts.values())
    return min((m for m in counts if counts[m] == most), key=line.find) if most else ","
