"""Fingerprints of images: 64-bit perceptual hashes, pixel digests, and where both are void.

In: grey uint8 [H, W] channels, or the channel files of a catalog.  Out: `phash` bits equal to
imagehash.phash (Zauner 2010; 32x32 Lanczos thumbnail, 8x8 lowest DCT coefficients over their
median), uint64, first coefficient in the highest bit, so f"{h:016x}" is imagehash's text.

The hash of a channel whose thumbnail is (nearly) one grey is rounding noise.  Such channels are
marked not informative, hashed as 0, and never make a match by themselves.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from hpa_jax.core import processes
from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import BadImage, read_channel

CHANNELS = ("red", "green", "blue")  # yellow has no hash (bestfitting)
SIDE = 32  # of the thumbnail
LOW = 8  # lowest frequencies kept of each axis
FLAT = 2  # grey levels between darkest and brightest of a thumbnail that still count as flat:
# a camera's noise gives 0 to 2 (Poisson 1 to 50, 512²), the faintest of 309 real channels 4
_CHUNK = 8  # images a process takes at once; Ctrl-C waits for them


@dataclass(frozen=True)
class Fingerprints:
    """Of N images with K channels.

    hashes: uint64 [N, K], 0 where not informative; informative: bool [N, K]; digests: str [N],
    equal if and only if all K channels hold equal pixels; oriented: uint64 [N, 8, K] or None, the
    hashes of the image's eight rotated and mirrored copies (the first is the image itself).
    """

    hashes: np.ndarray
    informative: np.ndarray
    digests: np.ndarray
    oriented: np.ndarray | None = None

    def rows(self, order: np.ndarray) -> "Fingerprints":
        """Those of the images int[M], in that order."""
        oriented = None if self.oriented is None else self.oriented[order]
        return Fingerprints(
            self.hashes[order], self.informative[order], self.digests[order], oriented
        )


def phash(image: np.ndarray) -> np.uint64:
    """Perceptual hash of one channel, bit for bit imagehash.phash. image: uint8 [H, W].

    Raises:
        InputError: not a two-dimensional uint8 array.
    """
    return phashes(np.asarray(image)[None])[0]


def phashes(images: np.ndarray, workers: int = 1) -> np.ndarray:
    """uint64 [N] of images: uint8 [N, H, W]; `workers` threads make the thumbnails.

    Raises:
        InputError: not a three-dimensional uint8 array.
    """
    return _bits(_spectra(thumbnails(images, workers)))


def thumbnails(images: np.ndarray, workers: int = 1) -> np.ndarray:
    """uint8 [N, 32, 32] of images: uint8 [N, H, W], by Pillow's Lanczos filter (as imagehash).

    Raises:
        InputError: not grey uint8 images with pixels.
    """
    from PIL import Image

    images = np.asarray(images)
    if images.ndim != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise InputError(f"hash of {images.dtype} {images.shape}: needs grey uint8 images [H, W]")

    def one(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS))

    if workers > 1 and len(images) > 1:  # Pillow resizes without the interpreter's lock
        with ThreadPoolExecutor(workers) as pool:
            small = list(pool.map(one, images))
    else:
        small = [one(image) for image in images]
    return np.stack(small) if small else np.empty((0, SIDE, SIDE), np.uint8)


def flat(thumbnails: np.ndarray) -> np.ndarray:
    """bool [N]: which thumbnails [N, 32, 32] are too flat for a hash to mean anything."""
    return np.ptp(thumbnails.reshape(len(thumbnails), -1), axis=1) <= FLAT


def orientations(spectra: np.ndarray) -> np.ndarray:
    """float [N, 8, 8, 8] low spectra of the eight D4 copies of [N, 8, 8]; the first is unchanged.

    Mirroring an image changes the sign of its odd cosine coefficients, transposing it transposes
    them, so the copies need no second look at the pixels.
    """
    sign = np.where(np.arange(LOW) % 2, -1.0, 1.0)
    mirrored = [spectra, spectra * sign, spectra * sign[:, None], spectra * sign * sign[:, None]]
    return np.stack([*mirrored, *(np.swapaxes(m, 1, 2) for m in mirrored)], axis=1)


def _spectra(thumbnails: np.ndarray) -> np.ndarray:
    from scipy import fftpack  # the transform imagehash uses: ties are broken by its rounding

    if not len(thumbnails):
        return np.empty((0, LOW, LOW))
    return fftpack.dct(fftpack.dct(thumbnails, axis=1), axis=2)[:, :LOW, :LOW]


def _bits(spectra: np.ndarray) -> np.ndarray:
    values = spectra.reshape(-1, LOW * LOW)
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def fingerprint(channels: Sequence[np.ndarray | None], oriented: bool = False) -> Fingerprints:
    """Fingerprints (N = 1) of one image's channels, uint8 [H, W]; None is no such channel."""
    hashes = np.zeros((8 if oriented else 1, len(channels)), np.uint64)
    informative = np.zeros(len(channels), bool)
    digest = hashlib.blake2b(digest_size=16)
    for k, channel in enumerate(channels):
        if channel is None:
            digest.update(b"none")
            continue
        digest.update(repr(channel.shape).encode())
        digest.update(np.ascontiguousarray(channel))
        small = thumbnails(channel[None])
        if flat(small)[0]:
            continue
        spectra = _spectra(small)
        informative[k] = True
        hashes[:, k] = _bits(orientations(spectra)[0]) if oriented else _bits(spectra)
    return Fingerprints(
        hashes[:1],
        informative[None],
        np.array([digest.hexdigest()]),
        hashes[None] if oriented else None,
    )


def to_text(prints: Fingerprints) -> str:
    """The fingerprint of one image (N = 1, oriented) as a table keeps it: digest, informative
    channels as 0 and 1, and 16 hex digits for each orientation and channel."""
    assert prints.oriented is not None, "texts hold all orientations"
    informative = "".join(str(int(flag)) for flag in prints.informative[0])
    hashes = "".join(f"{int(value):016x}" for value in prints.oriented[0].ravel())
    return f"{prints.digests[0]} {informative} {hashes}"


def of_texts(texts: Sequence[str], channels: int, oriented: bool = False) -> Fingerprints:
    """The fingerprints of N texts of `to_text`, of images with so many channels."""
    parts = [text.split(" ") for text in texts]
    values = b"".join(bytes.fromhex(hashes) for _, _, hashes in parts)
    every = np.frombuffer(values, ">u8").astype(np.uint64).reshape(len(texts), 8, channels)
    return Fingerprints(
        every[:, 0],
        np.array([list(flags) for _, flags, _ in parts]).reshape(-1, channels) == "1",
        np.array([digest for digest, _, _ in parts], str),
        every if oriented else None,
    )


def of_files(
    files: Sequence[Sequence[str | None]],
    channels: Sequence[str],
    *,
    workers: int = 1,
    oriented: bool = False,
    read: Callable[[str, str], np.ndarray] = read_channel,
    progress: Callable[[Iterator, int], Iterator] | None = None,
    hashed: int | None = None,
) -> tuple[Fingerprints, dict[int, BadImage]]:
    """Fingerprints of N images given as their channel files (None: no such channel), and what is
    wrong with those that can't be used, by their number; these match nothing.

    Args:
        channels: names of the channels.
        hashed: how many of the channels are hashed, K; the others are only read. None: all.
        workers: processes that decode and hash.
        read: (path, channel) -> uint8 [H, W]; importable by name where workers > 1.
        progress: wraps the iterator over images (iterator, N), for a progress bar.
    """
    count = len(channels) if hashed is None else hashed
    jobs = [(tuple(zip(paths, channels, strict=True)), count, oriented, read) for paths in files]
    if workers > 1 and len(jobs) >= processes.WORTHWHILE:
        with processes.pool(workers) as pool:
            results = pool.map(_of_file, jobs, chunksize=_CHUNK)
            found = list(progress(results, len(jobs)) if progress else results)
    else:
        results = map(_of_file, jobs)
        found = list(progress(results, len(jobs)) if progress else results)
    bad = {row: item for row, item in enumerate(found) if isinstance(item, BadImage)}
    for row in bad:
        found[row] = replace(
            fingerprint([None] * count, oriented), digests=np.array([f"bad {row}"])
        )
    return joined(found, count, oriented), bad


def _of_file(job: tuple) -> Fingerprints | BadImage:
    files, count, oriented, read = job
    path = files[0][0]
    try:
        channels = []
        for path, channel in files:
            channels.append(None if path is None else read(path, channel))
        every = count < len(files)  # else one that is not looked at may show something
        if every and not any(channel is not None and channel.any() for channel in channels):
            raise BadImage(path, "all channels are black")
    except BadImage as bad:
        return bad
    except InputError as error:  # of another reader
        return BadImage(path, str(error))
    return fingerprint(channels[:count], oriented)


def joined(parts: Sequence[Fingerprints], channels: int, oriented: bool) -> Fingerprints:
    """All rows of the parts, in their order."""
    if not parts:
        shape = (0, channels)
        empty = np.empty((0, 8, channels), np.uint64) if oriented else None
        return Fingerprints(
            np.empty(shape, np.uint64), np.empty(shape, bool), np.empty(0, str), empty
        )
    return Fingerprints(
        np.concatenate([item.hashes for item in parts]),
        np.concatenate([item.informative for item in parts]),
        np.concatenate([item.digests for item in parts]),
        np.concatenate([item.oriented for item in parts]) if oriented else None,
    )
