"""Catalog -> packed images: a TFDS dataset folder of ArrayRecord shards.

In: the catalog and its files.  Out: OUT/128-png/hpa-{train,external,test,own}-00000.array_record,
..., dataset_info.json and features.json (stock `tfds.builder_from_directory` opens it), beside each
shard a .json of its ids and SHA-256, and manifest.parquet / manifest.json, written last.

One record holds id, source and all channels of an image at the stored side, so that a read is one
decode.  Labels are not in it: who reads joins them by id, and a corrected label packs nothing anew.
A shard is written whole or not at all: a killed run goes on with the shards it lacks, new images
add shards, and a shard with a changed or vanished image is packed anew.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.artifacts import atomic, read_json, remove, write_json, write_table
from hpa_jax.core.contents import digest, sha256
from hpa_jax.core.errors import InputError
from hpa_jax.data import encodings, reader
from hpa_jax.data.problems import LEAVE_OUT, Problems
from hpa_jax.data.reader import CHANNELS

if TYPE_CHECKING:
    import pandas as pd

NAME = "hpa"
VERSION = "1.0.0"
TEMPLATE = "{DATASET}-{SPLIT}-{SHARD_INDEX}.{FILEFORMAT}"
LAYOUT = 3  # of the stored bytes; another one is packed anew
FREE_MARGIN = 1.1  # of the estimated size that must be free before packing starts


@dataclass(frozen=True)
class Shard:
    """One shard to write. rows: catalog rows as dicts, with their `signature`."""

    path: Path
    source: str
    rows: tuple[dict[str, Any], ...]
    image_size: int
    encoding: str


def write(
    catalog: "pd.DataFrame",
    out_dir: str | Path,
    *,
    image_size: int,
    encoding: str,
    shard_images: int = 512,
    on_bad_image: str = "error",
    bad_images: str | Path | None = None,
    workers: int | None = None,
    beam: Sequence[str] = (),
) -> Path:
    """Packs every image of the catalog that is not packed yet; returns the dataset's folder.

    image_size: stored side in pixels.  encoding: a name of `encodings.ENCODINGS`.
    beam: options of Apache Beam that writes the shards, e.g. ("--runner=DirectRunner",); () writes
      them with `workers` threads here (None: all cores).

    Raises:
        InputError: too little disk, or unusable images (on_bad_image="error"; all are named, and
            every other image is packed by then).
    """
    encodings.check(encoding)
    folder = Path(out_dir) / f"{image_size}-{encoding}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = _settings(image_size, encoding)
    problems = Problems()
    rows = _signed_rows(catalog, settings, problems)
    for leftover in folder.glob(".partial-*"):
        remove(leftover)
    kept = _kept_shards(folder, {row["id"]: row["signature"] for row in rows})
    packed = {id for ids in kept.values() for id in ids}
    todo = [row for row in rows if row["id"] not in packed]
    if todo:
        remove(folder / "manifest.json")  # the folder is not whole until the end
        _check_disk(folder, len(todo), image_size, encoding)
    shards = _plan(folder, todo, kept, shard_images, image_size, encoding)
    run = _in_threads(workers)
    if beam:
        from hpa_jax.data.beam import runner

        run = runner(beam, write_shard)
    for bad in run(shards):
        for path, id, what in bad:
            problems.add(path, id, what)
    if bad_images is not None and problems.found:
        problems.write(Path(bad_images))
    if problems.found and on_bad_image == "error":
        raise problems.error(LEAVE_OUT)
    _close_gaps(folder)
    _write_metadata(folder, settings)
    return folder


def verify(folder: str | Path) -> int:
    """Compares every shard with its checksum, reading all bytes; returns the number of shards.

    Raises:
        InputError: names the shards that differ.
    """
    folder = Path(folder)
    shards = read_json(folder / "manifest.json")["shards"]
    damaged = [
        name
        for name, known in shards.items()
        if not (folder / name).is_file() or sha256(folder / name) != known["sha256"]
    ]
    if damaged:
        raise InputError(
            f"{folder / damaged[0]}: damaged (SHA-256)"
            + (f", and {', '.join(damaged[1:])}" if len(damaged) > 1 else "")
            + "; remove it, pack again"
        )
    return len(shards)


def write_shard(shard: Shard) -> list[tuple[str, str, str]]:
    """Writes one shard, then its .json; returns (path, id, reason) of unusable images.

    Raises:
        InputError: the disk is full or not writable; the shard is not there then.
    """
    with atomic(shard.path) as temporary:
        try:
            written, bad = _write_examples(shard, temporary)
        except RuntimeError as error:  # what ArrayRecord's writer raises
            reason = " ".join(str(error).split())
            raise InputError(
                f"{shard.path}: can't be written ({reason}); finished shards stay, call again"
            ) from None
    if not written:
        remove(shard.path)
        return bad
    about = dict(
        ids=[row["id"] for row in written],
        signatures=[row["signature"] for row in written],
        source=shard.source,
        bytes=shard.path.stat().st_size,
        sha256=sha256(shard.path),
    )
    write_json(_beside(shard.path), about)
    return bad


def _write_examples(
    shard: Shard, path: Path
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Rows that were written to `path`, and (path, id, reason) of those that could not be read."""
    from array_record.python.array_record_module import ArrayRecordWriter

    features = encodings.features(shard.encoding, shard.image_size)
    written, bad = [], []
    writer = ArrayRecordWriter(str(path), encodings.ENCODINGS[shard.encoding].options)
    try:
        for row in shard.rows:
            try:
                image = reader.resize(_visible(row), shard.image_size)
            except reader.BadImage as error:
                bad.append((error.path, row["id"], error.what))
                continue
            stored = encodings.encode(shard.encoding, image)
            example = dict(id=row["id"], source=row["source"], image=stored)
            writer.write(encodings.serialize(features, example))
            written.append(row)
    finally:
        writer.close()
    return written, bad


def _visible(row: dict[str, Any]) -> np.ndarray:
    """uint8[H, W, K] of a row's files.

    Raises:
        BadPicture: a file is unusable, or there is nothing in any channel.
    """
    image = reader.read(row)
    if not image.any():
        first = next(row[c] for c in CHANNELS if isinstance(row[c], str))
        raise reader.BadImage(first, "all channels are black")
    return image


def _settings(image_size: int, encoding: str) -> dict[str, Any]:
    return dict(layout=LAYOUT, image_size=image_size, encoding=encoding, channels=list(CHANNELS))


def _signed_rows(
    catalog: "pd.DataFrame", settings: dict[str, Any], problems: Problems
) -> list[dict[str, Any]]:
    """Catalog rows as dicts with a signature: it changes when an image or a setting does.

    A row with a file that is gone becomes a finding.
    """
    rows = []
    for row in catalog[["id", "source", *CHANNELS, "files"]].to_dict("records"):
        gone = [row[c] for c in CHANNELS if isinstance(row[c], str) and not os.path.exists(row[c])]
        if gone:
            problems.add(gone[0], row["id"], "gone since the catalog")
            continue
        mark = digest(sorted(settings.items()), row["source"], row["files"])
        rows.append({**row, "signature": mark[:16]})
    return rows


def _kept_shards(folder: Path, signatures: dict[str, str]) -> dict[str, list[str]]:
    """Shard name -> ids of the finished shards whose every image is still wanted as it was."""
    kept = {}
    for path in sorted(folder.glob(f"{NAME}-*.array_record")):
        beside = _beside(path)
        about = read_json(beside) if beside.is_file() else None
        if (
            about is not None
            and about["bytes"] == path.stat().st_size
            and all(
                signatures.get(id) == mark
                for id, mark in zip(about["ids"], about["signatures"], strict=True)
            )
        ):
            kept[path.name] = about["ids"]
        else:
            remove(beside)
            remove(path)
    return kept


def _plan(
    folder: Path,
    todo: list[dict[str, Any]],
    kept: dict[str, list[str]],
    shard_images: int,
    image_size: int,
    encoding: str,
) -> list[Shard]:
    """Shards of `shard_images` images, each of one source, under the lowest free numbers."""
    shards = []
    taken = set(kept)
    for source in dict.fromkeys(row["source"] for row in todo):
        rows = [row for row in todo if row["source"] == source]
        number = 0
        for start in range(0, len(rows), shard_images):
            while shard_name(source, number) in taken:
                number += 1
            taken.add(shard_name(source, number))
            part = tuple(rows[start : start + shard_images])
            path = folder / shard_name(source, number)
            shards.append(Shard(path, source, part, image_size, encoding))
    return shards


def shard_name(source: str, number: int) -> str:
    """File name of a shard, as TEMPLATE has it."""
    return f"{NAME}-{source}-{number:05d}.array_record"


def signatures(shard: Path) -> list[str]:
    """Return the signature of each record of a shard: it changes with its files or the packing."""
    return read_json(_beside(shard))["signatures"]


def _beside(shard: Path) -> Path:
    return shard.with_name(shard.name + ".json")


def _in_threads(
    workers: int | None,
) -> Callable[[list[Shard]], Iterable[list[tuple[str, str, str]]]]:
    """Decoding and encoding leave Python's lock, so threads use all cores."""

    def run(shards: list[Shard]) -> Iterable[list[tuple[str, str, str]]]:
        from tqdm import tqdm

        for encoding, side in {(shard.encoding, shard.image_size) for shard in shards}:
            encodings.prepare(encoding, side)
        total = sum(len(shard.rows) for shard in shards)
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        try:
            with tqdm(total=total, unit="images", desc="records", disable=None) as bar:
                for shard, bad in zip(shards, pool.map(write_shard, shards)):
                    bar.update(len(shard.rows))
                    yield bad
        finally:
            pool.shutdown(cancel_futures=True)

    return run


def _check_disk(folder: Path, count: int, image_size: int, encoding: str) -> None:
    need = count * image_size**2 * len(CHANNELS) * encodings.ENCODINGS[encoding].bytes_per_value
    free = shutil.disk_usage(folder).free
    if need * FREE_MARGIN > free:
        raise InputError(
            f"{folder}: {count:,} images need about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free; free some, or set records.image_size or records.encoding"
        )


def _close_gaps(folder: Path) -> None:
    """TFDS counts shards 0, 1, ...: the last shard moves to the number of a vanished one."""
    by_source: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{NAME}-*.array_record")):
        by_source.setdefault(path.name.split("-")[1], []).append(path)
    for source, paths in by_source.items():
        wanted = [shard_name(source, number) for number in range(len(paths))]
        names = {path.name for path in paths}
        free = [name for name in wanted if name not in names]
        extra = [path for path in paths if path.name not in wanted]
        for name, path in zip(free, extra, strict=True):
            os.replace(path, folder / name)
            os.replace(_beside(path), _beside(folder / name))


def _write_metadata(folder: Path, settings: dict[str, Any]) -> None:
    """features.json and dataset_info.json for stock readers, then our manifest."""
    import pandas as pd
    import tensorflow_datasets as tfds

    shards, ids, splits = {}, [], {}
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, template=TEMPLATE, dataset_name=NAME, filetype_suffix="array_record"
    )
    for path in sorted(folder.glob(f"{NAME}-*.array_record")):
        about = read_json(_beside(path))
        source = about["source"]
        shards[path.name] = {key: about[key] for key in ("bytes", "sha256")}
        ids += [(id, source, path.name) for id in about["ids"]]
        split = splits.setdefault(source, dict(shard_lengths=[], num_bytes=0))
        split["shard_lengths"].append(len(about["ids"]))
        split["num_bytes"] += about["bytes"]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=encodings.features(settings["encoding"], settings["image_size"]),
        split_infos=[
            tfds.core.SplitInfo(name=source, filename_template=template, **split)
            for source, split in splits.items()
        ],
        filename_template=template,
        version=VERSION,
        check_data=False,
        description="Pictures of the Human Protein Atlas competition, all channels in one record.",
    )
    write_table(folder / "manifest.parquet", pd.DataFrame(ids, columns=["id", "source", "shard"]))
    write_json(folder / "manifest.json", {**settings, "shards": shards, "images": len(ids)})
