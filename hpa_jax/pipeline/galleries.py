"""Galleries of labelled images, in which `predict` finds the nearest neighbours to show: the
validation images of a run, or a sample of them inside a bundle.

BUNDLE/gallery/: gallery.parquet (id, labels, e0000..) and NUMBER.jpg, the planes of each image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.inference.tables import read_embeddings
from hpa_jax.pipeline import bundles, tables
from hpa_jax.pipeline.context import Context
from hpa_jax.report.figures import mosaic, planes
from hpa_jax.report.predictions import NEAR_SIDE, Neighbours

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle, Member

NEAREST = 3
LARGEST = 500  # images of a bundle's gallery


@dataclass(frozen=True)
class Gallery:
    """Labelled images of one network.

    ids: [G]; labels: class numbers in the run's classes; embeddings: float[G, E]; source of the
    images: the run, or the gallery folder of a bundle.
    """

    ids: np.ndarray
    labels: list[list[int]]
    embeddings: np.ndarray
    source: Context | Path

    def images(self, rows: Sequence[int]) -> list[np.ndarray]:
        """Return the images uint8[H, W, 4] of these rows."""
        if isinstance(self.source, Context):
            return list(tables.images(self.source, self.ids[list(rows)])) if len(rows) else []
        return [planes((self.source / f"{row:06d}.jpg").read_bytes()) for row in rows]

    def nearest(self, embeddings: np.ndarray, count: int = NEAREST) -> Neighbours:
        """Return the nearest images of embeddings [N, E] by cosine similarity.

        Both are standardised by the gallery, since a few queries give no reliable mean.
        """
        mean, scale = self.embeddings.mean(axis=0), self.embeddings.std(axis=0)
        scale = np.where(scale > 0, scale, 1)
        queries, targets = (_unit((x - mean) / scale) for x in (embeddings, self.embeddings))
        cosines = queries @ targets.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows = np.unique(order)
        position = {int(row): n for n, row in enumerate(rows)}
        pairs = [
            [(position[int(g)], float(cosines[n, g])) for g in near] for n, near in enumerate(order)
        ]
        labels = [self.labels[row] for row in rows]
        return Neighbours(self.ids[rows].tolist(), labels, self.images(rows.tolist()), pairs)


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def of_run(run: Context, member: "Member", classes: Sequence[str]) -> Gallery | None:
    """Return a gallery of a run's validation images for a network, None if files are missing."""
    names = list(run.config.classes)
    fold = member.name.removeprefix(f"{member.model}-")
    folder = run.path("models", member.model, *([fold] if fold.startswith("fold_") else []))
    embedded = folder / "predictions" / "valid_embeddings.parquet"
    files = (embedded, run.path("catalog.parquet"), run.records / "manifest.json")
    if not all(path.is_file() for path in files) or not set(names) <= set(classes):
        return None
    ids, embeddings = read_embeddings(embedded)
    catalog = artifacts.read_table(run.path("catalog.parquet")).set_index("id")
    labels = [
        [list(classes).index(names[int(c)]) for c in numbers]
        for numbers in catalog.loc[ids, "labels"]
    ]
    return Gallery(np.asarray(ids, str), labels, embeddings, run)


def of_model(model: str, packed: "Bundle", member: "Member") -> Gallery | None:
    """Return the gallery for a network of --model, None if there is none."""
    bundle = Path(model).expanduser() / "bundle.json"
    if bundle.is_file():
        return read(bundle.parent / "gallery")
    if "macro_f1" not in packed.training_images:  # published, or without a run
        return None
    run = bundles.run_of(model.split(",")[0])
    return None if run is None else of_run(run, member, packed.class_names)


def write(folder: Path, gallery: Gallery, largest: int = LARGEST) -> None:
    """Write a sample of a gallery with small copies of its images."""
    import pandas as pd

    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(len(gallery.ids))[:largest])
    with artifacts.atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        columns = {f"e{k:04d}": x for k, x in enumerate(gallery.embeddings[rows].T)}
        labels = [gallery.labels[row] for row in rows]
        table = pd.DataFrame({"id": gallery.ids[rows].astype(object), "labels": labels, **columns})
        artifacts.write_table(temporary / "gallery.parquet", table)
        for place, image in enumerate(gallery.images(rows.tolist())):
            (temporary / f"{place:06d}.jpg").write_bytes(mosaic(image, NEAR_SIDE)[0])


def read(folder: Path) -> Gallery | None:
    """Return the gallery of a bundle, None if it was exported without one."""
    path = folder / "gallery.parquet"
    if not path.is_file():
        return None
    with artifacts.parsing(path, "export the bundle again"):
        table = artifacts.read_table(path)
        labels = [[int(c) for c in numbers] for numbers in table["labels"]]
        embeddings = table.drop(columns=["id", "labels"]).to_numpy(np.float32)
    return Gallery(table["id"].to_numpy(str), labels, embeddings, folder)
