"""Sections of the report about the data itself: classes, likely label errors, twins, likeness."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.context import Context
from hpa_jax.report import audited, doubtful, pairs, together, unlike
from hpa_jax.report.page import Section

if TYPE_CHECKING:
    import pandas as pd

PREDICTED = "test, predicted"


def sections(context: Context) -> list[Section]:
    """All of them; the audit part only where there is one, likeness to test only where the verb
    adversarial was called."""
    names, count = context.config.classes, context.config.report.examples // 2
    pictures = functools.partial(tables.images, context)
    noise, rows = label_noise(context)
    found = [
        together.section(labels_of_parts(context), names),
        doubtful.section(noise, rows, names, pictures, count),
        pairs.section(_pairs(context), names, pictures, count),
    ]
    scored = context.path("audit.json")
    if scored.is_file():
        valid = artifacts.read_json(context.path("metrics.json"))["scores"]
        found.insert(0, audited.section(artifacts.read_json(scored), valid))
    summary, table = adversarial_files(context)
    if summary.is_file() and table.is_file():
        said, scored = artifacts.read_json(summary), artifacts.read_table(table)
        known = set(artifacts.read_table(context.path("splits.parquet"))["id"])
        if set(scored["id"]) <= known:  # else it is of another set of images
            found.append(unlike.section(said, scored, pictures, count))
    return found


def files(context: Context) -> tuple:
    """What these sections read where it is there."""
    return (context.path("audit.json"), *adversarial_files(context))


def adversarial_files(context: Context) -> tuple:
    """What the verb adversarial wrote, if it was called."""
    return context.paths("adversarial.json", "adversarial.parquet")


def labels_of_parts(context: Context) -> dict[str, np.ndarray]:
    """Labels bool[N, C] of the rows of train and valid by source, and of test as submitted."""
    rows = tables.labelled_rows(context)
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["source"]
    sources = catalog[rows.ids].to_numpy(str)
    order = [name for name in ("train", "external", "own") if name in sources]
    parts = {name: rows.labels[sources == name] for name in order}
    path = context.path("submission.csv")
    if path.is_file():
        test = tables.split_rows(context, "test").ids
        parts[PREDICTED] = tables.submission(path, test, context)
    return parts


def label_noise(context: Context) -> tuple["pd.DataFrame", int]:
    """Likely label errors of the validation rows by the mean of the models, and their number."""
    from hpa_jax.decision import label_noise as noise
    from hpa_jax.inference import ensemble

    rows = tables.split_rows(context, "valid")
    probs = ensemble.mean(tables.of_models(context, "valid", rows.ids))
    return noise.table(rows.ids, rows.labels, probs, context.config.classes), len(rows.ids)


def _pairs(context: Context) -> "pd.DataFrame":
    """duplicates.parquet with source, labels, group, and whether lenders of a test image differ;
    without images that are not packed."""
    from hpa_jax.data.batches import Records

    table = artifacts.read_table(context.path("duplicates.parquet"))
    packed = Records(context.records).ids
    table = table[table["id_a"].isin(packed) & table["id_b"].isin(packed)].copy()
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")
    groups = artifacts.read_table(context.path("groups.parquet")).set_index("id")["group"]
    leak = artifacts.read_table(context.path("leak.parquet"))
    leak = leak[leak["conflict"].to_numpy(bool)]
    contradicted = set(zip(leak["test_id"], leak["match_id"]))
    for side in "ab":
        ids = table[f"id_{side}"]
        table[f"source_{side}"] = catalog["source"].reindex(ids).to_numpy()
        table[f"labels_{side}"] = catalog["labels"].reindex(ids).to_numpy()
    table["group"] = groups.reindex(table["id_a"]).to_numpy()
    table["conflict"] = [
        (a, b) in contradicted or (b, a) in contradicted
        for a, b in zip(table["id_a"], table["id_b"])
    ]
    return table
