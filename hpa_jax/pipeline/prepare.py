"""Steps from images on disk to packed records: data, catalog, duplicates, split, records."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.core.errors import InputError
from hpa_jax.data.problems import LEAVE_OUT, Problems
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import seen, tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context, local, opened

SMALLEST_IMPORT = 512  # px, side of converted copies if the records are smaller
_MISSING = {
    "train": "more labelled images or another config.split",
    "valid": "more labelled images or another config.split",
    "audit": "more labelled images, or config.split.audit=0",
    "test": 'name a folder of images to label, part="test", in config.data.sources',
}


def data(context: Context) -> list[Task]:
    """Return the task that generates the synthetic competition, if that is the source."""
    if not context.draws:
        return []
    settings = context.config.data.synthetic.to_dict()
    stamped = {"data.synthetic": settings}

    def work() -> str:
        from hpa_jax.data.synthetic import dataset

        truth = context.path("data_truth.csv")
        # The images do not depend on the number of workers.
        workers = context.config.train.workers or os.cpu_count() or 1
        dataset.write(context.data_root, truth_path=truth, workers=workers, **settings)
        return f"{settings['train']:,} train and {settings['test']:,} test images generated"

    return [Task("data", "data", work, stamped, (), (context.data_root,))]


def sources(context: Context) -> list[dict]:
    """Return the sources: config.data.sources, or the single one of the short form.

    config.data.root is the default root, config.data.folder and config.data.atlas hold the default
    options of these kinds of source.
    """
    config = context.config.data
    root = {"root": config.root} if config.root else {}
    entries = [{**root, **source} for source in config.sources]
    if not entries:
        kind = "kaggle" if config.source == "synthetic" else config.source
        entries = [{"source": kind, "root": str(context.data_root)}]
    for source in entries:
        if "root" in source:
            local(source["root"], "config.data.root")
        if "source" not in source or "root" not in source:
            raise InputError(
                "config.data.sources: every source needs the keys source and root (or "
                "config.data.root, for those without)"
            )
    kinds = ("folder", "atlas")
    options = {kind: config[kind].to_dict() for kind in kinds if kind in config}
    return [{**options.get(source["source"], {}), **source} for source in entries]


def roots(context: Context) -> list[Path]:
    """Return the folders of the sources, in order."""
    return [Path(source["root"]).expanduser() for source in sources(context)]


def catalog(context: Context) -> list[Task]:
    """Return the task that writes one table of all images -> catalog.parquet."""
    config = context.config.data
    output = context.path("catalog.parquet")
    # Hashes are compared with those of the competition's images, so copies keep their side.
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
            workers=context.config.train.workers or None,
            content=context.contents.file,
        )
        table = catalogs.relative(table, roots(context), context.path("imported"))
        artifacts.write_table(output, table)
        counts = table["source"].value_counts()
        return ", ".join(f"{counts[kind]:,} {kind}" for kind in sorted(counts.index)) + " images"

    folders = roots(context)
    for root in folders:
        if not root.is_dir():
            raise InputError(f"config.data.root: folder {str(root)!r} does not exist")
    inputs = tuple(
        Part(f"root {number}", (root,), functools.partial(_content, context, root, source))
        for number, (root, source) in enumerate(zip(folders, sources(context), strict=True))
    )
    settings = {
        "data.sources": [
            {key: value for key, value in source.items() if key != "root"}
            for source in config.sources or [{"source": sources(context)[0]["source"]}]
        ],
        **{f"data.{source['source']}": config[source["source"]] for source in sources(context)
           if source["source"] in ("folder", "atlas")},
        "classes": context.config.classes,
        "data.on_bad_image": config.on_bad_image,
        "data.check": config.check,
        "largest": largest,
    }  # fmt: skip
    return [Task("catalog", "catalog", work, settings, inputs, (output,))]


def _content(context: Context, root: Path, source: Mapping[str, Any]) -> str:
    """Return a digest of a source's files without the workdir.

    Includes linked folders and files outside that a table of paths lists.
    """
    from hpa_jax.data.sources import folder

    def content(path: Path) -> str:
        return context.contents.of(path, leaving_out=context.workdir)

    links = {os.path.relpath(path, root): path for path in _linked_folders(root, set())}
    linked = [(name, content(path)) for name, path in links.items()]
    table = source.get("table", "")
    elsewhere = [content(path) for path in (folder.listed_elsewhere(root, table) if table else ())]
    inside = content(root)
    return digest(inside, linked, elsewhere) if linked or elsewhere else inside


def _linked_folders(root: Path, entered: set[str]) -> Iterator[Path]:
    """Yield links to folders below a folder, following each link once."""
    for place, folders, _ in os.walk(root):
        for path in (Path(place, name) for name in sorted(folders)):
            if path.is_symlink() and (real := os.path.realpath(path)) not in entered:
                entered.add(real)
                yield path
                yield from _linked_folders(path, entered)


def duplicates(context: Context) -> list[Task]:
    """Return the tasks -> duplicates.parquet, groups.parquet of near-duplicates, leak.parquet of
    labelled duplicates of test images, and trained_on.parquet (seen.py)."""
    return [_duplicates(context), _leak(context), *seen.tasks(context)]


def _duplicates(context: Context) -> Task:
    outputs = context.paths("duplicates.parquet", "groups.parquet")
    config = context.config
    hashing = config.duplicates.to_dict()
    hashing.pop("trained_on")  # does not change the groups

    def work() -> str:
        from hpa_jax.data import duplicates

        table, problems = tables.catalog(context, roots(context)), Problems()
        undecoded = config.data.check == "header"
        pairs, groups = duplicates.hash_catalog(
            table,
            look_at_all=undecoded,
            problems=problems,
            workers=config.train.workers or None,
            **hashing,
        )
        problems.write(context.path("bad_duplicates.csv"))
        if problems.found and config.data.on_bad_image == "error":
            raise problems.error(LEAVE_OUT)
        for output, result in zip(outputs, (pairs, groups)):
            artifacts.write_table(output, result)
        largest = int(groups["group"].value_counts().iloc[0])
        left_out = f", {len(problems.found):,} bad images left out" if problems.found else ""
        return f"{len(pairs):,} pairs, largest group {largest}{left_out}"

    settings = {
        "duplicates": hashing,
        "data.check": config.data.check,
        "data.on_bad_image": config.data.on_bad_image,
    }
    inputs = (inputs_of.images_read(context),)
    return Task("duplicates", "duplicates", work, settings, inputs, outputs)


def _leak(context: Context) -> Task:
    inputs, output = context.paths("catalog.parquet", "duplicates.parquet"), "leak.parquet"

    def work() -> str:
        from hpa_jax.data import duplicates

        leak = duplicates.leak_table(*(artifacts.read_table(path) for path in inputs))
        artifacts.write_table(context.path(output), leak)
        return f"{len(leak):,} duplicates of test images with known labels"

    outputs = (context.path(output),)
    return Task("duplicates", "leak-table", work, {}, inputs, outputs)


def split(context: Context) -> list[Task]:
    """Return the task that assigns the leak-safe hold-out or folds -> splits.parquet."""
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
                raise InputError(f"split: no image in {needed}; needs {_MISSING[needed]}")
        return ", ".join(f"{counts[kind]:,} {kind}" for kind in counts.index)

    settings = context.config.split.to_dict()
    settings.pop("trained_folds")  # does not change the split
    lists = {name: settings[name] for name in ("exclude", "force_valid", "force_train")}
    files = {name: Path(value) for name, value in lists.items() if isinstance(value, str) and value}
    parts = [
        Part(f"split.{name}", (file,), functools.partial(context.contents.of, file))
        for name, file in files.items()
    ]
    stamped = {"split": {key: value for key, value in settings.items() if key not in files}}
    return [Task("split", "split", work, stamped, (*inputs, *parts), (output,))]


def records(context: Context) -> list[Task]:
    """Return a task per stored side that packs images with all channels -> records/."""
    return [_records(context, side) for side in context.stored_sides()]


def pack(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Run the verb `records`: --beam packs with Apache Beam, --verify checks the bytes."""
    from hpa_jax.pipeline import runner

    if flags.get("beam") and not config.records.beam:
        config.records.beam = ("--runner=DirectRunner",)
    runner.run(config, flags, ["records"])
    if flags.get("verify"):
        verify_records(opened(config, flags))
    return 0


def verify_records(context: Context) -> None:
    """Compare all packed images with their checksums.

    Raises:
        InputError: a shard differs.
    """
    from hpa_jax.data import records as packing

    for side in context.stored_sides():
        folder = context.records_at(side)
        print(f"{folder}: {packing.verify(folder):,} shards match their checksums")


def _records(context: Context, side: int) -> Task:
    output = context.records_at(side)
    settings = {**context.config.records.to_dict(), "image_size": side}
    del settings["also"]

    def work() -> str:
        from hpa_jax.data import records as packing

        table = tables.catalog(context, roots(context))
        packing.write(
            table,
            context.path("records"),
            on_bad_image=context.config.data.on_bad_image,
            bad_images=context.path("bad_records.csv"),
            workers=context.config.train.workers or None,
            **settings,
        )
        size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        return f"{len(table):,} images of {settings['image_size']} px, {size / 1e6:.1f} MB"

    stamped = {
        "records": {key: value for key, value in settings.items() if key != "beam"},
        "data.on_bad_image": context.config.data.on_bad_image,
    }
    name = "records" if output == context.records else f"records-{side}"
    inputs = (inputs_of.images_read(context),)
    return Task("records", name, work, stamped, inputs, (output,), "always")
