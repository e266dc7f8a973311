"""Any image file -> its planes in their true values, and these -> 8 bits.

Every source reads by one chain: decode -> orient -> select planes -> scale intensity -> rescale to
the field -> pad or crop.  The first three are `planes` and `one_plane`, the fourth is `scale`, the
last two are `resize` and `sources.imported`.  What can't be read with certainty is a BadImage that
says in one line what is wrong; what was decided about an image is in `Planes.notes`.

PNG (8 and 16 bits, palettes) and JPEG are decoded here, by Pillow; other formats have a module.
"""

import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.data import czi, microscopes, ome_zarr, tiff
from hpa_jax.data.planes import (
    MAX_PIXELS,
    PROJECTIONS,
    BadImage,
    Planes,
    Reading,
    is_ramp,
    without_alpha,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["PROJECTIONS", "BadImage", "Planes", "Reading", "without_alpha"]

CHANNELS: tuple[str, ...] = ("red", "green", "blue", "yellow")
PLAIN = (".png", ".jpg", ".jpeg")  # by Pillow
# A suffix that is the end of another comes after it.
SUFFIXES = (*PLAIN, *tiff.SUFFIXES, *ome_zarr.SUFFIXES, *czi.SUFFIXES, *microscopes.SUFFIXES)
ENDINGS = (".ome.tif", ".ome.tiff", ".ome.zarr", *SUFFIXES)  # as files are named
_MARKS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}  # the first bytes of a file
_MARKS |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ".tif")
DARK = 16  # the darkest pixel of an image that was 8 bits; a camera's offset is above
# Planes (of RGB) that carry a channel where a file shows it in its colour.
_COLOUR = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_MODES = ("L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L")
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error)


class NeedsScaling(BadImage):
    """A file of more than 8 bits: its values mean nothing without those of its other channels."""


def planes(path: str | Path, how: Reading = Reading(), scene: int = 0) -> Planes:  # noqa: B008
    """All planes of one image of a file.

    scene: number of the image, of a file that holds several (`scenes`).

    Raises:
        BadImage: unreadable, too large, cut off, a time series, values of unknown meaning, or
            planes that the file promises and does not hold.
    """
    suffix, limits = _suffix(path), how.value_range
    if suffix in tiff.SUFFIXES:
        image, stated = tiff.read(Path(path), scene, how)
        limits = limits or stated
    elif suffix in ome_zarr.SUFFIXES:
        image = ome_zarr.read(Path(path), scene, how)
    elif suffix in czi.SUFFIXES:
        image = czi.read(Path(path), scene, how)
    elif suffix in microscopes.SUFFIXES:
        image = microscopes.read(Path(path), scene, how)
    else:
        image = _read_by_pillow(path)
    image = _true_values(path, image, limits)
    return replace(image, names=image.names or ("",) * len(image.pixels))


def scenes(path: str | Path) -> list[str]:
    """Names of the images in a file (OME series, wells); [""] for the one of most files.

    Raises:
        BadImage: it can't be read.
    """
    suffix = _suffix(path)
    for module in (tiff, ome_zarr, czi, microscopes):
        if suffix in module.SUFFIXES:
            return module.scenes(Path(path))
    return [""]


def parts_of_name(name: str) -> tuple[str, str]:
    """(name without the suffix of an image, that suffix or ""); capitals don't matter."""
    lower = name.lower()
    suffix = next((s for s in ENDINGS if lower.endswith(s)), "")
    return name[: len(name) - len(suffix)], suffix


def _suffix(path: str | Path) -> str:
    """The suffix of a file's format: by its first bytes, if it says PNG, JPEG or TIFF, else by its
    name."""
    suffix = Path(path).suffix.lower()
    if suffix not in (*PLAIN, *tiff.SUFFIXES):
        return suffix
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(4)
    except OSError:  # told by who reads it
        return suffix
    return next((kind for mark, kind in _MARKS.items() if start.startswith(mark)), suffix)


def size(path: str | Path) -> tuple[int, int]:
    """(height, width) as read, from the header; the file's end is checked, pixels are not decoded.

    Raises:
        BadImage: absent, empty, unknown format, too large, or cut off.
        NeedsScaling: more than 8 bits.
    """
    suffix = _suffix(path)
    if suffix in tiff.SUFFIXES:
        height, width, deep = tiff.size(Path(path))
        if deep:
            raise NeedsScaling(path, "more than 8 bits")
        return height, width
    if suffix not in PLAIN:  # stores and makers' files, whose headers their packages read
        read = planes(path, Reading(single=True)).pixels
        if read.dtype != np.uint8:
            raise NeedsScaling(path, "more than 8 bits")
        return read.shape[1], read.shape[2]
    with _open(path) as image:
        _check_end(path, image)
        if _deep(image):
            raise NeedsScaling(path, "more than 8 bits")
        height, width = image.height, image.width
        # A PNG that has it at its end would be decoded to ask.
        asked = image.format != "PNG" or "exif" in image.info
        turned = asked and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def read_channel(path: str | Path, channel: str) -> np.ndarray:
    """One channel of an 8-bit file as uint8[H, W].

    path: a grey image, or a colour one from which `channel` ("red"...) can be told (`one_plane`).

    Raises:
        BadImage: unreadable, or not convertible without loss of meaning.
        NeedsScaling: more than 8 bits.
    """
    plane = one_plane(planes(path, Reading(single=True)), channel, path)
    eight = as_eight_bits([plane])
    if eight is None:
        raise NeedsScaling(path, "16-bit values that don't fit 8 bits")
    return eight[0]


def read(paths: Mapping[str, str | None], channels: tuple[str, ...] = CHANNELS) -> np.ndarray:
    """An image's channels as uint8[H, W, K]; a channel whose path is None is zeros.

    paths: channel name -> file (a catalog row serves).

    Raises:
        BadImage: a file is unusable, or the channels' sizes differ.
    """
    read_planes: list[np.ndarray | None] = []
    for channel in channels:
        path = paths[channel]
        read_planes.append(read_channel(path, channel) if isinstance(path, str | Path) else None)
    known = [plane for plane in read_planes if plane is not None]
    if not known:
        raise InputError(f"an image without any of the channels {', '.join(channels)}")
    for channel, plane in zip(channels, read_planes, strict=True):
        if plane is not None and plane.shape != known[0].shape:
            raise BadImage(paths[channel] or "", sizes_differ(plane.shape, known[0].shape))
    zeros = np.zeros_like(known[0])
    return np.stack([zeros if plane is None else plane for plane in read_planes], axis=-1)


def one_plane(image: Planes, channel: str, path: str | Path) -> np.ndarray:
    """[H, W] of the file of one channel.

    Grey stored as colour gives that grey; an image shown in one colour (a look-up table) its
    brightest plane; a JPEG shown in its channel's colour the plane of that colour (of yellow the
    smaller of red and green), as JPEG's chroma bleeds into the others.

    Raises:
        BadImage: several channels, partly transparent, or planes that differ otherwise.
    """
    pixels = without_alpha(image, path)
    if len(pixels) == 1 or all(np.array_equal(pixels[0], plane) for plane in pixels[1:]):
        return pixels[0]
    if not image.colour:
        raise BadImage(
            path, f"holds {len(pixels)} channels, but is named as {channel} alone (its pattern)"
        )
    own = _COLOUR.get(channel, ())
    others = [pixels[k] for k in range(len(pixels)) if k not in own]
    if own and len(pixels) == 3:
        shown = pixels[list(own)].min(axis=0)
        if all(not plane.any() for plane in others) and np.array_equal(pixels[own[0]], shown):
            return shown
        if image.lossy and _brightest(shown) >= SHOWN * max(map(_brightest, others)):
            return shown
    brightest = pixels.max(axis=0)
    top = float(brightest.max())
    at = np.unravel_index(brightest.argmax(), brightest.shape)
    shares = pixels[(slice(None), *at)].astype(np.float32) / top
    if all(np.abs(p - s * brightest).max() <= 1.0 for p, s in zip(pixels, shares, strict=True)):
        return brightest
    raise BadImage(path, "a colour image whose planes differ; save the channel as grey")


def _brightest(plane: np.ndarray) -> float:
    """The mean of the brightest 16 x 16 pixels, a block of JPEG: chroma that bleeds into a plane
    makes single pixels bright, blocks hardly."""
    block = min(16, *plane.shape)
    height, width = (length // block for length in plane.shape)
    blocks = plane[: height * block, : width * block].reshape(height, block, width, block)
    return float(blocks.mean(axis=(1, 3)).max())


# Least ratio of `_brightest`. 200 real channels saved at qualities 50 to 95 have 2.8 and more, 55
# composites of the atlas 2.3 and less.
SHOWN = 2.5


# --- scaling of intensity ---


@dataclass(frozen=True)
class Scaling:
    """How more than 8 bits become 8: linear from a black to a white point.

    percentiles: of a channel's pixels, black and white (the HPA's converter: 0.001 and 99.999).
    floor: white lies at least this share of the depth's range above black, so that noise stays
      dark (the HPA's converter: 10,000 of 65,535).
    bits: the camera's depth; 0: as the file says, else by the values of all channels.
    over: what shares its points: image, plate or data (all images of the source).
    """

    percentiles: tuple[float, float] = (0.001, 99.999)
    floor: float = 0.15
    bits: int = 0
    over: str = "image"


SCALED_OVER = ("image", "plate", "data")


def as_eight_bits(channels: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """uint8 [H, W] of each of an image's channels, if they are 8 bits stored in 16: values that fit
    (with something near black among them) or that were spread by 256 or 257; else None."""
    if all(plane.dtype == np.uint8 for plane in channels):
        return [np.ascontiguousarray(plane) for plane in channels]
    deep = [plane for plane in channels if plane.dtype != np.uint8]
    top = max(int(plane.max(initial=0)) for plane in deep)
    for step in (1, 257, 256):
        if top > 255 * step or (step > 1 and not all(_multiples(plane, step) for plane in deep)):
            continue
        if step == 1 and min(int(plane.min(initial=0)) for plane in deep) >= DARK:
            continue
        return [p if p.dtype == np.uint8 else (p // step).astype(np.uint8) for p in channels]
    return None


def _multiples(plane: np.ndarray, step: int) -> bool:
    # Division is slow, and a few pixels rule out nearly every plane of a camera.
    return not (plane[::16, ::16] % step).any() and not (plane % step).any()


def depth(channels: Sequence[np.ndarray], stated: int | None = None) -> int:
    """Bits of the camera: `stated` by the file, else the least of 10, 12, 14, 16 that holds the
    values of all of an image's channels (12 where even 8 would: a dark image of a camera)."""
    top = max(int(plane.max(initial=0)) for plane in channels)
    if stated and top < 2**stated:
        return stated
    if top <= 255:
        return 12
    return next(bits for bits in (10, 12, 14, 16) if top < 2**bits)


def points(histogram: np.ndarray, bits: int, scaling: Scaling) -> tuple[float, float]:
    """Black and white point of a channel. histogram: int[65536], how often each value occurs.

    The percentiles are numpy's (linear between the two nearest values).
    """
    ends = np.cumsum(histogram)
    black, high = (_percentile(ends, q) for q in scaling.percentiles)
    return black, max(high, black + scaling.floor * (2**bits - 1))


def _percentile(ends: np.ndarray, q: float) -> float:
    at = (int(ends[-1]) - 1) * q / 100
    below, above = (int(np.searchsorted(ends, i, "right")) for i in (math.floor(at), math.ceil(at)))
    return below + (above - below) * (at - math.floor(at))


def histogram(plane: np.ndarray) -> np.ndarray:
    """int64[65536]: how often each value of a plane occurs."""
    counts, values = np.zeros(65536, np.int64), plane.ravel()
    for start in range(0, len(values), _BLOCK):
        some = np.bincount(values[start : start + _BLOCK])
        counts[: len(some)] += some
    return counts


def scale(plane: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8 [H, W]: 0 at black and below, 255 at white and above."""
    levels = (np.arange(65536, dtype=np.float32) - black) * (255.0 / (white - black))
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    scaled = np.empty(plane.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, plane.shape[1]))
    for start in range(0, len(plane), rows):
        np.take(table, plane[start : start + rows], out=scaled[start : start + rows], mode="clip")
    return scaled


# Values handled at once. numpy widens them to 8 bytes, which then still fit the core's cache.
_BLOCK = 1 << 16


def looks(planes: Mapping[str, np.ndarray]) -> list[str]:
    """What looks wrong about an image's channels, uint8[H, W] by name: empty, saturated, or a copy
    of another."""
    oddities = []
    names = list(planes)
    for at, name in enumerate(names):
        plane = planes[name]
        low, high = int(plane.min()), int(plane.max())
        if high - low <= EMPTY:
            oddities.append(f"channel {name} looks empty")
        elif high == 255 and np.count_nonzero(plane == 255) > SATURATED * plane.size:
            oddities.append(f"channel {name} looks saturated (over 2 % of its pixels are white)")
        for other in names[:at]:
            same = np.array_equal(planes[other][::8], plane[::8])
            if same and high and np.array_equal(planes[other], plane):
                oddities.append(f"channel {name} is a copy of {other}")
    return oddities


EMPTY = 12  # grey levels from the darkest to the brightest pixel: noise above the floor has 10
SATURATED = 0.02  # share of white pixels


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """uint8[H, W, K] to uint8[side, side, K]; an image that is not square loses its longer ends.

    A whole-numbered shrink averages (cv2's INTER_AREA), anything else is bicubic with averaging
    where it shrinks; each channel by itself (an alpha-aware one would mix yellow into the rest).
    """
    from PIL import Image

    height, width = image.shape[:2]
    if height != width:
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        image = image[top : top + short, left : left + short]
    if image.shape[0] == side:
        return np.ascontiguousarray(image)
    out = np.empty((side, side, image.shape[2]), np.uint8)
    for k in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(image[..., k]))
        factor, rest = divmod(plane.width, side)
        out[..., k] = plane.resize((side, side), Image.BICUBIC) if rest else plane.reduce(factor)
    return out


def inside(root: str | Path, path: str | Path) -> bool:
    """Whether `path`, with symbolic links followed, lies in `root`."""
    root, path = os.path.realpath(root), os.path.realpath(path)
    return os.path.commonpath([root, path]) == root


def files_of(folder: str | Path) -> list[str]:
    """The files below a folder, sorted; linked folders are entered, each once."""
    found, entered = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        found += [os.path.join(place, name) for name in names]
    return sorted(found)


def all_inside(root: str | Path, path: str | Path) -> bool:
    """Whether an image lies in `root`; of a folder that is one (Zarr) all its files, too."""
    parts = files_of(path) if os.path.isdir(path) else []
    return inside(root, path) and all(inside(root, part) for part in parts)


def sizes_differ(size: tuple[int, ...], other: tuple[int, ...]) -> str:
    """The reason why channels of sizes (H, W) and `other` are no image."""
    return (
        f"{size[1]} x {size[0]} pixels, but another channel has {other[1]} x {other[0]}; "
        "all channels of an image need one size"
    )


def _true_values(path: str | Path, image: Planes, value_range: Sequence[float]) -> Planes:
    """The image in uint8 or uint16, of pixels of any type.

    Raises:
        BadImage: values whose meaning nothing tells.
    """
    pixels = image.pixels
    kind = pixels.dtype
    if kind in (np.uint8, np.uint16):
        return image
    if kind.kind == "b":
        return replace(image, pixels=pixels.astype(np.uint8) * 255, bits=None)
    if kind.kind not in "iuf":
        raise BadImage(path, f"{kind} pixels; whole numbers and floats are read")
    if not np.isfinite(pixels).all():
        raise BadImage(path, "infinite pixels, or such that are no numbers")
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if kind.kind == "f":
        whole = bool((pixels == np.rint(pixels)).all())  # counts, of which 0 and 1 are few
        values = "a declared range" if value_range else "fractions of 1"
        black, white = value_range or (0.0, 1.0)
        if value_range or (low >= 0 and high <= 1 and not whole):
            levels = (pixels.astype(np.float64) - black) * (65535.0 / (white - black))
            levels = np.clip(np.rint(levels), 0, 65535).astype(np.uint16)
            return replace(image, pixels=levels, bits=16, values=values)
        if not whole:
            raise BadImage(
                path,
                f"fractional values from {low:g} to {high:g}: which are black and white? "
                "Set data.folder.value_range=(BLACK, WHITE)",
            )
    notes, values = image.notes, "counts" if kind.kind in "if" and (low or high) else ""
    half = 2 ** (8 * kind.itemsize - 1)
    if kind in (np.int8, np.int16) and low < -half / 2:
        values = f"signed values, to which {half:,} was added"
        notes = (*notes, f"signed pixels: {half:,} was added")
        pixels = pixels.astype(np.int32) + half
    elif low < 0:
        notes = (*notes, "negative pixels were taken for black")
        pixels = np.maximum(pixels, 0)
    if pixels.max(initial=0) > 65535:
        raise BadImage(path, f"values up to {high:g}; at most 65,535 are read")
    return replace(image, pixels=pixels.astype(np.uint16), values=values, notes=notes)


# --- PNG, JPEG: Pillow ---


def _read_by_pillow(path: str | Path) -> Planes:
    from PIL import ImageOps

    with _open(path) as image:
        _check_end(path, image)
        if image.mode in ("CMYK", "LAB"):
            raise BadImage(
                path, f"its samples are no intensities ({image.mode}); save it as grey or RGB"
            )
        lossy = image.format in ("JPEG", "MPO")
        if not lossy and getattr(image, "n_frames", 1) > 1:
            raise BadImage(path, f"a time series of {image.n_frames} frames; one image a file")
        try:
            if image.format == "PNG" and _deep(image) and not image.mode.startswith("I"):
                return _deep_colours(image)
            if image.mode == "1":
                image = image.convert("L")
            elif image.mode == "P":
                image = _of_palette(image)
            elif image.mode not in _MODES:
                image = image.convert("RGBA" if "transparency" in image.info else "RGB")
            orientation = image.getexif().get(0x0112, 1)
            pixels = np.asarray(ImageOps.exif_transpose(image) if orientation > 1 else image)
        except _DECODER_ERRORS as error:
            raise BadImage(path, f"damaged image ({error}); fetch it again") from None
    if pixels.ndim == 2:
        return Planes(pixels[None])
    samples = pixels.shape[2]
    return Planes(np.moveaxis(pixels, -1, 0), colour=True, alpha=samples in (2, 4), lossy=lossy)


def _deep(image: "Image.Image") -> bool:
    """Whether a file's values have more than 8 bits, by its header."""
    raw = image.tile[0][3] if image.tile else ""
    raw = raw[0] if isinstance(raw, tuple) else raw
    return image.mode[0] in "IF" or ";16" in str(raw)


def _deep_colours(image: "Image.Image") -> Planes:
    """A 16-bit colour PNG, of which Pillow gives the high bytes: it is unpacked as one byte order
    and as the other, which gives the low ones."""
    from PIL import Image

    raw = image.tile[0][3]
    if raw == "LA;16B":  # its four bytes are unpacked as those of 8-bit RGBA
        four = np.asarray(_unpacked(image, "RGBA", "RGBA")).astype(np.uint16)
        pixels = four[..., ::2] << 8 | four[..., 1::2]
    else:
        mode = raw.partition(";")[0]
        high = np.asarray(_unpacked(Image.open(image.filename), mode, f"{mode};16B"))
        low = np.asarray(_unpacked(image, mode, f"{mode};16L"))
        pixels = high.astype(np.uint16) << 8 | low
    alpha = pixels.shape[2] in (2, 4)
    return Planes(np.moveaxis(pixels, -1, 0), colour=True, alpha=alpha)


def _unpacked(image: "Image.Image", mode: str, raw: str) -> "Image.Image":
    image.tile = [image.tile[0]._replace(args=raw)]
    image._mode = mode  # a mode that fits `raw`
    image.load()
    return image


def _of_palette(image: "Image.Image") -> "Image.Image":
    """An image of a palette: its colours, or its indices where these are intensities."""
    if "transparency" in image.info:
        return image.convert("RGBA")
    colours = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    indices = np.asarray(image)
    if int(indices.max(initial=0)) < len(colours) and is_ramp(colours):
        from PIL import Image

        return Image.fromarray(indices)
    return image.convert("RGB")


def _open(path: str | Path) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise BadImage(path, "no such file") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise BadImage(path, "empty file (0 bytes)" if empty else "not an image") from None
    except Image.DecompressionBombError:
        raise BadImage(path, f"claims more than {MAX_PIXELS:,} pixels; refused") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(path, f"can't be read ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise BadImage(path, f"claims more than {MAX_PIXELS:,} pixels; refused")
    return image


def _check_end(path: str | Path, image: "Image.Image") -> None:
    """A PNG or JPEG that lacks its end mark was cut off (some decoders fill up with grey). Bytes
    after a whole image don't matter."""
    kind = image.format or ""
    if kind == "PNG":
        whole = _ends_near(path, b"IEND\xaeB`\x82") or _png_ends(path)
    elif kind == "JPEG":
        whole = _ends_near(path, b"\xff\xd9") or _jpeg_ends(path)
    else:
        return
    if not whole:
        raise BadImage(path, f"truncated {kind} (its end is missing); fetch it again")


def _ends_near(path: str | Path, mark: bytes) -> bool:
    with open(path, "rb") as handle:
        handle.seek(0, os.SEEK_END)
        handle.seek(max(0, handle.tell() - 64))
        return mark in handle.read()


def _png_ends(path: str | Path) -> bool:
    """Whether the chunks of a PNG lead to its end, whatever follows."""
    length = os.path.getsize(path)
    with open(path, "rb") as handle:
        at = 8
        while at + 12 <= length:
            handle.seek(at)
            size, kind = struct.unpack(">I4s", handle.read(8))
            at += 12 + size
            if kind == b"IEND":
                return at <= length
    return False


def _jpeg_ends(path: str | Path) -> bool:
    """Whether the segments of a JPEG lead to its end mark, whatever follows."""
    data = Path(path).read_bytes()
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if kind == 0xD9:
            return True
        if kind == 0xFF:
            at += 1
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if kind == 0xDA:  # the coded pixels go on to the next mark that is none of theirs
            mark = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL).search(data, at)
            if mark is None:
                return False
            at = mark.start()
    return data[at : at + 2] == b"\xff\xd9"
