"""External images of the Human Protein Atlas -> catalog rows.

In: ROOT/TABLE (Id and labels as class numbers or as the atlas' location names; Id is
antibody_plate_well_field; sizes and checksums of the files, if it has them) and ROOT/pictures/,
which `download` fills.  Out: rows of source "external"; files of all channels are converted to
8-bit grey ones in `into`.

The atlas serves JPEG: one RGB image a channel, shown in its colour (url with {channel}), or one
of red, green and blue together without yellow.  Names that are none of the classes are dropped (One
More Layer: Vesicles, Cleavage furrow and others); what they did with yellow is not known.
"""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.artifacts import atomic
from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError
from hpa_jax.data import reader
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import CHANNELS
from hpa_jax.data.sources import competition, csv_tables, imported
from hpa_jax.data.sources import download as client

if TYPE_CHECKING:
    import pandas as pd

URL = "http://v18.proteinatlas.org/images/{antibody}/{name}_{channel}.jpg"
COMPOSITE_URL = "https://www.proteinatlas.org/images/{antibody}/{name}_blue_red_green.jpg"
SYNONYMS = {
    "nucleus": "nucleoplasm",
    "midbody": "cytokinetic bridge",
    "midbody ring": "cytokinetic bridge",
}
LABEL_COLUMNS = ("target", "labels", "locations", "site parsed labels", "xml labels")
MISSING_YELLOW = ("zeros", "mean")
_ID = re.compile(r"(?:ENSG\d+_)?(?P<antibody>\d+)_(?P<name>[a-z\d]+_[A-Z]\d+_\d+(?:_\w+)?)")


def scan(
    root: str | Path,
    class_names: Sequence[str],
    problems: Problems,
    *,
    into: str | Path,
    table: str = "external.csv",
    url: str = URL,
    missing_yellow: str = "zeros",
    not_only: Sequence[int] = (),
    largest: int = 0,
    content: Callable[[str], str] = sha256,
    workers: int | None = None,
    hashed: bool = False,
) -> "pd.DataFrame":
    """Rows of every downloaded image; one that is not there is a finding. No network.

    not_only: images that have no class beside these are left out (`fetch` does not fetch them).
    largest: side in pixels to which larger images are reduced; 0 keeps them.
    content: file -> digest of its bytes.
    workers: threads that convert; None: one a core.
    hashed: see `imported.seen`.

    Raises:
        InputError: no table, it lacks the columns, or too little disk.
    """
    import pandas as pd

    if missing_yellow not in MISSING_YELLOW:
        names = ", ".join(MISSING_YELLOW)
        raise InputError(f"data.atlas.missing_yellow={missing_yellow!r}: one of {names}")
    root, into = Path(root), Path(into)
    wanted = read_table(root / table, class_names, problems)
    rare = [not not_only or not set(labels) <= set(not_only) for labels in wanted["labels"]]
    wanted = wanted[np.array(rare, bool)]
    images = {id: imported.Files(files_of(root, id, url)) for id in wanted["id"]}
    outside = {
        id: path
        for id, files in images.items()
        for path in files.paths.values()
        if not reader.inside(root, path)
    }
    for id, path in outside.items():
        problems.add(path, id, "a link that leaves data.root; copy the file")
    rules = {"yellow": missing_yellow if "{channel}" not in url else "error"}
    ready = imported.rows(
        {id: files for id, files in images.items() if id not in outside},
        into,
        imported.Conversion(missing=rules, largest=largest, keep=False),
        problems,
        content=content,
        title="atlas",
        workers=workers,
        hashed=hashed,
        hint={"no such file": "; fetch it with the verb download"},
    )
    rows = [
        {"source": "external", **row, **ready[row["id"]]}
        for row in wanted.to_dict("records")
        if row["id"] in ready
    ]
    return pd.DataFrame(rows, columns=list(imported.COLUMNS)).astype(object)


def fetch(
    root: str | Path,
    class_names: Sequence[str],
    *,
    table: str = "external.csv",
    url: str = URL,
    not_only: Sequence[int] = (),
    workers: int = 4,
    per_second: float = 10.0,
    retries: int = 5,
    timeout: float = 30.0,
    deadline: float = 600.0,
    first_pause: float = 1.0,
) -> tuple[int, dict[str, str]]:
    """Downloads every image of the table that is not there or damaged; a second call goes on.

    not_only: images that have no class beside these are not fetched.
    Returns the number of files wanted, and url -> reason of those that could not be had (also in
    ROOT/download_failed.csv).

    Raises:
        InputError: no table, or it lacks the columns; a url without {antibody} or {name}.
    """
    import pandas as pd

    if "{antibody}" not in url or "{name}" not in url:
        raise InputError(f"data.atlas.url={url!r}: must contain {{antibody}} and {{name}}")
    root, problems = Path(root), Problems()
    wanted = read_table(root / table, class_names, problems)
    expected = read_sums(root / table, problems)
    if problems.found:
        raise problems.error("mend the table")
    common = set(not_only)
    files = [
        client.Wanted(address, Path(path), *expected.get((id, channel), (None, None)))
        for id, labels in zip(wanted["id"], wanted["labels"], strict=True)
        if not (common and set(labels) <= common)
        for address, (channel, path) in zip(
            urls_of(id, url), files_of(root, id, url).items(), strict=True
        )
    ]
    failed = client.download(
        files,
        workers=workers,
        per_second=per_second,
        retries=retries,
        timeout=timeout,
        deadline=deadline,
        first_pause=first_pause,
        check=lambda path: reader.size(path) and None,
    )
    listing = root / "download_failed.csv"
    listing.unlink(missing_ok=True)
    if failed:
        with atomic(listing) as temporary:
            pd.DataFrame(failed.items(), columns=["url", "reason"]).to_csv(temporary, index=False)
    return len(files), failed


def read_table(path: Path, class_names: Sequence[str], problems: Problems) -> "pd.DataFrame":
    """Columns id, labels (list), antibody, plate, sample of the atlas table.

    An image with no location among the classes is left out, as One More Layer did.

    Raises:
        InputError: the file is missing, no CSV, or lacks the columns.
    """
    import pandas as pd

    table = csv_tables.read(path, "the atlas' table belongs into the source's root")
    column = next((name for name in LABEL_COLUMNS if name in table), None)
    if "id" not in table or column is None:
        columns = ", ".join(table.columns)
        raise InputError(
            f"{path}: needs the columns Id and Target (or Locations); it has {columns}"
        )
    rows, seen, unmapped = [], set(), Counter()
    for number, (id, text) in enumerate(zip(table["id"], table[column], strict=True), start=2):
        place, match = f"{path} row {number}", _ID.fullmatch(id)
        if match is None:
            problems.add(place, id, "no id of the form antibody_plate_well_field")
        elif id in seen:
            problems.add(place, id, "the id is there twice")
        elif re.fullmatch(r"[\d\s]+", text):
            labels = competition.parse_labels(text, class_names, place, id, problems)
            if labels is not None:
                rows.append((id, labels, *_specimen(match)))
        else:
            labels, rest = locations(text, class_names)
            unmapped.update(rest)
            if labels:
                rows.append((id, labels, *_specimen(match)))
        seen.add(id)
    if unmapped:
        names = ", ".join(f"{name} ({count})" for name, count in unmapped.most_common(5))
        warnings.warn(
            f"{path}: {len(unmapped)} location names are no class and were dropped: {names}",
            stacklevel=2,
        )
    return pd.DataFrame(rows, columns=["id", "labels", "antibody", "plate", "sample"])


def read_sums(
    path: Path, problems: Problems
) -> dict[tuple[str, str], tuple[int | None, str | None]]:
    """(id, channel) -> (bytes, SHA-256) of the table's optional columns size_CHANNEL and
    sha256_CHANNEL; channel "" and the columns size and sha256 are of one file of all channels."""
    table = csv_tables.read(path)
    listed = {}
    for channel in ("", *CHANNELS):
        ending = f"_{channel}" if channel else ""
        nothing = [""] * len(table)
        sizes, sums = (table.get(f"{name}{ending}", nothing) for name in ("size", "sha256"))
        for row, (id, size, checksum) in enumerate(zip(table["id"], sizes, sums), start=2):
            if size and not re.fullmatch("[0-9]{1,15}", size):
                problems.add(f"{path} row {row}", id, f"size{ending} {size!r} is no number")
            elif checksum and not re.fullmatch("[0-9a-fA-F]{64}", checksum):
                problems.add(f"{path} row {row}", id, f"sha256{ending} {checksum!r} is no SHA-256")
            elif size or checksum:
                listed[id, channel] = (int(size) if size else None, checksum.lower() or None)
    return listed


def locations(text: str, class_names: Sequence[str]) -> tuple[list[int], list[str]]:
    """Class numbers of the atlas' location names (separated by ; | or ,), and the unknown names."""
    numbers = {name.casefold(): number for number, name in enumerate(class_names)}
    labels, unknown = set(), []
    for token in re.split(r"[;|,]", text):
        name = " ".join(token.split()).casefold()
        name = name if name in numbers else SYNONYMS.get(name, name)
        if name in numbers:
            labels.add(numbers[name])
        elif name:
            unknown.append(token.strip())
    return sorted(labels), unknown


def urls_of(id: str, url: str) -> list[str]:
    """Addresses of an image: four channels, or one of all."""
    parts = _ID.fullmatch(id).groupdict()
    if "{channel}" not in url:
        return [url.format(**parts)]
    return [url.format(**parts, channel=channel) for channel in CHANNELS]


def files_of(root: Path, id: str, url: str) -> dict[str, str]:
    """Where `fetch` puts them: channel -> path, or {"": path} of all together."""
    suffix = Path(url).suffix or ".jpg"
    if "{channel}" not in url:
        return {"": str(root / "pictures" / f"{id}{suffix}")}
    return {c: str(root / "pictures" / f"{id}_{c}{suffix}") for c in CHANNELS}


def _specimen(match: Mapping[str, Any]) -> tuple[str, str, str]:
    plate, well, *_ = match["name"].split("_")
    return match["antibody"], plate, f"{plate}_{well}"
