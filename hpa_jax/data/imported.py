"""Pictures of other forms -> 8-bit grey channel files, once; later stages read only those.

In: uint8 or uint16 planes.  Out: FOLDER/ID_SIGNATURE_{red,green,blue,yellow}.png.  The signature
names the source file's state and the options, so that a changed one is imported anew.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from hpa_jax.artifacts import atomic
from hpa_jax.data.pictures import CHANNELS


def signature(files: Iterable[str | Path], options: object) -> str:
    """Eight hex digits of the files' sizes and times and of the options."""
    mark = hashlib.sha256(repr(options).encode())
    for file in files:
        stat = os.stat(file)
        mark.update(f"{Path(file).name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return mark.hexdigest()[:8]


def known(folder: Path, id: str, mark: str) -> dict[str, str | None] | None:
    """The channel files of an id that is imported already, else None."""
    done = folder / f"{id}_{mark}.done"
    if not done.is_file():
        return None
    present = done.read_text().split()
    return {c: str(_path(folder, id, mark, c)) if c in present else None for c in CHANNELS}


def store(
    folder: Path, id: str, mark: str, planes: Mapping[str, np.ndarray]
) -> dict[str, str | None]:
    """Writes channels uint8[H, W] by name; an absent one stays absent (None)."""
    from PIL import Image

    for channel, plane in planes.items():
        with atomic(_path(folder, id, mark, channel)) as temporary:
            Image.fromarray(plane).save(temporary, "PNG", compress_level=1)
    with atomic(folder / f"{id}_{mark}.done") as temporary:
        temporary.write_text(" ".join(planes))
    return {c: str(_path(folder, id, mark, c)) if c in planes else None for c in CHANNELS}


def clean(folder: Path, wanted: Iterable[Mapping[str, str | None]]) -> None:
    """Removes what no row refers to: imports of changed or vanished pictures."""
    keep = {path for row in wanted for path in row.values() if path}
    for path in folder.glob("*.png"):
        if str(path) not in keep:
            path.unlink()
    for done in folder.glob("*.done"):
        if not any(done.with_name(f"{done.stem}_{c}.png").is_file() for c in CHANNELS):
            done.unlink()


def to_eight_bits(plane: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """uint8[H, W]; 16 bits are stretched between two percentiles of the plane, 8 are kept."""
    if plane.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    low, high = np.percentile(plane, percentiles)
    if high <= low:  # a flat plane has no contrast to stretch
        return np.zeros(plane.shape, np.uint8)
    stretched = (plane.astype(np.float32) - low) * (255.0 / (high - low))
    return np.clip(np.rint(stretched), 0, 255).astype(np.uint8)


def to_field(plane: np.ndarray, side: int) -> np.ndarray:
    """The middle side x side pixels; zeros where the plane is smaller."""
    out = np.zeros((side, side), plane.dtype)
    height, width = min(side, plane.shape[0]), min(side, plane.shape[1])
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    row, column = (side - height) // 2, (side - width) // 2
    out[row : row + height, column : column + width] = plane[
        top : top + height, left : left + width
    ]
    return out


def _path(folder: Path, id: str, mark: str, channel: str) -> Path:
    return folder / f"{id}_{mark}_{channel}.png"
