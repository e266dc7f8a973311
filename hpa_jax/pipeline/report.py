"""The step `report`: gather the page's content from the workdir and write report/index.html."""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.config import settings as options
from hpa_jax.core import artifacts
from hpa_jax.data.sources import csv_tables
from hpa_jax.pipeline import cache, retrieve, scores, submit, tables, thresholds
from hpa_jax.pipeline.cache import Task
from hpa_jax.pipeline.context import Context
from hpa_jax.report import dataset, errors, overview, page, results, training
from hpa_jax.report.inputs import (
    Adversarial,
    ChainStep,
    Examples,
    LabelErrors,
    Leak,
    Neighbours,
    ReportData,
    Results,
    ScoredRows,
)
from hpa_jax.report.page import Section

if TYPE_CHECKING:
    import pandas as pd

PREDICTED = "test, predicted"


def report(context: Context) -> list[Task]:
    """Return the task that writes the page."""
    output = context.path("report", "index.html")
    seconds = cache.seconds(context.workdir)
    seconds.pop("report", None)  # from an earlier run

    def work() -> str:
        data = gather(context, seconds)
        shown = sections(data)
        config = context.config
        subtitle = (
            f"source {config.data.source}, {len(config.models)} models, "
            f"{context.num_classes} classes, seed {config.seed}"
        )
        first = overview.overview(data)
        page.write(output, "Protein localisation: report of the run", subtitle, shown, first)
        return f"{len(shown)} sections, {output.stat().st_size / 1e6:.1f} MB"

    names = ("submission.csv", "metrics.json", "thresholds.json", "decisions.parquet")
    names += ("catalog.parquet", "splits.parquet", "groups.parquet")
    names += ("duplicates.parquet", "leak.parquet", "leak_overlay.parquet", "leak_conflicts.csv")
    names += ("stack", "ensemble")
    inputs = (context.records / "manifest.json", *(context.path(name) for name in names))
    optional = context.paths("evaluation.json", "audit.json", "predictions.csv")
    optional += _adversarial_files(context)
    optional += (context.truth, *(folder / "metrics.jsonl" for *_, folder in context.fits()))
    inputs += tuple(path for path in optional if path and path.is_file())
    inputs += tuple(context.path("models", name, "predictions") for name in context.config.models)
    inputs += retrieve.files(context) + scores.refitted_files(context)
    settings = {**options.without_places(context.config), "seconds": list(seconds.items())}
    return [Task("report", "report", work, settings, inputs, (output,))]


def sections(data: ReportData) -> list[Section]:
    """Return the sections of the page in order."""
    shown = [
        results.methods(data.results),
        results.steps(data.results),
        results.classes(data),
        results.curves(data.results),
        results.calibration(data.results),
        errors.confusions(data.results),
        *errors.largest(data),
        results.importance(data.gains, data.classes),
        training.training(data.logs, data.schedules),
        errors.examples(data.examples, data.classes, data.images),
        dataset.neighbours(data),
        dataset.leak(data.leak, data.classes, data.results.truth),
        results.audit(data.results),
        dataset.frequencies(data.labels, data.classes),
        errors.label_errors(data.label_errors, data.classes, data.images, data.shown // 2),
        dataset.duplicates(data),
        dataset.adversarial(data),
        training.cost(data.seconds),
    ]
    return [section for section in shown if section is not None]


def gather(context: Context, seconds: Mapping[str, float]) -> ReportData:
    """Read the content of the page. seconds: of each task."""
    from hpa_jax.pipeline.steps import STEPS
    from hpa_jax.training import logs
    from hpa_jax.training.phases import learning_rates

    gathered = gather_results(context)
    chain, note = steps(context, gathered)
    train = tables.split_rows(context, "train")
    logs_by_fit = {}
    for name, _, fold, folder in context.fits():
        if (folder / "metrics.jsonl").is_file():
            label = name if fold is None else f"{name}, fold {fold}"
            logs_by_fit[label] = logs.read(folder / "metrics.jsonl")
    gains = artifacts.read_json(context.path("stack", "stack.json"))["gains"]
    position = {name: place for place, name in enumerate(STEPS)}
    tasks = sorted(
        seconds, key=lambda task: (position.get(task.split("-")[0], len(position)), task)
    )
    return ReportData(
        results=dataclasses.replace(gathered, chain=chain, chain_note=note),
        train_support=train.labels.sum(axis=0),
        gains={int(c): shares for c, shares in gains.items()},
        logs=logs_by_fit,
        schedules={
            name: learning_rates(model, len(train.ids)) for name, model in context.models().items()
        },
        examples=_examples(context),
        labels=labels_of_parts(context),
        label_errors=label_errors(context),
        duplicates=_duplicates(context),
        neighbours=_neighbours(context),
        leak=_leak(context),
        adversarial=_adversarial(context),
        seconds={task: seconds[task] for task in tasks},
        images=functools.partial(tables.images, context),
        shown=context.config.report.examples,
    )


def gather_results(context: Context) -> Results:
    """Read scores and decisions: nested ones on validation, and on test if its truth is known.

    The chain of steps is left empty.
    """
    stored = artifacts.read_json(context.path("thresholds.json"))
    metrics = artifacts.read_json(context.path("metrics.json"))
    chosen = scores.chosen_method(context)
    interval = stored["intervals"][chosen]
    evaluation = _json(context.path("evaluation.json"))
    return Results(
        classes=list(context.config.classes),
        chosen=chosen,
        stack=scores.STACK,
        valid=_valid(context, metrics),
        test=_test(context, evaluation),
        thresholds=scores.class_thresholds(context),
        intervals=np.array([interval["low"], interval["high"]], float).T,
        automatic=metrics["auto"],
        evaluation=evaluation,
        audit=_json(context.path("audit.json")),
        blend_weights={
            name: blend["weights"]
            for name, blend in metrics["blends"].items()
            if blend["weights"] and blend["method"] != "logistic"
        },
    )


def _json(path: Path) -> dict[str, Any] | None:
    return artifacts.read_json(path) if path.is_file() else None


def _valid(context: Context, metrics: Mapping[str, Any]) -> ScoredRows:
    rows = tables.split_rows(context, "valid")
    path = context.path("decisions.parquet")
    return ScoredRows(
        "validation",
        metrics["rows"],
        rows.ids,
        rows.labels,
        rows.groups,
        scores.of_methods(context, "valid", rows.ids),
        scores.read_decisions(path, list(metrics["scores"]), rows.ids, context),
        scores.resamples(rows),
        metrics["scores"],
    )


def _test(context: Context, evaluation: Mapping[str, Any] | None) -> ScoredRows | None:
    if evaluation is None or context.truth is None or not context.truth.is_file():
        return None
    rows = tables.split_rows(context, "test")
    return ScoredRows(
        "test",
        evaluation["rows"],
        rows.ids,
        tables.truth(context.truth, rows.ids, context),
        rows.groups,
        scores.of_methods(context, tables.FINAL, rows.ids),
        scores.decisions(context, rows.ids),
        scores.resamples(rows),
        evaluation["scores"],
    )


def steps(context: Context, gathered: Results) -> tuple[list[ChainStep], str]:
    """Return the chain single network -> test-time views -> mean -> stack -> thresholds -> leak
    table -> submission, and a note on steps that could not be separated.

    The single network is the best on validation. Neighbours that boost probabilities come after
    the stack, those that replace labels after the thresholds.
    """
    mode = context.config.retrieval.mode
    single = max(context.config.models, key=lambda name: gathered.valid.scores[name]["macro_f1"])
    views = context.config.models[single].views
    name = views if isinstance(views, str) else views.get("name", "identity")
    unboosted = gathered if mode != "boost" else _without_boost(context, gathered, single)
    chain, note = [], ""
    if name != "identity":
        plain = _plain(context, gathered, single)
        if plain is None:
            note = (
                f"The views {name} do not include the unchanged image, so there is no step without "
                "them."
            )
        else:
            chain = [plain, _step(unboosted, f"+ test-time views ({name})", single)]
    if not chain:
        chain = [_step(unboosted, f"{single} alone", single)]
    if len(context.config.models) > 1:
        chain.append(_step(unboosted, "+ mean of all networks", scores.MEAN))
    chain.append(_step(unboosted, "+ stack", scores.STACK))
    if mode == "boost":
        chain.append(_step(gathered, "+ neighbours (boost)", scores.STACK))
    chain.append(_step(gathered, "+ thresholds", scores.STACK, fitted=True))
    if mode == "replace":
        chain.append(_replaced(context, gathered, chain[-1]))
    if gathered.test:
        before = chain[-1].decided["test"]
        leaked, changed = submit.overlay_leak(context, gathered.test.ids, before)
        chain.append(ChainStep(f"+ leak table ({changed} rows)", {"test": leaked}, {}))
        chain.append(_submitted(context, gathered))
    return chain, note


def _without_boost(context: Context, gathered: Results, single: str) -> Results:
    """Return the results without the neighbours' boost, with refitted thresholds.

    Only the methods of the chain are included.
    """
    config = copy.deepcopy(context.config)
    config.retrieval.mode = "off"
    off = dataclasses.replace(context, config=config)
    rows = tables.split_rows(context, "valid")
    probs = {"validation": scores.of_methods(off, "valid", rows.ids)}
    if gathered.test:
        probs["test"] = scores.of_methods(off, tables.FINAL, gathered.test.ids)
    decided: dict[str, dict[str, np.ndarray]] = {part: {} for part in probs}
    for method in (single, scores.MEAN, scores.STACK):
        of_method = {part: of_methods[method] for part, of_methods in probs.items()}
        for part, values in _decided(off, method, of_method, rows).items():
            decided[part][method] = values
    parts = {
        part.name: dataclasses.replace(part, probs=probs[part.name], decided=decided[part.name])
        for part in gathered.parts
    }
    return dataclasses.replace(gathered, valid=parts["validation"], test=parts.get("test"))


def _replaced(context: Context, gathered: Results, before: ChainStep) -> ChainStep:
    """Return the step at which near neighbours replace labels."""
    decided = {}
    for part in gathered.parts:
        split = "valid" if part is gathered.valid else "test"
        labels = before.decided[part.name]
        decided[part.name], _ = retrieve.replaced(context, split, part.ids, labels)
    return ChainStep("+ neighbours (replace)", decided, {})


def _submitted(context: Context, gathered: Results) -> ChainStep:
    """Return the step of submission.csv as written: chosen method, argmax and leak table."""
    ids = gathered.test.ids
    written = tables.submission(context.path("submission.csv"), ids, context)
    title = f"submitted: {gathered.chosen}, leak table {context.config.leak} ({len(ids):,} rows)"
    return ChainStep(title, {"test": written}, {})


def _step(gathered: Results, title: str, method: str, fitted: bool = False) -> ChainStep:
    """Return the step at which `method` decides: at 0.5, or by its fitted thresholds."""
    decided = {part.name: part.decided[method] for part in gathered.parts}
    if fitted:
        return ChainStep(title, decided, {})
    at_half = {part.name: part.probs[method] >= 0.5 for part in gathered.parts}
    return ChainStep(title, at_half, decided)


def _plain(context: Context, gathered: Results, model: str) -> ChainStep | None:
    """Return the step of the network without test-time views, None if not stored by `predict`."""
    paths = {
        part.name: tables.predictions(context, model, split, plain=True)
        for part, split in zip(gathered.parts, ("valid", tables.FINAL))
    }
    if not all(path.is_file() for path in paths.values()):
        return None
    probs = {
        part.name: tables.probabilities(paths[part.name], part.ids, context)
        for part in gathered.parts
    }
    decided = _decided(context, model, probs, tables.split_rows(context, "valid"))
    at_half = {name: array >= 0.5 for name, array in probs.items()}
    return ChainStep(f"{model}, no test-time views", at_half, decided)


def _decided(
    context: Context, method: str, probs: Mapping[str, np.ndarray], rows: tables.Rows
) -> dict[str, np.ndarray]:
    """Return bool[N, C] of each part by the method's thresholds, nested on validation."""
    matched = None
    if context.config.thresholds.match_on == "test":  # also without the truth
        matched = probs.get("test", probs["validation"])
    fitted, nested = thresholds.fit_and_nest(context, method, probs["validation"], rows, matched)
    decided = {"validation": nested}
    if "test" in probs:
        decided["test"] = scores.decide(context, probs["test"], fitted)
    return decided


def _examples(context: Context) -> Examples:
    """Return the first images of the test part, by id."""
    rows = tables.split_rows(context, "test")
    labels = None
    if context.truth is not None and context.truth.is_file():
        labels = tables.truth(context.truth, rows.ids, context)
    decided = tables.submission(context.path("submission.csv"), rows.ids, context)
    shown = np.argsort(rows.ids)[: context.config.report.examples]
    ids = rows.ids[shown]
    by_class = None
    if context.path("predictions.csv").is_file():  # missing in earlier versions
        import pandas as pd

        table = pd.read_csv(context.path("predictions.csv"), dtype={"id": str, "class": str})
        by_class = table[table["id"].isin(ids)]
    return Examples(ids, decided[shown], None if labels is None else labels[shown], by_class)


def _neighbours(context: Context) -> Neighbours | None:
    if context.config.retrieval.mode == "off":
        return None
    pairs = artifacts.read_table(context.path("retrieval", "test.parquet"))
    stored = artifacts.read_json(context.path("retrieval", "scores.json"))
    return Neighbours(pairs, retrieve.labels_of(context, pairs), stored)


def _leak(context: Context) -> Leak:
    conflicts = csv_tables.read(context.path("leak_conflicts.csv"))
    conflicts["labels"] = [text.split() for text in conflicts["labels"]]
    overlay = artifacts.read_table(context.path("leak_overlay.parquet"))
    tests = tables.split_rows(context, "test").ids
    return Leak(overlay, conflicts, tests, context.config.leak == "on")


def _adversarial_files(context: Context) -> tuple[Path, ...]:
    """Return the output paths of the verb adversarial."""
    return context.paths("adversarial.json", "adversarial.parquet")


def _adversarial(context: Context) -> Adversarial | None:
    """Return the adversarial validation, None if the verb was not called on these images."""
    summary, table = _adversarial_files(context)
    if not (summary.is_file() and table.is_file()):
        return None
    scored = artifacts.read_table(table)
    ids = set(artifacts.read_table(context.path("splits.parquet"))["id"])
    if not set(scored["id"]) <= ids:
        return None
    return Adversarial(artifacts.read_json(summary), scored)


def labels_of_parts(context: Context) -> dict[str, np.ndarray]:
    """Return labels bool[N, C] of train and valid by source, and of test as submitted."""
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


def label_errors(context: Context) -> LabelErrors:
    """Return likely label errors of the validation rows by the mean of the models."""
    from hpa_jax.decision import label_noise
    from hpa_jax.inference import ensemble

    rows = tables.split_rows(context, "valid")
    probs = ensemble.mean(tables.of_models(context, "valid", rows.ids))
    table = label_noise.table(rows.ids, rows.labels, probs, context.config.classes, rows.groups)
    return LabelErrors(table, len(rows.ids))


def _duplicates(context: Context) -> "pd.DataFrame":
    """Return duplicates.parquet of packed images with source, labels, group, and whether the labels
    matched to a test image conflict."""
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
