"""One image file -> uint8 pixels, or a BadPicture that says in one line what is wrong with it.

A channel file should be an 8-bit grey image.  What carries the same information in another dress
is converted (grey stored as RGB, 8-bit values in 16 bits, an image drawn only in its channel's
colour); what would lose information is refused, never clipped silently.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

CHANNELS: tuple[str, ...] = ("red", "green", "blue", "yellow")
# A PNG of a few kB can claim gigapixels; the competition's largest has 4096².
MAX_PIXELS = 100_000_000
_END = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
# Planes (of RGB) that carry a channel where a file draws it in its own colour.
_COLOUR = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}


class BadImage(InputError):
    """An image file that can't be used. `what` is the reason without the path."""

    def __init__(self, path: str | Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = str(path), what

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what)  # so that it can come from another process


def size(path: str | Path) -> tuple[int, int]:
    """(height, width) from the header; the file's end is checked, its pixels are not decoded.

    Raises:
        BadPicture: absent, empty, no image, too large, or cut off.
    """
    with _open(path) as picture:
        _check_end(path, picture)
        return picture.height, picture.width


def read_channel(path: str | Path, channel: str) -> np.ndarray:
    """One channel as uint8[H, W].

    path: a grey image, or an RGB one of which `channel` ("red"...) takes its plane if the planes
    differ only as an image drawn in that colour does.

    Raises:
        BadPicture: unreadable, or not convertible without loss of meaning.
    """
    return to_grey(decode(path), channel, path)


def read(paths: Mapping[str, str | None], channels: tuple[str, ...] = CHANNELS) -> np.ndarray:
    """An image's channels as uint8[H, W, K]; a channel whose path is None is zeros.

    paths: channel name -> file (a catalog row serves).

    Raises:
        BadPicture: a file is unusable, or the channels' sizes differ.
    """
    planes: list[np.ndarray | None] = []
    for channel in channels:
        path = paths[channel]
        planes.append(read_channel(path, channel) if isinstance(path, str | Path) else None)
    known = [plane for plane in planes if plane is not None]
    if not known:
        raise InputError(f"an image without any of the channels {', '.join(channels)}")
    for channel, plane in zip(channels, planes, strict=True):
        if plane is not None and plane.shape != known[0].shape:
            raise BadImage(paths[channel], sizes_differ(plane.shape, known[0].shape))
    zeros = np.zeros_like(known[0])
    return np.stack([zeros if plane is None else plane for plane in planes], axis=-1)


def decode(path: str | Path) -> np.ndarray:
    """All pixels of a file as stored: [H, W] or [H, W, planes], uint8, uint16, int32 or float32.

    Raises:
        BadPicture: unreadable, cut off, or damaged.
    """
    with _open(path) as picture:
        _check_end(path, picture)
        try:
            if picture.mode == "1":
                picture = picture.convert("L")
            elif picture.mode == "P" or picture.mode not in _MODES:
                picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
            return np.asarray(picture)
        except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
            raise BadImage(path, f"damaged image ({error}); fetch it again") from None


_MODES = ("L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L")


def to_grey(pixels: np.ndarray, channel: str, path: str | Path) -> np.ndarray:
    """uint8[H, W] of decoded pixels [H, W] or [H, W, 1..4], if nothing is lost by it.

    Raises:
        BadPicture: the planes differ, are partly transparent, or have more than 8 bits.
    """
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if (pixels[..., -1] != 255).any():
            raise BadImage(path, "partly transparent; save it as 8-bit grey")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3:
        pixels = _one_plane(pixels, channel, path)
    return _eight_bits(pixels, path)


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


def _open(path: str | Path) -> "Image.Image":
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's own bomb warning; the check below is stricter
            picture = Image.open(path)
    except FileNotFoundError:
        raise BadImage(path, "no such file") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise BadImage(path, "empty file (0 bytes)" if empty else "no image") from None
    except Image.DecompressionBombError:
        raise BadImage(path, f"claims more than {MAX_PIXELS:,} pixels; refused") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise BadImage(path, f"can't be read ({error})") from None
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise BadImage(path, f"claims more than {MAX_PIXELS:,} pixels; refused")
    return picture


def _check_end(path: str | Path, picture: "Image.Image") -> None:
    """A PNG or JPEG that lacks its end mark, or a TIFF that lacks a strip, was cut off (some
    decoders fill up with grey)."""
    kind = picture.format or ""
    if kind == "TIFF":
        whole = _last_byte(picture) <= os.path.getsize(path)
    elif kind in _END:
        with open(path, "rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - 64))
            whole = _END[kind] in handle.read()
    else:
        return
    if not whole:
        raise BadImage(path, f"truncated {kind} (its end is missing); fetch it again")


def _last_byte(tiff: "Image.Image") -> float:
    """Where the strips or tiles of a TIFF end; infinite if its tables can't be right."""
    last = 0
    for start, length in ((273, 279), (324, 325)):
        try:
            begins, lengths = (np.array(tiff.tag_v2.get(key, ()), float) for key in (start, length))
            last = max(last, (begins + lengths).max(initial=0))
        except (TypeError, ValueError):
            return np.inf
    return last


def _one_plane(pixels: np.ndarray, channel: str, path: str | Path) -> np.ndarray:
    planes = [pixels[..., k] for k in range(pixels.shape[2])]
    if all(np.array_equal(planes[0], plane) for plane in planes[1:]):
        return planes[0]
    own = _COLOUR.get(channel, ())
    if own and len(planes) == 3:
        rest = [planes[k] for k in range(3) if k not in own]
        if np.array_equal(planes[own[0]], planes[own[-1]]) and not any(p.any() for p in rest):
            return planes[own[0]]
    raise BadImage(path, "a colour image whose planes differ; save the channel as 8-bit grey")


def _eight_bits(pixels: np.ndarray, path: str | Path) -> np.ndarray:
    """8 bits of 16: values that fit, or an 8-bit image spread by 256 or 257."""
    if pixels.dtype == np.uint8:
        return pixels
    values = pixels
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or (pixels != np.rint(pixels)).any():
            raise BadImage(path, "fractional or infinite values; save it as 8-bit grey")
        values = pixels.astype(np.int64)
    if values.min(initial=0) < 0:
        raise BadImage(path, "negative values; save it as 8-bit grey")
    for step in (1, 257, 256):
        if values.max(initial=0) <= 255 * step and (step == 1 or not (values % step).any()):
            return (values // step).astype(np.uint8)
    raise BadImage(
        path, '16-bit values that don\'t fit 8 bits; use data.source="folder", which scales them'
    )
