"""One microscope file -> its planes, their names and the pixel size: TIFF, OME-TIFF, PNG, JPEG.

Out: float-free arrays as stored (8 or 16 bits).  Z stacks become their maximum, as a confocal
projection; time series are refused (which moment would be the image?).  Of an OME set of several
files each is read alone.
"""

import math
import xml.etree.ElementTree as xml
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpa_jax.data.reader import MAX_PIXELS, BadImage, decode

TIFF = (".tif", ".tiff")
MAX_BYTES = 8 * MAX_PIXELS  # of all planes: four of 100 megapixels in 16 bits
# Sets of several files (OME, Micro-Manager) name the others; following names would leave the root.
ALONE = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}
SMALLEST, LARGEST = 0.01, 5.0  # µm a pixel of a light microscope
_MICROMETRES = {"µm": 1.0, "um": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "inch": 25400.0}
_MICROMETRES |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True)
class Field:
    """planes: [P, H, W] as stored.  names: of the planes, "" where unknown.

    pixel_size: µm a pixel, None where the file doesn't say or says what can't be.
    """

    planes: np.ndarray
    names: tuple[str, ...]
    pixel_size: float | None


def read(path: str | Path) -> Field:
    """All planes of a file.

    Raises:
        BadPicture: unreadable, too large, a time series, or more than 16 bits.
    """
    if Path(path).suffix.lower() in TIFF:
        field = _read_tiff(Path(path))
    else:
        pixels = decode(path)
        planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        field = Field(planes, ("",) * len(planes), None)
    if field.planes.dtype not in (np.uint8, np.uint16):
        raise BadImage(path, f"{field.planes.dtype} pixels; 8 or 16 bits without sign are read")
    return field


def _read_tiff(path: Path) -> Field:
    import tifffile

    try:
        with tifffile.TiffFile(path, **ALONE) as file:
            about = file.ome_metadata
            others = about is not None and _names_others(path, about)
            series = file.series[0]
            _check_claim(path, series.shape, series.axes, series.dtype)
            pixels, axes = series.asarray(), series.axes
            resolution = _resolution(file.pages[0], file.imagej_metadata or {})
    except BadImage:
        raise
    except Exception as error:  # tifffile raises what its decoders raise
        raise BadImage(path, f"no readable TIFF ({' '.join(str(error).split())})") from None
    planes = _channels_first(path, pixels, axes)
    names, size = _ome(about, len(planes)) if about else (("",) * len(planes), None)
    if others:  # which of the set's channels lie in this file is not asked
        names = ("",) * len(planes)
    return Field(planes, names, _plausible(size or resolution))


def _names_others(path: Path, about: str) -> bool:
    """Whether the OME-XML spreads the image over several files.

    Raises:
        BadPicture: one of them is named with a path.
    """
    try:
        nodes = [node for node in xml.fromstring(about).iter() if node.tag.endswith("}UUID")]
    except xml.ParseError:
        return False
    names = {node.get("FileName", "") for node in nodes}
    for name in sorted(names):
        if set(name) & set("/\\") or name == "..":
            raise BadImage(path, f"its OME-XML names a file elsewhere ({name!r}); refused")
    # A file that was renamed still names itself by the old name: what differs are the UUIDs.
    return len({node.text for node in nodes}) > 1


def _check_claim(path: Path, shape: tuple[int, ...], axes: str, dtype: np.dtype | None) -> None:
    """What decoding would allocate, from the header alone: a few kB can claim gigabytes.

    Raises:
        BadPicture: too large, or no 8 or 16 bits without sign.
    """
    if dtype not in (np.uint8, np.uint16):
        raise BadImage(path, f"{dtype} pixels; 8 or 16 bits without sign are read")
    plane = math.prod(length for length, letter in zip(shape, axes) if letter in "YX")
    if plane > MAX_PIXELS or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise BadImage(path, f"claims {' x '.join(map(str, shape))} {dtype} values; refused")


def _plausible(size: float | None) -> float | None:
    """µm a pixel; None outside of what light microscopes give (72 dpi would be 353 µm)."""
    return size if size is not None and SMALLEST <= size <= LARGEST else None


def _channels_first(path: Path, pixels: np.ndarray, axes: str) -> np.ndarray:
    """[P, H, W] of an array with tifffile's axis letters."""
    for letter in axes:
        if letter in "YX":
            continue
        at = axes.index(letter)
        if letter == "Z":
            pixels = pixels.max(axis=at)
        elif pixels.shape[at] == 1:
            pixels = pixels.squeeze(axis=at)
        elif letter in "CSQI":  # channel, sample, unnamed, page: each can hold the channels
            continue
        else:
            raise BadImage(path, f"has {pixels.shape[at]} of axis {letter}; one image a file")
        axes = axes.replace(letter, "", 1)
    if len(axes) > 3 or not {"Y", "X"} <= set(axes):
        raise BadImage(path, f"axes {axes}: one channel axis beside Y and X is read")
    if len(axes) == 2:
        return pixels[None]
    rest = next(letter for letter in axes if letter not in "YX")
    return np.moveaxis(pixels, axes.index(rest), 0)


def _ome(about: str, count: int) -> tuple[tuple[str, ...], float | None]:
    """Channel names and µm a pixel of OME-XML."""
    try:
        root = xml.fromstring(about)
    except xml.ParseError:
        return ("",) * count, None
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)
    if pixels is None:
        return ("",) * count, None
    names = [node.get("Name", "") for node in pixels if node.tag.endswith("}Channel")]
    names = (names + [""] * count)[:count]
    unit = _MICROMETRES.get(pixels.get("PhysicalSizeXUnit", "µm"))
    try:
        size = float(pixels.get("PhysicalSizeX", "")) * unit if unit else None
    except ValueError:
        size = None
    return tuple(names), size if size and size > 0 else None


def _resolution(page: object, imagej: Mapping[str, object]) -> float | None:
    """µm a pixel of ImageJ's and plain TIFF's resolution tags; None where they have no unit.

    ImageJ writes pixels a unit into the tag and the unit's name into its description.
    """
    tags = getattr(page, "tags", {})
    if "XResolution" not in tags:
        return None
    number, per = tags["XResolution"].value
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
    named = str(imagej.get("unit", "")).replace("\\u00B5", "µ").strip()
    micrometres = _MICROMETRES.get(named) or {2: 25400.0, 3: 10000.0}.get(int(unit))
    return micrometres * per / number if micrometres and number else None
