"""Stages from pictures on disk to packed records: data, catalog, duplicates, split, records."""

import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax import artifacts
from hpa_jax.context import Context
from hpa_jax.errors import InputError
from hpa_jax.stages import tables
from hpa_jax.stamps import Task

SMALLEST_IMPORT = 512  # px; of converted copies, if the records are smaller
_MISSING = {
    "train": "more labelled pictures or another config.split",
    "valid": "more labelled pictures or another config.split",
    "audit": "more labelled pictures, or config.split.audit=0",
    "test": 'name a folder of pictures to label, part="test", in config.data.sources',
}


def opened(config: ConfigDict, flags: dict[str, Any]) -> Context:
    """The context of a verb that is no stage of `run`.

    Raises:
        InputError: no --workdir.
    """
    if not flags.get("workdir"):
        raise InputError("--workdir=DIR is missing: the folder for everything that is written")
    return Context(config, Path(flags["workdir"]).expanduser().resolve(), flags)


def data(context: Context) -> list[Task]:
    """Draws the synthetic competition; other sources are there already."""
    if not context.draws:
        return []
    settings = context.config.data.synthetic.to_dict()

    def work() -> str:
        from hpa_jax.data import synthetic

        truth = context.path("data_truth.csv")
        workers = os.cpu_count() or 1  # the pictures do not depend on it
        synthetic.write(context.data_root, truth_path=truth, workers=workers, **settings)
        return f"{settings['train']:,} train and {settings['test']:,} test pictures drawn"

    return [Task("data", "data", work, settings, (), (context.data_root,), ("data",))]


def sources(context: Context) -> list[dict]:
    """The list of sources: config.data.sources, or the short form for one.

    A source without a root is that of config.data.root.  config.data.folder and config.data.atlas
    are the defaults of these sources' options.
    """
    config = context.config.data
    root = {"root": config.root} if config.root else {}
    listed = [{**root, **source} for source in config.sources]
    if not listed:
        kind = "kaggle" if config.source == "synthetic" else config.source
        listed = [{"source": kind, "root": str(context.data_root)}]
    for source in listed:
        if "source" not in source or "root" not in source:
            raise InputError(
                "config.data.sources: every source needs the keys source and root (or "
                "config.data.root, for those without)"
            )
    kinds = ("folder", "atlas")
    options = {kind: config[kind].to_dict() for kind in kinds if kind in config}
    return [{**options.get(source["source"], {}), **source} for source in listed]


def catalog(context: Context) -> list[Task]:
    """One table of every picture -> catalog.parquet."""
    config = context.config.data
    output = context.path("catalog.parquet")
    # Hashes are compared with those of the competition's pictures: not below their side.
    largest = max(SMALLEST_IMPORT, *context.stored_sides())

    def work() -> str:
        from hpa_jax.data import catalog as catalogs

        table = catalogs.build(
            sources(context),
            context.config.classes,
            on_bad_image=config.on_bad_image,
            check=config.check,
            bad_images=context.path("bad_images.csv"),
            imported=context.path("imported"),
            largest=largest,
        )
        artifacts.write_table(output, table)
        counts = table["source"].value_counts()
        return ", ".join(f"{counts[kind]:,} {kind}" for kind in sorted(counts.index)) + " pictures"

    roots = tuple(Path(source["root"]).expanduser() for source in sources(context))
    for root in roots:
        if not root.is_dir():
            raise InputError(f"config.data.root: no folder {str(root)!r}")
    settings = {
        "sources": sources(context),
        "classes": context.config.classes,
        "on_bad_image": config.on_bad_image,
        "check": config.check,
        "largest": largest,
    }
    rooms = ("data",)
    return [Task("catalog", "catalog", work, settings, (), (output,), rooms, listing=roots)]


def duplicates(context: Context) -> list[Task]:
    """Twins among all pictures -> duplicates.parquet, groups.parquet, leak.parquet."""
    names = ("duplicates.parquet", "groups.parquet", "leak.parquet")
    outputs = tuple(context.path(name) for name in names)
    table_path, config = context.path("catalog.parquet"), context.config

    def work() -> str:
        from hpa_jax.data import duplicates as twins
        from hpa_jax.data.problems import LEAVE_OUT, Problems

        table, problems = artifacts.read_table(table_path), Problems()
        unseen = config.data.check == "header"
        pairs, groups = twins.hash_catalog(
            table, look_at_all=unseen, problems=problems, **config.duplicates
        )
        problems.write(context.path("bad_duplicates.csv"))
        if problems.found and config.data.on_bad_image == "error":
            raise problems.error(LEAVE_OUT)
        leak = twins.leak_table(table, pairs)
        for output, result in zip(outputs, (pairs, groups, leak)):
            artifacts.write_table(output, result)
        largest = int(groups["group"].value_counts().iloc[0])
        left_out = f", {len(problems.found):,} bad pictures left out" if problems.found else ""
        twins_of_test = f"{len(leak):,} twins of test pictures"
        return f"{len(pairs):,} pairs, largest group {largest}, {twins_of_test}{left_out}"

    seen = {"check": config.data.check, "on_bad_image": config.data.on_bad_image}
    settings = {**config.duplicates.to_dict(), **seen}
    rooms = ("data",)
    return [Task("duplicates", "duplicates", work, settings, (table_path,), outputs, rooms)]


def split(context: Context) -> list[Task]:
    """Leak-safe hold-out or folds -> splits.parquet."""
    names = ("catalog.parquet", "duplicates.parquet", "groups.parquet")
    inputs = tuple(context.path(name) for name in names)
    output = context.path("splits.parquet")

    def work() -> str:
        from hpa_jax.data import splits

        table, pairs, groups = (artifacts.read_table(path) for path in inputs)
        result = splits.assign(table, groups, pairs, **settings)
        artifacts.write_table(output, result)
        counts = result["split"].value_counts()
        for needed in ("train", "valid", *tables.unseen_parts(context)):
            if not counts.get(needed):
                raise InputError(f"split: no picture in {needed}; {_MISSING[needed]}")
        return ", ".join(f"{counts[kind]:,} {kind}" for kind in counts.index)

    settings = context.config.split.to_dict()
    settings.pop("trained_folds")  # the split is the same, whichever are trained
    lists = (settings["exclude"], settings["force_valid"], settings["force_train"])
    files = tuple(Path(name) for name in lists if isinstance(name, str) and name)
    return [Task("split", "split", work, settings, (*inputs, *files), (output,), ("data",))]


def records(context: Context) -> list[Task]:
    """All channels of a picture in one record -> records/, a task for each stored side."""
    return [_records(context, side) for side in context.stored_sides()]


def verify_records(context: Context) -> None:
    """Reads every byte of the packed pictures and compares it with the checksums.

    Raises:
        InputError: a shard differs.
    """
    from hpa_jax.data import records as packing

    for side in context.stored_sides():
        folder = context.records_at(side)
        print(f"{folder}: {packing.verify(folder):,} shards are as they were written")


def _records(context: Context, side: int) -> Task:
    table_path, output = context.path("catalog.parquet"), context.records_at(side)
    settings = {**context.config.records.to_dict(), "image_size": side}
    del settings["also"]

    def work() -> str:
        from hpa_jax.data import records as packing

        table = artifacts.read_table(table_path)
        packing.write(
            table,
            context.path("records"),
            classes=context.config.classes,
            on_bad_image=context.config.data.on_bad_image,
            bad_images=context.path("bad_records.csv"),
            **settings,
        )
        size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        return f"{len(table):,} pictures of {settings['image_size']} px, {size / 1e6:.1f} MB"

    rooms = ("data/records.py", "data/pictures.py")
    settings_and_classes = {**settings, "classes": context.config.classes}
    inputs, outputs = (table_path,), (output,)
    name = "records" if output == context.records else f"records-{side}"
    return Task("records", name, work, settings_and_classes, inputs, outputs, rooms, "always")
