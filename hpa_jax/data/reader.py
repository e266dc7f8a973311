"""Any image file -> its planes in their true values, and these -> 8 bits.

Every source reads by one chain: decode -> orient -> select planes -> scale intensity -> rescale to
the field -> pad or crop.  The first three are `planes` and `one_plane`, the fourth is `scale`, the
last two are `resize` and `sources.imported`.  What can't be read with certainty is a BadImage that
says in one line what is wrong; what was decided about an image is in `Planes.notes`.

PNG (8 and 16 bits, palettes) and JPEG are decoded by Pillow, TIFF by tifffile.  Without the package
imagecodecs, LZW, JPEG and zstd inside TIFF are decoded by Pillow where it loses nothing.
"""

import math
import os
import re
import struct
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image
    from tifffile import TiffFile, TiffPage, TiffPageSeries

CHANNELS: tuple[str, ...] = ("red", "green", "blue", "yellow")
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
PROJECTIONS = ("max", "mean", "middle", "refuse")
# A PNG of a few kB can claim gigapixels; the competition's largest has 4096².
MAX_PIXELS = 100_000_000
MAX_BYTES = 8 * MAX_PIXELS  # of all planes: four of 100 megapixels in 16 bits
# Sets of several files (OME, Micro-Manager) name the others; following names would leave the root.
ALONE = {"_multifile": False, "is_mmstack": False, "is_ndtiff": False}
SMALLEST, LARGEST = 0.01, 5.0  # µm a pixel of a light microscope
DARK = 16  # the darkest pixel of an image that was 8 bits; a camera's offset is above
_MICROMETRES = {"µm": 1.0, "um": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "inch": 25400.0}
_MICROMETRES |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
# Planes (of RGB) that carry a channel where a file shows it in its colour.
_COLOUR = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}
_PREVIEW = re.compile("thumb|label|macro|overview|preview", re.IGNORECASE)
_MODES = ("L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L")
_DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error)


class BadImage(InputError):
    """An image file that can't be used. `what` is the reason without the path."""

    def __init__(self, path: str | Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = str(path), what

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what)  # so that it can come from another process


class NeedsScaling(BadImage):
    """A file of more than 8 bits: its values mean nothing without those of its other channels."""


@dataclass(frozen=True)
class Planes:
    """The planes of one image in a file, upright, in their true values.

    pixels: [P, H, W] uint8 or uint16.  names: of the planes, "" where unknown.
    pixel_size: µm a pixel, None where the file doesn't say or says what can't be.
    bits: significant bits, where the file states them.  colour: the planes are the red, green and
    blue (and alpha, if `alpha`) samples of one image.  notes: decisions a person should know.
    """

    pixels: np.ndarray
    names: tuple[str, ...] = ()
    pixel_size: float | None = None
    bits: int | None = None
    colour: bool = False
    alpha: bool = False
    lossy: bool = False
    notes: tuple[str, ...] = ()


def planes(
    path: str | Path,
    *,
    scene: int = 0,
    single: bool = False,
    project: str = "max",
    frame: int | None = None,
    value_range: Sequence[float] = (),
) -> Planes:
    """All planes of one image of a file.

    scene: number of the image, of a file that holds several (`scenes`).
    single: the file holds one channel; its pages are a Z stack then, else they are channels.
    project: of a Z stack: max, mean, middle, or refuse.
    frame: of a time series the one to take; None refuses it.
    value_range: (black, white) of float pixels that are not within 0..1; () where unknown.

    Raises:
        BadImage: unreadable, too large, cut off, a time series, values of unknown meaning, or
            planes that the file promises and does not hold.
    """
    if Path(path).suffix.lower() in TIFF:
        image = _read_tiff(Path(path), scene, single, project, frame, value_range)
    else:
        image = _read_by_pillow(path)
    pixels, bits, notes = _true_values(path, image.pixels, image.bits, value_range)
    names = image.names or ("",) * len(pixels)
    return replace(image, pixels=pixels, bits=bits, names=names, notes=(*image.notes, *notes))


def scenes(path: str | Path) -> int:
    """Number of images in a file (OME series, positions), from its headers; previews don't count.

    Raises:
        BadImage: no readable TIFF.
    """
    if Path(path).suffix.lower() not in TIFF:
        return 1
    with _opened_tiff(Path(path)) as file:
        return len(_scenes(file))


def size(path: str | Path) -> tuple[int, int]:
    """(height, width) as read, from the header; the file's end is checked, pixels are not decoded.

    Raises:
        BadImage: absent, empty, unknown format, too large, or cut off.
        NeedsScaling: more than 8 bits.
    """
    with _open(path) as image:
        _check_end(path, image)
        if _deep(image):
            raise NeedsScaling(path, "more than 8 bits")
        height, width = image.height, image.width
        # A PNG that has it at its end would be decoded to ask.
        asked = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
        turned = asked and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def read_channel(path: str | Path, channel: str) -> np.ndarray:
    """One channel of an 8-bit file as uint8[H, W].

    path: a grey image, or a colour one from which `channel` ("red"...) can be told (`one_plane`).

    Raises:
        BadImage: unreadable, or not convertible without loss of meaning.
        NeedsScaling: more than 8 bits.
    """
    plane = one_plane(planes(path, single=True), channel, path)
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
        if image.lossy and np.quantile(shown, 0.999) >= 2 * max(
            np.quantile(plane, 0.999) for plane in others
        ):
            return shown
    brightest = pixels.max(axis=0)
    top = float(brightest.max())
    at = np.unravel_index(brightest.argmax(), brightest.shape)
    shares = pixels[(slice(None), *at)].astype(np.float32) / top
    if all(np.abs(p - s * brightest).max() <= 1.0 for p, s in zip(pixels, shares, strict=True)):
        return brightest
    raise BadImage(path, "a colour image whose planes differ; save the channel as grey")


def without_alpha(image: Planes, path: str | Path) -> np.ndarray:
    """[P, H, W] without a plane of transparency.

    Raises:
        BadImage: it is partly transparent.
    """
    if not image.alpha:
        return image.pixels
    if (image.pixels[-1] != np.iinfo(image.pixels.dtype).max).any():
        raise BadImage(path, "partly transparent; save it without transparency")
    return image.pixels[:-1]


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
        if top > 255 * step or (step > 1 and any((plane % step).any() for plane in deep)):
            continue
        if step == 1 and min(int(plane.min(initial=0)) for plane in deep) >= DARK:
            continue
        return [p if p.dtype == np.uint8 else (p // step).astype(np.uint8) for p in channels]
    return None


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
    return np.bincount(plane.ravel(), minlength=65536)


def scale(plane: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8 [H, W]: 0 at black and below, 255 at white and above."""
    levels = (np.arange(65536, dtype=np.float32) - black) * (255.0 / (white - black))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[plane]


def looks(image: np.ndarray, present: Sequence[int]) -> list[str]:
    """What looks wrong about channels of uint8[H, W, K]: empty, saturated, or a copy of another.

    present: numbers of the channels that are there.
    """
    said = []
    for at, k in enumerate(present):
        plane = image[..., k]
        if np.ptp(plane[::4, ::4]) <= EMPTY and np.ptp(plane) <= EMPTY:
            said.append(f"channel {CHANNELS[k]} looks empty")
        elif np.count_nonzero(plane == 255) > SATURATED * plane.size:
            said.append(f"channel {CHANNELS[k]} looks saturated (over 2 % of its pixels are white)")
        for j in present[:at]:
            same = np.array_equal(image[::8, ::8, j], plane[::8, ::8])
            if same and plane.any() and np.array_equal(image[..., j], plane):
                said.append(f"channel {CHANNELS[k]} is a copy of {CHANNELS[j]}")
    return said


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


def sizes_differ(size: tuple[int, ...], other: tuple[int, ...]) -> str:
    """The reason why channels of sizes (H, W) and `other` are no image."""
    return (
        f"{size[1]} x {size[0]} pixels, but another channel has {other[1]} x {other[0]}; "
        "all channels of an image need one size"
    )


def _true_values(
    path: str | Path, pixels: np.ndarray, bits: int | None, value_range: Sequence[float]
) -> tuple[np.ndarray, int | None, list[str]]:
    """uint8 or uint16 of any type's values, the significant bits, and what was decided.

    Raises:
        BadImage: values whose meaning nothing tells.
    """
    kind, notes = pixels.dtype, []
    if kind in (np.uint8, np.uint16):
        return pixels, bits, notes
    if kind.kind == "b":
        return pixels.astype(np.uint8) * 255, None, notes
    if kind.kind not in "iuf":
        raise BadImage(path, f"{kind} pixels; whole numbers and floats are read")
    if not np.isfinite(pixels).all():
        raise BadImage(path, "infinite pixels, or such that are no numbers")
    low, high = float(pixels.min(initial=0)), float(pixels.max(initial=0))
    if kind.kind == "f":
        if value_range:
            black, white = value_range
            levels = (pixels.astype(np.float64) - black) * (65535.0 / (white - black))
            return np.clip(np.rint(levels), 0, 65535).astype(np.uint16), 16, notes
        if low >= 0 and high <= 1:
            return np.rint(pixels.astype(np.float64) * 65535).astype(np.uint16), 16, notes
        if (pixels != np.rint(pixels)).any():
            raise BadImage(
                path,
                f"fractional values from {low:g} to {high:g}: which are black and white? "
                "Set data.folder.value_range=(BLACK, WHITE)",
            )
    if low < 0 and kind == np.int16 and low < -(2**14):
        notes.append("signed pixels: 32,768 was added")
        pixels = pixels.astype(np.int32) + 2**15
    elif low < 0:
        notes.append("negative pixels were taken for black")
        pixels = np.maximum(pixels, 0)
    if pixels.max(initial=0) > 65535:
        raise BadImage(path, f"values up to {high:g}; at most 65,535 are read")
    return pixels.astype(np.uint16), bits, notes


# --- PNG, JPEG: Pillow ---


def _read_by_pillow(path: str | Path) -> Planes:
    from PIL import ImageOps

    with _open(path) as image:
        _check_end(path, image)
        if getattr(image, "n_frames", 1) > 1 and image.format == "PNG":
            raise BadImage(path, f"a time series of {image.n_frames} frames; one image a file")
        lossy = image.format in ("JPEG", "MPO")
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
    if int(indices.max(initial=0)) < len(colours) and _is_ramp(colours):
        from PIL import Image

        return Image.fromarray(indices)
    return image.convert("RGB")


def _is_ramp(colours: np.ndarray) -> bool:
    """Whether a palette int[N, 3] is a look-up table that shows intensity in colour: it gets
    brighter with the index all the way, from black."""
    grey = (colours == colours[:, :1]).all()
    light = colours.astype(np.int64) @ (299, 587, 114)
    return bool(not grey and len(colours) > 16 and light[0] == 0 and (np.diff(light) > 0).all())


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
    """A PNG or JPEG that lacks its end mark, or a TIFF that lacks a strip, was cut off (some
    decoders fill up with grey). Bytes after a whole image don't matter."""
    kind = image.format or ""
    if kind == "TIFF":
        whole = _last_byte(image) <= os.path.getsize(path)
    elif kind == "PNG":
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


def _last_byte(tiff: "Image.Image") -> float:
    """Where the strips or tiles of a TIFF end; infinite if its tables can't be right."""
    last = 0
    for start, length in ((273, 279), (324, 325)):
        try:
            begins, lengths = (
                np.atleast_1d(np.asarray(tiff.tag_v2.get(key, ()), float))
                for key in (start, length)
            )
            last = max(last, (begins + lengths).max(initial=0))
        except (TypeError, ValueError):
            return np.inf
    return last


# --- TIFF: tifffile ---


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
        # Which of the set's channels lie in this file is not asked: its pages as they are.
        with tifffile.TiffFile(path, is_ome=False, **ALONE) as file:
            yield file
    except BadImage:
        raise
    except Exception as error:  # tifffile raises what its decoders raise
        empty = path.stat().st_size == 0
        reason = "empty file (0 bytes)" if empty else " ".join(str(error).split())
        raise BadImage(path, f"no readable TIFF ({reason})") from None


def _read_tiff(
    path: Path,
    scene: int,
    single: bool,
    project: str,
    frame: int | None,
    value_range: Sequence[float],
) -> Planes:
    with _opened_tiff(path) as file:
        about = file.ome_metadata if file.is_ome else None
        candidates = _scenes(file)
        if scene >= len(candidates):
            raise BadImage(path, f"has no image {scene}: it holds {len(candidates)}")
        series = candidates[scene]
        page = series.keyframe
        _check_claim(path, series)
        _check_whole(path, file, series)
        try:
            pixels = series.asarray()
        except (ValueError, ImportError) as error:  # a codec that needs a package
            if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                raise
            pixels = _by_pillow(path, series)
        pixels = _photometric(pixels, page)
        image = _ordered(path, pixels, series, single, project, frame)
        if not single and about is None and page.photometric == 2 and page.samplesperpixel >= 3:
            image = replace(image, colour=True)
        names, size, bits = ((), None, None)
        if about:
            names, size, bits = _ome(path, about, series, len(image.pixels))
        size = size or _resolution(page, file.imagej_metadata or {})
        declared = _declared_bits(page) or bits
        if page.dtype.kind == "f" and not value_range:
            value_range = _declared_range(page)
    if value_range and image.pixels.dtype.kind == "f":
        pixels, declared, _ = _true_values(path, image.pixels, None, value_range)
        image = replace(image, pixels=pixels)
    orientation = page.tags["Orientation"].value if "Orientation" in page.tags else 1
    return replace(
        image,
        pixels=_upright(image.pixels, int(orientation)),
        names=names or ("",) * len(image.pixels),
        pixel_size=_plausible(size),
        bits=declared,
        lossy=page.compression == 7,
    )


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


def _check_claim(path: Path, series: "TiffPageSeries") -> None:
    """What decoding would allocate, from the header alone: a few kB can claim gigabytes.

    Raises:
        BadImage: too large, or no numbers.
    """
    shape, dtype = series.shape, series.dtype
    if dtype is None or dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise BadImage(path, f"{dtype} pixels; whole numbers and floats are read")
    plane = math.prod(length for length, letter in zip(shape, series.axes) if letter in "YX")
    if plane > MAX_PIXELS or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise BadImage(path, f"claims {' x '.join(map(str, shape))} {dtype} values; refused")


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
    from PIL import Image

    parts = []
    with Image.open(path) as image:
        for page in series.pages:
            if not isinstance(page.index, int):
                break
            image.seek(page.index)
            pixels = np.asarray(image)
            if pixels.shape != page.keyframe.shape or pixels.dtype != page.keyframe.dtype:
                break
            if image.mode == "L" and page.keyframe.photometric == 0:
                pixels = 255 - pixels  # Pillow has turned it already, `_photometric` does it again
            parts.append(pixels)
    if len(parts) != len(series.pages):
        name = series.keyframe.compression.name
        raise BadImage(path, f"{name} of these pixels needs the package imagecodecs: install it")
    return np.stack(parts).reshape(series.shape)


def _photometric(pixels: np.ndarray, page: "TiffPage") -> np.ndarray:
    """Values whose 0 is black: of MinIsWhite turned round, of a palette looked up."""
    if page.photometric == 0 and pixels.dtype.kind in "ub":
        return ~pixels if pixels.dtype == bool else np.iinfo(pixels.dtype).max - pixels
    if page.photometric == 3 and page.colormap is not None:
        colours = np.asarray(page.colormap).T
        colours = (colours if colours.max(initial=0) <= 255 else colours >> 8).astype(np.uint8)
        if _is_ramp(colours):
            return pixels
        looked_up = colours[pixels]
        return looked_up[..., 0] if (colours == colours[:, :1]).all() else looked_up
    return pixels


def _ordered(
    path: Path,
    pixels: np.ndarray,
    series: "TiffPageSeries",
    single: bool,
    project: str,
    frame: int | None,
) -> Planes:
    """[P, H, W] of an array with tifffile's axis letters, and how its samples are meant.

    Raises:
        BadImage: a time series, or more axes than one image has.
    """
    axes, page, notes = series.axes, series.keyframe, []
    colour = page.photometric in (2, 6) and "S" in axes
    if pixels.ndim == len(axes) + 1:  # looked up in a palette of colours
        axes, colour = axes + "S", True
    for letter in axes:
        at, length = axes.index(letter), pixels.shape[axes.index(letter)]
        if letter in "YX":
            continue
        if length == 1:
            pixels = pixels.squeeze(axis=at)
        elif letter == "Z" or (single and letter in "QI"):
            pixels = _projected(path, pixels, at, project)
            notes.append(f"Z stacks became one plane ({project})")
        elif letter == "T" and frame is not None:
            if not -length <= frame < length:
                raise BadImage(path, f"has {length} of axis T, data.folder.frame={frame}")
            pixels = pixels.take(frame, axis=at)
            notes.append(f"of time series frame {frame} was taken")
        elif letter in "CSQI":  # channel, sample, unnamed, page: each can hold the channels
            continue
        else:
            name = "T: a time series (data.folder.frame=0 takes its first)" if letter == "T" else ""
            raise BadImage(path, f"has {length} of axis {name or letter}; one image a file")
        axes = axes.replace(letter, "", 1)
    if len(axes) > 3 or not {"Y", "X"} <= set(axes):
        raise BadImage(path, f"axes {axes}: one channel axis beside Y and X is read")
    if len(axes) == 2:
        return Planes(pixels[None], notes=tuple(notes))
    rest = next(letter for letter in axes if letter not in "YX")
    pixels = np.moveaxis(pixels, axes.index(rest), 0)
    samples = rest == "S"
    alpha = samples and bool(page.extrasamples) and page.extrasamples[-1] in (1, 2)
    grey_alpha = samples and alpha and len(pixels) == 2
    return Planes(pixels, colour=colour or grey_alpha, alpha=alpha, notes=tuple(notes))


def _projected(path: Path, pixels: np.ndarray, axis: int, project: str) -> np.ndarray:
    """One plane of a Z stack.

    Raises:
        BadImage: stacks are to be refused.
    """
    if project == "refuse":
        raise BadImage(path, f"a Z stack of {pixels.shape[axis]} planes (data.folder.project)")
    if project == "max":
        return pixels.max(axis=axis)
    if project == "middle":
        return pixels.take(pixels.shape[axis] // 2, axis=axis)
    mean = pixels.mean(axis=axis)
    return (
        mean.astype(pixels.dtype)
        if pixels.dtype.kind == "f"
        else np.rint(mean).astype(pixels.dtype)
    )


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
    path: Path, about: str, series: "TiffPageSeries", count: int
) -> tuple[tuple[str, ...], float | None, int | None]:
    """Channel names, µm a pixel and significant bits by OME-XML.

    Raises:
        BadImage: it promises other channels than were read.
    """
    try:
        root = xml.fromstring(about)
    except xml.ParseError:
        return (), None, None
    every = [node for node in root.iter() if node.tag.endswith("}Pixels")]
    number = series.index if isinstance(getattr(series, "index", None), int) else 0
    if not every:
        return (), None, None
    pixels = every[number] if number < len(every) else every[0]
    nodes = [node for node in pixels if node.tag.endswith("}Channel")]
    names: list[str] = []
    for node in nodes:
        names += [node.get("Name", "")] * int(node.get("SamplesPerPixel") or 1)
    promised = pixels.get("SizeC", "")
    if promised.isdecimal() and int(promised) != count:
        raise BadImage(path, f"its OME-XML promises {promised} channels, {count} are there")
    names = (names + [""] * count)[:count]
    unit = _MICROMETRES.get(pixels.get("PhysicalSizeXUnit", "µm"))
    try:
        size = float(pixels.get("PhysicalSizeX", "")) * unit if unit else None
    except ValueError:
        size = None
    significant = pixels.get("SignificantBits", "")
    bits = int(significant) if significant.isdecimal() and 8 < int(significant) < 16 else None
    return tuple(names), size if size and size > 0 else None, bits


def _plausible(size: float | None) -> float | None:
    """µm a pixel; None outside of what light microscopes give (72 dpi would be 353 µm)."""
    return size if size is not None and SMALLEST <= size <= LARGEST else None


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
    micrometres = _MICROMETRES.get(named) or {2: 25400.0, 3: 10000.0}.get(int(unit))
    return micrometres * per / number if micrometres and number else None
