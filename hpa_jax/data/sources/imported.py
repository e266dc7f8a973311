"""Pictures of other forms -> 8-bit grey channel files, once; later stages read only those.

In: uint8 or uint16 planes.  Out: FOLDER/ID_SIGNATURE_{red,green,blue,yellow}.png, and a .done
beside them with what the original was.  The signature names the source file's bytes and the
options, so that a changed one is imported anew.  Nothing is kept larger than the records need:
74,606 images of four 2048² planes would be some 600 GB.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core.artifacts import atomic
from hpa_jax.core.contents import digest, sha256
from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import CHANNELS, BadImage, resize, size

BYTES_PER_VALUE = 0.6  # of an 8-bit PNG; the competition's have 0.44 (docs/data.md)


def signature(
    files: Iterable[str | Path], options: object, content: Callable[[str], str] = sha256
) -> str:
    """Eight hex digits of the files' names and bytes and of the options.

    content: file -> digest of its bytes.
    """
    return digest([(Path(file).name, content(str(file))) for file in files], options)[:8]


def known(folder: Path, id: str, mark: str) -> dict[str, Any] | None:
    """The channel files of an id that is imported already and what `store` was told, else None."""
    try:
        about = json.loads((folder / f"{id}_{mark}.done").read_text())
        present = about.pop("channels")
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # absent, or of an older layout
        return None
    paths = {c: str(_path(folder, id, mark, c)) if c in present else None for c in CHANNELS}
    return {**paths, **about}


def store(
    folder: Path, id: str, mark: str, planes: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes channels uint8[H, W] by name; an absent one stays absent (None).

    about: further facts that `known` gives back (JSON), e.g. original_size.
    """
    from PIL import Image

    for channel, plane in planes.items():
        with atomic(_path(folder, id, mark, channel)) as temporary:
            Image.fromarray(plane).save(temporary, "PNG", compress_level=1)
    with atomic(folder / f"{id}_{mark}.done") as temporary:
        temporary.write_text(json.dumps({"channels": list(planes), **about}))
    return known(folder, id, mark)


def reduced(plane: np.ndarray, side: int) -> np.ndarray:
    """uint8[H, W] as the records of that side have it, if it is larger; side 0 leaves it."""
    if not side or min(plane.shape) <= side:
        return plane
    return resize(plane[..., None], side)[..., 0]


def check_disk(folder: Path, count: int, side: int, example: str | Path) -> None:
    """Before `count` images are imported; example: a file of one; side: see `reduced`.

    Raises:
        InputError: too little disk.
    """
    try:
        own = max(size(example)) if count else 0
    except BadImage:
        own = side
    need = count * len(CHANNELS) * (min(own, side) if side else own) ** 2 * BYTES_PER_VALUE
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{folder}: {count:,} images need about {need / 1e9:.1f} GB as grey files, "
            f"{free / 1e9:.1f} GB are free; make room, or store smaller ones (records.image_size)"
        )


def clean(folder: Path, wanted: Iterable[Mapping[str, str | None]]) -> None:
    """Removes what no row refers to: imports of changed or vanished images."""
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
