"""The stage `report`: reads the whole workdir, writes report/index.html."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax import artifacts, stamps
from hpa_jax.context import Context
from hpa_jax.report import figures, page
from hpa_jax.report.page import Card, Figure, Line, Section, Table, number
from hpa_jax.stages import scores, tables
from hpa_jax.stamps import Task


def report(context: Context) -> list[Task]:
    """Everything above as one HTML page."""
    output = context.path("report", "index.html")

    def work() -> str:
        sections = [
            _result(context),
            _classes(context),
            _training(context),
            _examples(context),
            _graph(context),
            _twins(context),
            _provenance(context),
        ]
        config = context.config
        subtitle = (
            f"source {config.data.source}, {len(config.models)} models, "
            f"{context.num_classes} classes, seed {config.seed}"
        )
        page.write(output, "Where is the protein?", subtitle, sections)
        return f"{len(sections)} sections, {output.stat().st_size / 1e6:.1f} MB"

    names = ("submission.csv", "metrics.json", "thresholds.json", "duplicates.parquet")
    names += ("catalog.parquet", "splits.parquet", "stack")
    inputs = (context.records, *(context.path(name) for name in names))
    evaluation, truth = context.path("evaluation.json"), context.truth
    inputs += tuple(path for path in (evaluation, truth) if path and path.is_file())
    inputs += tuple(context.path("models", name, "predictions") for name in context.config.models)
    settings = context.config.report.to_dict()
    rooms = ("report", "stages", "data/statistics.py")
    return [Task("report", "report", work, settings, inputs, (output,), rooms)]


def _result(context: Context) -> Section:
    """The table of methods on validation and on the test truth, and which one was submitted."""
    metrics = artifacts.read_json(context.path("metrics.json"))
    test = _evaluation(context)
    columns = ["method", "validation: at 0.5", "with thresholds (nested)"]
    columns += ["test: at 0.5", "with thresholds", "mean average precision"] if test else []
    rows = []
    for name, value in metrics["scores"].items():
        cells = [name, number(value["macro_f1_at_half"]), number(value["macro_f1"])]
        if test:
            found = test["scores"][name]
            cells += [number(found["macro_f1_at_half"]), number(found["macro_f1"])]
            cells += [number(found["mean_average_precision"])]
        rows.append(cells)
    chosen = scores.chosen_method(context)
    notes = [f"Macro-F1 over {context.num_classes} classes. Submitted: {chosen}."]
    if test:
        final = test["submission"]
        notes.append(
            f"The submission scores {number(final['macro_f1'])} on the test truth "
            f"({number(final['macro_f1_classes_present'])} over the classes that occur there); "
            f"leak table off {number(test['leak_off']['macro_f1'])}, "
            f"on {number(test['leak_on']['macro_f1'])}."
        )
        notes.append(_verdict(test["scores"]))
    feet = [f"Validation: {metrics['rows']}."] + ([f"Test: {test['rows']}."] if test else [])
    table = Table(columns, rows, list(metrics["scores"]).index(chosen))
    return Section("result", "Result", notes, table, feet=feet)


def _verdict(found: dict[str, Any]) -> str:
    """Whether the stack paid on the test truth."""
    stack = found[scores.STACK]["macro_f1"]
    others = {name: value["macro_f1"] for name, value in found.items() if name != scores.STACK}
    best = max(others, key=others.get)
    word = "beats" if stack > others[best] else "does not beat"
    return (
        f"On the test truth the stack ({number(stack)}) {word} the best of the others, "
        f"{best} ({number(others[best])}), each with its thresholds."
    )


def _classes(context: Context) -> Section:
    """Per class: support, F1 and threshold of the submitted method."""
    metrics = artifacts.read_json(context.path("metrics.json"))
    cuts = artifacts.read_json(context.path("thresholds.json"))["thresholds"]
    chosen, test = scores.chosen_method(context), _evaluation(context)
    train = tables.split_rows(context, "train").labels.sum(axis=0)
    columns = ["class", "train", "validation", "F1", "threshold"]
    columns += ["test", "F1 on test"] if test else []
    rows = []
    for i, name in enumerate(context.config.classes):
        support = metrics["support"][i]
        cells = [f"{i} {name}", number(int(train[i])), number(support)]
        cells += [number(metrics["scores"][chosen]["class_f1"][i] if support else None)]
        cells += [number(cuts[chosen][i])]
        if test:
            there = test["support"][i]
            value = test["scores"][chosen]["class_f1"][i] if there else None
            cells += [number(there), number(value)]
        rows.append(cells)
    notes = [f"Method: {chosen}. A dash: no positive there, or never predicted."]
    absent = metrics["classes_without_positives"]
    if absent:
        notes.append(f"Without a positive in validation, so never predicted: {', '.join(absent)}.")
    shown = test or metrics
    where = "test" if test else "validation"
    by_method = {name: np.array(v["class_f1"], float) for name, v in shown["scores"].items()}
    uri = figures.class_scores(context.config.classes, by_method, np.array(shown["support"]))
    image = Figure(uri, f"F1 of each class on {where}, by method")
    return Section("classes", "Classes", notes, Table(columns, rows), [image])


def _training(context: Context) -> Section:
    """Curves of loss, validation score and learning rate."""
    logs = {}
    for name, _, fold, folder in context.fits():
        path = folder / "metrics.jsonl"
        if path.is_file():
            label = name if fold is None else f"{name}, fold {fold}"
            logs[label] = [json.loads(line) for line in path.read_text().splitlines()]
    images = [
        Figure(figures.training_curves(logs), "Loss and validation macro-F1 over epochs"),
        Figure(figures.learning_rates(logs), "Learning rate over steps"),
    ]
    return Section("training", "Training", images=images)


def _examples(context: Context) -> Section:
    """Test (or validation) pictures with truth and decision: the first of the split, by id."""
    rows = tables.split_rows(context, "test")
    labels = None
    if context.truth is not None and context.truth.is_file():
        labels = tables.truth(context.truth, rows.ids, context)
    decided = scores.read_submission(context.path("submission.csv"), rows.ids, context)
    shown = np.argsort(rows.ids)[: context.config.report.examples]
    images = tables.images(context, rows.ids[shown])
    names, cards = context.config.classes, []
    for row, image in zip(shown, images):
        guess = ", ".join(names[n] for n in np.flatnonzero(decided[row])) or "nothing"
        lines = [Line(f"predicted: {guess}")]
        if labels is not None:
            kind = "good" if (labels[row] == decided[row]).all() else "bad"
            right = ", ".join(names[n] for n in np.flatnonzero(labels[row])) or "nothing"
            lines = [Line(f"truth: {right}"), Line(lines[0].text, kind)]
        cards.append(Card(figures.picture(image[..., :3]), str(rows.ids[row]), lines))
    notes = ["Red microtubules, green the protein, blue nucleus; brightness stretched."]
    return Section("examples", "Examples from the test part", notes, cards=cards)


def _graph(context: Context) -> Section:
    """Which classes occur together in training."""
    from hpa_jax.data import statistics

    labels = tables.split_rows(context, "train").labels
    graph = statistics.graph(labels, context.config.classes, weight="count", at_least=0.02)
    layouts = {"Kamada-Kawai": "kamada_kawai", "circle": "circular"}
    images = [
        Figure(
            figures.class_graph(
                graph, statistics.layout(graph, kind), context.config.classes, title
            ),
            f"Class graph, {title} layout",
        )
        for title, kind in layouts.items()
    ]
    notes = ["Node: pictures that carry the class. Edge: pictures that carry both."]
    return Section("graph", "Classes that occur together", notes, images=images)


def _twins(context: Context) -> Section:
    """Matched pairs side by side."""
    pairs = artifacts.read_table(context.path("duplicates.parquet"))
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["source"]
    shown = pairs.head(context.config.report.examples // 4)
    ids = shown[["id_a", "id_b"]].to_numpy(str).ravel()
    distances = [
        f"R {p.distance_r}, G {p.distance_g}, B {p.distance_b}" for p in shown.itertuples()
    ]
    cards = []
    for i, (own, image) in enumerate(zip(ids, tables.images(context, ids) if len(ids) else ())):
        lines = [
            Line(f"{catalog[own]}: {own}"),
            Line(f"pair {i // 2 + 1}, bits: {distances[i // 2]}"),
        ]
        cards.append(Card(figures.picture(image[..., :3]), own, lines))
    notes = [f"{len(pairs):,} pairs within the radius on each of red, green and blue."]
    return Section("twins", "Twins", notes, cards=cards)


def _provenance(context: Context) -> Section:
    """Time of each task and what the run was made of."""
    rows = [[name, number(value, 1)] for name, value in stamps.seconds(context.workdir).items()]
    notes = ["The resolved config, command, versions and devices are in run.json of the workdir."]
    return Section("run", "This run", notes, Table(["task", "seconds"], rows))


def _evaluation(context: Context) -> dict[str, Any] | None:
    path: Path = context.path("evaluation.json")
    return artifacts.read_json(path) if path.is_file() else None
