"""Your own images -> catalog rows.

In: a folder of images, one file a channel, a Z plane or an image, whose naming a pattern says or a
known layout tells, and, if they are known, labels.csv (id, labels as names or numbers).  Out: rows
of source "own" whose channels are 8-bit grey files: those of the folder where they are that
already, otherwise converted copies (`imported`).

A pattern is a path below the root without suffix: {id}, {channel}, {plate}, {well}, {site}, {z}
(number of a Z plane), * for any part of a name, ** for any folders; a field twice must say the same
twice.  Without a slash it is the file's name, in any sub-folder.  Without {id} the other fields but
{z}, joined by _, are the id.
"""

import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError, near
from hpa_jax.data import ome_zarr, reader
from hpa_jax.data.planes import LARGEST, SMALLEST, BadImage, Reading
from hpa_jax.data.problems import Problems, examples, shown
from hpa_jax.data.reader import CHANNELS, Scaling, all_inside, inside
from hpa_jax.data.sources import competition, csv_tables, imported

if TYPE_CHECKING:
    import pandas as pd

# Layouts that are recognised, the first that fits most files: name, pattern.
LAYOUTS = (
    ("a file a channel and Z plane", "{id}_z{z}_{channel}"),
    ("a file a channel", "{id}_{channel}"),
    ("a folder a channel", "**/{channel}/{id}"),
    ("a folder an image", "**/{id}/{channel}"),
    # Of excitation and emission the emission's filter, "wv Blue - FITC", names the stain.
    ("IN Cell", "{well}(fld {site} wv * - {channel})"),
    ("IN Cell, Z planes", "{well}(fld {site} wv * - {channel} z {z})"),
)
SEPARATED = (  # which count if there are several channels
    ("a file a channel", "{id}-{channel}"),
    ("a file a channel", "{id} {channel}"),
    ("a file a channel", "{id}.{channel}"),
    ("a file a channel", "{channel}_{id}"),
)
NUMBERED = (  # whose channels are numbers: data.folder.channels says which is which
    ("Harmony (Operetta, Opera Phenix)", "{id}p{z}-ch{channel}sk*fk*fl*"),
    ("ImageXpress, Z steps", "**/ZStep_{z}/{id}_w{channel}*"),
    ("ImageXpress", "{id}_w{channel}*"),
    ("CellVoyager", "{id}L*A*Z{z}C{channel}"),
    ("ZEN", "{id}_c{channel}_ORG"),
    ("numbered channels and Z planes", "{id}_z{z}_ch{channel}"),
    ("numbered channels", "{id}_C{channel}"),
    ("numbered channels", "{id}_ch{channel}"),
    ("a folder an image, numbered channels", "**/{id}/C{channel}"),
)
COMPOSITE, WHOLE = "{id}_blue_red_green", "{id}"
_WELL = re.compile(r"([A-Z]+\d+)_.+")  # names of a store's images if it is a plate (ome_zarr.py)
_FIELD = re.compile(r"\{(id|channel|plate|well|site|z)\}|(\*\*/)|(\*)")
# MetaXpress adds hexadecimal digits.
_THUMBNAIL = re.compile(r"(?:^|[_-])thumb(?:nail)?(?:[_-]|[\dA-F-]*$)", re.IGNORECASE)
_COMPOSITE = re.compile(r".*(?:_(?:red|green|blue|yellow)){2,}", re.IGNORECASE)
WHOLES = ("image", "path", "file")  # columns of files of all channels in a table of paths
NOT_PATHS = ("id", "plate", "well", *csv_tables.LABELS)
WIDEST = 5000  # µm, of a training image
LONGEST_ID = 180  # bytes; a converted copy's name adds some 25 of the disk's 255


@dataclass
class Match:
    """The files of one image as the pattern tells them.

    stacks: channel ("": all) -> number of a Z plane (0: there is none) -> file.
    """

    stacks: dict[str, dict[int, str]] = field(default_factory=dict)
    plate: str = ""
    well: str = ""

    @property
    def paths(self) -> dict[str, str]:
        """Channel -> file, the first of a stack."""
        return {channel: planes[min(planes)] for channel, planes in self.stacks.items()}

    def files(self, scene: int, plate: str) -> imported.Files:
        """For the import; scene: number of the image in them; plate: that of the image."""
        sorted_planes = {
            c: [planes[z] for z in sorted(planes)] for c, planes in self.stacks.items()
        }
        further = {c: planes[1:] for c, planes in sorted_planes.items() if len(planes) > 1}
        return imported.Files(self.paths, scene, plate, further)


def scan(
    root: str | Path,
    class_names: Sequence[str],
    problems: Problems,
    *,
    into: str | Path,
    pattern: str = "",
    table: str = "",
    tokens: Mapping[str, str] | None = None,
    channels: str | Mapping[str, str] = "",
    planes: Sequence[str] = (),
    labels: str = "labels.csv",
    percentiles: Sequence[float] = Scaling.percentiles,
    floor: float = Scaling.floor,
    bits: int = 0,
    scale_over: str = "image",
    value_range: Sequence[float] = (),
    missing: Mapping[str, str] | None = None,
    project: str = "max",
    frame: int | None = None,
    field_um: float = 0.0,
    pixel_size: float = 0.0,
    links: bool = False,
    part: str = "own",
    not_only: Sequence[int] = (),
    largest: int = 0,
    content: Callable[[str], str] = sha256,
    tell: imported.Tell | None = None,
    workers: int | None = None,
    hashed: bool = False,
) -> "pd.DataFrame":
    """Rows of every image of the folder.

    into: folder for converted copies.  pattern: as above; "" recognises a known layout.
    table: file of paths in place of a pattern: `listed`.
    channels: names of channels in file names and files, "DAPI:blue,GFP:green", beside stains'.
    tokens: the same the other way round, channel -> how file names write it.
    planes: channels of a file of all in order; () takes the names in the file.
    percentiles, floor, bits, scale_over: `reader.Scaling`.
    value_range, project, frame: `reader.planes`.
    missing: of red, blue and yellow: error (default), zeros, or mean of the others.
    field_um: side of a training image in µm; 0 leaves images as they are.
    pixel_size: µm a pixel where the files don't say (0: unknown).
    links: whether links out of the root are followed.
    not_only: images that have no class beside these are left out.
    largest: side in pixels to which larger images are reduced if they are converted; 0 keeps it.
    content: file -> digest of its bytes.
    tell, workers, hashed: `imported.rows`.

    Raises:
        InputError: no folder, a wrong option, no file fits the pattern, or too little disk.
    """
    import pandas as pd

    root, into = Path(root), Path(into)
    names = imported.channel_names(channels)
    names |= {token: channel for channel, token in (tokens or {}).items()}
    conversion = imported.Conversion(
        planes=tuple(planes),
        names=names,
        scaling=Scaling(tuple(percentiles), floor, bits, scale_over),
        missing=imported.checked_missing(missing or {}, "data.folder"),
        field_um=field_um,
        pixel_size=pixel_size,
        largest=largest,
        reading=Reading(project=project, frame=frame, value_range=tuple(value_range)),
    )
    _check_options(pattern, conversion)
    if table:
        matches, known_labels = listed(root, table, names, class_names, problems, links=links)
    else:
        matches = find(root, pattern, names, problems, links=links, besides=(root / labels, into))
        known_labels = csv_tables.read_labels(root / labels, class_names, problems, matches)
    for id in sorted(set(known_labels) - set(matches)):
        problems.add(root / labels, id, "has no images in the folder")
    common = set(not_only)
    images, whose = {}, {}
    for id, match in sorted(matches.items()):
        if not common or not set(known_labels.get(id, ())) <= common:
            for name, scene, (plate, well) in _scenes(id, match, problems):
                images[name] = match.files(scene, plate)
                whose[name] = id, plate, well
    how = dict(content=content, title="import", tell=tell, workers=workers, hashed=hashed)
    ready = imported.rows(images, into, conversion, problems, **how)
    rows = []
    for id, row in ready.items():
        whole, plate, well = whose[id]
        sample = "_".join(part for part in (plate, well) if well and part)
        specimen = {"antibody": None, "plate": plate or None, "sample": sample or None}
        known = known_labels.get(whole)
        rows.append({"id": id, "source": part, "labels": known, **specimen, **row})
    _tell_sizes(root, [row["pixel_size"] for row in rows], field_um)
    return pd.DataFrame(rows, columns=list(imported.COLUMNS)).astype(object)


def _scenes(id: str, match: Match, problems: Problems) -> list[tuple[str, int, tuple[str, str]]]:
    """(id, number, (plate, well)) of each image that the files hold: more than one where they hold
    a series.  Plate and well are the pattern's, else those of a store that is a plate."""
    stated = match.plate, match.well
    try:
        held = {tuple(reader.scenes(path)): path for path in match.paths.values()}
    except BadImage:  # told by who reads it
        return [(id, 0, stated)]
    if len(held) > 1:
        most = max(held, key=len)
        what = f"holds {len(most)} images, another channel's file {len(min(held, key=len))}"
        problems.add(held[most], id, what)
        return []
    (names,) = held
    if len(names) > 1:
        problems.note("files of several images (ids with _s0, _s1 or the well)", id)

    def specimen(name: str) -> tuple[str, str]:
        well = _WELL.fullmatch(name)
        return (stated[0] or id, stated[1] or well[1]) if well else stated

    return [
        (f"{id}_{name}" if name else id, number, specimen(name))
        for number, name in enumerate(names)
    ]


def _tell_sizes(root: Path, sizes: Sequence[float | None], field_um: float) -> None:
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
            "image in µm (competition: 163.84), brings them to the training's magnification",
            stacklevel=3,
        )


def find(
    root: Path,
    pattern: str,
    names: Mapping[str, str],
    problems: Problems,
    *,
    links: bool = False,
    besides: Sequence[Path] = (),
) -> dict[str, Match]:
    """id -> its files. Those that fit no pattern are noted by name.

    besides: files and folders below the root that are no images of it.

    Raises:
        InputError: no such folder, nothing in it fits the pattern, or its channels are numbers
            whose meaning is not given.
    """
    if not root.is_dir():
        what = "is a file; name its folder" if root.is_file() else "no such folder"
        raise InputError(f"{root}: {what} (data.root)")
    files = sorted(_files(root, problems, links, besides))
    images = [name for name in files if name.lower().endswith(reader.ENDINGS)]
    thumbnails = {name for name in images if _THUMBNAIL.search(_stem(name).rsplit("/", 1)[-1])}
    images = [name for name in images if name not in thumbnails]
    layout = ""
    if not pattern:
        layout, pattern = _recognised(root, images, names)
    fits = _Pattern(pattern, names)
    matches, aside = _gathered(root, images, fits, problems, links)
    aside += [name for name in files if name not in set(images) and name not in thumbnails]
    for name in thumbnails:
        problems.warn(f"{root}: thumbnails were left out", name)
    if not matches and problems.found:
        raise problems.error("nothing is left without them")
    if not matches:
        example = f"; {shown(aside[0])} does not" if aside else ""
        raise InputError(
            f"{root}: no image fits the pattern {pattern!r} with a suffix "
            f"{', '.join(reader.ENDINGS)}{example}: --config.data.folder.pattern says how ({{id}} "
            "alone: one file with all channels)"
        )
    for id in matches if layout else ():
        problems.note(f"{root}: read as {layout} (pattern {pattern!r}); images", id)
    for name in aside:
        composite = _COMPOSITE.fullmatch(_stem(name)) and name.lower().endswith(reader.ENDINGS)
        what = "composites of several channels were left out" if composite else None
        problems.warn(f"{root}: {what or 'files that fit no pattern were left out'}", name)
    return matches


def listed(
    root: Path,
    table: str,
    names: Mapping[str, str],
    class_names: Sequence[str],
    problems: Problems,
    *,
    links: bool = False,
) -> tuple[dict[str, Match], dict[str, list[int]]]:
    """(id -> its files, id -> class numbers) of a CSV or Parquet file of paths.

    Its columns: id; a path a channel (red or a stain's name), or image for a file of all channels;
    if known labels, plate and well. Others don't matter.  Paths are absolute or below the root.

    Raises:
        InputError: no such file, or it lacks these columns.
    """
    place, matches, labels = root / table, {}, {}
    cells = csv_tables.read_any(place)
    columns = {name: imported.channel_named(name, names) for name in cells if name not in NOT_PATHS}
    columns = {name: channel for name, channel in columns.items() if channel}
    columns |= {name: "" for name in cells if name in WHOLES}
    if "id" not in cells or not columns or ("" in columns.values() and len(columns) > 1):
        raise InputError(
            f"{place}: needs the columns id and red, green, blue, yellow (or image, for files of "
            f"all channels); it has {', '.join(cells.columns)}"
        )
    label, *others = [name for name in csv_tables.LABELS if name in cells] or [None]
    if others:
        raise InputError(
            f"{place}: columns {label}, {', '.join(others)}: which are the labels? Leave one"
        )
    for number, row in enumerate(cells.to_dict("records"), start=2):
        where, id = f"{place} row {number}", csv_tables.composed(row["id"])
        paths = {
            c: str(root / Path(row[name]).expanduser()) for name, c in columns.items() if row[name]
        }
        outside = [path for path in paths.values() if not links and not all_inside(root, path)]
        if id in matches:
            problems.add(where, id, "the id is there twice")
        elif not competition.safe_id(id) or len(id.encode()) > LONGEST_ID:
            problems.add(where, id, "an id must be a plain name")
        elif outside:
            problems.add(
                f"{where}: {outside[0]}",
                id,
                "is outside of data.root; data.folder.links=True allows it",
            )
        else:
            matches[id] = Match(
                {c: {0: path} for c, path in paths.items()},
                row.get("plate", ""),
                row.get("well", ""),
            )
            found, wrong = csv_tables.class_numbers(row[label], class_names) if label else ([], "")
            if wrong:
                hint = near(wrong, class_names)
                problems.add(where, id, f"{wrong!r} is no class name or number{hint}")
            elif found:
                labels[id] = found
    return matches, labels


def listed_elsewhere(root: Path, table: str) -> list[Path]:
    """A table of paths that lies outside of the root, and the files outside that it names.

    Raises:
        InputError: no such file.
    """
    cells = csv_tables.read_any(root / table)
    named = {text for name in cells if name not in NOT_PATHS for text in cells[name] if text}
    paths = [root / table, *(root / Path(text).expanduser() for text in sorted(named))]
    return [path for path in paths if path.exists() and not inside(root, path)]


def _gathered(
    root: Path, images: Sequence[str], fits: "_Pattern", problems: Problems, links: bool
) -> tuple[dict[str, Match], list[str]]:
    """id -> files of those that fit, and the names of the others."""
    matches: dict[str, Match] = {}
    aside, spelt = [], {}
    folder_inside = functools.cache(functools.partial(inside, root))

    def leaves(path: Path) -> bool:
        if os.path.islink(path) or os.path.isdir(path):
            return not all_inside(root, path)
        return not folder_inside(os.path.dirname(path))

    for name in images:
        fields = fits(_stem(name))
        if fields is None:
            aside.append(name)
            continue
        path, channel = root / name, fields.pop("channel", "")
        z = int(fields.pop("z", 0))
        id = csv_tables.composed(fields.get("id") or "_".join(f for f in fields.values() if f))
        if shown(name) != name:
            problems.add(path, id, "its name is not UTF-8; rename it")
        elif not links and leaves(path):
            problems.add(
                path, id, "a link that leaves data.root; copy it, or data.folder.links=True"
            )
        elif not competition.safe_id(id):
            problems.add(path, id, "an id must be a plain name")
        elif len(id.encode()) > LONGEST_ID:
            problems.add(path, id[:40], f"an id of over {LONGEST_ID} bytes; rename the files")
        elif spelt.setdefault(id, fields.get("id", id)) != fields.get("id", id):
            problems.add(
                path, id, "two names are equal but for the form of their letters (Unicode)"
            )
        elif z in (planes := (match := matches.setdefault(id, Match())).stacks.get(channel, {})):
            other = planes[z]
            problems.add(
                f"{path} and {other}",
                id,
                "the image is there twice; if these are two images, a pattern "
                "without {id} joins the names of plates: {plate}/{site}_{channel}",
            )
        else:
            match.stacks.setdefault(channel, {})[z] = str(path)
            match.plate, match.well = fields.get("plate", ""), fields.get("well", "")
    return {id: match for id, match in matches.items() if match.stacks}, aside


def _files(root: Path, problems: Problems, links: bool, besides: Sequence[Path]) -> Iterator[str]:
    """Names of the files below the root; linked folders are entered once, if they may be."""
    left_out = {os.path.realpath(path) for path in besides}
    for path in besides:  # a workdir below the root
        for parent in list(path.parents)[:2]:
            if parent != root and root in parent.parents:
                left_out.add(os.path.realpath(parent))
    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        start = "" if below == "." else f"{below}/"
        if (place := os.path.realpath(folder)) in entered and os.path.islink(folder):
            folders[:] = []
            continue
        entered.add(place)
        kept = []
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.realpath(path) in left_out or name == "__MACOSX":
                continue
            if name.lower().endswith(ome_zarr.SUFFIXES):  # a folder that is one image
                yield start + name
                continue
            if os.path.islink(path) and not inside(root, path) and not links:
                problems.add(
                    path, "", "a link that leaves data.root; move it, or data.folder.links=True"
                )
                continue
            kept.append(name)
        folders[:] = sorted(kept)
        for name in names:
            path = os.path.join(folder, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(place, name)
            if not competition.IGNORED.fullmatch(name) and real not in left_out:
                yield start + name


def _stem(name: str) -> str:
    return reader.parts_of_name(name)[0]


class _Pattern:
    """A pattern as a function: path without suffix -> its fields, or None if it doesn't fit."""

    def __init__(self, pattern: str, names: Mapping[str, str]) -> None:
        self._names, self._numbered = names, pattern in {p for _, p in NUMBERED}
        stains = {re.escape(name) for name in names}
        if self._numbered:
            stains |= {r"\d+?"} if not names else {f"0*{re.escape(_bare(name))}" for name in names}
        else:
            every = [stain for c in CHANNELS for stain in (c, *imported.STAINS[c])]
            stains |= {stain.replace(" ", "[ _-]?") for stain in every}
        choices = "|".join(sorted(stains, key=len, reverse=True))
        # Before a stain of two words, "a_Texas_Red", the id is the shorter part.
        stain = pattern.endswith("{channel}") and not self._numbered
        id = "[^/]+?" if stain else "[^/]+"
        seen: set[str] = set()
        parts, at = [], 0
        for match in _FIELD.finditer(pattern):
            parts.append(re.escape(pattern[at : match.start()]))
            at, name = match.end(), match[1]
            if match[2]:
                parts.append("(?:.*/)?")
            elif match[3]:
                parts.append("[^/]*")
            elif name in seen:
                parts.append(f"(?P={name})")
            else:
                seen.add(name)
                inner = {"channel": choices, "id": id, "z": r"\d+"}.get(name, "[^/]+?")
                parts.append(f"(?P<{name}>{inner})")
        parts.append(re.escape(pattern[at:]))
        anywhere = "" if "/" in pattern else "(?:.*/)?"
        self._expression = re.compile(anywhere + "".join(parts), re.IGNORECASE)
        self._separate = "{channel}" in pattern

    def __call__(self, stem: str) -> dict[str, str] | None:
        match = self._expression.fullmatch(stem)
        if match is None or (self._separate and _COMPOSITE.fullmatch(stem)):
            return None
        fields = match.groupdict()
        if "channel" in fields:
            channel = imported.channel_named(fields["channel"], self._names)
            if channel is None and self._numbered:
                bare = {_bare(given): c for given, c in self._names.items()}
                channel = bare.get(_bare(fields["channel"]), fields["channel"])
            if channel is None:
                return None
            fields["channel"] = channel
        return fields


def _bare(name: str) -> str:
    """The number of a channel's name: C0, ch1, w2, 02."""
    match = re.fullmatch(r"(?:c|ch|w)?0*(\d+)", name, re.IGNORECASE)
    return match[1] if match else name


def _recognised(root: Path, images: Sequence[str], names: Mapping[str, str]) -> tuple[str, str]:
    """Name and pattern of the known layout that fits most files (of equals the first).

    Raises:
        InputError: its channels are numbers, and which is which is not given.
    """
    best, most, numbers = None, 0, set()
    stems = [_stem(name) for name in images]
    for layout in (*LAYOUTS, *SEPARATED, *NUMBERED):
        fits = _Pattern(layout[1], names)
        fields = [f for f in map(fits, stems) if f is not None]
        channels = {f["channel"] for f in fields}
        if layout not in LAYOUTS and len(channels) < 2:
            continue
        if len(fields) > most:
            best, most, numbers = layout, len(fields), channels - set(CHANNELS)
    if best is None:
        composites = all(map(_Pattern(COMPOSITE, {}), stems))
        whole = COMPOSITE if stems and composites else WHOLE
        return "one file an image", whole
    if numbers:
        example = ",".join(f"{n}:{c}" for n, c in zip(sorted(numbers), ("blue", "green", "red")))
        raise InputError(
            f"{root}: {best[0]} (pattern {best[1]!r}) with the channels "
            f"{examples(sorted(numbers))}: which is which? Set data.folder.channels, e.g. "
            f'"{example}"'
        )
    return best


def _check_options(pattern: str, conversion: imported.Conversion) -> None:
    fields = {match[1] for match in _FIELD.finditer(pattern)}
    if pattern and not fields & {"id", "plate", "well", "site"}:
        raise InputError(f"data.folder.pattern={pattern!r}: must contain {{id}} (or {{site}})")
    if unknown := re.findall(r"\{(\w*)\}", _FIELD.sub("", pattern)):
        raise InputError(
            f"data.folder.pattern={pattern!r}: {{{unknown[0]}}} is none of {{id}}, {{channel}}, "
            "{plate}, {well}, {site}, {z}"
        )
    for name in conversion.planes:
        if name and name not in CHANNELS:
            raise InputError(f"data.folder.planes: {name!r} is none of {', '.join(CHANNELS)}")
    scaling, points = conversion.scaling, conversion.scaling.percentiles
    if not (len(points) == 2 and 0 <= points[0] < points[1] <= 100):
        raise InputError(f"data.folder.percentiles={points}: two, within 0..100")
    if (size := conversion.pixel_size) and not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"data.folder.pixel_size={size:g}: {SMALLEST} to {LARGEST} µm, or 0 (unknown)"
        )
    if conversion.field_um > WIDEST:
        raise InputError(f"data.folder.field_um={conversion.field_um:g}: at most {WIDEST} µm")
    if not 0 < scaling.floor <= 1:
        raise InputError(f"data.folder.floor={scaling.floor}: a share, above 0 and at most 1")
    if not (scaling.bits == 0 or 8 <= scaling.bits <= 16):
        raise InputError(f"data.folder.bits={scaling.bits}: 8 to 16, or 0 (unknown)")
    if scaling.over not in reader.SCALED_OVER:
        raise InputError(
            f"data.folder.scale_over={scaling.over!r}: one of {', '.join(reader.SCALED_OVER)}"
        )
    if (project := conversion.reading.project) not in reader.PROJECTIONS:
        names = ", ".join(reader.PROJECTIONS)
        raise InputError(f"data.folder.project={project!r}: one of {names}")
    limits = conversion.reading.value_range
    if limits and not (len(limits) == 2 and limits[0] < limits[1]):
        raise InputError(f"data.folder.value_range={limits}: (black, white) with black < white")
