"""The one table of every image: id, source, labels, channel files, sizes.

In: one or more sources (folders).  Out: the catalog (columns `COLUMNS`), whose every row has been
looked at: ids unique, labels in range, channels present, readable and of one size.  All problems
are gathered first; then they stop the program or, with on_bad_image="skip", only their images.
"""

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import processes
from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError, near
from hpa_jax.data import reader
from hpa_jax.data.problems import Problems
from hpa_jax.data.reader import CHANNELS, NeedsScaling
from hpa_jax.data.sources import atlas, competition, folder
from hpa_jax.data.sources import imported as conversion

if TYPE_CHECKING:
    import pandas as pd

# µm a pixel; black and white points of the scaling to 8 bits, a number a channel.
POINTS = ("black", "white")
CONVERTED = ("pixel_size", *POINTS)
COLUMNS = (
    *("id", "source", "labels", "root", *CHANNELS, "height", "width"),
    *("original_size", "antibody", "plate", "sample", "weight", "files", "fingerprint"),
    *CONVERTED,
)
IMPORTED = -1  # in the column root: the folder of converted copies
FOR_ANY = ("weight", "not_only", "parts")
SOURCES = {
    "kaggle": competition.scan,
    "synthetic": competition.scan,  # which only writes files in the competition's layout
    "folder": folder.scan,
    "atlas": atlas.scan,
}


def build(
    sources: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    on_bad_image: str = "error",
    check: str = "decode",
    bad_images: str | Path | None = None,
    imported: str | Path | None = None,
    largest: int = 0,
    hashed: bool = True,
    workers: int | None = None,
    content: Callable[[str], str] = sha256,
    ready: Callable[[Mapping[str, Any]], None] | None = None,
) -> "pd.DataFrame":
    """The checked catalog of all sources.

    sources: each {"source": "kaggle", "root": folder, ...options of the source's `scan`}, and for
      any source: `weight` (how often training draws its images, relative to 1), `not_only` (class
      numbers: images with no class beside these are left out; One More Layer: 0 and 25) and
      `parts` (the parts of a competition to take, e.g. external alone).
    check: "decode" reads every pixel; "header" only sizes and file ends (110,000 images in
      a minute), what it can't see (damage inside, all black) the step duplicates finds.
    bad_images: where the findings are written as CSV.
    imported: folder for converted copies of images that are no 8-bit grey files (folder, atlas).
    largest: side in pixels to which such copies are reduced; 0 keeps them as they are.
    hashed: whether decoded images get a fingerprint, which the step duplicates compares.
    workers: threads that read and convert, and processes that check; None: one a core.
    content: file -> digest of its bytes.
    ready: called with the id, channel files, original_size and `files` of an image of a folder as
      soon as they are known, while later ones are still converted; no more once one is refused.

    The column root is the number of a row's source, its paths are whole; a catalog that is written
    has them relative to it: `relative`, `absolute`.

    Raises:
        InputError: names every finding (on_bad_image="error"), or nothing usable is left.
    """
    import pandas as pd

    problems, stopped = Problems(), on_bad_image == "error"

    def tell(id: str, row: Mapping[str, Any] | None) -> None:
        nonlocal ready
        if stopped and (row is None or problems.found):
            ready = None
        if ready is not None and row is not None:
            channels = {channel: row[channel] for channel in CHANNELS}
            size, files = row["original_size"], row["seen"]["files"]
            ready({"id": id, **channels, "original_size": size, "files": files})

    how = dict(content=content, workers=workers, hashed=hashed)
    sources = [{**s, "root": str(Path(s["root"]).expanduser())} for s in sources]
    tables = [
        _scan(
            *(source, class_names, problems, imported and Path(imported) / str(i), largest),
            {**how, "tell": tell},
        ).assign(root=i)
        for i, source in enumerate(sources)
    ]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    table = table.reindex(columns=table.columns.union((*CONVERTED, "seen"), sort=False)).astype(
        object
    )
    table = _without_repeats(table, problems)
    convert = functools.partial(_converted, imported and Path(imported), largest, how)
    look = (
        functools.partial(_decoded, hashed=hashed)
        if check == "decode"
        else functools.partial(_header, content=content)
    )
    unseen = sum(not isinstance(seen, dict) for seen in table["seen"])  # by who converted it
    with _pool(workers, check == "decode" and unseen >= processes.WORTHWHILE) as pool:
        table = _look_at_images(table, problems, look, pool, convert)
    for problem in problems.found if not stopped else ():
        problems.warn("left out, for reasons in bad_images.csv", problem.id or problem.place)
    problems.tell()
    if bad_images is not None:
        problems.write(Path(bad_images))
    if problems.found and on_bad_image == "error" and len(table):
        where = f" (all in {bad_images})" if bad_images is not None else ""
        raise problems.error(f'mend them{where}, or leave them out with data.on_bad_image="skip"')
    if not len(table):
        remedy = "mend them: nothing is left without them"
        if problems.found:
            raise problems.error(remedy)
        raise InputError(f"no images in {', '.join(str(s['root']) for s in sources)}")
    return table


def relative(
    table: "pd.DataFrame", roots: Sequence[str | Path], imported: str | Path
) -> "pd.DataFrame":
    """A catalog as it is written: paths relative to the row's root, so that both may be moved.

    roots: folders of the sources, in order.  imported: folder of converted copies, whose rows get
    the root IMPORTED.
    """
    starts = {number: f"{Path(root)}/" for number, root in enumerate(roots)}
    copies, moved = f"{Path(imported)}/", table.copy()
    first = table[list(CHANNELS)].bfill(axis=1).iloc[:, 0]
    moved["root"] = table["root"].mask(first.str.startswith(copies), IMPORTED)
    starts[IMPORTED] = copies
    for channel in CHANNELS:
        moved[channel] = [
            path.removeprefix(starts[root]) if isinstance(path, str) else None
            for path, root in zip(table[channel], moved["root"])
        ]
    return moved


def absolute(
    table: "pd.DataFrame", roots: Sequence[str | Path], imported: str | Path
) -> "pd.DataFrame":
    """A written catalog with whole paths: the reverse of `relative`."""
    folders = {number: str(Path(root)) for number, root in enumerate(roots)}
    folders[IMPORTED] = str(Path(imported))
    moved = table.copy()
    for channel in CHANNELS:
        moved[channel] = [
            f"{folders[root]}/{path}" if isinstance(path, str) else None
            for path, root in zip(table[channel], table["root"])
        ]
    return moved


def _scan(
    source: Mapping[str, Any],
    class_names: Sequence[str],
    problems: Problems,
    imported: Path | None,
    largest: int,
    given: Mapping[str, Any],
) -> "pd.DataFrame":
    """Rows of one source, filtered and weighted.

    given: arguments for those scans that take them.
    """
    options = {k: v for k, v in source.items() if k not in ("source", "root", *FOR_ANY)}
    kind, root = source["source"], source["root"]
    if kind not in SOURCES:
        raise InputError(f"data.source={kind!r}: one of {', '.join(SOURCES)}{near(kind, SOURCES)}")
    scan = SOURCES[kind]
    known = inspect.signature(scan).parameters
    for name in options:
        if name not in known:
            raise InputError(f"data.sources: {kind} has no option {name!r}{near(name, known)}")
    if "into" in known:
        if imported is None:
            raise InputError(f"data.source={kind!r} converts images and needs a folder for them")
        options.setdefault("into", imported)
    if "largest" in known:
        options.setdefault("largest", largest)
    options |= {name: value for name, value in given.items() if name in known}
    for name in ("not_only", "parts"):  # it need not look for the files of what is left out
        if name in known:
            options[name] = source.get(name, ())
    table = scan(root, class_names, problems, **options)
    if parts := source.get("parts"):
        table = table[table["source"].isin(parts)]
    if not_only := set(source.get("not_only", ())):
        common = [x is not None and set(x) <= not_only for x in table["labels"]]
        table = table[~np.array(common, bool)]
    weight = float(source.get("weight", 1.0))
    if not weight > 0:
        raise InputError(f"data.sources: weight={weight} of {root}: must be above 0")
    full = source.get("full_size", False) & (table["source"] != "external")
    return table.assign(weight=weight, full_size=full)


def _without_repeats(table: "pd.DataFrame", problems: Problems) -> "pd.DataFrame":
    """An id in two parts or sources would join to two rows: neither can be trusted."""
    repeated = table["id"].duplicated(keep=False)
    for id, rows in table[repeated].groupby("id", sort=False):
        parts = " and ".join(rows["source"])
        problems.add(rows["red"].iloc[0], str(id), f"the id is in two places ({parts})")
    return table[~repeated].reset_index(drop=True)


def _converted(
    into: Path | None,
    largest: int,
    how: Mapping[str, Any],
    table: "pd.DataFrame",
    problems: Problems,
) -> "pd.DataFrame":
    """Rows of a competition's files of more than 8 bits -> those that could be converted, with the
    paths of the copies."""  # fmt: skip
    import pandas as pd

    if into is None:
        raise InputError("images of more than 8 bits are converted and need a folder for it")
    table = table.copy()
    for root, part in table.groupby("root", sort=False):
        images = {
            row["id"]: conversion.Files({c: row[c] for c in CHANNELS if isinstance(row[c], str)})
            for row in part.to_dict("records")
        }
        # What must be there the source has checked already.
        chain = conversion.Conversion(largest=largest, missing=dict.fromkeys(CHANNELS, "zeros"))
        copies = into / f"{root}_deep"
        ready = conversion.rows(images, copies, chain, problems, **how)
        for index, id in part["id"].items():
            if id not in ready:
                table = table.drop(index)
                continue
            for name in (*CHANNELS, *CONVERTED, "seen"):
                table.at[index, name] = ready[id][name]
            if part.at[index, "full_size"] and pd.isna(table.at[index, "original_size"]):
                table.at[index, "original_size"] = ready[id]["original_size"]
    return table


def _look_at_images(
    table: "pd.DataFrame",
    problems: Problems,
    look: "Callable[[Mapping[str, Any]], Finding]",
    pool: Executor,
    convert: Callable[["pd.DataFrame", Problems], "pd.DataFrame"],
) -> "pd.DataFrame":
    """Adds height, width, `files`, and original_size where the files are the originals (full_size);
    drops rows whose images can't be used.  Files of more than 8 bits are converted first.

    look: `_decoded` or `_header`.
    fingerprint: the step duplicates compares it, so that no image is decoded for it again; "" where
      only headers were read (hashed there).
    files: 16 hex digits of the pixels, or (check="header") of the files' bytes.  By it the steps
    below see that an image was replaced by another under the same name.
    """

    def looked(rows: "pd.DataFrame") -> dict[int, Finding]:
        paths = rows[[*CHANNELS, "seen"]].to_dict("records")
        return dict(zip(rows.index, pool.map(look, paths, chunksize=8), strict=True))

    findings = looked(table)
    deep = [at for at, finding in findings.items() if isinstance(finding.bad, NeedsScaling)]
    if deep:
        copies = convert(table.loc[deep], problems)
        table = table.drop(set(deep) - set(copies.index))
        table.loc[copies.index] = copies
        findings |= looked(copies)
    for at, id in table["id"].items():
        finding = findings[at]
        if finding.bad is not None:
            problems.add(finding.bad.path, id, finding.bad.what)
        for note in finding.notes:
            problems.warn(note, id)
        for note in finding.decided:
            problems.decided(note, id)
    table = table[np.array([findings[at].bad is None for at in table.index], bool)]
    sizes = np.array([findings[at].size for at in table.index], np.int64).reshape(-1, 2)
    originals = table["original_size"].isna() & table["full_size"].astype(bool)
    table = table.assign(
        labels=[None if x is None else np.array(x, np.int16) for x in table["labels"]],
        height=sizes[:, 0],
        width=sizes[:, 1],
        original_size=table["original_size"].mask(originals, sizes.max(axis=1, initial=0)),
        files=[findings[at].files for at in table.index],
        fingerprint=[findings[at].fingerprint for at in table.index],
        pixel_size=table["pixel_size"].astype("float64"),
        **{name: [x if isinstance(x, list) else None for x in table[name]] for name in POINTS},
    )
    table = table.astype({"height": "int32", "width": "int32", "root": "int16"})
    return table.astype({"original_size": "Int32"}).reset_index(drop=True)[list(COLUMNS)]


def _pool(workers: int | None, of_processes: bool) -> Executor:
    """Return an executor for checking images.

    Two processes take .58 ms to decode one of 64 x 64, one thread 1.06 and two threads 1.84, for it
    is Python's work and they wait for its lock; from 512 x 512 on threads do as well.
    """
    workers = workers or os.cpu_count() or 1
    if of_processes and workers > 1:
        return processes.pool(workers)
    return ThreadPoolExecutor(workers)


@dataclass(frozen=True)
class Finding:
    """What the catalog learnt of an image's files. size: (height, width).

    fingerprint: of the pixels, for duplicates; "" where they were not decoded.
    notes: what looks odd.  decided: what was decided in reading them.
    """

    size: Sequence[int] = (0, 0)
    files: str = ""
    fingerprint: str = ""
    bad: reader.BadImage | None = None
    notes: Sequence[str] = ()
    decided: Sequence[str] = ()


def _header(row: Mapping[str, Any], content: Callable[[str], str]) -> Finding:
    if isinstance(row["seen"], dict):  # by who converted it
        return Finding(**row["seen"])
    files = [row[channel] for channel in CHANNELS if isinstance(row[channel], str)]
    try:
        _refuse_series(files)
        sizes = [reader.size(path) for path in files]
        for path, size in zip(files, sizes, strict=True):
            if size != sizes[0]:
                raise reader.BadImage(path, reader.sizes_differ(size, sizes[0]))
    except reader.BadImage as bad:
        return Finding(bad=bad)
    return Finding(sizes[0], _mark(repr([content(path) for path in files]).encode()))


def _decoded(row: Mapping[str, Any], hashed: bool) -> Finding:
    if isinstance(row["seen"], dict):  # by who converted it
        return Finding(**row["seen"])
    files = {channel: row[channel] for channel in CHANNELS if isinstance(row[channel], str)}
    try:
        _refuse_series(files.values())
        planes, read = conversion.select(conversion.Files(files), conversion.Conversion())
        first = next(iter(planes.values()))
        for channel, plane in planes.items():
            if plane.dtype != np.uint8:
                raise NeedsScaling(files[channel], "more than 8 bits")
            if plane.shape != first.shape:
                raise reader.BadImage(files[channel], reader.sizes_differ(plane.shape, first.shape))
        seen = conversion.seen(planes, next(iter(files.values())), hashed)
    except reader.BadImage as bad:
        return Finding(bad=bad)
    decided = tuple(dict.fromkeys(read.notes))
    return Finding(**seen, decided=decided)


def _refuse_series(files: Iterable[str]) -> None:
    """A file of several images is refused where a table names one image a file.

    Raises:
        BadImage: naming it.
    """
    for path in files:
        if (count := len(reader.scenes(path))) > 1:
            raise reader.BadImage(path, f"contains {count} images; save each as a file")


def _mark(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
