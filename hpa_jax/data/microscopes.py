"""Makers' own formats (ND2, LIF) -> `Planes`, by bioio's readers (the extra `formats`).

No file of a microscope was at hand when this was written: it is tried on bioio's interface alone,
and each image says so.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.data.planes import (
    BadImage,
    Planes,
    Reading,
    check_claim,
    check_square,
    ordered,
    plausible,
)

SUFFIXES = (".nd2", ".lif")


def scenes(path: Path) -> list[str]:
    """Names of the images in a file: [""] or s0...

    Raises:
        BadImage: unreadable, or bioio's reader is missing.
    """
    _, count = _opened(path)
    return [f"s{number}" for number in range(count)] if count > 1 else [""]


def read(path: Path, scene: int, how: Reading) -> Planes:
    """One image of a file, values as stored.

    Raises:
        BadImage: unreadable, too large, or a time series.
    """
    file, _ = _opened(path)
    try:
        file.set_scene(scene)
        axes = str(file.dims.order)
        check_claim(path, file.shape, axes, file.dtype)
        pixels = np.asarray(file.data)
        names = tuple(str(name) for name in file.channel_names or ())
        sizes = file.physical_pixel_sizes
    except BadImage:
        raise
    except Exception as error:  # readers raise what their makers' libraries raise
        raise BadImage(path, f"can't be read ({' '.join(str(error).split())})") from None
    planes = ordered(path, pixels, axes, how, colour="S" in axes)
    if planes.colour:
        names = ()
    if names and len(names) != len(planes.pixels):
        count = len(planes.pixels)
        raise BadImage(path, f"its metadata name {len(names)} channels, {count} are there")
    check_square(path, sizes.X, sizes.Y)
    kind = path.suffix[1:].upper()
    untried = f"ambiguous: {kind} is read by bioio, which was tried on no real file here; compare"
    notes = (*planes.notes, untried)
    return Planes(planes.pixels, names, plausible(sizes.X), colour=planes.colour, notes=notes)


def _opened(path: Path) -> tuple[Any, int]:
    """A file and how many images it holds."""
    try:
        from bioio import BioImage
    except ImportError:
        raise BadImage(path, "needs bioio: pip install 'hpa-jax[formats]'") from None
    if not path.is_file():
        raise BadImage(path, "no such file")
    try:
        file = BioImage(path)
        return file, len(file.scenes)
    except Exception as error:  # what its readers raise, or that there is none for this suffix
        raise BadImage(path, f"can't be read ({' '.join(str(error).split())})") from None
