"""Stored embeddings of every packed image: float32[R, V, M, E], V views and M crops of an image.

    manifest.json       layout, V, M, E, rows a part, a digest of all ids and checksums
    manifest.parquet    id, signature of the image and CRC-32 of each row, in order
    part-00000.npy ...  ROWS rows each, memory-mapped when read

Whoever computes them writes `part` by `part`, each whole or not at all, and `finish`es with the
manifest; `missing` lists the parts that a killed run has not written.
"""

import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.core.errors import InputError

LAYOUT = 1
ROWS = 256  # of a part: what a kill can lose


class Embeddings:
    """A finished folder: ids in order, and random access to its rows.

    ids: str[R].  shape: (V, M, E) of a row.  checksums: int64[R].  signatures: str[R] of the
    images, as `Records.signatures`; empty strings if unknown.

    Raises:
        InputError: not whole, damaged, or of another version.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        manifest = artifacts.read_json(self.directory / "manifest.json")
        table = artifacts.read_table(self.directory / "manifest.parquet")
        with artifacts.parsing(self.directory / "manifest.json", "run embeddings --force"):
            if manifest["layout"] != LAYOUT:
                raise InputError(f"{self.directory}: of another version; run embeddings --force")
            self.shape: tuple[int, int, int] = tuple(manifest["shape"])
            self._part_rows: int = manifest["rows_of_a_part"]
            self.ids = table["id"].to_numpy(str)
            self.checksums = table["crc32"].to_numpy(np.int64)
            known = table["signature"] if "signature" in table else [""] * len(table)
            self.signatures = np.array(known, str)
        self._rows = {id: row for row, id in enumerate(self.ids.tolist())}
        self._parts: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Row numbers int64[N] of ids.

        Raises:
            InputError: an id has no embedding.
        """
        rows = [self._rows.get(str(id), -1) for id in ids]
        if -1 in rows:
            absent = str(ids[rows.index(-1)])
            raise InputError(f"{self.directory}: no embedding of {absent!r}; run embeddings")
        return np.array(rows, np.int64)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """float32[N, V, M, E] of row numbers int[N].

        Raises:
            InputError: a part is damaged or missing.
        """
        out = np.empty((len(rows), *self.shape), np.float32)
        for place, row in enumerate(rows):
            number, inside = divmod(int(row), self._part_rows)
            out[place] = self._part(number)[inside]
        return out

    def intact(self, row: int) -> bool:
        """Whether a row's numbers are as they were finished."""
        try:
            values = self.read(np.array([row]))
        except InputError:
            return False
        return zlib.crc32(values.tobytes()) == self.checksums[row]

    def pooled(self, ids: Sequence[str], weights: np.ndarray) -> np.ndarray:
        """float32[N, E] of ids: the mean over views by `weights` [V], and over crops.

        Raises:
            InputError: as `rows` and `read`.
        """
        rows = self.rows(ids)
        out = np.empty((len(rows), self.shape[2]), np.float32)
        for start in range(0, len(rows), ROWS):
            part = self.read(rows[start : start + ROWS]).mean(axis=2)
            out[start : start + ROWS] = np.einsum("nve,v->ne", part, weights)
        return out

    def _part(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._parts:
                path = part_path(self.directory, number)
                count = min(self._part_rows, len(self) - number * self._part_rows)
                part = _mapped(path, (count, *self.shape))
                if part is None:
                    raise InputError(f"{path}: damaged or missing; run embeddings --force")
                self._parts[number] = part
            return self._parts[number]


def part_path(directory: Path, number: int) -> Path:
    """Path of a part."""
    return directory / f"part-{number:05d}.npy"


def missing(directory: Path, count: int, shape: tuple[int, int, int]) -> list[int]:
    """Numbers of the parts of `count` rows of `shape` that are not there whole."""
    parts = range(-(-count // ROWS))
    sizes = {number: (min(ROWS, count - number * ROWS), *shape) for number in parts}
    return [n for n in parts if _mapped(part_path(directory, n), sizes[n]) is None]


def write_part(directory: Path, number: int, values: np.ndarray) -> None:
    """Writes float32[n, V, M, E], the rows from number * ROWS on; whole or not at all.

    Raises:
        InputError: a value is not finite.
    """
    if not np.isfinite(values).all():
        row = number * ROWS + int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2, 3)))[0])
        raise InputError(f"{directory}: the embedding of row {row} is not finite")
    with artifacts.atomic(part_path(directory, number)) as temporary:
        np.save(temporary, np.ascontiguousarray(values, np.float32))


def finish(
    directory: Path,
    ids: Sequence[str],
    shape: tuple[int, int, int],
    signatures: Sequence[str] | np.ndarray = (),
) -> Embeddings:
    """Writes the manifest over all parts, and opens them.  signatures: of the images, () unknown.

    Raises:
        InputError: a part is missing.
    """
    import pandas as pd

    if lacking := missing(directory, len(ids), shape):
        raise InputError(f"{part_path(directory, lacking[0])}: not there")
    checksums: list[int] = []
    for number in range(-(-len(ids) // ROWS)):
        part = np.load(part_path(directory, number), mmap_mode="r")
        checksums += [zlib.crc32(np.ascontiguousarray(row).tobytes()) for row in part]
    table = pd.DataFrame({"id": np.asarray(ids, object), "crc32": np.array(checksums, np.int64)})
    if len(signatures):
        table["signature"] = np.asarray(signatures, object)
    artifacts.write_table(directory / "manifest.parquet", table)
    about: dict[str, Any] = dict(layout=LAYOUT, shape=list(shape), rows_of_a_part=ROWS)
    about["content"] = digest(ids, checksums)
    artifacts.write_json(directory / "manifest.json", about)
    return Embeddings(directory)


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The memory-mapped array of a file, None if it is not one of that shape."""
    try:
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return part if part.shape == shape and part.dtype == np.float32 else None
