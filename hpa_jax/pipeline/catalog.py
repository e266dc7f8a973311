"""The step `catalog`: one table of all images, with labels and files."""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.sources import roots, sources

SMALLEST_IMPORT = 512  # px, side of converted copies if the records are smaller


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
