"""TIFF and OME-TIFF -> `Planes`, by tifffile.

Without the package imagecodecs, LZW, JPEG and zstd inside TIFF are decoded by Pillow where it loses
nothing.  Of a set of several files each is read alone.
"""

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.data.planes import (
    MICROMETRES,
    BadImage,
    Planes,
    Reading,
    check_claim,
    check_square,
    is_ramp,
    ordered,
    plausible,
)

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

SUFFIXES = (".tif", ".tiff")
# Sets of several files (OME, Micro-Manager) name the others; following names would leave the root.
ALONE = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}
_PREVIEW = re.compile("thumb|label|macro|overview|preview", re.IGNORECASE)
# Photometric interpretations whose samples are intensities: white or black is zero, RGB, a palette,
# and YCbCr, which is decoded to RGB.
_INTENSITIES = (0, 1, 2, 3, 6)


@contextmanager
def _opened_tiff(path: Path) -> Iterator["TiffFile"]:
    """An open TIFF, read without the other files of its set.

    Raises:
        BadImage: what tifffile or its decoders raise, in one line.
    """
    import tifffile

    if not path.is_file():
        raise BadImage(path, "no such file")
    try:
        with tifffile.TiffFile(path, **ALONE) as file:
            about = file.ome_metadata
            if about is None or not _names_others(path, about):
                yield file
                return
        # Which of the set's channels are in this file is not decided: its pages as they are.
        with tifffile.TiffFile(path, is_ome=False, **ALONE) as file:
            yield file
    except BadImage:
        raise
    except Exception as error:  # tifffile raises what its decoders raise
        empty = path.stat().st_size == 0
        reason = "empty file (0 bytes)" if empty else " ".join(str(error).split())
        raise BadImage(path, f"no readable TIFF ({reason})") from None


def scenes(path: Path) -> list[str]:
    """Names of the images in a file (OME series, positions); previews don't count.

    Raises:
        BadImage: no readable TIFF.
    """
    with _opened_tiff(path) as file:
        count = len(_scenes(file))
    return [f"s{number}" for number in range(count)] if count > 1 else [""]


def size(path: Path) -> tuple[int, int, bool]:
    """(height, width) as read, and whether values have more than 8 bits, without decoding.

    Raises:
        BadImage: as `read`.
    """
    with _opened_tiff(path) as file:
        series = _scenes(file)[0]
        page = series.keyframe
        check_claim(path, series.shape, series.axes, series.dtype)
        _check_whole(path, file, series)
        height, width = _side(series)
        deep = series.dtype not in (np.uint8, np.bool_)
    return (width, height, deep) if _orientation(page) in (5, 6, 7, 8) else (height, width, deep)


def read(path: Path, scene: int, how: Reading) -> tuple[Planes, tuple[float, ...]]:
    """One image of a file, values as stored, and (black, white) of float pixels if it states them.

    Raises:
        BadImage: unreadable, too large, cut off, or planes that it promises are absent.
    """
    with _opened_tiff(path) as file:
        about = file.ome_metadata if file.is_ome else None
        candidates = _scenes(file)
        if scene >= len(candidates):
            raise BadImage(path, f"has no image {scene}: it contains {len(candidates)}")
        series = candidates[scene]
        page = series.keyframe
        check_claim(path, series.shape, series.axes, series.dtype)
        if page.photometric not in _INTENSITIES:
            name = getattr(page.photometric, "name", page.photometric)
            raise BadImage(path, f"its samples are no intensities ({name}); save it as grey or RGB")
        if page.photometric == 0 and page.dtype.kind not in "ub":
            raise BadImage(path, f"white is 0 (MinIsWhite) in {page.dtype} pixels; invert it")
        _check_whole(path, file, series)
        try:
            pixels = series.asarray()
        except (ValueError, ImportError) as error:  # a codec that needs a package
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            pixels = _by_pillow(path, series)
        pixels, axes = _photometric(pixels, page), series.axes
        colour = page.photometric in (2, 6)
        if pixels.ndim == len(axes) + 1:  # looked up in a palette of colours
            axes, colour = axes + "S", True
        alpha = bool(page.extrasamples) and page.extrasamples[-1] in (1, 2)
        image = ordered(path, pixels, axes, how, colour=colour, alpha=alpha)
        names, size, bits = ((), None, None)
        if about:
            number = next(k for k, other in enumerate(file.series) if other is series)
            names, size, bits = _ome(path, about, number, len(file.series), len(image.pixels))
            names = () if image.colour else names  # one name for all samples, e.g. "RGB"
        size = size or _resolution(page, file.imagej_metadata or {})
        declared = _declared_bits(page) or bits
        limits = _declared_range(page) if page.dtype.kind == "f" else ()
        orientation = _orientation(page)
    image = replace(
        image,
        pixels=_upright(image.pixels, orientation),
        names=names or ("",) * len(image.pixels),
        pixel_size=plausible(size),
        bits=declared,
        lossy=page.compression == 7,
    )
    return image, limits


def _scenes(file: "TiffFile") -> list["TiffPageSeries"]:
    """The images of a file: its series without previews, labels and reduced copies."""
    every = [s for s in file.series if {"Y", "X"} <= set(s.axes)] or list(file.series)
    full = [s for s in every if not s.keyframe.is_reduced] or every
    named = [s for s in full if not _PREVIEW.search(s.name or "")] or full
    if file.is_ome:
        return named
    largest = max(_side(s) for s in named)
    shape = {s for s in named if _side(s) == largest}
    first = next(s for s in named if s in shape)
    return [s for s in named if not _is_copy_of(s, first)]


def _side(series: "TiffPageSeries") -> tuple[int, int]:
    lengths = dict(zip(series.axes, series.shape))
    return lengths.get("Y", 0), lengths.get("X", 0)


def _is_copy_of(series: "TiffPageSeries", full: "TiffPageSeries") -> bool:
    """Whether it has the same form and at most half the side."""
    (height, width), (whole_height, whole_width) = _side(series), _side(full)
    same_form = abs(height * whole_width - width * whole_height) <= max(whole_height, whole_width)
    return same_form and 2 * max(height, width) <= max(whole_height, whole_width)


def _names_others(path: Path, about: str) -> bool:
    """Whether the OME-XML spreads the image over several files.

    Raises:
        BadImage: one of them is named with a path.
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


def _check_whole(path: Path, file: "TiffFile", series: "TiffPageSeries") -> None:
    """tifffile fills what is absent with zeros; an image with invented zeros is refused.

    Raises:
        BadImage: planes, strips or tiles are absent, or lie beyond the end of the file.
    """
    length, pages = file.filehandle.size, list(series.pages)
    absent = sum(page is None for page in pages)
    if absent:
        raise BadImage(
            path, f"{absent} of {len(pages)} planes that its metadata promise are not in the file"
        )
    for page in pages:
        counts, offsets = page.databytecounts, page.dataoffsets
        if not counts or any(not count for count in counts) or any(not at for at in offsets):
            raise BadImage(path, "empty strips or tiles (a write that was interrupted); refused")
        if max(at + count for at, count in zip(offsets, counts)) > length:
            raise BadImage(path, "truncated TIFF (its end is missing); fetch it again")
    contiguous = len(pages) == 1 and series.dataoffset is not None
    if contiguous and series.dataoffset + series.size * series.dtype.itemsize > length:
        raise BadImage(path, "truncated TIFF (its end is missing); fetch it again")


def _by_pillow(path: Path, series: "TiffPageSeries") -> np.ndarray:
    """The pixels of a series by Pillow, without imagecodecs: 8-bit samples and 16-bit grey.

    Raises:
        BadImage: Pillow would lose bits or planes.
    """
    from PIL import Image, UnidentifiedImageError

    parts = []
    try:
        with Image.open(path) as image:
            for page in series.pages:
                if not isinstance(page.index, int):
                    break
                image.seek(page.index)
                pixels = np.asarray(image)
                if pixels.shape != page.keyframe.shape or pixels.dtype != page.keyframe.dtype:
                    break
                if image.mode == "L" and page.keyframe.photometric == 0:
                    pixels = 255 - pixels  # Pillow has turned it already; `_photometric` does too
                parts.append(pixels)
    except UnidentifiedImageError:  # a codec that Pillow does not know
        pass
    if len(parts) != len(series.pages):
        name = series.keyframe.compression.name
        raise BadImage(path, f"{name} of these pixels needs the package imagecodecs: install it")
    return np.stack(parts).reshape(series.shape)


def _photometric(pixels: np.ndarray, page: "TiffPage") -> np.ndarray:
    """Values whose 0 is black: of MinIsWhite turned round, of a palette looked up.  Fewer than 8
    bits are spread over the range of 8."""
    if page.photometric == 3 and page.colormap is not None:
        return _looked_up(pixels, np.asarray(page.colormap).T)
    if pixels.dtype.kind not in "ub":
        return pixels
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 8 * pixels.itemsize
    if pixels.dtype == bool or bits == 1:
        return ~pixels.astype(bool) if page.photometric == 0 else pixels.astype(bool)
    if page.photometric == 0:
        white = 2 ** (_declared_bits(page) or bits) - 1
        pixels = white - np.minimum(pixels, pixels.dtype.type(white))
    return (pixels * (255.0 / (2**bits - 1))).round().astype(np.uint8) if bits < 8 else pixels


def _looked_up(indices: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """What a palette int[N, 3] of 16 bits shows: grey or (a last axis more) RGB, in 8 bits if the
    indices have 8; the indices themselves where it shows intensity in false colours."""
    eight = (colours if colours.max(initial=0) <= 255 else colours >> 8).astype(np.uint8)
    if is_ramp(eight):
        return indices
    colours = eight if indices.dtype == np.uint8 else colours.astype(np.uint16)
    looked_up = colours[indices]
    return looked_up[..., 0] if (colours == colours[:, :1]).all() else looked_up


def _orientation(page: "TiffPage") -> int:
    return int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[P, H, W] as TIFF's tag Orientation (1 to 8) means it."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, :, ::-1]
    return pixels


def _declared_bits(page: "TiffPage") -> int | None:
    """Significant bits by the tags BitsPerSample and MaxSampleValue, where they say anything."""
    bits = page.bitspersample
    if page.dtype is None or page.dtype.kind not in "u":
        return None
    if isinstance(bits, int) and 8 < bits < 16:
        return bits
    if "MaxSampleValue" in page.tags:
        top = int(np.max(page.tags["MaxSampleValue"].value))
        if 255 < top < 65535 and (top + 1).bit_count() == 1:
            return top.bit_length()
    return None


def _declared_range(page: "TiffPage") -> tuple[float, ...]:
    """Black and white of float pixels by the tags SMinSampleValue and SMaxSampleValue."""
    if not {"SMinSampleValue", "SMaxSampleValue"} <= {tag.name for tag in page.tags}:
        return ()
    names = ("SMinSampleValue", "SMaxSampleValue")
    low, high = (float(np.max(page.tags[name].value)) for name in names)
    return (low, high) if low < high else ()


def _ome(
    path: Path, about: str, number: int, images: int, count: int
) -> tuple[tuple[str, ...], float | None, int | None]:
    """Channel names, µm a pixel and significant bits by OME-XML.

    number: of the image among those of the file, `images`.  count: of its channels as read.

    Raises:
        BadImage: it promises other images or channels than are there; its pixels are not square.
    """
    try:
        root = xml.fromstring(about)
    except xml.ParseError:
        return (), None, None
    every = [node for node in root.iter() if node.tag.endswith("}Pixels")]
    if not every:
        return (), None, None
    if len(every) != images:  # tifffile skips those without pixels: which is which is unknown
        raise BadImage(path, f"its OME-XML describes {len(every)} images, {images} are there")
    pixels = every[number]
    nodes = [node for node in pixels if node.tag.endswith("}Channel")]
    names: list[str] = []
    for node in nodes:
        names += [node.get("Name", "")] * int(node.get("SamplesPerPixel") or 1)
    promised = pixels.get("SizeC", "")
    if promised.isdecimal() and int(promised) != count:
        raise BadImage(path, f"its OME-XML promises {promised} channels, {count} are there")
    names = (names + [""] * count)[:count]
    size, down = (_micrometres(pixels, axis) for axis in "XY")
    check_square(path, size, down)
    significant = pixels.get("SignificantBits", "")
    bits = int(significant) if significant.isdecimal() and 8 < int(significant) < 16 else None
    return tuple(names), size if size and size > 0 else None, bits


def _micrometres(pixels: xml.Element, axis: str) -> float | None:
    """µm a pixel along an axis, by OME-XML."""
    unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "")) * unit if unit else None
    except ValueError:
        return None


def _resolution(page: Any, imagej: Mapping[str, object]) -> float | None:
    """µm a pixel of ImageJ's and plain TIFF's resolution tags; None where they have no unit.

    ImageJ writes pixels a unit into the tag and the unit's name into its description.
    """
    tags = getattr(page, "tags", {})
    if "XResolution" not in tags:
        return None
    number, per = tags["XResolution"].value
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else 1
    named = str(imagej.get("unit", "")).replace("\\u00B5", "µ").strip()
    micrometres = MICROMETRES.get(named) or {2: 25400.0, 3: 10000.0}.get(int(unit))
    return micrometres * per / number if micrometres and number else None
