"""Images of other forms -> 8-bit grey channel files, once; later steps read only those.

In: an image's files (one a channel, or one of all) and how to read them (`Conversion`).
Out: FOLDER/ID_SIGNATURE_{red,green,blue,yellow}.png, and a .done beside them with what is known of
the original.  The signature names the bytes of the source files and the options, so that a changed
one is imported anew.  Nothing is kept larger than the records need: 74,606 images of four 2048²
planes would be some 600 GB.

The order is that of `data.reader`: decode, orient, select planes, scale intensity, rescale to the
field (crop or pad to its side), reduce.  Padding comes after scaling: its zeros are no dark pixels.
"""

import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core.artifacts import atomic
from hpa_jax.core.contents import digest, sha256
from hpa_jax.core.errors import InputError
from hpa_jax.core.progress import Progress
from hpa_jax.data import hashes, reader
from hpa_jax.data.planes import MAX_PIXELS, BadImage, Planes, Reading, projected
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import CHANNELS, Scaling

BYTES_PER_VALUE = 0.6  # of an 8-bit PNG; the competition's have 0.44 (docs/data.md)
# Of the rows that sources give; who converts nothing leaves the last four out.
COLUMNS = (
    *("id", "source", "labels", *CHANNELS, "original_size", "antibody", "plate", "sample"),
    *("pixel_size", "black", "white", "seen"),
)
LAYOUT = 5  # of what `convert` makes; another one is imported anew
MISSING = ("error", "zeros", "mean")
# Notes of depths that the values decided.
KEPT = "16-bit files whose values fit 8 bits were kept as they are (data.folder.bits)"
DECIDED = "the files don't state their depth; by their values"
Tell = Callable[[str, "dict[str, Any] | None"], None]
# What microscopes write as a channel's name; case, spaces, _ and - don't matter.
STAINS = {
    "red": (
        *("red", "microtubules", "microtubule", "tubulin", "texas red", "cy 3", "tritc", "ds red"),
        *("alexa 555", "alexa fluor 555", "alexa 568", "alexa fluor 568", "alexa 594"),
    ),
    "green": (
        *("green", "protein", "antibody", "gfp", "egfp", "fitc"),
        *("alexa 488", "alexa fluor 488", "af 488"),
    ),
    "blue": ("blue", "nucleus", "nuclei", "dapi", "hoechst", "hoechst 33342", "dna"),
    "yellow": (
        *("yellow", "er", "endoplasmic reticulum", "calreticulin", "cy 5"),
        *("alexa 647", "alexa fluor 647", "af 647"),
    ),
}


@dataclass(frozen=True)
class Conversion:
    """How the files of an image become four 8-bit channels.

    planes: channels of a file of all, in order ("" leaves one out); () by the names in the file.
    names: names of channels that mean one (in lower case: `plain`), beside STAINS.
    missing: channel -> error, zeros or mean (of the others); green has no rule, it must be there.
    field_um: side of a training image in µm; 0 leaves the size.  pixel_size: µm a pixel where
    the files don't say (0: unknown).  largest: side to which larger images are reduced; 0: none.
    reading: projection, frame and range of values; `single` is told by the files.
    keep: whether 8-bit channel files are used where they lie (TIFF never: it is slow to read).
    """

    planes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    scaling: Scaling = field(default_factory=Scaling)
    missing: Mapping[str, str] = field(default_factory=dict)
    field_um: float = 0.0
    pixel_size: float = 0.0
    largest: int = 0
    reading: Reading = field(default_factory=Reading)
    keep: bool = True


@dataclass(frozen=True)
class Files:
    """The files of one image: channel -> path, or {"": path} of a file of all channels.

    scene: number of the image in files that hold several.  plate: what it is scaled with.
    stacks: channel -> further planes of a Z stack that has a file a plane.
    """

    paths: Mapping[str, str]
    scene: int = 0
    plate: str = ""
    stacks: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def every(self) -> list[str]:
        """All paths."""
        return [*self.paths.values(), *(path for paths in self.stacks.values() for path in paths)]

    def kept(self) -> bool:
        """Whether they may be used where they lie, a plain file a channel."""
        plain = all(c and Path(p).suffix.lower() in reader.PLAIN for c, p in self.paths.items())
        return plain and not self.stacks


def rows(
    images: Mapping[str, Files],
    into: Path,
    conversion: Conversion,
    problems: Problems,
    *,
    content: Callable[[str], str] = sha256,
    title: str = "import",
    hint: Mapping[str, str] | None = None,
    tell: Tell | None = None,
    workers: int | None = None,
    hashed: bool = False,
) -> dict[str, dict[str, Any]]:
    """id -> channel paths, original_size, pixel_size (µm or None), black and white points; images
    that can't be used become findings. 8-bit channel files are used where they lie.

    into: folder for converted copies; what no image needs is removed there.
    hint: what a problem's text gets added.
    tell: called with (id, row, or None if it can't be used) of each image in turn, while later ones
    are converted.
    workers: threads that read and convert; None: one a core.
    hashed: see `seen`.

    Raises:
        InputError: too little disk.
    """
    into.mkdir(parents=True, exist_ok=True)
    bad: dict[str, BadImage] = {}
    options = _json(conversion)

    def guarded(work: Callable[[str], Any], id: str) -> Any:
        try:
            return work(id)
        except BadImage as error:
            bad.setdefault(id, error)
            return None

    def sign(id: str) -> str:
        files = images[id]
        for path in files.every():
            if not os.path.exists(path):
                raise BadImage(path, "no such file")
        # The same files as other channels are another image.
        return signature(files.every(), (LAYOUT, options, files.scene, list(files.paths)), content)

    kept = _kept(images, conversion)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        signed = [id for id in images if id not in kept]
        marks = dict(zip(signed, pool.map(functools.partial(guarded, sign), signed)))
        shared: dict[str, str] = {}
        levels: dict[str, dict[str, tuple[float, float]]] = {}
        if conversion.scaling.over != "image":
            shared, levels = _shared_points(images, marks, conversion, guarded, pool, title)
        for id, group in shared.items():
            if marks[id]:
                over = conversion.scaling.over
                problems.note(f"all images were read once more for points over the {over}", id)
                marks[id] = digest(marks[id], sorted(levels.get(group, {}).items()))[:8]
        before = {id: known(into, id, mark) for id, mark in marks.items() if mark}
        todo = [id for id, row in before.items() if row is None]
        if todo and conversion.largest:
            example = next(iter(images[todo[0]].paths.values()))
            check_disk(into, len(todo), conversion.largest, example)

        def work(id: str) -> dict[str, Any]:
            if (row := before.get(id)) is not None:
                return row
            given = levels.get(shared[id], {}) if id in shared else None
            mark = functools.partial(sign, id) if id in kept else lambda: marks[id]
            return convert(id, images[id], into, conversion, mark, given, hashed)

        ready = [id for id in images if id not in bad]
        results = pool.map(functools.partial(guarded, work), ready)
        done = {}
        with Progress(title, len(ready)) as progress:
            for id, row in zip(ready, results):
                done[id] = row
                progress.add()
                if tell is not None:
                    tell(id, row)
    for id, error in sorted(bad.items()):
        problems.add(error.path, id, error.what + (hint or {}).get(error.what, ""))
    found = {id: row for id, row in done.items() if row is not None}
    _tell_depths({id: row.get("notes", ()) for id, row in found.items()}, problems)
    for id, row in found.items():
        for note in row.pop("notes", ()):
            problems.decided(note, id)
    clean(into, ({c: row[c] for c in CHANNELS} for row in found.values()))
    return found


def _tell_depths(notes: Mapping[str, Sequence[str]], problems: Problems) -> None:
    """Warns where the values of images that one camera took, presumably, give several depths."""
    depths = {id: n for id, said in notes.items() for n in said if n.startswith((KEPT, DECIDED))}
    (most, _), *_ = Counter(depths.values()).most_common(1) or [("", 0)]
    for id, note in depths.items():
        if note != most:
            problems.warn(
                "by their values some images have another depth than the rest and are scaled "
                "otherwise; data.folder.bits says the camera's",
                id,
            )


def _kept(images: Mapping[str, Files], conversion: Conversion) -> set[str]:
    """Images whose files are probably used where they lie, judged by one of them: they need no
    disk, and no signature unless they must be converted after all."""  # fmt: skip
    if not conversion.keep or conversion.field_um or conversion.scaling.over != "image":
        return set()
    plain = [id for id, files in images.items() if files.kept()]
    try:
        if plain:
            reader.size(next(iter(images[plain[0]].paths.values())))
    except BadImage:  # more than 8 bits, most likely as the others; a broken one is told later
        return set()
    return set(plain)


def convert(
    id: str,
    files: Files,
    into: Path,
    conversion: Conversion,
    mark: Callable[[], str],
    levels: Mapping[str, tuple[float, float]] | None = None,
    hashed: bool = False,
) -> dict[str, Any]:
    """One image by the whole chain.

    mark: gives the signature of its files, for which all their bytes are read: asked for only if
    a copy is stored.  levels: channel -> black and white point, where images share them.
    hashed: see `seen`.

    Raises:
        BadImage: it can't be read with certainty, or a channel is missing without a rule.
    """
    planes, read = select(files, conversion)
    path = next(iter(files.paths.values()))
    first = next(iter(planes.values()))
    for plane in planes.values():
        if plane.shape != first.shape:
            raise BadImage(path, reader.sizes_differ(plane.shape, first.shape))
    filled = _missing(planes, path, conversion.missing)
    micrometres = read.pixel_size or conversion.pixel_size or None
    eight, blacks, whites, notes = _eight_bits(planes, read.bits, conversion.scaling, levels)
    about: dict[str, Any] = {
        "original_size": max(first.shape),
        "pixel_size": micrometres,
        "black": blacks,
        "white": whites,
        "notes": [*dict.fromkeys((*read.notes, *notes))],
    }
    cropped = bool(conversion.field_um and micrometres)
    kept = files.kept() and conversion.keep
    kept = kept and all(plane.dtype == np.uint8 for plane in planes.values())
    if kept and not cropped and not filled and blacks is None:
        about["seen"] = seen(eight, path, hashed)
        return {**{c: files.paths.get(c) for c in CHANNELS}, **about}
    if filled:
        mean = np.stack(list(eight.values())).astype(np.float32).mean(axis=0)
        eight |= {channel: np.rint(mean).astype(np.uint8) for channel in filled}
    if cropped and micrometres:
        side = max(1, round(conversion.field_um / micrometres))
        if side**2 > MAX_PIXELS:
            raise BadImage(path, f"{conversion.field_um:g} µm are {side:,} of its pixels; refused")
        eight = {c: to_field(plane, side) for c, plane in eight.items()}
    eight = {c: reduced(plane, conversion.largest) for c, plane in eight.items()}
    about["seen"] = seen(eight, path, hashed)
    signed = mark()
    return known(into, id, signed) or store(into, id, signed, eight, about)


def seen(
    planes: Mapping[str, np.ndarray], path: str | Path, hashed: bool = False
) -> dict[str, Any]:
    """What the catalog notes of an image's pixels, uint8[H, W] by channel: size [H, W], `files` (16
    hex digits of them), what looks odd and, if `hashed`, the fingerprint of near-duplicates.

    Raises:
        BadImage: all channels are black.
    """
    if not any(plane.any() for plane in planes.values()):
        raise BadImage(path, "all channels are black")
    present = {c: np.ascontiguousarray(planes[c]) for c in CHANNELS if c in planes}
    zeros = np.zeros_like(next(iter(present.values())))
    image = np.stack([present.get(channel, zeros) for channel in CHANNELS], axis=-1)
    mark = hashlib.blake2b(image, digest_size=8).hexdigest()
    found = {"size": list(zeros.shape), "files": mark, "notes": reader.looks(present)}
    if hashed:
        prints = hashes.fingerprint([planes.get(c) for c in hashes.CHANNELS], oriented=True)
        found["fingerprint"] = hashes.to_text(prints)
    return found


def select(files: Files, conversion: Conversion) -> tuple[dict[str, np.ndarray], Planes]:
    """Channel -> plane [H, W] uint8 or uint16 in true values, and what the files state (pixel size,
    bits, notes; `pixels` is of one of them).

    Raises:
        BadImage: unreadable, or which plane is which channel can't be told.
    """
    planes: dict[str, np.ndarray] = {}
    sizes, bits, values, notes = [], [], [], []
    for channel, path in files.paths.items():
        how = replace(conversion.reading, single=bool(channel))
        image = _stacked((path, *files.stacks.get(channel, ())), how, files.scene)
        sizes.append(image.pixel_size)
        bits.append(image.bits)
        notes += image.notes
        values.append(image.values)
        if channel:
            planes[channel] = reader.one_plane(image, channel, path)
        else:
            planes, said = _named(image, conversion, path)
            notes += said
    known_sizes = {size for size in sizes if size}
    if known_sizes and max(known_sizes) > 1.01 * min(known_sizes):
        some = " and ".join(f"{size:.3g}" for size in sorted(known_sizes))
        raise BadImage(path, f"the channels' files state different pixel sizes ({some} µm)")
    _check_values(path, values)
    stated = max(bits) if all(bits) else None
    size = max(known_sizes) if known_sizes else None
    return planes, Planes(image.pixels, pixel_size=size, bits=stated, notes=tuple(notes))


def _stacked(paths: Sequence[str], how: Reading, scene: int) -> Planes:
    """The planes of a file, or of the files of a Z stack as one.

    Raises:
        BadImage: unreadable, or the files of a stack differ in size.
    """
    first, *others = [reader.planes(path, how, scene) for path in paths]
    if not others:
        return first
    for path, other in zip(paths[1:], others, strict=True):
        if other.pixels.shape != first.pixels.shape:
            raise BadImage(path, "has another size than the other planes of its Z stack")
    every = np.stack([image.pixels for image in (first, *others)])
    _check_values(paths[0], [image.values for image in (first, *others)])
    pixels = projected(paths[0], every, 0, how.project)
    notes = (*first.notes, f"Z stacks became one plane ({how.project})")
    return replace(first, pixels=pixels, notes=tuple(dict.fromkeys(notes)))


def _check_values(path: str, values: Iterable[str]) -> None:
    """Refuse an image whose files' pixels were understood in several ways: one of them is wrong.

    Raises:
        BadImage: they were.
    """
    if len(ways := sorted(set(values) - {""})) > 1:
        raise BadImage(
            path,
            f"in some files of its image pixels look like {' and in others like '.join(ways)}; "
            "data.folder.value_range=(BLACK, WHITE) says it of floats, signed ones must be stored "
            "as unsigned",
        )


def plain(name: str) -> str:
    """A channel's name in lower case without what writers add."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def channel_named(name: str, names: Mapping[str, str]) -> str | None:
    """The channel that a microscope's name of it means; None if that is unknown."""
    text = plain(name)
    given = {plain(key): channel for key, channel in names.items()}
    return given[text] if text in given else _CHANNEL_OF.get(text)


_CHANNEL_OF = {plain(stain): channel for channel, stains in STAINS.items() for stain in stains}


def _named(
    image: Planes, conversion: Conversion, path: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Channel -> plane of a file of all channels: by the given order, else by the file's names."""
    order, pixels = conversion.planes, image.pixels
    if order:
        if image.alpha and len(order) == len(pixels) - 1:
            pixels = reader.without_alpha(image, path)
        if len(order) != len(pixels):
            raise BadImage(path, f"{len(pixels)} planes, data.folder.planes names {len(order)}")
        by_file = [channel_named(name, conversion.names) for name in image.names]
        odd = [
            f"{name!r} is {told}, not {given}"
            for name, told, given in zip(image.names, by_file, order)
            if told and given and told != given
        ]
        if odd:
            raise BadImage(path, f"contradicts data.folder.planes: {', '.join(odd)} by its names")
        return {name: plane for name, plane in zip(order, pixels, strict=True) if name}, []
    if image.alpha and image.colour:
        pixels = reader.without_alpha(image, path)
    if len(pixels) == 1 and not image.names[0]:
        raise BadImage(
            path,
            "holds one channel, and its name doesn't say which: data.folder.pattern tells how "
            "files are named, e.g. {id}_{channel}",
        )
    if len(pixels) == 3 and not any(image.names):
        said = "three planes without names were taken for red, green, blue"
        return dict(zip(CHANNELS, pixels)), [] if image.colour and image.lossy else [said]
    planes: dict[str, np.ndarray] = {}
    for name, plane in zip(image.names, pixels):
        channel = channel_named(name, conversion.names)
        if channel is None or channel in planes:
            named = f"planes named {', '.join(map(repr, image.names))}"
            said = named if any(image.names) else f"{len(image.names)} planes without names"
            some = ("red", "green", "blue") if len(pixels) == 3 else CHANNELS
            raise BadImage(
                path,
                f"{said}: which are red, green, blue, "
                "yellow? Set data.folder.planes (in the order of the file: "
                f'--config.data.folder.planes="{some}"; three without yellow: '
                "--config.data.folder.missing.yellow=zeros too), or data.folder.channels",
            )
        planes[channel] = plane
    return planes, []


def _missing(planes: Mapping[str, np.ndarray], path: str, rules: Mapping[str, str]) -> list[str]:
    """Channels to fill with the mean of the others.

    Raises:
        BadImage: a channel is missing and must not be.
    """
    missing = [c for c in CHANNELS if c not in planes]
    for channel in missing:
        if rules.get(channel, "error") == "error":
            there = tuple(c for c in CHANNELS if c in planes)
            remedy = (
                f"--config.data.folder.missing.{channel}=zeros (or mean), or a model of the "
                f"channels that are there (channels={there})"
            )
            raise BadImage(
                path, f"no {channel} channel" + ("" if channel == "green" else f"; {remedy}")
            )
    return [channel for channel in missing if rules[channel] == "mean"]


def _eight_bits(
    planes: Mapping[str, np.ndarray],
    bits: int | None,
    scaling: Scaling,
    levels: Mapping[str, tuple[float, float]] | None,
) -> tuple[dict[str, np.ndarray], list | None, list | None, list[str]]:
    """Channels as uint8, their black and white points in the order of CHANNELS (None: not scaled),
    and what was decided."""
    channels, stated = list(planes.values()), scaling.bits or bits
    eight = None
    if not levels and (not stated or stated <= 8):
        eight = reader.as_eight_bits(channels)
    if eight is not None:
        deep = any(plane.dtype != np.uint8 for plane in channels)
        said = [KEPT]
        return dict(zip(planes, eight)), None, None, said if deep else []
    deep = {c: plane for c, plane in planes.items() if plane.dtype != np.uint8}
    if not deep:
        return {c: np.ascontiguousarray(p) for c, p in planes.items()}, None, None, []
    decided, notes = reader.depth(list(deep.values()), stated), []
    if not stated:
        top = max(int(plane.max(initial=0)) for plane in deep.values())
        notes.append(f"{DECIDED} {decided} bits")
        if top <= 255:
            notes = ["ambiguous depth: values fit 8 bits but nothing is black; taken for 12 bits"]
    used = {
        c: (levels or {}).get(c) or reader.points(reader.histogram(plane), decided, scaling)
        for c, plane in deep.items()
    }
    out = {
        c: reader.scale(plane, *used[c]) if c in used else np.ascontiguousarray(plane)
        for c, plane in planes.items()
    }
    blacks, whites = ([used[c][k] if c in used else None for c in CHANNELS] for k in (0, 1))
    return out, blacks, whites, notes


def _shared_points(
    images: Mapping[str, Files],
    marks: Mapping[str, str | None],
    conversion: Conversion,
    guarded: Callable[..., Any],
    pool: ThreadPoolExecutor,
    title: str,
) -> tuple[dict[str, str], dict[str, dict[str, tuple[float, float]]]]:
    """id -> group of images with common points, and group -> channel -> points: a first reading of
    every image, whose histograms are added."""
    plates = conversion.scaling.over == "plate"
    groups = {id: files.plate if plates else "" for id, files in images.items()}
    if plates and not all(groups.values()):
        raise InputError(
            "data.folder.scale_over=plate: the pattern must say which part of a path is {plate} "
            "(an OME-Zarr plate says it itself)"
        )

    def look(id: str) -> tuple[dict[str, np.ndarray], int, bool]:
        planes, read = select(images[id], conversion)
        fits = reader.as_eight_bits(list(planes.values())) is not None
        deep = {c: plane for c, plane in planes.items() if plane.dtype != np.uint8}
        stated = conversion.scaling.bits or read.bits
        bits = reader.depth(list(deep.values()), stated) if deep else 0
        return {c: reader.histogram(plane) for c, plane in deep.items()}, bits, fits

    ready = [id for id in images if marks[id]]
    sums: dict[str, dict[str, np.ndarray]] = {}
    bits: dict[str, int] = {}
    whole: dict[str, bool] = {}
    results = pool.map(functools.partial(guarded, look), ready)
    with Progress(f"{title}: first reading", len(ready)) as progress:
        for id, seen in zip(ready, results):
            progress.add()
            if seen is None:
                continue
            histograms, depth, fits = seen
            group = groups[id]
            bits[group] = max(bits.get(group, 0), depth)
            whole[group] = whole.get(group, True) and fits
            total = sums.setdefault(group, {})
            for channel, counts in histograms.items():
                total[channel] = total.get(channel, 0) + counts
    levels = {
        group: {}
        if whole[group] and not conversion.scaling.bits
        else {c: reader.points(h, bits[group], conversion.scaling) for c, h in total.items()}
        for group, total in sums.items()
    }
    return groups, levels


def _json(conversion: Conversion) -> str:
    return json.dumps(asdict(conversion), sort_keys=True, default=list)


def signature(
    files: Iterable[str | Path], options: object, content: Callable[[str], str] = sha256
) -> str:
    """Eight hex digits of the files' names and bytes and of the options.

    content: file -> digest of its bytes.
    """
    whole = []
    for file in map(Path, files):
        if file.is_dir():
            parts = reader.files_of(file)
            whole += [(os.path.relpath(part, file.parent), content(part)) for part in parts]
        else:
            whole.append((file.name, content(str(file))))
    return digest(whole, options)[:8]


def known(folder: Path, id: str, mark: str) -> dict[str, Any] | None:
    """The channel files of an id that is imported already and what `store` was told, else None."""
    try:
        about = json.loads((folder / f"{id}_{mark}.done").read_text())
        present = about.pop("channels")
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # absent, or of an older layout
        return None
    paths = {c: str(_path(folder, id, mark, c)) if c in present else None for c in CHANNELS}
    return {**paths, **about}


def store(
    folder: Path, id: str, mark: str, planes: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes channels uint8[H, W] by name; an absent one stays absent (None).

    about: further facts that `known` gives back (JSON), e.g. original_size.
    """
    from PIL import Image

    for channel, plane in planes.items():
        with atomic(_path(folder, id, mark, channel)) as temporary:
            Image.fromarray(plane).save(temporary, "PNG", compress_level=1)
    with atomic(folder / f"{id}_{mark}.done") as temporary:
        temporary.write_text(json.dumps({"channels": list(planes), **about}))
    return known(folder, id, mark) or {}


def reduced(plane: np.ndarray, side: int) -> np.ndarray:
    """uint8[H, W] as the records of that side have it, if it is larger; side 0 leaves it."""
    if not side or min(plane.shape) <= side:
        return plane
    return reader.resize(plane[..., None], side)[..., 0]


def check_disk(folder: Path, count: int, side: int, example: str | Path) -> None:
    """Before `count` images are imported; example: a file of one; side: see `reduced`.

    Raises:
        InputError: too little disk.
    """
    try:
        original = max(reader.size(example)) if count else 0
    except BadImage:
        original = side
    stored = min(original, side) if side else original
    need = count * len(CHANNELS) * stored**2 * BYTES_PER_VALUE
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{folder}: {count:,} images need about {need / 1e9:.1f} GB as grey files, "
            f"{free / 1e9:.1f} GB are free; make room, or store smaller ones (records.image_size)"
        )


def clean(folder: Path, wanted: Iterable[Mapping[str, str | None]]) -> None:
    """Removes what no row refers to: imports of changed or vanished images."""
    keep = {path for row in wanted for path in row.values() if path}
    for path in folder.glob("*.png"):
        if str(path) not in keep:
            path.unlink()
    for done in folder.glob("*.done"):
        if not any(done.with_name(f"{done.stem}_{c}.png").is_file() for c in CHANNELS):
            done.unlink()


def to_field(plane: np.ndarray, side: int) -> np.ndarray:
    """The middle side x side pixels; zeros where the plane is smaller."""
    out = np.zeros((side, side), plane.dtype)
    height, width = min(side, plane.shape[0]), min(side, plane.shape[1])
    top, left = (plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2
    row, column = (side - height) // 2, (side - width) // 2
    out[row : row + height, column : column + width] = plane[
        top : top + height, left : left + width
    ]
    return out


def _path(folder: Path, id: str, mark: str, channel: str) -> Path:
    return folder / f"{id}_{mark}_{channel}.png"


def checked_missing(rules: Mapping[str, str], where: str) -> dict[str, str]:
    """Rules of missing channels.

    Raises:
        InputError: an unknown channel or rule.
    """
    for channel, rule in rules.items():
        if channel not in CHANNELS or channel == "green":
            raise InputError(f"{where}.missing.{channel}: of red, blue, yellow")
        if rule not in MISSING:
            names = ", ".join(MISSING)
            raise InputError(f"{where}.missing.{channel}={rule!r}: one of {names}")
    return dict(rules)


def channel_names(text: str | Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Names of channels: "DAPI:blue,GFP:green" -> {"DAPI": "blue", "GFP": "green"}.

    Raises:
        InputError: no such form, or no such channel.
    """
    if isinstance(text, Mapping):
        pairs = list(text.items())
    else:
        parts = text.split(",") if isinstance(text, str) else list(text)
        pairs = [tuple(part.rsplit(":", 1)) for part in parts if part.strip()]
    names = {}
    for pair in pairs:
        if len(pair) != 2 or pair[1].strip() not in CHANNELS:
            raise InputError(
                f"data.folder.channels={text!r}: as NAME:CHANNEL,NAME:CHANNEL with channels of "
                f"{', '.join(CHANNELS)}"
            )
        names[pair[0].strip()] = pair[1].strip()
    return names
