"""The verb `decide`: prediction tables of any models -> blends, stack, thresholds, submission.

The tables are stored in a work directory like the predictions of networks; then the steps `stack`,
`thresholds`, `submit` and (if the truth is known) `evaluate` of `run` follow.  No image is read,
and neither JAX nor TensorFlow is imported.

The labelled rows must be out of fold for the models, which cannot be verified here; the report
states this and warns where their scores are sharper than those of the other rows.
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

STEPS_RUN = ("stack", "thresholds", "submit", "evaluate")
MARK = "decide.json"  # summary of the inputs; a workdir without it belongs to `run`
OUT_OF_FOLD = (
    "they must be out of fold for the models that scored them (predicted by networks that were not "
    "trained on them); this cannot be verified here"
)


@dataclass(frozen=True)
class Decided:
    """Result of `decide`.

    ids: [T] of the rows without label; labels: bool[T, C]; classes: C names; method: the chosen
    one; metrics: content of metrics.json.
    """

    ids: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    method: str
    metrics: Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """The checked input tables, joined.

    probs: float32[M, N, C] of rows with `ids`; labels: bool[N, C], valid where `labelled` bool[N];
    groups: int[N]; folds: int[N] (of labelled rows) or None; meta: [N, F] with the names
    `metafeatures`; shares: float[C] or None.
    """

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
    """Run the verb `decide` with the options of the command line."""
    for name in ("predictions", "labels"):
        if not flags.get(name):
            raise InputError(f"decide: --{name} is missing (decide --help)")
    decide(
        flags["predictions"],
        flags["labels"],
        workdir_of(flags),
        test=flags["test"] or "",
        classes=_listed(flags["classes"] or ""),
        groups=flags["groups"],
        folds=flags["folds"],
        metafeatures=flags["metafeatures"],
        proportions=flags["proportions"],
        logits=flags["logits"],
        config=config,
    )


def decide(
    predictions: Mapping[str, Source] | Sequence[str | Path] | str,
    labels: Source,
    workdir: str | Path,
    *,
    test: Mapping[str, Source] | Sequence[str | Path] | str = (),
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
        predictions: one table per model (see `decision/given.py`), files or name -> file or
            DataFrame.  Rows with a label are the validation part, all others are decided.
        labels: table Id,Target with numbers or names of classes, as the competition's train.csv.
            An empty Target is a labelled row of no class.
        workdir: gets submission.csv, metrics.json, thresholds.json and report/index.html.
        test: tables of the rows to decide, with the names of `predictions`, or files in their
            order; those tables' rows without a label are then dropped.
        classes: names in order; default: from the columns.
        groups: table Id,Group of duplicate groups, which are never split between folds.
        folds: table Id,Fold of the labelled rows, used for nested scores.
        metafeatures: table with `id` and numeric columns, for the stack.
        proportions: share of each class in training: numbers, or a table Id,Target to count;
            default: counted from `labels`.
        logits: the tables hold logits.
        config: options of the sections ensemble, thresholds, stack and submission; None: defaults.

    Raises:
        InputError: an invalid table; names table, id and column.
    """
    config = configs.default() if config is None else config
    given_as = _named(predictions, "predictions")
    data = _checked(
        given_as, labels, _paired(test, given_as), tuple(classes), groups, folds, metafeatures,
        proportions, logits,
    )  # fmt: skip
    config = _completed(config, data)
    # "given" in the flags tells the steps that the source is tables, not networks.
    context = Context(config, Path(workdir).expanduser().resolve(), {"given": data.shares})
    _prepare(context)
    with runner.locked(context.path(".lock"), waits=False):
        sharper = write(context, data)
        print(f"[decide] {_summary(data)}")
        for line in (*sharper.values(), *_one_sided(data)):
            print(f"caution: {line}", flush=True)
        for step in STEPS_RUN:
            for task in STEPS[step].tasks(context):
                runner.do(context, task)
        path = context.path("report", "index.html")
        shown = _sections(context, data, sharper)
        about = f"{len(data.models)} models, {len(data.classes)} classes, from prediction tables"
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
) -> Inputs:
    """Read all tables, join them on id and check that they match.

    Raises:
        InputError: see `decide`.
    """
    if not predictions:
        raise InputError("decide: --predictions names no table")
    valid = [given.read(source, name, logits) for name, source in predictions.items()]
    test_tables = [given.read(source, name, logits) for name, source in test.items()]
    names = names or given.class_names([*valid, *test_tables])
    label_ids, label_rows = given.labels(labels, names)
    has_label = np.isin(valid[0].ids, label_ids)
    valid_ids = valid[0].ids[has_label] if test else valid[0].ids
    ids = np.concatenate([valid_ids, test_tables[0].ids]) if test else valid_ids
    labelled = np.zeros(len(ids), bool)
    labelled[: len(valid_ids)] = has_label[has_label] if test else has_label
    _check_rows(labelled, valid, test_tables, test)
    probs = np.full((len(valid), len(ids), len(names)), np.nan, np.float32)
    for m, table in enumerate(valid):
        title = f"predictions of {table.name}"
        probs[m, : len(valid_ids)] = table.of_classes(names)[
            rows_by_id(table.ids, valid_ids.tolist(), title)
        ]
        if test:
            rows = rows_by_id(test_tables[m].ids, test_tables[0].ids.tolist(), f"test {title}")
            probs[m, len(valid_ids) :] = test_tables[m].of_classes(names)[rows]
    targets = np.zeros((len(ids), len(names)), bool)
    targets[labelled] = label_rows[rows_by_id(label_ids, ids[labelled].tolist(), "labels")]
    meta = np.zeros((len(ids), 0))
    columns: tuple[str, ...] = ()
    if metafeatures is not None:
        meta, columns = given.features(metafeatures, ids.tolist())
    shares = proportions if proportions is None else _shares(proportions, names)
    return Inputs(
        tuple(predictions), names, ids, probs, targets, labelled, _groups(groups, ids),
        None if folds is None else _folds(folds, ids[labelled]), meta, columns, shares,
    )  # fmt: skip


def _check_rows(
    labelled: np.ndarray, valid: list[Predictions], test_tables: list[Predictions], test: object
) -> None:
    if not labelled.any():
        example = str(valid[0].ids[0])
        raise InputError(f"labels: no id matches those of {valid[0].name}, such as {example!r}")
    if labelled.all():
        raise InputError(
            "predictions: every row has a label, so nothing is left to decide; add the rows "
            "without labels, or name their tables with --test"
        )
    if test:
        shared = np.intersect1d(valid[0].ids, test_tables[0].ids)
        if len(shared):
            raise InputError(f"--test: id {str(shared[0])!r} is also in --predictions")
    for group in filter(None, (valid, test_tables)):
        for table in group[1:]:
            extra = np.setdiff1d(table.ids, group[0].ids)
            if len(extra):
                raise InputError(
                    f"predictions of {table.name}: {len(extra)} ids are not in those of "
                    f"{group[0].name}, first {str(extra[0])!r}"
                )


def _shares(proportions: str | Path | Sequence[float], names: tuple[str, ...]) -> np.ndarray:
    if not isinstance(proportions, str | Path):
        proportions = ",".join(map(str, proportions))
    return given.shares(str(proportions), names)


def _groups(source: Source | None, ids: np.ndarray) -> np.ndarray:
    """Return group numbers int[N]; a row without a group in the table forms one."""
    if source is None:
        return np.arange(len(ids))
    ids_in_table, groups = given.column(source, "group", "groups")
    group_of = {name: group for name, group in zip(ids_in_table, groups) if group}
    if not np.isin(ids, [*group_of]).any():
        raise InputError(f"groups: no id matches those of the predictions, such as {ids[0]!r}")
    keys = [
        ("group", group_of[name]) if name in group_of else ("alone", name) for name in ids.tolist()
    ]
    numbers: dict[tuple[str, str], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])


def _folds(source: Source, ids: np.ndarray) -> np.ndarray:
    """Return fold numbers int[N] of the labelled rows."""
    ids_in_table, texts = given.column(source, "fold", "folds")
    texts = texts[rows_by_id(ids_in_table, ids.tolist(), "folds")]
    if (texts == "").any():
        raise InputError(f"folds: id {str(ids[(texts == '').argmax()])!r} has none")
    folds = np.unique(texts, return_inverse=True)[1]
    if folds.max(initial=0) < 1:
        raise InputError("folds: all labelled rows are in one fold; two or more are needed")
    return folds


def _completed(config: ConfigDict, data: Inputs) -> ConfigDict:
    """Return the validated config of a run with one model per table."""
    config = config.copy_and_resolve_references().unlock()
    config.classes = data.classes
    config.models = {name: configs.model() for name in data.models}
    config.data.update(source="folder", root="", sources=())
    config.split.update(scheme="holdout", audit=0.0)
    config.retrieval.mode, config.refit = "off", False
    validation.validate(config)
    return config.lock()


def _prepare(context: Context) -> None:
    """Create the workdir; raise InputError if it belongs to `run`."""
    if context.path("catalog.parquet").is_file() and not context.path(MARK).is_file():
        raise InputError(f"{context.workdir}: belongs to `run`; name another --workdir for decide")
    context.workdir.mkdir(parents=True, exist_ok=True)
    cache.check_format(context.workdir)


def write(context: Context, data: Inputs) -> dict[str, str]:
    """Write the tables that the steps read; return a warning for each model whose labelled rows
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
    numbers = [np.flatnonzero(row) if has_label else None
               for row, has_label in zip(data.labels, data.labelled)]  # fmt: skip
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
    """Write empty tables of duplicates and leak matches, which need images."""
    import pandas as pd

    pairs = pd.DataFrame({"id_a": [], "id_b": []}, dtype=str)
    leak = pd.DataFrame({"test_id": [], "match_id": [], "labels": [], "distance": []}, dtype=str)
    artifacts.write_table(context.path("duplicates.parquet"), pairs)
    artifacts.write_table(context.path("leak.parquet"), leak)


def _sections(context: Context, data: Inputs, sharper: Mapping[str, str]) -> list[Section]:
    gathered = report.gather_results(context)
    gains = artifacts.read_json(context.path("stack", "stack.json"))["gains"]
    of_stack = {int(c): shares for c, shares in gains.items()}
    return [
        _input_section(data, sharper),
        results.methods(gathered),
        _class_section(context, gathered.chosen),
        results.curves(gathered),
        results.calibration(gathered),
        errors.confusions(gathered),
        results.importance(of_stack, data.classes),
        _label_errors(report.label_errors(context).table),
    ]


def _summary(data: Inputs) -> str:
    """Count what the tables hold, as they were understood."""
    labelled = data.labels[data.labelled]
    names = ", ".join(f"{number} {name}" for number, name in enumerate(data.classes))
    return (
        f"{len(data.models)} models, {len(data.classes)} classes ({names}); {len(labelled):,} rows "
        f"with a label ({int((~labelled.any(axis=1)).sum()):,} of no class), "
        f"{int((~data.labelled).sum()):,} to decide; {len(np.unique(data.groups)):,} groups"
    )


def _one_sided(data: Inputs) -> list[str]:
    """Name the classes that only the labels or only the predictions have."""
    predicted = np.isfinite(data.probs).any(axis=(0, 1))
    positive = data.labels[data.labelled].any(axis=0)
    return [
        f"{what}: {', '.join(name for name, member in zip(data.classes, members) if member)}"
        for what, members in (
            ("classes of labelled rows that no model predicts", positive & ~predicted),
            ("classes that no labelled row has (F1 0)", predicted & ~positive),
        )
        if members.any()
    ]


def _input_section(data: Inputs, sharper: Mapping[str, str]) -> Section:
    labelled, others = int(data.labelled.sum()), int((~data.labelled).sum())
    notes = [
        f"Tables of {', '.join(data.models)}: {labelled:,} rows with a label, used for fitting and "
        f"scoring, and {others:,} to decide.",
        f"The labelled rows: {OUT_OF_FOLD}.",
        *(f"Caution: {line}" for line in (*sharper.values(), *_one_sided(data))),
    ]
    if not sharper:
        notes.append("Their scores are not sharper than those of the other rows.")
    return Section("given", "Input tables", notes)


def _class_section(context: Context, chosen: str) -> Section:
    """Tabulate support, F1 and threshold of each class by the chosen method."""
    score = artifacts.read_json(context.path("metrics.json"))["scores"][chosen]
    support = tables.split_rows(context, "valid").labels.sum(axis=0)
    thresholds = scores.class_thresholds(context)[chosen]
    rows = [
        [name, number(int(support[c])), number(score["class_f1"][c]),
         span(score["class_f1_interval"][c]), number(thresholds[c] if thresholds[c] <= 1 else None)]
        for c, name in enumerate(context.config.classes)
    ]  # fmt: skip
    columns = ["class", "images", "F1", "95 %", "threshold"]
    notes = [f"Method: {chosen}, as submitted. A dash: never predicted."]
    return Section("classes", "Classes", notes, Table(columns, rows))


def _label_errors(suspects: "pd.DataFrame") -> Section:
    columns = ["id", "evidence", "given", "suggested", "worst_class", "worst_probability"]
    rows = [[str(cell) if not isinstance(cell, float) else number(cell) for cell in row]
            for row in suspects[columns].head(60).to_numpy(object)]  # fmt: skip
    notes = [
        f"{len(suspects):,} labelled rows have labels that are more likely wrong than right by the "
        "calibrated mean of the models; the most certain are listed, at most 60."
    ]
    return Section("label_errors", "Likely label errors", notes, Table(columns, rows, text=(0, 3)))


def _named(sources: object, what: str) -> dict[str, Source]:
    """Map names to tables; a file gets its stem as name.

    sources: name -> table, files, or a comma-separated text of files.

    Raises:
        InputError: a duplicate name, or a table without one.
    """
    if isinstance(sources, str):
        sources = [part for part in sources.split(",") if part]
    if isinstance(sources, Mapping):
        items = [(str(name), source) for name, source in sources.items()]
    elif isinstance(sources, Sequence) and all(isinstance(path, str | Path) for path in sources):
        items = [(Path(path).stem, path) for path in sources]
    else:
        raise InputError(f"{what}: needs files, or names with tables: {{'NAME': table, ...}}")
    by_name: dict[str, Source] = {}
    for text, source in items:
        name = _name(text)
        if name in by_name:
            raise InputError(f"two tables {name!r}, one of them {text}; rename one")
        by_name[name] = source
    return by_name


def _paired(test: object, predictions: Mapping[str, Source]) -> dict[str, Source]:
    """Return the tables of `test` by the names of `predictions`: by name, else files by order.

    Raises:
        InputError: another number of tables, or other names.
    """
    by_name = _named(test, "test")
    if by_name.keys() == predictions.keys():
        return {name: by_name[name] for name in predictions}
    if by_name and len(by_name) != len(predictions):
        raise InputError(f"--test: {len(by_name)} tables for {len(predictions)} of --predictions")
    if isinstance(test, Mapping) and test:
        raise InputError(f"test: has {', '.join(by_name)}; needs {', '.join(predictions)}")
    return dict(zip(predictions, by_name.values()))


def _name(text: str) -> str:
    name = re.sub(r"\W", "_", text)
    return f"m_{name}" if not name or name[0].isdigit() else name


def _listed(text: str) -> tuple[str, ...]:
    """Return class names from a file with one per line or from a comma-separated list."""
    if Path(text).is_file():
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(part.strip() for part in text.split(",") if part.strip())
