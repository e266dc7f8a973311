"""The step `features`: metafeatures of images and principal components of stored embeddings."""

import dataclasses
from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context


def features(context: Context) -> list[Task]:
    """Return the tasks -> features/PART.parquet for validation, test and audit, features/pca/."""
    parts = ("valid", *tables.unseen_parts(context))
    outputs = tuple(context.path("features", f"{part}.parquet") for part in parts)

    def work() -> str:
        from hpa_jax.decision.features import metafeature_table

        catalog = tables.catalog(context).set_index("id")
        counts = []
        for part, output in zip(parts, outputs):
            ids = tables.split_rows(context, part).ids
            sizes = tables.sizes(catalog.loc[ids], context.config.features.extra)
            images = tables.images(context, ids)
            table = metafeature_table(images, ids, *sizes, **context.config.features)
            artifacts.write_table(output, table)
            counts.append(f"{len(ids):,} {part}")
        return f"{len(table.columns) - 1} features of {' and '.join(counts)} images"

    def content() -> str:
        catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
        ids = [tables.split_rows(context, part).ids for part in parts]
        columns = ["files", "original_size"]
        return digest(
            [part_ids.tolist() for part_ids in ids],
            *(catalog.loc[part_ids, columns].to_numpy(object) for part_ids in ids),
        )

    inputs = (Part("images", (context.records, *context.paths(*tables.SPLIT_TABLES)), content),)
    records = context.config.records
    settings = {
        "features": context.config.features,
        "records.image_size": records.image_size,
        "records.encoding": records.encoding,
    }
    measuring = Task("features", "features", work, settings, inputs, outputs)
    return [measuring, *_components(context)]


def _components(context: Context) -> list[Task]:
    """Fit principal components of config.embeddings.pca on the training rows -> features/pca/.

    With folds those are all labelled rows.  Labels and test images are not used.
    """
    counts = context.config.embeddings.pca.to_dict()
    if not counts:
        return []
    models = {name: context.config.models[name] for name in counts}
    output = tables.components(context)
    parts = ("train", "valid", *tables.unseen_parts(context))

    def work() -> str:
        import pandas as pd

        from hpa_jax.decision import projection

        def pooled(name: str, ids: np.ndarray) -> np.ndarray:
            return inputs_of.pooled(context, models[name], ids)

        ids = {part: tables.split_rows(context, part).ids for part in parts}
        fitted = {name: projection.fit(pooled(name, ids["train"]), counts[name]) for name in models}
        with artifacts.atomic(output) as temporary:
            temporary.mkdir()
            for name, components in fitted.items():
                components.save(temporary / f"{name}.npz")
            for part in parts[1:]:
                vectors = {name: pooled(name, ids[part]) for name in models}
                columns = projection.table(fitted, vectors)
                named = pd.DataFrame({"id": ids[part].astype(object)})
                artifacts.write_table(temporary / f"{part}.parquet", named.join(columns))
        return ", ".join(f"{count} components of {name}" for name, count in counts.items())

    def rows() -> list[tables.Rows]:
        return [tables.split_rows(context, part) for part in parts]

    inputs: tuple[Path | Part, ...] = (inputs_of.rows_read(context, "rows", rows),)
    for name, model in models.items():
        (read,) = inputs_of.embeddings_read(context, model, rows)
        inputs += (dataclasses.replace(read, name=f"embeddings of {name}"),)
    settings = {"embeddings.pca": counts}
    return [Task("features", "features-pca", work, settings, inputs, (output,))]
