"""The step `submit`: combine the leak tables and write the submission."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import retrieve, scores, tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context

if TYPE_CHECKING:
    import pandas as pd

MATCHES = "matches"  # in submission.leak_tables: the near-duplicates of the step duplicates


def submit(context: Context) -> list[Task]:
    """Return the tasks that decide the test images -> submission.csv, predictions.csv.

    Rows are in the order of sample_submission.csv; without a competition, of the catalog.
    """
    return [_leak(context), _submit(context)]


def _leak(context: Context) -> Task:
    """Combine known labels of test images -> leak_overlay.parquet, leak_conflicts.csv."""
    names = tuple(context.config.submission.leak_tables)
    files = tuple(Path(name).expanduser() for name in names if name != MATCHES)
    outputs = (context.path("leak_overlay.parquet"), context.path("leak_conflicts.csv"))

    def work() -> str:
        from hpa_jax.decision import leak

        matches = leak.of_matches(artifacts.read_table(context.path("leak.parquet")))
        labels_by_table = {name: matches if name == MATCHES else leak.read(name) for name in names}
        overlay, conflicts = leak.combine(labels_by_table)
        artifacts.write_table(outputs[0], overlay)
        with artifacts.atomic(outputs[1]) as temporary:
            texts = [" ".join(map(str, numbers)) for numbers in conflicts["labels"]]
            conflicts.assign(labels=texts).to_csv(temporary, index=False)
        trust = " < ".join(names) or "none"
        return (
            f"labels of {len(overlay):,} test images, {len(conflicts):,} conflicts "
            f"(trust: {trust}; nearest match first)"
        )

    inputs = (*context.paths("leak.parquet"), *files)
    settings = {"submission.leak_tables": _leak_tables(context)}
    return Task("submit", "leak", work, settings, inputs, outputs)


def _leak_tables(context: Context) -> list[str]:
    """Return the leak tables without paths, for the key; the files are inputs."""
    names = context.config.submission.leak_tables
    return [name if name == MATCHES else "file" for name in names]


def _submit(context: Context) -> Task:
    settings = {"leak": context.config.leak, **options(context)}
    sample = context.sample_submission
    output, by_class = context.paths("submission.csv", "predictions.csv")

    def work() -> str:
        from hpa_jax.decision import submission

        test = tables.split_rows(context, "test")
        name = scores.chosen_method(context)
        off = scores.decisions(context, test.ids)[name]
        with artifacts.atomic(by_class) as temporary:
            predictions(context, name, test.ids, off).to_csv(
                temporary, index=False, float_format="%.4g"
            )
        off, near = retrieve.replaced(context, "test", test.ids, off)
        on, changed = overlay_leak(context, test.ids, off)
        leak_on = context.config.leak == "on"
        order = submission.sample_ids(sample) if sample else list(test.ids)
        allowed = context.config.submission.argmax == "off"
        ids, final, filled = _with_left_out(context, order, test.ids, on if leak_on else off)
        submission.write(output, ids, final, order, allow_empty=allowed)
        would = "changes" if leak_on else "is off, would change"
        by = f"model {name}" if name in context.config.models else f"the {name}"
        by += f", {near} by their neighbours" if near else ""
        note = f"; {filled} bad images take the most frequent class" if filled else ""
        return f"{len(test.ids):,} rows by {by}; the leak table {would} {changed} of them{note}"

    inputs = tables.all_predictions(context, "test") + ((sample,) if sample else ())
    inputs += context.paths("stack", "ensemble", "thresholds.json", "metrics.json")
    inputs += context.paths("leak_overlay.parquet", "duplicates.parquet", *tables.SPLIT_TABLES)
    inputs += retrieve.files(context) + scores.refitted_files(context)
    return Task("submit", "submit", work, settings, inputs, (output, by_class))


def predictions(
    context: Context, method: str, ids: np.ndarray, decided: np.ndarray
) -> "pd.DataFrame":
    """Return the table of `validated.by_class`: each class of each image.

    decided: bool[N, C], before leak table and neighbours.
    """
    from hpa_jax.decision import validated

    validation = scores.validated(context, method)
    if validation is None:
        path = context.path("thresholds.json")
        raise InputError(f"{path}: calibrations are missing; {scores.AGAIN} (--force=thresholds)")
    probs = scores.of_methods(context, tables.FINAL, ids)[method]
    names, thresholds = context.config.classes, scores.class_thresholds(context)[method]
    return validated.by_class(validation, ids, names, probs, decided, thresholds)


def options(context: Context) -> dict[str, Any]:
    """Return the options that the submission depends on, without the switch of the leak table."""
    submission = context.config.submission.to_dict() | {"leak_tables": _leak_tables(context)}
    return {
        "submission": submission,
        "ensemble.average_duplicates": context.config.ensemble.average_duplicates,
        **retrieve.settings(context),
    }


def _with_left_out(
    context: Context, order: list[str], ids: np.ndarray, decided: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return ids [N], decided bool[N, C] and the number of added rows.

    Images of the sample submission that on_bad_image="skip" left out need a row; they get the most
    frequent training class.
    """
    present = set(ids.tolist())
    absent = [name for name in order if name not in present]
    if not absent or context.config.data.on_bad_image != "skip":
        return ids, decided, 0
    guess = np.zeros((len(absent), decided.shape[1]), bool)
    guess[:, tables.split_rows(context, "train").labels.sum(axis=0).argmax()] = True
    return np.concatenate([ids, absent]), np.concatenate([decided, guess]), len(absent)


def overlay_leak(context: Context, ids: np.ndarray, decided: np.ndarray) -> tuple[np.ndarray, int]:
    """Overlay the known labels of near-duplicates; return decisions and the number of changes."""
    from hpa_jax.decision import leak

    table = artifacts.read_table(context.path("leak_overlay.parquet"))
    overlaid, changed = leak.overlay(decided, ids, table)
    return overlaid, len(changed)
