"""Tables of predictions and embeddings (design 3), with unique ids and finite values.

`id, p00..p27` float32 (without the columns of classes that the network lacks) and
`id, e0000..` float32.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError


def write_table(
    path: str | Path,
    ids: Sequence[str],
    probs: np.ndarray,
    class_numbers: Sequence[int] | None = None,
) -> None:
    """Write `id, p00..`: probs float[N, C] of the given classes (default 0..C-1).

    Raises:
        InputError: a duplicate id, wrong shape, a value that is not a probability.
    """
    import pandas as pd

    probs = np.asarray(probs, np.float32)
    numbers = range(probs.shape[1]) if class_numbers is None else class_numbers
    if probs.shape != (len(ids), len(numbers)):
        raise InputError(
            f"{path}: {probs.shape} numbers for {len(ids)} ids, {len(numbers)} classes"
        )
    check_finite(probs, ids)
    if probs.size and (probs.min() < 0.0 or probs.max() > 1.0):
        raise InputError(f"{path}: values of {probs.min()}..{probs.max()} are not probabilities")
    columns = {f"p{number:02d}": probs[:, place] for place, number in enumerate(numbers)}
    table = pd.DataFrame({"id": np.asarray(ids, object), **columns})
    _check_duplicates(path, table)
    artifacts.write_table(path, table)


def read_table(path: str | Path) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Read a table of `write_table`: ids[N] str, probs float32[N, C], class numbers.

    Raises:
        InputError: a missing table, a duplicate id, a value that is not finite.
    """
    table = artifacts.read_table(path)
    columns = [name for name in table.columns if re.fullmatch(r"p\d{2,}", str(name))]
    if "id" not in table.columns or not columns:
        raise InputError(f"{path}: needs the columns id and p00.., has {list(table.columns)[:5]}")
    _check_duplicates(path, table)
    ids = table["id"].to_numpy(str)
    probs = table[columns].to_numpy(np.float32)
    check_finite(probs, ids)
    return ids, probs, [int(name[1:]) for name in columns]


def write_embeddings(path: str | Path, ids: Sequence[str], embeddings: np.ndarray) -> None:
    """Write `id, e0000..`: embeddings float[N, E]."""
    import pandas as pd

    columns = {f"e{place:04d}": column for place, column in enumerate(np.float32(embeddings).T)}
    table = pd.DataFrame({"id": np.asarray(ids, object), **columns})
    _check_duplicates(path, table)
    artifacts.write_table(path, table)


def read_embeddings(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a table of `write_embeddings`: ids[N] str, embeddings float32[N, E].

    Raises:
        InputError: missing columns, or a duplicate id.
    """
    table = artifacts.read_table(path)
    columns = [name for name in table.columns if re.fullmatch(r"e\d{4,}", str(name))]
    if "id" not in table.columns or not columns:
        raise InputError(f"{path}: needs the columns id and e0000.., has {list(table.columns)[:5]}")
    _check_duplicates(path, table)
    return table["id"].to_numpy(str), table[columns].to_numpy(np.float32)


def _check_duplicates(path: str | Path, table: Any) -> None:
    doubled = table["id"][table["id"].duplicated()]
    if len(doubled):
        raise InputError(f"{path}: id {doubled.iloc[0]!r} occurs more than once")


def check_finite(probs: np.ndarray, ids: Sequence[str]) -> None:
    """Check that all probabilities are finite.

    Raises:
        InputError: names the first such id.
    """
    bad = np.flatnonzero(~np.isfinite(probs).all(axis=1))
    if len(bad):
        raise InputError(
            f"{len(bad)} images have probabilities that are not finite, first {ids[bad[0]]!r}: "
            "check the network's weights and its normalisation"
        )
