"""The submission file: `Id,Predicted`, ids in the order of sample_submission.csv.

In: decisions bool[N, C] and their ids.  Out: a checked CSV: the same ids in the same order, no
duplicates, class numbers valid and ascending, no empty prediction unless allowed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError

HEADER = ("Id", "Predicted")


def write(
    path: str | Path,
    ids: Sequence[str],
    decided: np.ndarray,
    sample_ids: Sequence[str] | None = None,
    *,
    allow_empty: bool = False,
) -> None:
    """Write the submission in the order of `sample_ids` (default: of `ids`), then checks it.

    Raises:
        InputError: an id of the sample without decision, a superfluous or duplicate id, an empty
            prediction that is not allowed.
    """
    decided = np.asarray(decided)
    if decided.ndim != 2 or len(decided) != len(ids):
        raise InputError(f"submission: decisions of shape {decided.shape} for {len(ids)} ids")
    order = list(ids) if sample_ids is None else list(sample_ids)
    _compare(list(ids), order, "decisions", in_order=False)
    row = {name: number for number, name in enumerate(ids)}
    texts = [classes.decode(decided[row[name]]) for name in order]
    _no_empty(order, texts, allow_empty)
    lines = [",".join(HEADER), *(f"{name},{text}" for name, text in zip(order, texts))]
    with artifacts.atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    check(path, order, decided.shape[1], allow_empty=allow_empty)


def check(
    path: str | Path,
    sample_ids: Sequence[str],
    num_classes: int = len(classes.NAMES),
    *,
    allow_empty: bool = False,
) -> np.ndarray:
    """Check a submission file and return its decisions bool[N, C].

    Raises:
        InputError: names the first problem and its line.
    """
    ids, texts = _rows(path)
    masks = []
    for number, (name, text) in enumerate(zip(ids, texts), start=2):
        try:
            mask = classes.encode(text, num_classes)
        except ValueError as error:
            raise InputError(f"{path}, line {number} ({name}): {error}") from None
        if len(text.split()) != mask.sum():
            raise InputError(f"{path}, line {number} ({name}): duplicate class in {text!r}")
        masks.append(mask)
    _compare(ids, list(sample_ids), str(path), in_order=True)
    _no_empty(ids, texts, allow_empty)
    return np.array(masks, bool).reshape(len(ids), num_classes)


def sample_ids(path: str | Path) -> list[str]:
    """Return the ids of a sample_submission.csv, in order.

    Raises:
        InputError: a missing file, no `Id,Predicted` header, or a duplicate id.
    """
    ids, _ = _rows(path)
    _compare(ids, ids, str(path), in_order=True)
    return ids


def _rows(path: str | Path) -> tuple[list[str], list[str]]:
    import csv

    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable CSV ({error})") from None
    if not rows or tuple(cell.strip() for cell in rows[0][:2]) != HEADER:
        raise InputError(f"{path}: the first line must be {','.join(HEADER)}")
    rows = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    for number, row in rows:
        if len(row) != 2:
            raise InputError(f"{path}, line {number}: {len(row)} cells instead of 2")
    return [row[0].strip() for _, row in rows], [row[1] for _, row in rows]


def _compare(ids: list[str], expected: list[str], what: str, in_order: bool) -> None:
    for names, where in ((ids, what), (expected, "sample_submission")):
        if len(set(names)) != len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))
            raise InputError(f"{where}: id {twice!r} occurs more than once")
    present = set(ids)
    missing = [name for name in expected if name not in present]
    if missing:
        raise InputError(
            f"{what}: {len(missing)} ids of the sample are missing, first {missing[0]!r}"
        )
    if len(ids) != len(expected):
        known = set(expected)
        extra = next(name for name in ids if name not in known)
        raise InputError(f"{what}: id {extra!r} is not in the sample")
    if in_order and ids != expected:
        place = next(i for i, (a, b) in enumerate(zip(ids, expected)) if a != b)
        raise InputError(
            f"{what}, line {place + 2}: id {ids[place]!r}, the sample has {expected[place]!r}"
        )


def _no_empty(ids: list[str], texts: list[str], allow_empty: bool) -> None:
    empty = [name for name, text in zip(ids, texts) if not text.strip()]
    if empty and not allow_empty:
        raise InputError(
            f"submission: {len(empty)} predictions are empty, first {empty[0]!r}; "
            "set submission.argmax to empty, or allow empty predictions"
        )
