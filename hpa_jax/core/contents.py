"""SHA-256 digests of the contents of files and folders.

The digest of a file is cached under (device, inode, size, mtime, ctime), which change with every
write: a file moved within its disk is not read again, a copied one is read once.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ABSENT = "absent"
# Two writes within one tick of the disk's clock leave equal times: newer files aren't cached.
TICK = 0.05  # seconds
_State = tuple[int, int, int, int, int]


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Hex digest of arrays (shape, type and values), texts, numbers, and lists of them."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind not in "OU":
            hasher.update(f"{part.dtype.str}{part.shape}".encode())
            hasher.update(np.ascontiguousarray(part).tobytes())
        else:
            hasher.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        hasher.update(b"\0")
    return hasher.hexdigest()


class Contents:
    """Digests of files and folders, cached in a text file (one line per file, appended).

    memory: the cache file; None disables it.  A line cut short by a kill is ignored.
    """

    def __init__(self, memory: str | Path | None = None) -> None:
        self._memory = None if memory is None else Path(memory)
        self._cache: dict[_State, str] | None = None
        self._lock = threading.Lock()

    def of(self, path: Path, leaving_out: Path | None = None) -> str:
        """Digest of a file, or of a folder (relative paths and bytes of all its files), or ABSENT.

        leaving_out: a folder to ignore, at any depth.
        """
        if path.is_file():
            return self.file(path)
        if not path.is_dir():
            return ABSENT
        files = sorted(_files(path, leaving_out))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            digests = pool.map(self.file, (path / name for name in files), chunksize=64)
            return digest([list(pair) for pair in zip(files, digests)])

    def file(self, path: str | Path) -> str:
        """Digest of a file's bytes: `sha256`, from the cache if the file is unchanged."""
        if self._memory is None:
            return sha256(path)
        state = _state(path)
        hexdigest = self._cached().get(state)
        if hexdigest is None:
            hexdigest = sha256(path)
            if _state(path) == state and time.time() - state[4] / 1e9 > TICK:
                self._store(state, hexdigest)
        return hexdigest

    def _cached(self) -> dict[_State, str]:
        with self._lock:
            if self._cache is None:
                self._cache = {}
                if self._memory.is_file():
                    for line in self._memory.read_text("ascii", "replace").splitlines():
                        *numbers, hexdigest = line.split(" ")
                        if len(hexdigest) == 64 and re.fullmatch(
                            r"(-?\d+ ){4}-?\d+", " ".join(numbers)
                        ):
                            self._cache[tuple(map(int, numbers))] = hexdigest
            return self._cache

    def _store(self, state: _State, hexdigest: str) -> None:
        line = f"{' '.join(map(str, state))} {hexdigest}\n"
        with self._lock:
            self._cache[state] = hexdigest
            try:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                with open(self._memory, "a") as handle:
                    handle.write(line)
            except OSError:  # e.g. a full disk: the file will be read again
                pass


def _state(path: str | Path) -> _State:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _files(root: Path, leaving_out: Path | None) -> Iterator[str]:
    """Paths of all files below `root`, relative to it; linked folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != leaving_out]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if os.path.isfile(os.path.join(folder, name)):
                yield name if below == "." else f"{below}/{name}"
