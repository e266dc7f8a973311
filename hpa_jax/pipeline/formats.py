"""Writers of the output of `predict --model` for other tools of the field.

csv, parquet: the project's tables.  h5ad: AnnData (scanpy).  cellmaps: image_emd.tsv and
labels_prob.tsv of the Cell Mapping Toolkit.  napari: a features table for a layer.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError, near
from hpa_jax.core.tables import cell
from hpa_jax.data.sources import csv_tables
from hpa_jax.report.predictions import Predictions

DEFAULT = "csv,parquet"
# The columns of cellmaps' labels_prob.tsv, in the order of the competition's classes.
CELLMAPS = (
    *("Nucleoplasm", "N. membrane", "Nucleoli", "N. fibrillar c.", "N. speckles", "N. bodies"),
    *("ER", "Golgi app.", "Peroxisomes", "Endosomes", "Lysosomes", "Int. fil.", "Actin fil."),
    *("F. a. sites", "Microtubules", "M. ends", "Cyt. bridge", "Mitotic spindle", "MTOC"),
    *("Centrosome", "Lipid droplets", "PM", "C. Junctions", "Mitochondria", "Aggresome"),
    *("Cytosol", "C. bodies", "Rods & Rings"),
)


def named(text: str | None) -> list[str]:
    """Return the distinct formats of --format.

    Raises:
        InputError: an unknown format, or one whose library is not installed.
    """
    formats = list(dict.fromkeys(filter(None, (text or DEFAULT).replace(" ", "").split(","))))
    for name in formats:
        if name not in ("csv", "parquet", *WRITERS):
            known = ("csv", "parquet", *WRITERS)
            hint = near(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f"--format={name}: unknown{hint}")
    if "h5ad" in formats:
        try:
            import anndata  # noqa: F401
        except ImportError:
            raise InputError(
                '--format=h5ad: anndata is not installed; pip install "hpa_jax[tables]"'
            ) from None
    return formats


def gene_names(path: str | Path) -> dict[str, str]:
    """Return id -> name from an attributes table of cellmaps (columns name and filename).

    File names end in "_"; of several, separated by commas, the first is used.

    Raises:
        InputError: an unreadable table, a missing column, or a duplicate id.
    """
    rows = csv_tables.rows(Path(path))
    head = [str(text) for text in rows.iloc[0]] if len(rows) else []
    if "name" not in head or "filename" not in head:
        raise InputError(f"{path}: must have the columns name and filename, has {head[:6]}")
    names: dict[str, str] = {}
    for name, file in rows.iloc[1:][[head.index("name"), head.index("filename")]].to_numpy(str):
        id = file.split(",")[0].rstrip("_")
        if id in names:
            raise InputError(f"{path}: the file name {file!r} occurs twice")
        names[id] = name
    return names


def _h5ad(folder: Path, predictions: Predictions, names: dict[str, str] | None) -> None:
    """Write predictions.h5ad: X embeddings, obsm probabilities, obs labels and flags."""
    import anndata
    import pandas as pd

    embeddings = np.asarray(predictions.embeddings[predictions.strongest], np.float32)
    # Text as plain objects: older readers do not support pandas strings.
    obs = pd.DataFrame(
        {
            "labels": ["; ".join(_names(predictions, row)) for row in predictions.labels],
            "class_numbers": [classes.decode(row) for row in predictions.labels],
            "unlike_training": np.asarray(predictions.unlike, bool),
            "why": list(predictions.why),
        },
        index=pd.Index([str(id) for id in predictions.ids], dtype=object, name="id"),
    )
    if predictions.scale_unknown is not None:
        obs["scale_unknown"] = np.asarray(predictions.scale_unknown, bool)
    if names is not None:
        obs["name"] = [names.get(str(id), str(id)) for id in predictions.ids]
    texts = [name for name in obs if name not in ("unlike_training", "scale_unknown")]
    obs = obs.astype(dict.fromkeys(texts, object))
    columns = [f"e{k:04d}" for k in range(embeddings.shape[1])]
    var = pd.DataFrame(index=pd.Index(columns, dtype=object))
    table = anndata.AnnData(X=embeddings, obs=obs, var=var)
    if len(predictions.classes):
        table.obsm["probabilities"] = np.asarray(predictions.scores, np.float32)
        table.uns["thresholds"] = np.asarray(predictions.thresholds, float)
    for name, values in predictions.embeddings.items():
        if name != predictions.strongest:
            table.obsm[f"X_{name}"] = np.asarray(values, np.float32)
    table.uns["classes"] = np.array(predictions.classes, dtype=str)
    table.uns["network"] = predictions.strongest
    with artifacts.atomic(folder / "predictions.h5ad") as temporary:
        table.write_h5ad(temporary)


def _cellmaps(folder: Path, predictions: Predictions, names: dict[str, str] | None) -> None:
    """Write cellmaps/image_emd.tsv and labels_prob.tsv, one row per name (mean of its images)."""
    rows: dict[str, list[int]] = {}
    for n, id in enumerate(predictions.ids):
        name = str(id) if names is None else names.get(str(id))
        if name is not None:
            rows.setdefault(name, []).append(n)
    if not rows:
        raise InputError("--names: the table contains none of the images")
    embeddings = np.asarray(predictions.embeddings[predictions.strongest], np.float64)
    head = [str(k + 1) for k in range(embeddings.shape[1])]
    _tsv(folder / "cellmaps" / "image_emd.tsv", head, rows, embeddings)
    if len(predictions.classes):
        same = tuple(predictions.classes) == tuple(classes.NAMES)
        head = list(CELLMAPS if same else predictions.classes)
        _tsv(folder / "cellmaps" / "labels_prob.tsv", head, rows, predictions.scores)


def _tsv(path: Path, head: Sequence[str], rows: dict[str, list[int]], values: np.ndarray) -> None:
    """Write tabs and CRLF with an unnamed first column, the format of cellmaps."""
    path.parent.mkdir(exist_ok=True)
    with artifacts.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["", *head])
        for name, members in rows.items():
            writer.writerow([cell(name), *map(float, values[members].mean(axis=0))])


def _napari(folder: Path, predictions: Predictions, names: dict[str, str] | None) -> None:
    """Write napari_features.csv: `index` (position in the image stack), labels, flag, scores."""
    head = ["index", "id", "labels", "unlike_training", *predictions.classes]
    path = folder / "napari_features.csv"
    with artifacts.atomic(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for n, id in enumerate(predictions.ids):
            labels = "; ".join(_names(predictions, predictions.labels[n]))
            scores = [f"{score:.5f}" for score in predictions.scores[n]]
            writer.writerow([n, cell(str(id)), labels, bool(predictions.unlike[n]), *scores])


def _names(predictions: Predictions, labels: np.ndarray) -> list[str]:
    return [predictions.classes[int(c)] for c in np.flatnonzero(labels)]


# Formats beside the project's own tables: (folder, predictions, id -> name) -> None.
WRITERS: dict[str, Callable[[Path, Predictions, dict[str, str] | None], Any]] = {
    "h5ad": _h5ad,
    "cellmaps": _cellmaps,
    "napari": _napari,
}
