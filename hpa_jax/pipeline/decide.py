"""The verb `decide`: prediction tables of anyone's models -> blends, stack, thresholds, submission.

The tables become those of a work directory whose networks have predicted; then the steps `stack`,
`thresholds`, `submit` and (where a truth is known) `evaluate` of `run` do the rest.  No image is
read, and neither JAX nor TensorFlow is imported.

The labelled rows must be out of fold for the models.  Nothing here can prove that they are; the
report says so, and warns where their scores are sharper than those of the other rows.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.core.tables import rows_by_id
from hpa_jax.decision import given
from hpa_jax.decision.given import Predictions, Source
from hpa_jax.pipeline import cache, report, runner, scores, tables
from hpa_jax.pipeline.context import Context, workdir_of
from hpa_jax.pipeline.steps import STEPS
from hpa_jax.report import errors, page, results
from hpa_jax.report.page import Section, Table, number, span

if TYPE_CHECKING:
    import pandas as pd

DID = ("stack", "thresholds", "submit", "evaluate")
MARK = "decide.json"  # what was given; a workdir without it belongs to `run`
OUT_OF_FOLD = (
    "they must be out of fold for the models that scored them (predicted by networks that were not "
    "trained on them); nothing here can prove it"
)


@dataclass(frozen=True)
class Decided:
    """ids [T] of the rows without label, labels bool[T, C]; classes: their C names; method: which
    way to decide was taken; metrics: what metrics.json holds."""

    ids: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    method: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Given:
    """The checked input: probs float32[M, N, C] of rows with `ids`, labels bool[N, C] where
    `labelled` bool[N]; groups int[N]; folds int[N] (of labelled rows) or None; meta [N, F] with
    names; shares float[C] or None."""

    models: tuple[str, ...]
    classes: tuple[str, ...]
    ids: np.ndarray
    probs: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    groups: np.ndarray
    folds: np.ndarray | None
    meta: np.ndarray
    metafeatures: tuple[str, ...]
    shares: np.ndarray | None


def verb(config: ConfigDict, flags: dict[str, Any]) -> None:
    """The verb `decide`, with its options as texts of the command line."""
    for name in ("predictions", "labels"):
        if not flags.get(name):
            raise InputError(f"decide: --{name} is missing (decide --help)")
    decide(
        _files(flags["predictions"]),
        flags["labels"],
        workdir_of(flags),
        test=_files(flags["test"] or ""),
        classes=_listed(flags["classes"] or ""),
        groups=flags["groups"],
        folds=flags["folds"],
        metafeatures=flags["metafeatures"],
        proportions=flags["proportions"],
        logits=flags["logits"],
        config=config,
    )


def decide(
    predictions: Mapping[str, Source] | Sequence[str | Path],
    labels: Source,
    workdir: str | Path,
    *,
    test: Mapping[str, Source] | Sequence[str | Path] = (),
    classes: Sequence[str] = (),
    groups: Source | None = None,
    folds: Source | None = None,
    metafeatures: Source | None = None,
    proportions: str | Sequence[float] | None = None,
    logits: bool = False,
    config: ConfigDict | None = None,
) -> Decided:
    """Decide the labels of all rows that have none, and write submission, scores and report.

    Args:
        predictions: a table a model (see `decision/given.py`), files or name -> file or DataFrame.
            Rows with a label are the validation part, all others are decided.
        labels: table Id,Target with class numbers, as the competition's train.csv.
        workdir: gets submission.csv, metrics.json, thresholds.json and report/index.html.
        test: tables of the rows to decide, in the order of `predictions`, whose rows without a
            label are then left out.
        classes: names in order; else those of the columns.
        groups: table Id,Group of rows that belong together (duplicates); never on two sides.
        folds: table Id,Fold of the labelled rows: nested scores are then of these folds.
        metafeatures: table of `id` and numbers, for the stack.
        proportions: share of each class in training: numbers, or a table Id,Target that they are
            counted from; else from `labels`.
        logits: the tables hold logits.
        config: options of the sections ensemble, thresholds, stack and submission; None: defaults.

    Raises:
        InputError: what is wrong with a table, names table, id and column.
    """
    config = configs.default() if config is None else config
    data = _checked(
        _named(predictions), labels, _named(test), tuple(classes), groups, folds, metafeatures,
        proportions, logits,
    )  # fmt: skip
    config = _completed(config, data)
    # "given" in the flags: the steps know by it that tables, and no networks, are the source.
    context = Context(config, Path(workdir).expanduser().resolve(), {"given": data.shares})
    _prepare(context)
    with runner.locked(context.path(".lock"), waits=False):
        sharper = write(context, data)
        for line in sharper.values():
            print(f"caution: {line}", flush=True)
        for step in DID:
            for task in STEPS[step].tasks(context):
                runner.do(context, task)
        path = context.path("report", "index.html")
        shown = _sections(context, data, sharper)
        about = f"{len(data.models)} models, {len(data.classes)} classes, tables of other programs"
        page.write(path, "Protein localisation: decisions", about, shown)
    metrics = artifacts.read_json(context.path("metrics.json"))
    ids = tables.split_rows(context, "test").ids
    method = scores.chosen_method(context)
    print(f"decided by {method} -> {context.path('submission.csv')}, {path}", flush=True)
    decided = tables.submission(context.path("submission.csv"), ids, context)
    return Decided(ids, decided, data.classes, method, metrics)


def _checked(
    predictions: Mapping[str, Source],
    labels: Source,
    test: Mapping[str, Source],
    names: tuple[str, ...],
    groups: Source | None,
    folds: Source | None,
    metafeatures: Source | None,
    proportions: str | Sequence[float] | None,
    logits: bool,
) -> Given:
    """All tables read, joined on id and compared with each other.

    Raises:
        InputError: see `decide`.
    """
    if not predictions:
        raise InputError("decide: no table of predictions")
    valid = [given.read(source, name, logits) for name, source in predictions.items()]
    later = [given.read(source, name, logits) for name, source in zip(predictions, test.values())]
    if test and len(test) != len(predictions):
        raise InputError(f"--test: {len(test)} tables for {len(predictions)} of --predictions")
    names = names or given.class_names([*valid, *later])
    label_ids, known = given.labels(labels, len(names))
    has = np.isin(valid[0].ids, label_ids)
    kept = valid[0].ids[has] if test else valid[0].ids
    ids = np.concatenate([kept, later[0].ids]) if test else kept
    labelled = np.zeros(len(ids), bool)
    labelled[: len(kept)] = has[has] if test else has
    _check_rows(labelled, valid, later, test)
    probs = np.full((len(valid), len(ids), len(names)), np.nan, np.float32)
    for m, table in enumerate(valid):
        what = f"predictions of {table.name}"
        probs[m, : len(kept)] = table.of_classes(names)[rows_by_id(table.ids, kept.tolist(), what)]
        if test:
            rows = rows_by_id(later[m].ids, later[0].ids.tolist(), f"test {what}")
            probs[m, len(kept) :] = later[m].of_classes(names)[rows]
    targets = np.zeros((len(ids), len(names)), bool)
    targets[labelled] = known[rows_by_id(label_ids, ids[labelled].tolist(), "labels")]
    meta = np.zeros((len(ids), 0))
    columns: tuple[str, ...] = ()
    if metafeatures is not None:
        meta, columns = given.features(metafeatures, ids.tolist())
    shares = proportions if proportions is None else _shares(proportions, len(names))
    return Given(
        tuple(predictions), names, ids, probs, targets, labelled, _groups(groups, ids),
        None if folds is None else _folds(folds, ids[labelled]), meta, columns, shares,
    )  # fmt: skip


def _check_rows(
    labelled: np.ndarray, valid: list[Predictions], later: list[Predictions], test: object
) -> None:
    if not labelled.any():
        example = str(valid[0].ids[0])
        raise InputError(f"labels: none is of a row of {valid[0].name}, such as {example!r}")
    if labelled.all():
        raise InputError(
            "predictions: every row has a label, so nothing is left to decide; add the rows "
            "without labels, or name their tables with --test"
        )
    if test:
        shared = np.intersect1d(valid[0].ids, later[0].ids)
        if len(shared):
            raise InputError(f"--test: id {str(shared[0])!r} is in --predictions, too")
    for side in filter(None, (valid, later)):
        for table in side[1:]:
            extra = np.setdiff1d(table.ids, side[0].ids)
            if len(extra):
                raise InputError(
                    f"predictions of {table.name}: {len(extra)} ids are not in those of "
                    f"{side[0].name}, first {str(extra[0])!r}"
                )


def _shares(proportions: str | Sequence[float], count: int) -> np.ndarray:
    text = proportions if isinstance(proportions, str) else ",".join(map(str, proportions))
    return given.shares(text, count)


def _groups(source: Source | None, ids: np.ndarray) -> np.ndarray:
    """int[N]: rows with the same group share a number; a row that the table lacks stands alone."""
    if source is None:
        return np.arange(len(ids))
    named, groups = given.column(source, "group", "groups")
    of = dict(zip(named, groups))
    keys = [("group", of[name]) if name in of else ("alone", name) for name in ids.tolist()]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _folds(source: Source, ids: np.ndarray) -> np.ndarray:
    """int[N] of the labelled rows, by order of first appearance."""
    named, texts = given.column(source, "fold", "folds")
    found = np.unique(texts[rows_by_id(named, ids.tolist(), "folds")], return_inverse=True)[1]
    if found.max(initial=0) < 1:
        raise InputError("folds: all labelled rows are in one fold; two or more are needed")
    return found


def _completed(config: ConfigDict, data: Given) -> ConfigDict:
    """The config of a run whose networks are these tables, validated."""
    config = config.copy_and_resolve_references().unlock()
    config.classes = data.classes
    config.models = {name: configs.model() for name in data.models}
    config.data.update(source="folder", root="", sources=())
    config.split.update(scheme="holdout", audit=0.0)
    config.retrieval.mode, config.refit = "off", False
    validation.validate(config)
    return config.lock()


def _prepare(context: Context) -> None:
    """Raises InputError where the folder is a run's: its tables would be overwritten."""
    if context.path("catalog.parquet").is_file() and not context.path(MARK).is_file():
        raise InputError(f"{context.workdir}: a run's; name another --workdir for decide")
    context.workdir.mkdir(parents=True, exist_ok=True)
    cache.check_format(context.workdir)


def write(context: Context, data: Given) -> dict[str, str]:
    """Write the tables that the steps read; returns a warning of each model whose labelled rows
    have sharper scores than the others."""
    import pandas as pd

    sharpness = {
        name: given.sharpness(data.probs[m], data.labelled) for m, name in enumerate(data.models)
    }
    artifacts.write_json(
        context.path(MARK),
        {
            "models": data.models,
            "classes": data.classes,
            "rows": {"labelled": data.labelled.sum(), "to decide": (~data.labelled).sum()},
            "labelled rows sharper (AUC, low, high)": sharpness,
        },
    )
    numbers = [np.flatnonzero(row) if known else None
               for row, known in zip(data.labels, data.labelled)]  # fmt: skip
    catalog = {"id": data.ids, "source": "own", "labels": pd.Series(numbers, dtype=object)}
    split = pd.DataFrame({"id": data.ids, "split": np.where(data.labelled, "valid", "test")})
    split["fold"] = np.nan
    if data.folds is not None:
        split.loc[data.labelled, tables.GIVEN_FOLD] = data.folds
    artifacts.write_table(context.path("catalog.parquet"), pd.DataFrame(catalog))
    artifacts.write_table(context.path("splits.parquet"), split)
    groups = pd.DataFrame({"id": data.ids, "group": data.groups})
    artifacts.write_table(context.path("groups.parquet"), groups)
    _write_empty(context)
    for part, rows in (("valid", data.labelled), ("test", ~data.labelled)):
        ids = data.ids[rows]
        for m, name in enumerate(data.models):
            path = tables.predictions(context, name, part)
            tables.write_probabilities(path, ids, data.probs[m][rows])
        meta = pd.DataFrame(data.meta[rows], columns=list(data.metafeatures))
        meta.insert(0, "id", ids)
        artifacts.write_table(context.path("features", f"{part}.parquet"), meta)
    return {
        name: f"{name}: a labelled row's scores are sharper than an unlabelled one's in "
        f"{100 * auc:.0f} % of pairs (95 %: {100 * low:.0f} to {100 * high:.0f}); was the model "
        "trained on them, or on copies of them?"
        for name, (auc, low, high) in sharpness.items()
        if low > 0.5
    }


def _write_empty(context: Context) -> None:
    """Without images there are no pairs of duplicates and no matches of test images."""
    import pandas as pd

    pairs = pd.DataFrame({"id_a": [], "id_b": []}, dtype=str)
    leak = pd.DataFrame({"test_id": [], "match_id": [], "labels": [], "distance": []}, dtype=str)
    artifacts.write_table(context.path("duplicates.parquet"), pairs)
    artifacts.write_table(context.path("leak.parquet"), leak)


def _sections(context: Context, data: Given, sharper: Mapping[str, str]) -> list[Section]:
    found = report.gather_results(context)
    gains = artifacts.read_json(context.path("stack", "stack.json"))["gains"]
    of_stack = {int(c): shares for c, shares in gains.items()}
    return [
        _given_section(data, sharper),
        results.methods(found),
        _class_section(context, found.chosen),
        results.curves(found),
        results.calibration(found),
        errors.confusions(found),
        results.importance(of_stack, data.classes),
        _label_errors(report.label_errors(context).table),
    ]


def _given_section(data: Given, sharper: Mapping[str, str]) -> Section:
    labelled, others = int(data.labelled.sum()), int((~data.labelled).sum())
    notes = [
        f"Tables of {', '.join(data.models)}: {labelled:,} rows with a label, on which all is "
        f"fitted and scored, and {others:,} to decide.",
        f"The labelled rows: {OUT_OF_FOLD}.",
        *(f"Caution: {line}" for line in sharper.values()),
    ]
    if not sharper:
        notes.append("Their scores are no sharper than those of the other rows.")
    return Section("given", "What was given", notes)


def _class_section(context: Context, chosen: str) -> Section:
    """Support, F1 and threshold of each class by the chosen method."""
    score = artifacts.read_json(context.path("metrics.json"))["scores"][chosen]
    support = tables.split_rows(context, "valid").labels.sum(axis=0)
    thresholds = scores.class_thresholds(context)[chosen]
    rows = [
        [name, number(int(support[c])), number(score["class_f1"][c]),
         span(score["class_f1_interval"][c]), number(thresholds[c] if thresholds[c] <= 1 else None)]
        for c, name in enumerate(context.config.classes)
    ]  # fmt: skip
    columns = ["class", "images", "F1", "95 %", "threshold"]
    notes = [f"Method: {chosen}, the submitted one. A dash: never predicted."]
    return Section("classes", "Classes", notes, Table(columns, rows))


def _label_errors(found: "pd.DataFrame") -> Section:
    columns = ["id", "evidence", "given", "suggested", "worst_class", "worst_probability"]
    rows = [[str(cell) if not isinstance(cell, float) else number(cell) for cell in row]
            for row in found[columns].head(60).to_numpy(object)]  # fmt: skip
    notes = [f"{len(found):,} labelled rows have labels that are more likely wrong than right, by "
             "the calibrated mean of the models; the surest first, 60 at most."]  # fmt: skip
    return Section("label_errors", "Likely label errors", notes, Table(columns, rows, text=(0, 3)))


def _named(given_tables: Mapping[str, Source] | Sequence[str | Path]) -> dict[str, Source]:
    """Name -> table; a file is named after its stem, as a config can name it.

    Raises:
        InputError: a name twice.
    """
    if isinstance(given_tables, Mapping):
        return {_name(str(name)): source for name, source in given_tables.items()}
    named: dict[str, Source] = {}
    for path in given_tables:
        name = _name(Path(path).stem)
        if name in named:
            raise InputError(f"two tables {name!r}: {named[name]} and {path}; rename one")
        named[name] = path
    return named


def _name(text: str) -> str:
    name = re.sub(r"\W", "_", text)
    return f"m_{name}" if not name or name[0].isdigit() else name


def _files(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _listed(text: str) -> tuple[str, ...]:
    """Class names: a file with one a line, or a list with commas."""
    if Path(text).is_file():
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(part.strip() for part in text.split(",") if part.strip())
