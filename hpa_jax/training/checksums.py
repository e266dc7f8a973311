"""Checksums of a checkpoint's files (CRC-32): they find what is cut short or changed."""

import zlib
from pathlib import Path

from hpa_jax.core import artifacts

FILE = "checksums.json"


def write(folder: Path) -> None:
    """Writes the checksums of all files of one finished checkpoint."""
    sums = {
        str(path.relative_to(folder)): _crc(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
    artifacts.write_json(folder / FILE, sums)


def damage(folder: Path, step: int) -> str:
    """What is wrong with a checkpoint's files, "" if nothing (or if it never got checksums)."""
    path = folder / str(step)
    if not (path / FILE).exists():
        return "" if path.is_dir() else "missing"
    for name, crc in artifacts.read_json(path / FILE).items():
        if not (path / name).exists():
            return f"{name} is missing"
        if _crc(path / name) != crc:
            return f"{name} has changed or is cut short"
    return ""


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
