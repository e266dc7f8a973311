"""Zeiss' CZI -> `Planes`, by the maker's library pylibCZIrw (the extra `formats`).

A file's blocks of pixels tell its scenes and planes, as its metadata need not list them.  bioio-czi
is not used: version 3.0.1 skips scenes that are not listed, and where scenes differ in size
aicspylibczi 4.0.1 below it returns wrong pixels or crashes the process.
"""

import itertools
import xml.etree.ElementTree as xml
from collections.abc import Iterator
from contextlib import contextmanager
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

SUFFIXES = (".czi",)
_TYPES = {"Gray8": np.uint8, "Gray16": np.uint16, "Gray32Float": np.float32}
_TYPES |= {"Bgr24": np.uint8, "Bgr48": np.uint16, "Bgr96Float": np.float32}
_UNTRIED = "ambiguous: CZI was tried on files of its maker's library, none of a microscope; compare"


def scenes(path: Path) -> list[str]:
    """Names of the images in a file: [""] or s0...

    Raises:
        BadImage: unreadable, or pylibCZIrw is missing.
    """
    with _opened(path) as file:
        count = len(file.scenes_bounding_rectangle_no_pyramid)
    return [f"s{number}" for number in range(count)] if count > 1 else [""]


def read(path: Path, scene: int, how: Reading) -> Planes:
    """One image of a file, values as stored; a mosaic's tiles are put together.

    Raises:
        BadImage: unreadable, too large, a time series, planes are absent, or channels differ in
            their type.
    """
    with _opened(path) as file:
        places = file.scenes_bounding_rectangle_no_pyramid
        numbers = sorted(places) or [None]
        if scene >= len(numbers):
            raise BadImage(path, f"has no image {scene}: it contains {len(numbers)}")
        number = numbers[scene]
        place = places[number] if places else file.total_bounding_rectangle_no_pyramid
        blocks = [block for block in _blocks(file) if block[0].get("S") == number]
        types = {kind for _, kind in blocks}
        if len(types) != 1 or not types <= set(_TYPES):
            some = ", ".join(sorted(types)) or "no"
            raise BadImage(path, f"{some} pixels; one type of all channels, of {', '.join(_TYPES)}")
        kind = types.pop()
        numbers_of = _numbers(path, [where for where, _ in blocks])
        colour = kind.startswith("Bgr")
        axes, shape = "TCZYX", [*map(len, numbers_of.values()), place.h, place.w]
        if colour:
            axes, shape = axes + "S", [*shape, 3]
        check_claim(path, shape, axes, np.dtype(_TYPES[kind]))
        pixels = np.empty(shape, _TYPES[kind])
        for at in np.ndindex(*shape[:3]):
            plane = {axis: numbers_of[axis][k] for axis, k in zip(numbers_of, at)}
            part = file.read(plane=plane, scene=number, roi=place)
            pixels[at] = part[..., ::-1] if colour else part[..., 0]
        about = xml.fromstring(file.raw_metadata)
        names, bits = ((), None) if colour else _channels(path, about, numbers_of["C"])
        distance = "./Metadata/Scaling/Items/Distance[@Id='{}']/Value"
        across, down = (float(about.findtext(distance.format(axis)) or 0) * 1e6 for axis in "XY")
    check_square(path, across, down)
    planes = ordered(path, pixels, axes, how, colour=colour)
    notes = (*planes.notes, _UNTRIED)
    return Planes(planes.pixels, names, plausible(across), bits, colour=planes.colour, notes=notes)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file.

    Raises:
        BadImage: what pylibCZIrw raises, in one line, or that it is missing.
    """
    try:
        from pylibCZIrw import czi
    except ImportError:
        raise BadImage(path, "needs pylibCZIrw: pip install 'hpa-jax[formats]'") from None
    if not path.is_file():
        raise BadImage(path, "no such file")
    try:
        with czi.open_czi(str(path)) as file:
            yield file
    except BadImage:
        raise
    except Exception as error:  # pylibCZIrw raises what Zeiss' library raises
        raise BadImage(path, f"can't be read ({' '.join(str(error).split())})") from None


def _blocks(file: Any) -> list[tuple[dict[str, int], str]]:
    """(axis -> number, pixel type) of each block of pixels at full resolution."""
    blocks = []

    def take(_: int, block: Any) -> bool:
        blocks.append((block.coordinate.to_dict(), block.pixelType.name))
        return True

    file.enumerate_subblocks_subset(take, only_layer0=True)
    return blocks


def _numbers(path: Path, places: list[dict[str, int]]) -> dict[str, list[int]]:
    """The numbers on each of the axes T, C and Z of an image.

    Raises:
        BadImage: more axes than an image has, or a plane is absent (it would be read as black).
    """
    numbers = {
        axis: sorted({where.get(axis, 0) for where in places})
        for axis in sorted({*"TCZ", *itertools.chain(*places)} - {"S"})
    }
    for axis, values in numbers.items():
        if axis not in "TCZ" and len(values) > 1:
            raise BadImage(path, f"has {len(values)} of axis {axis}; one image a file")
    kept = {axis: numbers[axis] for axis in "TCZ"}
    wanted = set(itertools.product(*kept.values()))
    absent = wanted - {tuple(where.get(axis, 0) for axis in kept) for where in places}
    if absent:
        raise BadImage(path, f"{len(absent)} of {len(wanted)} planes are not in the file")
    return kept


def _channels(
    path: Path, about: xml.Element, numbers: list[int]
) -> tuple[tuple[str, ...], int | None]:
    """Names of the channels by the metadata, and the significant bits.

    Raises:
        BadImage: they name fewer channels.
    """
    nodes = about.findall("./Metadata/Information/Image/Dimensions/Channels/Channel")
    if not nodes:
        return (), None
    if max(numbers) >= len(nodes):
        count = max(numbers) + 1
        raise BadImage(path, f"its metadata name {len(nodes)} channels, {count} are there")
    chosen = [nodes[number] for number in numbers]
    depths = [int(node.findtext("ComponentBitCount") or 0) for node in chosen]
    bits = max(depths) if all(8 < depth < 16 for depth in depths) else None
    return tuple(node.get("Name", "") for node in chosen), bits
