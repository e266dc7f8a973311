"""The step `records`: images with all their channels, packed for tf.data."""

from typing import Any

from ml_collections import ConfigDict

from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context, opened


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

        table = tables.catalog(context)
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
