"""The step `duplicates`: near-duplicates, and what labels they give test images."""

from hpa_jax.core import artifacts
from hpa_jax.data.problems import LEAVE_OUT, Problems
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import seen, tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context


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

        table, problems = tables.catalog(context), Problems()
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
