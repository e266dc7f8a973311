"""Your own pictures -> catalog rows.

In: a folder of PNG, JPEG, TIFF or OME-TIFF files, one a channel (pattern "{id}_{channel}") or one a
picture ("{id}"), and, if they are known, labels.csv (id, labels as names or numbers).
Out: rows of source "own" whose channels are 8-bit grey files: those of the folder where they are
that already, otherwise converted copies in `imported`.

16 bits are stretched per picture and channel between `percentiles`.  `field_um` is the side of a
training picture in µm (competition: 2048 pixels of 0.08 µm, so 163.84); pictures that know their
pixel size are cut or padded to it, and so get the training's µm a pixel at any stored size.
"""

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.data import csv_tables, fields, imported, kaggle
from hpa_jax.data.pictures import CHANNELS, BadPicture, inside, sizes_differ, to_grey
from hpa_jax.data.problems import Problems
from hpa_jax.errors import InputError, near

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".ome.tif", ".ome.tiff", *kaggle.SUFFIXES)
# What microscopes write as a channel's name, in lower case, each meaning one plane of the four.
STAINS = {
    "red": ("red", "microtubules", "tubulin", "texasred", "alexa 555", "cy3", "tritc"),
    "green": ("green", "protein", "antibody", "alexa 488", "gfp", "egfp", "fitc"),
    "blue": ("blue", "nucleus", "nuclei", "dapi", "hoechst"),
    "yellow": ("yellow", "er", "endoplasmic reticulum", "calreticulin", "alexa 647", "cy5"),
}
MISSING_YELLOW = ("error", "zeros", "mean")
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
) -> "pd.DataFrame":
    """Rows of every picture of the folder.

    into: folder for converted copies.  pattern: path below root without suffix.
    tokens: channel -> how file names write it (default: its own name), with {channel}.
    planes: channels of a multichannel file in order; () takes the names in the file.
    missing_yellow: "error", "zeros", or "mean" of the other three.
    field_um: side of a training picture in µm; 0 leaves pictures as they are.
    pixel_size: µm a pixel where the files don't say (0: unknown).

    Raises:
        InputError: no folder, a wrong option, or no file fits the pattern.
    """
    import pandas as pd

    root, into = Path(root), Path(into)
    _check_options(pattern, planes, missing_yellow, percentiles)
    files = find(root, pattern, tokens or {c: c for c in CHANNELS}, problems)
    known_labels = read_labels(root / labels, class_names, problems)
    for id in sorted(set(known_labels) - set(files)):
        problems.add(root / labels, id, "has no pictures in the folder")
    settings = (tuple(planes), tuple(percentiles), missing_yellow, field_um, pixel_size)

    def convert(id: str) -> dict[str, Any] | BadPicture:
        try:
            return _convert(id, files[id], into, settings)
        except BadPicture as bad:
            return bad

    into.mkdir(parents=True, exist_ok=True)
    ids = sorted(files)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(convert, ids))
    rows, unknown = [], 0
    for id, result in zip(ids, results, strict=True):
        if isinstance(result, BadPicture):
            problems.add(result.path, id, result.what)
            continue
        unknown += result.pop("size_unknown")
        rows.append({"id": id, "source": part, "labels": known_labels.get(id), **result})
    imported.clean(into, ({c: row[c] for c in CHANNELS} for row in rows))
    if unknown:
        warnings.warn(
            f"{root}: {unknown} of {len(rows)} pictures don't say their pixel size and stay as "
            "they are; set pixel_size (µm) if their magnification differs from the training's",
            stacklevel=2,
        )
    columns = ["id", "source", "labels", *CHANNELS, *kaggle.SPECIMEN]
    return pd.DataFrame(rows, columns=columns).astype(object)


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
        elif not kaggle.safe_id(id):
            problems.add(path, id, "an id must be a plain name")
        elif channel in found[id]:
            problems.add(path, id, f"the picture is there twice (also {found[id][channel]})")
        else:
            found[id][channel] = str(path)
    found = {id: files for id, files in found.items() if files}
    if not found:
        raise InputError(
            f"{root}: no picture fits the pattern {pattern!r} with a suffix {', '.join(SUFFIXES)}"
            + (f"; {strange} does not: --config.data.folder.pattern says how" if strange else "")
            + " ({id} alone: one file with all channels)"
        )
    return found


def read_labels(path: Path, class_names: Sequence[str], problems: Problems) -> dict[str, list[int]]:
    """id -> class numbers of labels.csv; {} without the file, ids with an empty label left out.

    The label column is the second: numbers ("0 25") or names, separated by ; | or ,

    Raises:
        InputError: no readable CSV with two columns.
    """
    if not path.is_file():
        return {}
    table = csv_tables.read(path)
    if table.shape[1] < 2:
        raise InputError(f"{path}: needs two columns, id and labels")
    numbers = {name.casefold(): number for number, name in enumerate(class_names)}
    known: dict[str, list[int]] = {}
    for row, (id, text) in enumerate(table.iloc[:, :2].to_numpy().tolist(), start=2):
        place = f"{path} row {row}"
        if id in known:
            problems.add(place, id, "the id is there twice")
            continue
        tokens = [token.strip() for token in SEPARATORS.split(text) if token.strip()]
        if all(re.fullmatch(r"[\d\s]+", token) for token in tokens):
            tokens = " ".join(tokens).split()
        labels = set()
        for token in tokens:
            digits = re.fullmatch("[0-9]{1,9}", token)
            number = int(token) if digits else numbers.get(token.casefold(), -1)
            if not 0 <= number < len(class_names):
                hint = near(token, class_names)
                problems.add(place, id, f"{token!r} is no class name or number{hint}")
                break
            labels.add(number)
        else:
            if labels:
                known[id] = sorted(labels)
    return known


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


def _convert(id: str, files: dict[str, str], into: Path, settings: tuple) -> dict[str, Any]:
    """Channel paths and original size of one picture; converts it unless that is done."""
    order, percentiles, missing_yellow, field_um, pixel_size = settings
    size_unknown = False
    planes: dict[str, np.ndarray] = {}
    for channel, path in files.items():
        field = fields.read(path)
        micrometres = field.pixel_size or pixel_size or None
        if channel:
            plane = field.planes[0]
            if len(field.planes) > 1:
                plane = to_grey(np.moveaxis(field.planes, 0, -1), channel, path)
            planes[channel] = plane
        else:
            planes = _named(field, order, path)
    first = next(iter(planes.values()))
    path = next(iter(files.values()))
    for plane in planes.values():
        if plane.shape != first.shape:
            raise BadPicture(path, sizes_differ(plane.shape, first.shape))
    missing = [c for c in CHANNELS if c not in planes]
    if [c for c in missing if c != "yellow"]:
        raise BadPicture(path, f"channel {missing[0]} is missing")
    if missing and missing_yellow == "error":
        raise BadPicture(
            path, "no yellow channel; --config.data.folder.missing_yellow=zeros (or mean)"
        )
    original = max(first.shape)
    if field_um:
        size_unknown = micrometres is None
        if micrometres is not None:
            side = max(1, round(field_um / micrometres))
            planes = {c: imported.to_field(plane, side) for c, plane in planes.items()}
    about = {"original_size": original, "antibody": None, "plate": None, "sample": None}
    about["size_unknown"] = size_unknown
    plain = all(Path(file).suffix.lower() not in fields.TIFF for file in files.values())
    eight = all(plane.dtype == np.uint8 for plane in planes.values())
    filled = missing and missing_yellow == "mean"
    if plain and eight and "" not in files and not field_um and not filled:
        return {**{c: files.get(c) for c in CHANNELS}, **about}
    mark = imported.signature(files.values(), settings)
    paths = imported.known(into, id, mark)
    if paths is None:
        grey = {c: imported.to_eight_bits(plane, percentiles) for c, plane in planes.items()}
        if missing and missing_yellow == "mean":
            others = np.stack(list(grey.values())).astype(np.float32)
            grey["yellow"] = np.rint(others.mean(axis=0)).astype(np.uint8)
        paths = imported.store(into, id, mark, grey)
    return {**paths, **about}


def _named(field: fields.Field, order: Sequence[str], path: str) -> dict[str, np.ndarray]:
    """Channel -> plane of a multichannel file: by the given order, else by the file's names."""
    if order:
        if len(order) != len(field.planes):
            raise BadPicture(
                path, f"{len(field.planes)} planes, data.folder.planes names {len(order)}"
            )
        return {name: plane for name, plane in zip(order, field.planes, strict=True) if name}
    planes = {}
    for name, plane in zip(field.names, field.planes, strict=True):
        channel = next((c for c, stains in STAINS.items() if name.lower() in stains), None)
        if channel is None or channel in planes:
            raise BadPicture(
                path,
                f"planes named {', '.join(repr(n) for n in field.names)}: which are red, green, "
                "blue, yellow? Set data.folder.planes (in the order of the file: "
                "--config.data.folder.planes=\"('blue', 'green', 'red', 'yellow')\")",
            )
        planes[channel] = plane
    return planes
