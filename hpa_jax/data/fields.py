"""One microscope file -> its planes, their names and the pixel size: TIFF, OME-TIFF, PNG, JPEG.

Out: float-free arrays as stored (8 or 16 bits).  Z stacks become their maximum, as a confocal
projection; time series are refused (which moment would be the picture?).
"""

import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpa_jax.data.pictures import MAX_PIXELS, BadPicture, decode

TIFF = (".tif", ".tiff")
_MICROMETRES = {"µm": 1.0, "um": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True)
class Field:
    """planes: [P, H, W] as stored.  names: of the planes, "" where unknown.

    pixel_size: µm a pixel, None where the file doesn't say.
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
        raise BadPicture(path, f"{field.planes.dtype} pixels; 8 or 16 bits without sign are read")
    return field


def _read_tiff(path: Path) -> Field:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            if int(np.prod(series.shape, dtype=np.int64)) > 8 * MAX_PIXELS:
                raise BadPicture(path, f"claims {series.shape} pixels; refused")
            pixels, axes, about = series.asarray(), series.axes, file.ome_metadata
            resolution = _resolution(file.pages[0])
    except BadPicture:
        raise
    except Exception as error:  # tifffile raises what its decoders raise
        raise BadPicture(path, f"no readable TIFF ({' '.join(str(error).split())})") from None
    planes = _channels_first(path, pixels, axes)
    names, size = _ome(about, len(planes)) if about else (("",) * len(planes), None)
    return Field(planes, names, size or resolution)


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
            raise BadPicture(path, f"has {pixels.shape[at]} of axis {letter}; one picture a file")
        axes = axes.replace(letter, "", 1)
    if len(axes) > 3 or not {"Y", "X"} <= set(axes):
        raise BadPicture(path, f"axes {axes}: one channel axis beside Y and X is read")
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


def _resolution(page: object) -> float | None:
    """µm a pixel of ImageJ's and plain TIFF's resolution tags; None where they have no unit."""
    tags = getattr(page, "tags", {})
    if "XResolution" not in tags:
        return None
    number, per = tags["XResolution"].value
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
    micrometres = {2: 25400.0, 3: 10000.0}.get(int(unit))
    # 72 or 96 dpi are what programs write when they don't know
    if micrometres is None or not number or micrometres == 25400.0:
        return None
    return micrometres * per / number
