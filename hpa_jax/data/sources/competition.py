"""The competition's folder -> catalog rows.

In: ROOT/train.csv (Id,Target), ROOT/sample_submission.csv (Id,...), ROOT/train/ID_{red,green,blue,
yellow}.png and ROOT/test/...; if there, ROOT/external.csv with ROOT/external/.  With `full_size`
the images are in train_full_size/ and test_full_size/ (TIFF).  Out: rows in the order of the
tables, whose images exist; everything else, files that no row names too, is noted in `problems`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpa_jax.core.errors import InputError, near
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import CHANNELS, inside, parts_of_name
from hpa_jax.data.sources import csv_tables

if TYPE_CHECKING:
    import pandas as pd

LEAVES = "a link that leaves data.root; copy it, or links=True of the source (data.sources)"
TABLES = {"train": "train.csv", "external": "external.csv", "test": "sample_submission.csv"}
# antibody_plate_well_sample, as the external table's ids have it; some carry a gene before it.
_SPECIMEN = re.compile(r"(?:ENSG\d+_)?(?P<antibody>\d+)_(?P<plate>[a-z\d]+)_(?P<well>[A-P]\d+)_\d+")
_COUNT = re.compile("[0-9]{1,12}")
# What systems leave in folders.
IGNORED = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini", re.IGNORECASE)
# The archive's uncompressed TIFFs: side² bytes and a header of a few kB.
ORIGINAL_SIDES = (1728, 2048, 3072, 4096)


def scan(
    root: str | Path,
    class_names: Sequence[str],
    problems: Problems,
    full_size: bool = False,
    parts: Sequence[str] = (),
    not_only: Sequence[int] = (),
    links: bool = False,
) -> "pd.DataFrame":
    """Rows of train, external (if there) and test.

    links: whether links out of the root are followed.
    parts: those to read, () all; the tables and files of others need not be there.
    not_only: images that have no class beside these are left out, their files not looked for.

    Raises:
        InputError: no such folder, a table is missing or has no id or label column, no such part.
    """
    import pandas as pd

    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder (data.root)")
    for part in parts:
        if part not in TABLES:
            raise InputError(f"data.sources: part {part!r}: one of {', '.join(TABLES)}")
    wanted = [part for part in TABLES if not parts or part in parts]
    if not parts and not (root / TABLES["external"]).is_file():
        wanted.remove("external")
    tables = []
    for part in wanted:
        table = read_table(root / TABLES[part], labelled=part != "test")
        folder = part + ("_full_size" if full_size and part != "external" else "")
        files = find_files(root, root / folder, links)
        rows = _rows(root, folder, part, table, files, class_names, problems, set(not_only))
        tables.append(rows)
        named = {f"{csv_tables.composed(id)}_{c}" for id in table["id"] for c in CHANNELS}
        for name in sorted(files.keys() - named):
            what = f"{root / folder}: files that no row of {TABLES[part]} names were left out"
            for file in files[name]:
                problems.warn(what, file.name)
    return pd.concat(tables, ignore_index=True)


def read_table(path: Path, labelled: bool) -> "pd.DataFrame":
    """A label table with columns id, target ("" if not labelled), row (line in the file), and the
    specimen columns it has; BOM, CRLF, stray spaces and unnamed index columns don't matter.

    Raises:
        InputError: the file is missing, no CSV, or lacks the columns.
    """
    import pandas as pd

    table = csv_tables.read(path, "data.root must hold the competition's tables")
    named = [name for name in csv_tables.LABELS if name in table]
    if "id" not in table or (labelled and len(named) != 1):
        wanted = "Id and Target (or Label)" if labelled else "Id"
        columns = ", ".join(table.columns)
        raise InputError(f"{path}: needs the columns {wanted}; it has {columns}")
    if not len(table):
        raise InputError(f"{path}: has no rows")
    columns = {"id": table["id"], "target": table[named[0]] if labelled else ""}
    for name in ("file_size", "original_size", "antibody", "plate", "sample"):
        if name in table:
            columns[name] = table[name]
    return pd.DataFrame(columns).assign(row=range(2, len(table) + 2))


def safe_id(text: str) -> bool:
    """Whether an id can be part of a file name: no separator, no way out of its folder."""
    return bool(text) and text not in (".", "..") and not set(text) & set('/\\\0:*?"<>|\n\r\t')


@dataclass(frozen=True)
class File:
    """A file of an image folder. outside: it is a link that leaves the root, and must not be."""

    name: str
    path: str
    outside: bool


def find_files(root: Path, folder: Path, links: bool = False) -> dict[str, list[File]]:
    """Name without the suffix of an image -> files of `folder` (several: of several formats).

    Raises:
        InputError: the folder is a link that leaves `root`.
    """
    if not folder.is_dir():
        return {}
    if not links and not inside(root, folder):
        raise InputError(f"{folder}: {LEAVES}")
    by_stem: dict[str, list[File]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if IGNORED.fullmatch(entry.name) or not (entry.is_symlink() or entry.is_file()):
                continue
            outside = not links and entry.is_symlink() and not inside(root, entry.path)
            file = File(entry.name, entry.path, outside)
            stem, suffix = parts_of_name(entry.name)
            stem = csv_tables.composed(stem) if suffix else entry.name
            by_stem.setdefault(stem, []).append(file)
    return by_stem


def original_side(file_size: int) -> int | None:
    """Side in pixels of a full-size TIFF of `file_size` bytes; None if no known side fits."""
    for side in ORIGINAL_SIDES:
        if 0 <= file_size - side * side < 65536:
            return side
    return None


def _rows(
    root: Path,
    folder: str,
    part: str,
    table: "pd.DataFrame",
    files: Mapping[str, list[File]],
    class_names: Sequence[str],
    problems: Problems,
    common: set[int],
) -> "pd.DataFrame":
    import pandas as pd

    rows, seen = [], {}
    for record in table.to_dict("records"):
        id, place = record["id"], f"{root / TABLES[part]} row {record['row']}"
        if not safe_id(id):
            problems.add(place, id, "an id must be a plain name (no folders, not empty)")
            continue
        if id in seen:
            problems.add(place, id, f"the id is already in row {seen[id]}")
            continue
        seen[id] = record["row"]
        labels = None
        if part != "test":
            labels = parse_labels(record["target"], class_names, place, id, problems)
            if labels is None or (common and set(labels) <= common):
                continue
        paths = channel_files(files, id, root / folder, place, problems)
        if paths is not None:
            rows.append({"id": id, "source": part, "labels": labels, **paths, **_specimen(record)})
    columns = ["id", "source", "labels", *CHANNELS, *SPECIMEN]
    return pd.DataFrame(rows, columns=columns).astype(object)


SPECIMEN = ("original_size", "antibody", "plate", "sample")


def parse_labels(
    text: str, class_names: Sequence[str], place: str, id: str, problems: Problems
) -> list[int] | None:
    """Class numbers of a label text; None (and a problem) if it is empty or has no class."""
    if not text:
        problems.add(place, id, "no label")
        return None
    labels, wrong = csv_tables.class_numbers(text, class_names)
    if wrong or not labels:
        last = len(class_names) - 1
        what = f"label {(wrong or text)!r} is no class name or class number 0..{last}"
        problems.add(place, id, what + near(wrong, class_names))
        return None
    return labels


def channel_files(
    files: Mapping[str, list[File]],
    id: str,
    folder: Path,
    place: str,
    problems: Problems,
    optional: Sequence[str] = (),
) -> dict[str, str | None] | None:
    """Channel -> path for one id; None (and findings) if one is missing or leaves the root."""
    paths, complete = {}, True
    for channel in CHANNELS:
        present = files.get(f"{csv_tables.composed(id)}_{channel}", [])
        paths[channel] = present[0].path if present else None
        if len(present) > 1:
            some = " and ".join(sorted(file.name for file in present))
            problems.add(folder / some, id, "the channel is there twice; remove one")
            complete = False
        elif present and present[0].outside:
            problems.add(present[0].path, id, LEAVES)
            complete = False
    missing = [c for c in CHANNELS if paths[c] is None and c not in optional]
    if missing:
        what = "no image of any channel" if len(missing) == 4 else f"no {', '.join(missing)}"
        example = folder / f"ID_{missing[0]}.png"
        problems.add(place, id, f"{what} (looked for {example})")
        complete = False
    return paths if complete else None


def _specimen(record: dict[str, str]) -> dict[str, str | int | None]:
    """Antibody, plate and sample from columns of the table or from the id; the original size."""
    match = _SPECIMEN.match(record["id"])
    antibody, plate, sample = (record.get(key) or None for key in SPECIMEN[1:])
    if match:
        antibody = antibody or match["antibody"]
        plate = plate or match["plate"]
        sample = sample or f"{match['plate']}_{match['well']}"
    size = record.get("original_size", "")
    original = int(size) if _COUNT.fullmatch(size) else None
    if original is None and _COUNT.fullmatch(record.get("file_size", "")):
        original = original_side(int(record["file_size"]))
    return {"original_size": original, "antibody": antibody, "plate": plate, "sample": sample}
