"""The stage `report`: reads the whole workdir, writes report/index.html."""

import functools

import numpy as np

from hpa_jax.config import settings as options
from hpa_jax.core import artifacts
from hpa_jax.data.sources import csv_tables
from hpa_jax.pipeline import cache, findings, retrieve, scores, show_data, tables
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context
from hpa_jax.report import (
    classes,
    cost,
    curves,
    figures,
    importance,
    leaks,
    mistakes,
    mixups,
    neighbours,
    page,
    reliability,
    result,
    schedules,
    steps,
)
from hpa_jax.report.findings import Findings
from hpa_jax.report.page import Card, Figure, Line, Section

# In which the page lists times; a stage that is not named comes last.
STAGES = (
    *("data", "catalog", "duplicates", "split", "records", "train", "predict", "retrieve"),
    *("features", "stack", "ensemble", "thresholds", "refit", "leak", "submit", "evaluate"),
)


def report(context: Context) -> list[Task]:
    """Everything above as one HTML page."""
    output = context.path("report", "index.html")

    def work() -> str:
        found = findings.gather(context)
        scored = findings.evaluation(context)
        gains = artifacts.read_json(context.path("stack", "stack.json"))["gains"]
        train = tables.split_rows(context, "train").labels.sum(axis=0)
        pictures = functools.partial(tables.images, context)
        sections = [
            result.section(found, scored, findings.weights(context)),
            steps.section(found, *findings.steps(context, found)),
            classes.section(found, train),
            curves.section(found),
            reliability.section(found),
            mixups.section(found),
            *mistakes.sections(found, pictures, context.config.report.examples // 2),
            importance.section({int(c): own for c, own in gains.items()}, found.classes),
            _training(context),
            _examples(context),
            *_neighbours(context, found),
            _leak(context, found),
            *show_data.sections(context),
            cost.section(seconds, STAGES),
        ]
        config = context.config
        subtitle = (
            f"source {config.data.source}, {len(config.models)} models, "
            f"{context.num_classes} classes, seed {config.seed}"
        )
        page.write(output, "Where is the protein?", subtitle, sections)
        return f"{len(sections)} sections, {output.stat().st_size / 1e6:.1f} MB"

    names = ("submission.csv", "metrics.json", "thresholds.json", "decisions.parquet")
    names += ("catalog.parquet", "splits.parquet", "groups.parquet")
    names += ("duplicates.parquet", "leak.parquet", "leak_overlay.parquet", "leak_conflicts.csv")
    names += ("stack", "ensemble")
    inputs = (context.records / "manifest.json", *(context.path(name) for name in names))
    evaluation, truth = context.path("evaluation.json"), context.truth
    maybe = (evaluation, truth, *(folder / "metrics.jsonl" for *_, folder in context.fits()))
    maybe += show_data.files(context)
    inputs += tuple(path for path in maybe if path and path.is_file())
    inputs += tuple(context.path("models", name, "predictions") for name in context.config.models)
    inputs += retrieve.files(context) + scores.refitted_files(context)
    seconds = cache.seconds(context.workdir)
    seconds.pop("report", None)  # its own time is known when it is written
    settings = {**options.without_places(context.config), "seconds": list(seconds.items())}
    return [Task("report", "report", work, settings, inputs, (output,))]


def _training(context: Context) -> Section:
    """Curves of loss, validation score and learning rate, as they were and as they were planned."""
    from hpa_jax.training import logs
    from hpa_jax.training.phases import learning_rates

    count, rows = len(tables.split_rows(context, "train").ids), {}
    plans = {name: learning_rates(model, count) for name, model in context.models().items()}
    for name, _, fold, folder in context.fits():
        path = folder / "metrics.jsonl"
        if path.is_file():
            label = name if fold is None else f"{name}, fold {fold}"
            rows[label] = logs.read(path)
    images = [
        Figure(figures.training_curves(rows), "Loss and validation macro-F1 over epochs"),
        Figure(figures.learning_rates(rows), "Learning rate over steps"),
        Figure(schedules.planned(plans), "Planned rates and momentum of every model over epochs"),
    ]
    return Section("training", "Training", images=images)


def _examples(context: Context) -> Section:
    """Test (or validation) images with truth and decision: the first of the split, by id."""
    rows = tables.split_rows(context, "test")
    labels = None
    if context.truth is not None and context.truth.is_file():
        labels = tables.truth(context.truth, rows.ids, context)
    decided = tables.submission(context.path("submission.csv"), rows.ids, context)
    shown = np.argsort(rows.ids)[: context.config.report.examples]
    images = tables.images(context, rows.ids[shown])
    names, cards = context.config.classes, []
    for row, image in zip(shown, images):
        guess = ", ".join(names[n] for n in np.flatnonzero(decided[row])) or "nothing"
        lines = [Line(f"predicted: {guess}")]
        if labels is not None:
            kind, sign = ("good", "✓") if (labels[row] == decided[row]).all() else ("bad", "✗")
            right = ", ".join(names[n] for n in np.flatnonzero(labels[row])) or "nothing"
            lines = [Line(f"truth: {right}"), Line(f"{sign} {lines[0].text}", kind)]
        cards.append(Card(figures.picture(image[..., :3]), str(rows.ids[row]), lines))
    notes = ["Red microtubules, green the protein, blue nucleus; brightness stretched."]
    return Section("examples", "Examples from the test part", notes, cards=cards)


def _neighbours(context: Context, found: Findings) -> list[Section]:
    """Which test images have a near labelled one; nothing if retrieval is off."""
    if context.config.retrieval.mode == "off":
        return []
    pairs = artifacts.read_table(context.path("retrieval", "test.parquet"))
    scored = artifacts.read_json(context.path("retrieval", "scores.json"))
    pictures = functools.partial(tables.images, context)
    truth = dict(zip(found.test.ids, found.test.labels)) if found.test else None
    count, classes = context.config.report.examples // 4, found.classes
    lent = retrieve.labels_of(context, pairs)
    return [neighbours.section(pairs, lent, classes, scored, pictures, count, truth)]


def _leak(context: Context, found: Findings) -> Section:
    """Test images whose labels are known, and how far these can be trusted."""
    overlay = artifacts.read_table(context.path("leak_overlay.parquet"))
    conflicts = csv_tables.read(context.path("leak_conflicts.csv"))
    conflicts["labels"] = [text.split() for text in conflicts["labels"]]
    tests = tables.split_rows(context, "test").ids
    truth = dict(zip(found.test.ids, found.test.labels)) if found.test else None
    used = context.config.leak == "on"
    return leaks.section(overlay, conflicts, found.classes, tests, used, truth)
