"""OME-Zarr 0.4 and 0.5 -> `Planes`, by zarr (the extra `formats`).

A store is a folder: one image, several of them (bioformats2raw's layout), or a plate whose wells
hold fields.  Of a pyramid the full level is read.  Metadata: https://ngff.openmicroscopy.org.
"""

from collections.abc import Mapping
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
    ordered,
    plausible,
)

if TYPE_CHECKING:
    import zarr

SUFFIXES = (".zarr",)


def scenes(path: Path) -> list[str]:
    """Names of the images in a store: [""], s0..., or A1_0... of a plate.

    Raises:
        BadImage: no readable OME-Zarr, or the package zarr is missing.
    """
    return list(_images(path, _opened(path)))


def read(path: Path, scene: int, how: Reading) -> Planes:
    """One image of a store, values as stored.

    Raises:
        BadImage: unreadable, too large, or a time series.
    """
    root = _opened(path)
    images = list(_images(path, root).values())
    if scene >= len(images):
        raise BadImage(path, f"has no image {scene}: it contains {len(images)}")
    try:
        group = root[images[scene]] if images[scene] else root
        about = _metadata(group)
        image = about["multiscales"][0]
        # 0.4 and later have mappings, 0.3 letters.
        axes = [axis if isinstance(axis, str) else axis["name"] for axis in image["axes"]]
        units = [None if isinstance(axis, str) else axis.get("unit") for axis in image["axes"]]
        level = image["datasets"][0]
        array = group[level["path"]]
        letters = "".join(axes).upper()
        check_claim(path, array.shape, letters, array.dtype)
        pixels = np.asarray(array[...])
        scale = _scale(level, len(axes)) * _scale(image, len(axes))
        labels = [str(c.get("label", "")) for c in about.get("omero", {}).get("channels", [])]
        absent = array.nchunks - array.nchunks_initialized
    except BadImage:
        raise
    except Exception as error:  # zarr raises what its codecs and stores raise
        raise BadImage(path, f"no readable OME-Zarr ({_line(error)})") from None
    planes = ordered(path, pixels, letters, how)
    if labels and len(labels) != len(planes.pixels):
        count = len(planes.pixels)
        raise BadImage(path, f"its metadata name {len(labels)} channels, {count} are there")
    y, x = letters.index("Y"), letters.index("X")
    unit = MICROMETRES.get(str(units[x]))
    if units[y] == units[x]:
        check_square(path, scale[x], scale[y])
    size = plausible(scale[x] * unit if unit else None)
    notes = planes.notes
    if absent:  # chunks of zeros alone need not be stored
        notes += ("ambiguous: some chunks are absent from the store and were taken for zeros",)
    return Planes(planes.pixels, tuple(labels), size, notes=notes)


def _opened(path: Path) -> "zarr.Group":
    try:
        import zarr
    except ImportError:
        raise BadImage(path, "needs the package zarr: pip install 'hpa-jax[formats]'") from None
    try:
        return zarr.open_group(str(path), mode="r")
    except Exception as error:  # what a store that is none raises differs by version
        raise BadImage(path, f"no readable OME-Zarr ({_line(error)})") from None


def _metadata(group: "zarr.Group") -> Mapping[str, Any]:
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes)  # 0.5 has them one level deeper


def _images(path: Path, root: "zarr.Group") -> dict[str, str]:
    """Name of each image -> its group in the store."""
    about = _metadata(root)
    try:
        if "plate" in about:
            wells = [str(well["path"]) for well in about["plate"]["wells"]]
            return {
                f"{well.replace('/', '')}_{field['path']}": f"{well}/{field['path']}"
                for well in wells
                for field in _metadata(root[well])["well"]["images"]
            }
        if "multiscales" in about:
            return {"": ""}
        names = sorted((name for name in root.group_keys() if name.isdecimal()), key=int)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadImage(path, f"damaged OME-Zarr metadata ({_line(error)})") from None
    if not names:
        raise BadImage(path, "a Zarr store without OME metadata (multiscales, plate)")
    return {f"s{name}": name for name in names} if len(names) > 1 else {"": names[0]}


def _scale(about: Mapping[str, Any], length: int) -> np.ndarray:
    """float[axes]: the scale of a level, or of the whole image; ones where none is stated."""
    for transformation in about.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale" and len(transformation["scale"]) == length:
            return np.array(transformation["scale"], float)
    return np.ones(length)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
