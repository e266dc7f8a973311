"""What steps depend on, as their keys hold it: which rows, labels, images and options of a network.

A step names the part of a table that it reads, so that a change of any other row or column does
nothing again: another label packs no images, another test image trains nothing.
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

VECTORS = "vectors"  # the folder of the arrays below Context.embeddings_of


def images_read(context: Context) -> Part:
    """An input: the catalog's images, whatever their labels."""
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
    """An input: rows of the tables as a step reads them, and nothing of the other rows.

    name: in the stamp.  classes: numbers of those whose labels count; None: no label does.
    images: the packed data set, if the rows' images count.  groups: whether their duplicate groups
    do.
    """

    def content() -> str:
        table = artifacts.read_table(context.path("catalog.parquet")) if images else None
        marks = {} if table is None else dict(zip(table["id"], table["files"]))
        return digest(*(_said(rows, marks) for rows in parts()))

    def _said(rows: Rows, marks: dict[str, str]) -> list[Any]:
        said: list[Any] = [rows.ids.tolist(), [marks[id] for id in rows.ids] if images else None]
        if classes is not None:
            weights = rows.weights.tolist() if len(set(rows.weights)) > 1 else None
            said += [digest(rows.labels[:, list(classes)]), weights]
        if groups:  # by their members: the numbers change with any other image
            said.append(_numbered(rows.groups))
        return said

    files = (images,) if images else ()
    return Part(name, (*files, *context.paths(*tables.SPLIT_TABLES)), content)


def _numbered(groups: np.ndarray) -> list[int]:
    """int[N] as 0, 1, ... by first appearance."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].tolist()


def fitted_on(context: Context, *more: str) -> Part:
    """An input: the validation rows with labels and groups, which of test there are, and the labels
    of further parts."""

    def rows() -> list[Rows]:
        test = tables.split_rows(context, "test")
        labelled = [tables.split_rows(context, part) for part in ("valid", *more)]
        return [*labelled, test]

    classes = range(context.num_classes)
    return rows_read(context, "rows", rows, classes, groups=True)


def training_shares(context: Context) -> Part:
    """An input: the shares of the classes in the competition's train.csv."""

    def content() -> str:
        return digest(tables.training_shares(context))

    return Part("training shares", context.paths("catalog.parquet"), content)


def stamped(model: ConfigDict) -> dict[str, Any]:
    """The options of a model that its training depends on; a weight file counts by its bytes, as an
    input (`started_with`), and not by its place."""
    options = trained_by(model)
    return options | {"init_from": "file"} if _weight_file(model) else options


def started_with(model: ConfigDict) -> tuple[Path, ...]:
    """The weight file, or the checkpoints of another workdir, that training starts from."""
    if (name := str(model.init_from)).startswith(weight_files.PUBLISHED):
        name = name.removeprefix(weight_files.PUBLISHED)
        folder = store.folder_of(name)
        return tuple(folder / file.name for file in published.find(name).files)
    given = _weight_file(model)
    if given is None:
        return ()
    return (given / "checkpoints" if (given / "checkpoints").is_dir() else given,)


def _weight_file(model: ConfigDict) -> Path | None:
    given = str(model.init_from)
    if not given or given.startswith(("hf:", "published:")) or configs.started_from(model):
        return None
    return Path(given).expanduser()


def stored(context: Context, model: ConfigDict) -> dict[str, Any]:
    """How the images that a model reads are packed."""
    side = side_for(context.stored_sides(), model.image_size)
    return {"records.image_size": side, "records.encoding": context.config.records.encoding}


def embeddings_read(
    context: Context, model: ConfigDict, parts: Callable[[], Iterable[Rows]]
) -> tuple[Part, ...]:
    """An input of a model with `frozen.head`: the stored embeddings of these rows alone."""
    if not model.frozen.head:
        return ()
    folder = context.embeddings_of(model) / VECTORS

    def content() -> str:
        stored = Embeddings(folder)
        return digest(*(stored.checksums[stored.rows(rows.ids)] for rows in parts()))

    return (Part("embeddings", (folder, *context.paths(*tables.SPLIT_TABLES)), content),)


def images_of(context: Context, model: ConfigDict) -> "Records | Embeddings":
    """What a model's training and prediction read: packed images, or stored embeddings."""
    if model.frozen.head:
        return Embeddings(context.embeddings_of(model) / VECTORS)
    from hpa_jax.data.batches import Records

    return Records(context.records_of(model))


def pooled(context: Context, model: ConfigDict, ids: np.ndarray) -> np.ndarray:
    """float32[N, E]: the stored embeddings of a model with `frozen.head`, the mean of its views."""
    from hpa_jax.inference import views

    stored = Embeddings(context.embeddings_of(model) / VECTORS)
    return stored.pooled(ids.tolist(), views.weights(model.views, model.image_size))


def trained_by(model: ConfigDict) -> dict:
    """The options of a model that its training depends on."""
    return {
        key: value for key, value in model.to_dict().items() if key not in configs.OF_PREDICTION
    }
