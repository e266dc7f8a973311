"""Your own images -> catalog rows.

In: a folder of PNG, JPEG, TIFF or OME-TIFF files, one a channel (pattern "{id}_{channel}") or one a
image ("{id}"), and, if they are known, labels.csv (id, labels as names or numbers).
Out: rows of source "own" whose channels are 8-bit grey files: those of the folder where they are
that already, otherwise converted copies in `imported`.

16 bits are stretched per image and channel between `percentiles`.  `field_um` is the side of a
training image in µm (competition: 2048 pixels of 0.08 µm, so 163.84); images that know their
pixel size are cut or padded to it, and so get the training's µm a pixel at any stored size.
"""

import functools
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError, near
from hpa_jax.data import planes as fields
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import CHANNELS, BadImage, inside, sizes_differ, to_grey
from hpa_jax.data.sources import competition, csv_tables, imported

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".ome.tif", ".ome.tiff", *competition.SUFFIXES)
# What microscopes write as a channel's name, in lower case, each meaning one plane of the four.
STAINS = {
    "red": ("red", "microtubules", "tubulin", "texasred", "alexa 555", "cy3", "tritc"),
    "green": ("green", "protein", "antibody", "alexa 488", "gfp", "egfp", "fitc"),
    "blue": ("blue", "nucleus", "nuclei", "dapi", "hoechst"),
    "yellow": ("yellow", "er", "endoplasmic reticulum", "calreticulin", "alexa 647", "cy5"),
}
MISSING_YELLOW = ("error", "zeros", "mean")
UNKNOWN = {"antibody": None, "plate": None, "sample": None}
SEPARATORS = re.compile(r"[;|,]")


def scan(
    root: str | Path,
    class_names: Sequence[str],
    problems: Problems,
    *,
    into: str | Path,
    pattern: str = "{id}_{channel}",
    tokens: Mapping[str, str] | None = None,
    planes: Sequence[str] = (),
    labels: str = "labels.csv",
    percentiles: Sequence[float] = (0.1, 99.9),
    missing_yellow: str = "error",
    field_um: float = 0.0,
    pixel_size: float = 0.0,
    part: str = "own",
    not_only: Sequence[int] = (),
    largest: int = 0,
    content: Callable[[str], str] = sha256,
) -> "pd.DataFrame":
    """Rows of every image of the folder.

    into: folder for converted copies.  pattern: path below root without suffix.
    tokens: channel -> how file names write it (default: its own name), with {channel}.
    planes: channels of a multichannel file in order; () takes the names in the file.
    missing_yellow: "error", "zeros", or "mean" of the other three.
    field_um: side of a training image in µm; 0 leaves images as they are.
    pixel_size: µm a pixel where the files don't say (0: unknown).
    not_only: images that have no class beside these are left out.
    largest: side in pixels to which larger images are reduced if they are converted; 0 keeps it.
    content: file -> digest of its bytes.

    Raises:
        InputError: no folder, a wrong option, no file fits the pattern, or too little disk.
    """
    import pandas as pd
    from tqdm import tqdm

    root, into = Path(root), Path(into)
    _check_options(pattern, planes, missing_yellow, percentiles)
    files = find(root, pattern, tokens or {c: c for c in CHANNELS}, problems)
    known_labels = read_labels(root / labels, class_names, problems, files)
    for id in sorted(set(known_labels) - set(files)):
        problems.add(root / labels, id, "has no images in the folder")
    settings = (tuple(planes), tuple(percentiles), missing_yellow, field_um, pixel_size, largest)

    def convert(id: str) -> dict[str, Any] | BadImage:
        try:
            return _convert(id, files[id], into, settings, marks[id])
        except BadImage as bad:
            return bad

    into.mkdir(parents=True, exist_ok=True)
    common = set(not_only)
    ids = sorted(id for id in files if not common or not set(known_labels.get(id, ())) <= common)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        sign = functools.partial(imported.signature, options=settings, content=content)
        marks = dict(zip(ids, pool.map(sign, (files[id].values() for id in ids))))
    todo = [id for id in ids if imported.known(into, id, marks[id]) is None]
    if todo and largest:
        imported.check_disk(into, len(todo), largest, next(iter(files[todo[0]].values())))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bar = tqdm(pool.map(convert, ids), total=len(ids), desc="folder", disable=None)
        results = list(bar)
    rows, sizes = [], []
    for id, result in zip(ids, results, strict=True):
        if isinstance(result, BadImage):
            problems.add(result.path, id, result.what)
            continue
        sizes.append(result.pop("pixel_size"))
        rows.append({"id": id, "source": part, "labels": known_labels.get(id), **result})
    imported.clean(into, ({c: row[c] for c in CHANNELS} for row in rows))
    _warn_of_sizes(root, sizes, field_um)
    columns = ["id", "source", "labels", *CHANNELS, *competition.SPECIMEN]
    return pd.DataFrame(rows, columns=columns).astype(object)


def _warn_of_sizes(root: Path, sizes: Sequence[float | None], field_um: float) -> None:
    """Says where images may not have the training's µm a pixel. sizes: of each, None: unknown."""
    known = [size for size in sizes if size is not None]
    if field_um and len(known) < len(sizes):
        warnings.warn(
            f"{root}: {len(sizes) - len(known)} of {len(sizes)} images don't say their pixel "
            "size (or one that no microscope has) and stay as they are; set pixel_size (µm) if "
            "their magnification differs from the training's",
            stacklevel=3,
        )
    if not field_um and known:
        warnings.warn(
            f"{root}: {len(known)} of {len(sizes)} images say their pixel size (e.g. "
            f"{known[0]:.3g} µm), which is not used; data.folder.field_um, the side of a training "
            "picture in µm (competition: 163.84), brings them to the training's magnification",
            stacklevel=3,
        )


def find(
    root: Path, pattern: str, tokens: Mapping[str, str], problems: Problems
) -> dict[str, dict[str, str]]:
    """id -> {channel: path}, or {"": path} of a multichannel file.

    Raises:
        InputError: no such folder, or nothing in it fits the pattern.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder (data.root)")
    channel_of = {token: channel for channel, token in tokens.items()}
    choices = "|".join(re.escape(token) for token in sorted(channel_of, key=len, reverse=True))
    expression = re.escape(pattern).replace(r"\{id\}", "(?P<id>[^/]+)")
    expression = expression.replace(r"\{channel\}", f"(?P<channel>{choices})")
    found: dict[str, dict[str, str]] = defaultdict(dict)
    strange = ""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), None)
        match = re.fullmatch(expression, name[: -len(suffix)]) if suffix else None
        if match is None:
            strange = strange or (name if suffix else "")
            continue
        id = match["id"]
        channel = channel_of[match["channel"]] if "channel" in match.groupdict() else ""
        if not inside(root, path):
            problems.add(path, id, "a link that leaves data.root; copy the file")
        elif not competition.safe_id(id):
            problems.add(path, id, "an id must be a plain name")
        elif channel in found[id]:
            problems.add(path, id, f"the image is there twice (also {found[id][channel]})")
        else:
            found[id][channel] = str(path)
    found = {id: files for id, files in found.items() if files}
    if not found:
        raise InputError(
            f"{root}: no image fits the pattern {pattern!r} with a suffix {', '.join(SUFFIXES)}"
            + (f"; {strange} does not: --config.data.folder.pattern says how" if strange else "")
            + " ({id} alone: one file with all channels)"
        )
    return found


def read_labels(
    path: Path, class_names: Sequence[str], problems: Problems, known_ids: Collection[str] = ()
) -> dict[str, list[int]]:
    """id -> class numbers of labels.csv; {} without the file, ids with an empty label left out.

    The label column is the second: numbers ("0 25") or names, separated by ; | or ,
    A first row that names one of `known_ids`, or whose labels are classes, is no header.

    Raises:
        InputError: no readable CSV with two columns.
    """
    if not path.is_file():
        return {}
    table = csv_tables.rows(path)
    if table.shape[1] < 2:
        raise InputError(f"{path}: needs two columns, id and labels")
    cells = table.iloc[:, :2].to_numpy().tolist()
    first_labels, wrong = _class_numbers(cells[0][1], class_names)
    header = cells[0][0] not in known_ids and (bool(wrong) or not first_labels)
    known: dict[str, list[int]] = {}
    seen = set()
    for row, (id, text) in enumerate(cells[header:], start=1 + header):
        place = f"{path} row {row}"
        if id in seen:
            problems.add(place, id, "the id is there twice")
            continue
        seen.add(id)
        labels, wrong = _class_numbers(text, class_names)
        if wrong:
            hint = near(wrong, class_names)
            problems.add(place, id, f"{wrong!r} is no class name or number{hint}")
        elif labels:
            known[id] = sorted(labels)
    return known


def _class_numbers(text: str, class_names: Sequence[str]) -> tuple[set[int], str]:
    """Class numbers of a cell, and its first token that is none ("": all are)."""
    numbers = {name.casefold(): number for number, name in enumerate(class_names)}
    tokens = [token.strip() for token in SEPARATORS.split(text) if token.strip()]
    if all(re.fullmatch(r"[\d\s]+", token) for token in tokens):
        tokens = " ".join(tokens).split()
    labels = set()
    for token in tokens:
        digits = re.fullmatch("[0-9]{1,9}", token)
        number = int(token) if digits else numbers.get(token.casefold(), -1)
        if not 0 <= number < len(class_names):
            return labels, token
        labels.add(number)
    return labels, ""


def _check_options(
    pattern: str, planes: Sequence[str], missing_yellow: str, percentiles: Sequence[float]
) -> None:
    if "{id}" not in pattern:
        raise InputError(f"data.folder.pattern={pattern!r}: must contain {{id}}")
    if missing_yellow not in MISSING_YELLOW:
        names = ", ".join(MISSING_YELLOW)
        raise InputError(f"data.folder.missing_yellow={missing_yellow!r}: one of {names}")
    for name in planes:
        if name and name not in CHANNELS:
            raise InputError(f"data.folder.planes: {name!r} is none of {', '.join(CHANNELS)}")
    if not (len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100):
        raise InputError(f"data.folder.percentiles={tuple(percentiles)}: two, within 0..100")


def _convert(
    id: str, files: dict[str, str], into: Path, settings: tuple, mark: str
) -> dict[str, Any]:
    """Channel paths, original_size and pixel_size (µm or None); converts it unless that is done."""
    order, percentiles, missing_yellow, field_um, given_size, largest = settings
    done = imported.known(into, id, mark)
    if done is not None:
        return {**UNKNOWN, **done}
    planes, micrometres = _planes(files, order)
    micrometres = micrometres or given_size or None
    missing = _missing(planes, next(iter(files.values())), missing_yellow)
    about = {
        "original_size": max(next(iter(planes.values())).shape),
        "pixel_size": micrometres,
    }
    if field_um and micrometres is not None:
        side = max(1, round(field_um / micrometres))
        planes = {c: imported.to_field(plane, side) for c, plane in planes.items()}
    plain = all(Path(file).suffix.lower() not in fields.TIFF for file in files.values())
    eight = all(plane.dtype == np.uint8 for plane in planes.values())
    filled = missing and missing_yellow == "mean"
    if plain and eight and "" not in files and not field_um and not filled:
        return {**UNKNOWN, **{c: files.get(c) for c in CHANNELS}, **about}
    grey = {c: imported.to_eight_bits(plane, percentiles) for c, plane in planes.items()}
    if filled:
        others = np.stack(list(grey.values())).astype(np.float32)
        grey["yellow"] = np.rint(others.mean(axis=0)).astype(np.uint8)
    grey = {c: imported.reduced(plane, largest) for c, plane in grey.items()}
    return {**UNKNOWN, **imported.store(into, id, mark, grey, about)}


def _planes(
    files: Mapping[str, str], order: Sequence[str]
) -> tuple[dict[str, np.ndarray], float | None]:
    """Channel -> plane [H, W] as stored, and the pixel size (µm) that a file states."""
    planes: dict[str, np.ndarray] = {}
    micrometres = None
    for channel, path in files.items():
        field = fields.read(path)
        micrometres = micrometres or field.pixel_size
        if channel:
            plane = field.planes[0]
            if len(field.planes) > 1:
                plane = to_grey(np.moveaxis(field.planes, 0, -1), channel, path)
            planes[channel] = plane
        else:
            planes = _named(field, order, path)
    return planes, micrometres


def _missing(planes: Mapping[str, np.ndarray], path: str, missing_yellow: str) -> bool:
    """Whether yellow is absent; path: a file of the image, for messages.

    Raises:
        BadPicture: sizes differ, another channel is absent, or yellow is and must not be.
    """
    first = next(iter(planes.values()))
    for plane in planes.values():
        if plane.shape != first.shape:
            raise BadImage(path, sizes_differ(plane.shape, first.shape))
    missing = [c for c in CHANNELS if c not in planes]
    if [c for c in missing if c != "yellow"]:
        raise BadImage(path, f"channel {missing[0]} is missing")
    if missing and missing_yellow == "error":
        raise BadImage(
            path, "no yellow channel; --config.data.folder.missing_yellow=zeros (or mean)"
        )
    return bool(missing)


def _named(field: fields.Field, order: Sequence[str], path: str) -> dict[str, np.ndarray]:
    """Channel -> plane of a multichannel file: by the given order, else by the file's names."""
    if order:
        if len(order) != len(field.planes):
            raise BadImage(
                path, f"{len(field.planes)} planes, data.folder.planes names {len(order)}"
            )
        return {name: plane for name, plane in zip(order, field.planes, strict=True) if name}
    planes = {}
    for name, plane in zip(field.names, field.planes, strict=True):
        channel = next((c for c, stains in STAINS.items() if name.lower() in stains), None)
        if channel is None or channel in planes:
            some = ("red", "green", "blue") if len(field.planes) == 3 else CHANNELS
            raise BadImage(
                path,
                f"planes named {', '.join(repr(n) for n in field.names)}: which are red, green, "
                "blue, yellow? Set data.folder.planes (in the order of the file: "
                f'--config.data.folder.planes="{some}"; three without yellow: '
                "--config.data.folder.missing_yellow=zeros too)",
            )
        planes[channel] = plane
    return planes
