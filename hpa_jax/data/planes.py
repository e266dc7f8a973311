"""The planes of an image file as every format gives them, and the rules that all formats share.

In: an array with a letter an axis (T, C, Z, Y, X, S) and the metadata of the file.  Out: `Planes`,
[P, H, W] in true values.  A Z stack becomes one plane, a time series is refused unless a frame is
given: which time point would be the image?
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpa_jax.core.errors import InputError

PROJECTIONS = ("max", "mean", "middle", "refuse")
# A PNG of a few kB can claim gigapixels; the competition's largest has 4096².
MAX_PIXELS = 100_000_000
MAX_BYTES = 8 * MAX_PIXELS  # of all planes: four of 100 megapixels in 16 bits
SMALLEST, LARGEST = 0.01, 5.0  # µm a pixel of a light microscope
MICROMETRES = {"µm": 1.0, "um": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "inch": 25400.0}
MICROMETRES |= {"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
MICROMETRES |= {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


@dataclass(frozen=True)
class Reading:
    """What of a file is wanted.

    single: it holds one channel; unnamed pages are a Z stack then, else they are channels.
    project: of a Z stack: PROJECTIONS.  frame: of a time series the one to take; None refuses it.
    value_range: (black, white) of float pixels that are not within 0..1; () where unknown.
    """

    single: bool = False
    project: str = "max"
    frame: int | None = None
    value_range: tuple[float, ...] = ()


class BadImage(InputError):
    """An image file that can't be used. `what` is the reason without the path."""

    def __init__(self, path: str | Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = str(path), what

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what)  # so that it can come from another process


@dataclass(frozen=True)
class Planes:
    """The planes of one image in a file, upright, in their true values.

    pixels: [P, H, W] uint8 or uint16.  names: of the planes, "" where unknown.
    pixel_size: µm a pixel, None where the file states none or an impossible one.
    bits: significant bits, where the file states them.  colour: the planes are the red, green and
    blue (and alpha, if `alpha`) samples of one image.  values: how signed or float pixels were
    understood, "" where their type or all of them being 0 left no choice.  notes: decisions a
    person should know.
    """

    pixels: np.ndarray
    names: tuple[str, ...] = ()
    pixel_size: float | None = None
    bits: int | None = None
    colour: bool = False
    alpha: bool = False
    lossy: bool = False
    values: str = ""
    notes: tuple[str, ...] = ()


def without_alpha(image: Planes, path: str | Path) -> np.ndarray:
    """[P, H, W] without a plane of transparency.

    Raises:
        BadImage: it is partly transparent.
    """
    if not image.alpha:
        return image.pixels
    if (image.pixels[-1] != np.iinfo(image.pixels.dtype).max).any():
        raise BadImage(
            path,
            "partly transparent; save it without transparency, or as OME-TIFF if the plane of "
            "transparency is a channel",
        )
    return image.pixels[:-1]


def ordered(
    path: Path,
    pixels: np.ndarray,
    axes: str,
    how: Reading,
    *,
    colour: bool = False,
    alpha: bool = False,
) -> Planes:
    """[P, H, W] of an array.

    axes: a letter an axis: T, C, Z, Y, X, S (samples of a colour image), Q or I (unnamed, pages).
    colour: the samples are red, green and blue.  alpha: the last of them is transparency.

    Raises:
        BadImage: a time series, or more axes than one image has.
    """
    notes = []
    for letter in axes:
        at, length = axes.index(letter), pixels.shape[axes.index(letter)]
        if letter in "YX":
            continue
        if length == 1:
            pixels = pixels.squeeze(axis=at)
        elif letter == "Z" or (how.single and letter in "QI"):
            pixels = projected(path, pixels, at, how.project)
            notes.append(f"Z stacks became one plane ({how.project})")
        elif letter == "T" and how.frame is not None:
            if not -length <= how.frame < length:
                raise BadImage(path, f"has {length} of axis T, data.folder.frame={how.frame}")
            pixels = pixels.take(how.frame, axis=at)
            notes.append(f"of time series frame {how.frame} was taken")
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
    alpha = alpha and rest == "S"
    colour = rest == "S" and (colour or (alpha and len(pixels) == 2))
    return Planes(pixels, colour=colour, alpha=alpha, notes=tuple(notes))


def projected(path: str | Path, pixels: np.ndarray, axis: int, project: str) -> np.ndarray:
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
    return (mean if pixels.dtype.kind == "f" else np.rint(mean)).astype(pixels.dtype)


def check_claim(path: Path, shape: Sequence[int], axes: str, dtype: np.dtype | None) -> None:
    """What decoding would allocate, from the header alone: a few kB can claim gigabytes.

    Raises:
        BadImage: too large, or no numbers.
    """
    if dtype is None or dtype.kind not in "uifb" or dtype.itemsize > 8:
        raise BadImage(path, f"{dtype} pixels; whole numbers and floats are read")
    plane = math.prod(length for length, letter in zip(shape, axes) if letter in "YX")
    if plane > MAX_PIXELS or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise BadImage(path, f"claims {' x '.join(map(str, shape))} {dtype} values; refused")


def plausible(size: float | None) -> float | None:
    """µm a pixel; None outside of what light microscopes give (72 dpi would be 353 µm)."""
    return size if size is not None and SMALLEST <= size <= LARGEST else None


def check_square(path: str | Path, across: float | None, down: float | None) -> None:
    """Refuse pixels of another height than width, which no rescaling here would mend.

    Raises:
        BadImage: sizes that differ by more than 1 %; unknown or impossible ones don't count.
    """
    if across and down and min(across, down) > 0 and abs(across / down - 1) > 0.01:
        raise BadImage(path, f"its pixels are not square ({across:g} x {down:g}); resample it")


def is_ramp(colours: np.ndarray) -> bool:
    """Whether a palette uint8[N, 3] is a look-up table that shows intensity in colour: from black
    it gets brighter with the index, in small steps (a sorted palette jumps between hues).

    The first and the last colour may be marks of under- and overexposure.
    """
    if len(colours) <= 16 or (colours == colours[:, :1]).all():
        return False
    inner = colours[1:-1].astype(np.int64)
    light, steps = inner @ (299, 587, 114), np.abs(np.diff(inner, axis=0))
    dips = (np.maximum.accumulate(light) - light).max()  # ImageJ's "fire" has some of half a level
    rises = dips <= 2_000 and light[-1] == light.max() and len(np.unique(light)) > 0.8 * len(light)
    return bool(rises and light[0] <= 16_000 and steps.max() <= 32)
