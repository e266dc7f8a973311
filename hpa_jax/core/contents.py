"""What files hold: SHA-256 of their bytes, whatever their place and time.

A file that was read once is remembered by (device, inode, size, mtime, ctime), which change with
every write; a file that was moved inside its disk is the same, one that was copied is read once.
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
# A file changed again within a tick of the disk's clock has the same times: not remembered before.
TICK = 0.05  # seconds
_State = tuple[int, int, int, int, int]


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Hex digest of arrays (shape, type and values), texts, numbers, and lists of them."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind not in "OU":
            found.update(f"{part.dtype.str}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        else:
            found.update(repr(part.tolist() if isinstance(part, np.ndarray) else part).encode())
        found.update(b"\0")
    return found.hexdigest()


class Contents:
    """Digests of files and folders, remembered in a text file (a line a file, appended).

    memory: that file; None remembers nothing.  A line that a kill cut short counts as absent.
    """

    def __init__(self, memory: str | Path | None = None) -> None:
        self._memory = None if memory is None else Path(memory)
        self._known: dict[_State, str] | None = None
        self._lock = threading.Lock()

    def of(self, path: Path, leaving_out: Path | None = None) -> str:
        """Digest of a file, or of a folder (relative paths and bytes of all its files), or ABSENT.

        leaving_out: a folder whose files don't count, wherever it lies.
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
        """Digest of a file's bytes: `sha256`, without reading it a second time."""
        if self._memory is None:
            return sha256(path)
        state = _state(path)
        found = self._remembered().get(state)
        if found is None:
            found = sha256(path)
            if _state(path) == state and time.time() - state[4] / 1e9 > TICK:
                self._remember(state, found)
        return found

    def _remembered(self) -> dict[_State, str]:
        with self._lock:
            if self._known is None:
                self._known = {}
                if self._memory.is_file():
                    for line in self._memory.read_text("ascii", "replace").splitlines():
                        *numbers, found = line.split(" ")
                        if len(found) == 64 and re.fullmatch(
                            r"(-?\d+ ){4}-?\d+", " ".join(numbers)
                        ):
                            self._known[tuple(map(int, numbers))] = found
            return self._known

    def _remember(self, state: _State, found: str) -> None:
        line = f"{' '.join(map(str, state))} {found}\n"
        with self._lock:
            self._known[state] = found
            try:
                self._memory.parent.mkdir(parents=True, exist_ok=True)
                with open(self._memory, "a") as handle:
                    handle.write(line)
            except OSError:  # a full disk costs reading the file again, no more
                pass


def _state(path: str | Path) -> _State:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _files(root: Path, leaving_out: Path | None) -> Iterator[str]:
    """Paths of all files below `root`, relative to it; folders that are links are not entered."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != leaving_out]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if os.path.isfile(os.path.join(folder, name)):
                yield name if below == "." else f"{below}/{name}"
