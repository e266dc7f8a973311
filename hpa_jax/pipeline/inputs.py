"""Inputs of steps for their keys: the rows, labels, images and network options they depend on.

A step declares the part of a table that it reads, so that changing other rows or columns does not
repeat it: a changed label packs no images, a new test image retrains nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.data.embeddings import Embeddings
from hpa_jax.models import published, store, weight_files
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part
from hpa_jax.pipeline.context import Context, side_for
from hpa_jax.pipeline.tables import Rows

if TYPE_CHECKING:
    from hpa_jax.data.batches import Records

VECTORS = "vectors"  # folder of the arrays in Context.embeddings_of


def images_read(context: Context) -> Part:
    """Return an input: the catalog's images without their labels."""
    path = context.path("catalog.parquet")

    def content() -> str:
        table = artifacts.read_table(path)[["id", "source", "files"]]
        return digest(table.to_numpy(object))

    return Part("images of catalog.parquet", (path,), content)


def rows_read(
    context: Context,
    name: str,
    parts: Callable[[], Iterable[Rows]],
    classes: Sequence[int] | None = None,
    images: Path | None = None,
    groups: bool = False,
) -> Part:
    """Return an input: the rows that a step reads.

    name: in the stamp.  classes: numbers of the classes whose labels are included; None: no labels.
    images: the packed data set, to include the rows' images.  groups: include duplicate groups.
    """

    def content() -> str:
        table = artifacts.read_table(context.path("catalog.parquet")) if images else None
        files_of = {} if table is None else dict(zip(table["id"], table["files"]))
        return digest(*(_facts(rows, files_of) for rows in parts()))

    def _facts(rows: Rows, files_of: dict[str, str]) -> list[Any]:
        facts: list[Any] = [
            rows.ids.tolist(),
            [files_of[id] for id in rows.ids] if images else None,
        ]
        if classes is not None:
            weights = rows.weights.tolist() if len(set(rows.weights)) > 1 else None
            facts += [digest(rows.labels[:, list(classes)]), weights]
        if groups:  # renumbered: the original numbers depend on other images
            facts.append(_numbered(rows.groups))
        return facts

    files = (images,) if images else ()
    return Part(name, (*files, *context.paths(*tables.SPLIT_TABLES)), content)


def _numbered(groups: np.ndarray) -> list[int]:
    """Renumber int[N] as 0, 1, ... by first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].tolist()


def fitted_on(context: Context, *more: str) -> Part:
    """Return an input: the validation rows with labels and groups, those of further parts and of
    test."""

    def rows() -> list[Rows]:
        test = tables.split_rows(context, "test")
        labelled = [tables.split_rows(context, part) for part in ("valid", *more)]
        return [*labelled, test]

    classes = range(context.num_classes)
    return rows_read(context, "rows", rows, classes, groups=True)


def training_shares(context: Context) -> Part:
    """Return an input: the class shares of the labelled rows, by which thresholds are matched."""

    def content() -> str:
        return digest(tables.training_shares(context))

    return Part("training shares", context.paths("catalog.parquet", "splits.parquet"), content)


def stamped(model: ConfigDict) -> dict[str, Any]:
    """Return the options of a model that its training depends on; the path of a weight file is
    left out, its content is an input (`started_with`)."""
    options = trained_by(model)
    return options | {"init_from": "file"} if _weight_file(model) else options


def started_with(model: ConfigDict) -> tuple[Path, ...]:
    """Return the weight file, or the checkpoints of another workdir, that training starts from."""
    if (name := str(model.init_from)).startswith(weight_files.PUBLISHED):
        name = name.removeprefix(weight_files.PUBLISHED)
        folder = store.folder_of(name)
        return tuple(folder / file.name for file in published.find(name).files)
    path = _weight_file(model)
    if path is None:
        return ()
    return (path / "checkpoints" if (path / "checkpoints").is_dir() else path,)


def _weight_file(model: ConfigDict) -> Path | None:
    init_from = str(model.init_from)
    if not init_from or init_from.startswith(("hf:", "published:")) or configs.started_from(model):
        return None
    return Path(init_from).expanduser()


def stored(context: Context, model: ConfigDict) -> dict[str, Any]:
    """Return the packing options of the images that a model reads."""
    side = side_for(context.stored_sides(), model.image_size)
    return {"records.image_size": side, "records.encoding": context.config.records.encoding}


def embeddings_read(
    context: Context, model: ConfigDict, parts: Callable[[], Iterable[Rows]]
) -> tuple[Part, ...]:
    """Return the inputs of a model with `frozen.head`: the stored embeddings of these rows."""
    if not model.frozen.head:
        return ()
    folder = context.embeddings_of(model) / VECTORS

    def content() -> str:
        stored = Embeddings(folder)
        return digest(*(stored.checksums[stored.rows(rows.ids)] for rows in parts()))

    return (Part("embeddings", (folder, *context.paths(*tables.SPLIT_TABLES)), content),)


def images_of(context: Context, model: ConfigDict) -> "Records | Embeddings":
    """Return a model's packed images, or its stored embeddings."""
    if model.frozen.head:
        return Embeddings(context.embeddings_of(model) / VECTORS)
    from hpa_jax.data.batches import Records

    return Records(context.records_of(model))


def pooled(context: Context, model: ConfigDict, ids: np.ndarray) -> np.ndarray:
    """Return stored embeddings float32[N, E] of a model with `frozen.head`, averaged over views."""
    from hpa_jax.inference import views

    stored = Embeddings(context.embeddings_of(model) / VECTORS)
    return stored.pooled(ids.tolist(), views.weights(model.views, model.image_size))


def trained_by(model: ConfigDict) -> dict:
    """Return the options of a model that its training depends on."""
    return {
        key: value for key, value in model.to_dict().items() if key not in configs.OF_PREDICTION
    }
