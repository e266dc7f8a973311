"""The step `features`: metafeatures of every validation, test and audit image."""

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.pipeline import prepare, tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context


def features(context: Context) -> list[Task]:
    """The 15 metafeatures of validation, test and audit images -> features/PART.parquet."""
    parts = ("valid", *tables.unseen_parts(context))
    outputs = tuple(context.path("features", f"{part}.parquet") for part in parts)

    def work() -> str:
        from hpa_jax.decision.features import metafeature_table

        catalog = tables.catalog(context, prepare.roots(context)).set_index("id")
        counts = []
        for part, output in zip(parts, outputs):
            ids = tables.split_rows(context, part).ids
            sizes = tables.sizes(catalog.loc[ids], context.config.features.extra)
            images = tables.images(context, ids)
            found = metafeature_table(images, ids, *sizes, **context.config.features)
            artifacts.write_table(output, found)
            counts.append(f"{len(ids):,} {part}")
        return f"{len(found.columns) - 1} features of {' and '.join(counts)} images"

    def measured() -> str:
        catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
        ids = [tables.split_rows(context, part).ids for part in parts]
        columns = ["files", "original_size"]
        return digest(
            [own.tolist() for own in ids],
            *(catalog.loc[own, columns].to_numpy(object) for own in ids),
        )

    inputs = (Part("images", (context.records, *context.paths(*tables.SPLIT_TABLES)), measured),)
    records = context.config.records
    settings = {
        "features": context.config.features,
        "records.image_size": records.image_size,
        "records.encoding": records.encoding,
    }
    return [Task("features", "features", work, settings, inputs, outputs)]
