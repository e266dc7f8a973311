"""The step `embeddings`: run every frozen network of the recipe once over all packed images.

Models that differ only in their trained head (`frozen.head`) share one folder of embeddings.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import replaced
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context, frozen_options


def embeddings(context: Context) -> list[Task]:
    """Return one task per frozen network -> embeddings/NETWORK/vectors/."""
    models = [model for model in context.models().values() if model.frozen.head]
    by_folder = {context.embeddings_of(model): model for model in models}
    return [_embed(context, model) for model in by_folder.values()]


def _embed(context: Context, model: ConfigDict) -> Task:
    folder, records = context.embeddings_of(model), context.records_of(model)
    name = f"embeddings-{folder.name}"
    output = folder / inputs_of.VECTORS
    # A weight file enters the key by content, not by path.
    options = frozen_options(model) | {"init_from": inputs_of.stamped(model)["init_from"]}

    def work() -> str:
        from hpa_jax.data.batches import Records
        from hpa_jax.inference import embeddings as computing
        from hpa_jax.training import frozen

        vectors = computing.write(
            frozen.network_of(model),
            model,
            Records(records),
            output,
            batch_size=context.config.predict.batch_size,
            views=model.views,
            earlier=[
                result / output.relative_to(context.workdir)
                for result in replaced.of_other(context.workdir, name, images.name)
            ],
            title=folder.name,
        )
        views, _, size = vectors.shape
        random = "" if model.init_from else ", RANDOM WEIGHTS: no init_from"
        return f"{len(vectors):,} images x {views} views x {size} numbers{random}"

    settings = {f"models.{folder.name}": options, **inputs_of.stored(context, model)}
    images = inputs_of.images_read(context)
    images = dataclasses.replace(images, files=(*images.files, records))
    inputs: tuple[Path | Part, ...] = (images, *inputs_of.started_with(model))
    return Task("embeddings", name, work, settings, inputs, (output,), "same", fitted=True)
