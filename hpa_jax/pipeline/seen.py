"""Notes on scores of models whose published weights were trained on images of the run.

A model that starts from published weights (init_from="published:NAME", or another model of the
recipe that does) was trained on their images.  Scores on such labelled images are in sample; if the
test images were possibly among them, scores are transductive.  Which images those are is stated by
the catalogue of published models, or by a list of ids or antibodies (config.duplicates.trained_on),
which may be of any weights.  Frozen networks with random weights (no init_from) are marked, too.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.models import published, weight_files
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context, local

if TYPE_CHECKING:
    import pandas as pd

IN_SAMPLE, TRANSDUCTIVE = "in sample", "transductive"
LISTED = "trained_on.parquet"
RANDOM = "random weights"
# Sources of rows by kind of data source; images of a folder cannot have been published.
_COMPETITION = {"train", "external", "test"}
_PARTS = {"kaggle": _COMPETITION, "synthetic": _COMPETITION, "atlas": {"external"}}


def parts(context: Context) -> dict[str, set[str]]:
    """Return {model: the sources (train, external, test) its weights may have been trained on}."""
    data = context.config.data
    kinds = [source.get("source") for source in data.sources] or [data.source]
    present: set[str] = set()
    if not context.draws:
        present = present.union(*(_PARTS.get(kind, set()) for kind in kinds))
    listed = _listed(context)
    result = {}
    for name in context.config.models:
        begun_with = origin(context.config, name)
        if name in listed:
            result[name] = listed[name]
        elif begun_with.startswith(weight_files.PUBLISHED):
            entry = published.find(begun_with.removeprefix(weight_files.PUBLISHED))
            result[name] = set(entry.seen & present)
    return {name: sources for name, sources in result.items() if sources}


def _listed(context: Context) -> dict[str, set[str]]:
    """Return {model with a list: sources of the images in it}; none before `duplicates` has run."""
    names, path = lists(context.config), context.path(LISTED)
    if not names or not path.is_file():
        return {name: set() for name in names}
    table = artifacts.read_table(path)
    return {name: set(table.loc[table["model"] == name, "source"]) for name in names}


def lists(config: ConfigDict) -> dict[str, str]:
    """Return {model: file of config.duplicates.trained_on}, also of the model it continues from."""
    by_first = config.duplicates.trained_on
    firsts = {name: _first(config, name) for name in config.models}
    return {name: by_first[first] for name, first in firsts.items() if first in by_first}


def tasks(context: Context) -> list[Task]:
    """Return the task -> trained_on.parquet, if config.duplicates.trained_on has lists."""
    files = {
        name: local(path, f"config.duplicates.trained_on.{name}")
        for name, path in lists(context.config).items()
    }
    output = context.path(LISTED)

    def work() -> str:
        import pandas as pd

        from hpa_jax.data.sources import csv_tables

        catalog, groups = (artifacts.read_table(path) for path in inputs)
        tables = [
            listed_images(catalog, groups, csv_tables.cells(path)).assign(model=name)
            for name, path in files.items()
        ]
        artifacts.write_table(output, pd.concat(tables, ignore_index=True))
        counts = (f"{len(table):,} of {name}" for name, table in zip(files, tables, strict=True))
        labelled = any((table["source"] != "test").any() for table in tables)
        needed = "; thresholds and stack will need --allow-seen" if labelled else ""
        return f"images that weights were trained on: {', '.join(counts)}{needed}"

    inputs = context.paths("catalog.parquet", "groups.parquet")
    contents = [
        Part(f"duplicates.trained_on.{name}", (path,), functools.partial(context.contents.of, path))
        for name, path in files.items()
    ]
    task = Task("duplicates", "trained-on", work, {}, (*inputs, *contents), (output,))
    return [task] if files else []


def listed_images(
    catalog: "pd.DataFrame", groups: "pd.DataFrame", names: set[str]
) -> "pd.DataFrame":
    """Return the images that a list names: id, source, by (id, antibody, near-duplicate).

    catalog: columns id, source, antibody.  groups: of near-duplicates, columns id, group.  names:
    ids or antibodies; an image of a group with a listed one is its near-duplicate.
    """
    table = catalog[["id", "source"]].assign(by="")
    near = catalog["id"].map(groups.set_index("id")["group"])
    by_id, by_antibody = catalog["id"].isin(names), catalog["antibody"].isin(names)
    table.loc[near.isin(near[by_id | by_antibody]), "by"] = "near-duplicate"
    table.loc[by_antibody, "by"] = "antibody"
    table.loc[by_id, "by"] = "id"
    return table[table["by"] != ""]


def notes(context: Context, test: bool = False) -> dict[str, str]:
    """Return {method: note on its score, "" if none}.

    test: the rows are test images, else labelled ones.  Blends and the stack depend on all models.
    """
    rows = {"test"} if test else {"train", "external"}
    exposed = {name for name, seen in parts(context).items() if seen & rows}
    note = TRANSDUCTIVE if test else IN_SAMPLE
    weightless = random_weights(context)

    def joined(seen: bool, random: str) -> str:
        return "; ".join(filter(None, (note if seen else "", random)))

    by_model = {
        name: joined(name in exposed, RANDOM if name in weightless else "")
        for name in context.config.models
    }
    joint = f"{RANDOM} in {', '.join(weightless)}" if weightless else ""
    return by_model | dict.fromkeys(configs.METHODS, joined(bool(exposed), joint))


def random_weights(context: Context) -> list[str]:
    """Return the models whose frozen network has random weights."""
    models = context.config.models.items()
    return [name for name, model in models if model.frozen.head and not model.init_from]


def marked(
    context: Context, scores: Mapping[str, dict[str, Any]], test: bool = False
) -> dict[str, dict[str, Any]]:
    """Add notes to scores by method, under "seen"."""
    notes_by_method = notes(context, test)
    return {
        name: {**score, "seen": notes_by_method[name]} if notes_by_method.get(name) else score
        for name, score in scores.items()
    }


def settings(context: Context) -> dict[str, Any]:
    """Return the part of a scoring task's key: sources seen by each model."""
    by_model = {name: sorted(seen) for name, seen in parts(context).items()}
    return {"seen": by_model} if by_model else {}


def check(context: Context) -> None:
    """Refuse to fit thresholds or the stack on rows that a model was trained on.

    Raises:
        InputError: such a model without --allow-seen.
    """
    for name, seen in parts(context).items():
        labelled = sorted(seen - {"test"})
        if labelled and not context.flags.get("allow-seen"):
            raise InputError(
                f"config.models.{name}: starts from {origin(context.config, name)}, "
                f"trained on images of this run ({', '.join(labelled)}): its scores there "
                "would be in sample, and thresholds and stack fitted on them; remove it, or add "
                "--allow-seen (its scores are then marked)"
            )


def origin(config: ConfigDict, name: str) -> str:
    """Return the init_from of a model, or of the one that it continues from: a file, a folder,
    "published:NAME" or ""."""
    first = _first(config, name)
    return str(config.models[first].init_from) if first in config.models else ""


def _first(config: ConfigDict, name: str) -> str:
    """Return the model that one continues from, itself if none."""
    visited: set[str] = set()
    while name in config.models and name not in visited:
        visited.add(name)
        name = configs.started_from(config.models[name]) or name
    return name
