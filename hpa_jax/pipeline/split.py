"""The step `split`: which images train, validate, and are only scored."""

import functools
from pathlib import Path

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context

_MISSING = {
    "train": "more labelled images or another config.split",
    "valid": "more labelled images or another config.split",
    "audit": "more labelled images, or config.split.audit=0",
    "test": 'name a folder of images to label, part="test", in config.data.sources',
}


def split(context: Context) -> list[Task]:
    """Return the task that assigns the leak-safe hold-out or folds -> splits.parquet."""
    names = ("catalog.parquet", "duplicates.parquet", "groups.parquet")
    inputs = tuple(context.path(name) for name in names)
    output = context.path("splits.parquet")

    def work() -> str:
        from hpa_jax.data import splits

        table, pairs, groups = (artifacts.read_table(path) for path in inputs)
        result = splits.assign(table, groups, pairs, **settings)
        artifacts.write_table(output, result)
        counts = result["split"].value_counts()
        for needed in ("train", "valid", *tables.unseen_parts(context)):
            if not counts.get(needed):
                raise InputError(f"split: no image in {needed}; needs {_MISSING[needed]}")
        return ", ".join(f"{counts[kind]:,} {kind}" for kind in counts.index)

    settings = context.config.split.to_dict()
    settings.pop("trained_folds")  # does not change the split
    lists = {name: settings[name] for name in ("exclude", "force_valid", "force_train")}
    files = {name: Path(value) for name, value in lists.items() if isinstance(value, str) and value}
    parts = [
        Part(f"split.{name}", (file,), functools.partial(context.contents.of, file))
        for name, file in files.items()
    ]
    stamped = {"split": {key: value for key, value in settings.items() if key not in files}}
    return [Task("split", "split", work, stamped, (*inputs, *parts), (output,))]
