"""Sections on the scores: methods, steps to the submission, audit, classes, precision and recall,
calibration, and the features of the stack.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.decision import analysis, confidence
from hpa_jax.report.figures import MARKERS, Series, axes, colours, dots, svg
from hpa_jax.report.inputs import (
    ChainStep,
    ReportData,
    Results,
    ScoredRows,
    class_names,
    read_images,
)
from hpa_jax.report.page import Card, Figure, Line, Section, Table, cells, number, signed, span

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

METHOD_COLUMNS = ["at 0.5", "fitted thresholds", "95 % interval", "mAP"]
STEP_COLUMNS = ["macro-F1", "95 %", "change", "95 %", "fitted thresholds"]
CLASS_SIDE = 160  # px of the images of an expanded row
PANELS = 7  # classes per row of the precision-recall figure
CURVE_POINTS = 80  # of a curve, enough for a small panel
STYLES = ("-", "--")
HIGH = 0.1  # most pairs of image and class score far below; calibration matters above
FEATURE_KINDS = ("same class, by the networks", "other classes", "metafeatures")
TOP_FEATURES = 4


def methods(results: Results) -> Section:
    """Return the table and dots of all methods, on every set of scored rows."""
    names = list(results.valid.probs)
    rows = [[_marked(results, name)] for name in names]
    for part in results.parts:
        for name, row in zip(names, rows, strict=True):
            score = part.scores[name]
            row += [number(score["macro_f1_at_half"]), number(score["macro_f1"])]
            row += [span(score["macro_f1_interval"]), number(score["mean_average_precision"])]
    groups = [("", 1), *((part.caption, len(METHOD_COLUMNS)) for part in results.parts)]
    columns = ["method", *(METHOD_COLUMNS * len(results.parts))]
    series = {part.caption: _of_methods(names, part) for part in results.parts}
    uri = dots(names, series, "macro-F1 with the thresholds of each method")
    weights = (
        f"Weights of the {name}: "
        + ", ".join(f"{model} {number(value, 2)}" for model, value in by_model.items())
        + "."
        for name, by_model in (results.blend_weights or {}).items()
    )
    return Section(
        "result",
        "Result",
        _result_notes(results),
        Table(columns, rows, names.index(results.chosen), groups=groups),
        [Figure(uri, "Macro-F1 of every method with its interval")],
        feet=[
            "mAP: mean average precision over the classes that occur; independent of thresholds. "
            "Weights, regressions, the stack and thresholds were fitted without the rows that "
            "they are scored on.",
            *weights,
            *_row_notes(results),
        ],
    )


def _marked(results: Results, name: str) -> str:
    """The method with the notes on its networks: "m (in sample)"."""
    texts = (part.scores[name].get("seen", "") for part in results.parts)
    notes = dict.fromkeys(note for text in texts for note in text.split("; ") if note)
    return f"{name} ({'; '.join(notes)})" if notes else name


def _of_methods(names: Sequence[str], part: ScoredRows) -> Series:
    scores = [part.scores[name] for name in names]
    low, high = np.array([score["macro_f1_interval"] for score in scores]).T
    return np.array([score["macro_f1"] for score in scores]), low, high


def _row_notes(results: Results) -> list[str]:
    return [f"{part.name.capitalize()}: {part.note}." for part in results.parts]


def _result_notes(results: Results) -> list[str]:
    notes = [
        f"Macro-F1 over {len(results.classes)} classes. Submitted method: {results.chosen}. "
        "Nested score of choosing method and thresholds on "
        f"validation: {number(results.automatic['macro_f1'])}; each fold is decided by the choice "
        "on the other folds (the simplest within one standard error of the best)."
    ]
    if results.evaluation is None or results.test is None:
        return [*notes, "The labels of the test part are unknown: no test scores."]
    final = results.evaluation["submission"]
    values = {name: score["macro_f1"] for name, score in results.test.scores.items()}
    stack = values.pop(results.stack)
    best = max(values, key=values.__getitem__)
    word = "beats" if stack > values[best] else "does not beat"
    return [
        *notes,
        f"The submission scores {number(final['macro_f1'])} ({span(final['macro_f1_interval'])}) "
        f"on the true test labels, {number(final['macro_f1_classes_present'])} over the classes "
        f"that occur there; {number(results.evaluation['leak_off']['macro_f1'])} without the leak "
        f"table, {number(results.evaluation['leak_on']['macro_f1'])} with it.",
        f"On the true test labels the stack ({number(stack)}) {word} the best other method, {best} "
        f"({number(values[best])}), each with the thresholds fitted for it.",
    ]


def steps(results: Results) -> Section:
    """Return the table and dots of the chain from one network to the submission."""
    names = [step.name for step in results.chain]
    series, columns = {}, []
    for part in results.parts:
        scored = [_scored(part, step) for step in results.chain]
        values = [(score.mean, *score.interval) if score else (np.nan,) * 3 for score in scored]
        series[part.caption] = tuple(np.array(values).T)
        columns.append(_step_cells(part, results.chain, scored))
    rows = [[name, *itertools.chain(*cells)] for name, *cells in zip(names, *columns)]
    groups = [("", 1), *((part.caption, len(STEP_COLUMNS)) for part in results.parts)]
    notes = [
        "Each step is added to those above it. Before the step thresholds, a class is predicted "
        "at a score of 0.5 or more; the last column shows the score with thresholds fitted at "
        "that step."
    ]
    return Section(
        "steps",
        "Step by step",
        [*notes, results.chain_note] if results.chain_note else notes,
        Table(["step", *(STEP_COLUMNS * len(results.parts))], rows, groups=groups),
        [Figure(dots(names, series, "macro-F1 after each step"), "Macro-F1 after each step")],
        feet=[
            "Change: from the step above, paired over the same resampled rows; an interval that "
            "contains 0 is no evidence of a change. The single network is the best one on "
            "validation, so its validation score is slightly optimistic. The leak table applies to "
            "test images only. The last row is submission.csv as written, not a further step.",
            *_row_notes(results),
        ],
    )


@dataclass(frozen=True)
class _Scored:
    mean: float
    interval: tuple[float, float]
    draws: np.ndarray


def _scored(part: ScoredRows, step: ChainStep) -> _Scored | None:
    if part.name not in step.decided:
        return None
    decided = step.decided[part.name]
    around = confidence.f1_intervals(part.labels, decided, weights=part.weights)
    return _Scored(metrics.macro_f1(part.labels, decided), around.macro, around.draws)


def _step_cells(
    part: ScoredRows, chain: Sequence[ChainStep], scored: Sequence[_Scored | None]
) -> list[list[str]]:
    cells, before = [], None
    for step, score in zip(chain, scored):
        if score is None:
            cells.append(["–"] * len(STEP_COLUMNS))
            continue
        change = ["–", "–"]
        if before is not None:
            low, high = np.quantile(score.draws - before.draws, [0.025, 0.975])
            change = [signed(score.mean - before.mean), f"{signed(low)} to {signed(high)}"]
        fitted = step.fitted.get(part.name)
        alone = number(None if fitted is None else metrics.macro_f1(part.labels, fitted))
        cells.append([number(score.mean), span(score.interval), *change, alone])
        before = score
    return cells


def audit(results: Results) -> Section | None:
    """Return the scores of every method on the audit part, None if there is none."""
    if results.audit is None:
        return None
    scores, final = results.audit["scores"], results.audit["submission"]
    rows = []
    for name, score in scores.items():
        cells = [number(results.valid.scores[name]["macro_f1"]), number(score["macro_f1"])]
        cells += [span(score["macro_f1_interval"]), number(score["macro_f1_at_half"])]
        rows.append([name, *cells, number(score["mean_average_precision"])])
    columns = ["method", "validation", "audit", "95 %", "at 0.5", "mAP"]
    chosen = results.audit["chosen"]
    notes = [
        f"{results.audit['rows']}. As submitted ({chosen}), macro-F1 is "
        f"{number(final['macro_f1'])} ({span(final['macro_f1_interval'])}) there."
    ]
    if results.audit["classes_without_positives"]:
        absent = ", ".join(results.audit["classes_without_positives"])
        notes.append(f"Classes without an image in this part, scored 0: {absent}.")
    feet = ["Validation: nested, as in the section Result. All columns except the last two "
            "use fitted thresholds."]  # fmt: skip
    table = Table(columns, rows, list(scores).index(chosen))
    return Section("audit", "Audit part", notes, table, feet=feet)


def classes(data: ReportData) -> Section:
    """Return the table of all classes, and the dots of those that occur."""
    results = data.results
    tables = [_class_table(results, part) for part in results.parts]
    rows = []
    for c, name in enumerate(results.classes):
        valid = tables[0].iloc[c]
        cells = [f"{c} {name}", number(int(data.train_support[c])), *_class_scores(valid)]
        cells += [number(valid["threshold"]), span(valid[["threshold_low", "threshold_high"]], 3)]
        cells.append(number(valid["threshold_spread"]))
        for table in tables[1:]:
            cells += _class_scores(table.iloc[c])
        rows.append(cells)
    columns = ["class", "images", "images", "AP", "F1", "95 %", "threshold", "95 %", "± folds"]
    groups = [("", 1), ("train", 1), (results.valid.caption, 4), ("threshold", 3)]
    if results.test:
        columns += ["images", "AP", "F1", "95 %"]
        groups.append((results.test.caption, 4))
    return Section(
        "classes",
        "Classes",
        _class_notes(results),
        Table(columns, rows, groups=groups, details=_class_images(data)),
        [Figure(_class_dots(results, tables), "F1 of each class with its interval")],
        feet=[
            "AP: average precision. 95 %: bootstrap over duplicate groups; of the threshold: by "
            "the method's rule on each resample. ± folds: standard deviation of the "
            "thresholds of 5 folds × 20 repeats. Dash: no positives, or never predicted."
        ],
    )


def _class_images(data: ReportData) -> dict[int, list[Card]]:
    """Validation images of each class for its expanded row: missed, false positive and right.

    The worst errors and the most certain right ones come first.
    """
    results, valid = data.results, data.results.valid
    scores = np.nan_to_num(valid.probs[results.chosen])
    decided = valid.decided[results.chosen]
    kinds = (
        ("missed", "bad", valid.labels & ~decided, 1),
        ("false positive", "bad", decided & ~valid.labels, -1),
        ("right", "good", valid.labels & decided, -1),
    )
    entries = []
    for c in range(len(results.classes)):
        for kind, tone, among, sign in kinds:
            rows = np.flatnonzero(among[:, c])
            rows = rows[np.argsort(sign * scores[rows, c], kind="stable")][: data.shown // 12]
            entries += [(c, int(row), kind, tone) for row in rows]
    by_class: dict[int, list[Card]] = {}
    images = read_images(data.images, [str(valid.ids[row]) for _, row, _, _ in entries])
    for (c, row, kind, tone), image in zip(entries, images, strict=True):
        lines = [
            Line(f"{kind}: {results.classes[c]}", tone),
            Line(f"score {number(float(scores[row, c]))}"),
            Line(f"labels: {class_names(valid.labels[row], results.classes)}"),
            Line(f"predicted: {class_names(decided[row], results.classes)}"),
            Line(str(valid.ids[row]), "id"),
        ]
        card = Card(cells(image, CLASS_SIDE), str(valid.ids[row]), lines)
        by_class.setdefault(c, []).append(card)
    return by_class


def _class_notes(results: Results) -> list[str]:
    notes = [
        f"Submitted method: {results.chosen}. Click a class for validation images that were "
        "missed, wrongly predicted, and right."
    ]
    for part in results.parts:
        absent = [name for name, count in zip(results.classes, part.support) if not count]
        if absent:
            effect = ", so scored 0"
            if part is results.valid:
                absent_thresholds = results.thresholds[results.chosen][part.support == 0]
                never = (absent_thresholds > 1).all()
                effect = ", so never predicted" if never else ", so with a common threshold"
            notes.append(f"Without a positive in {part.name}{effect}: {', '.join(absent)}.")
    return notes


def _class_table(results: Results, part: ScoredRows) -> "pd.DataFrame":
    table = analysis.class_table(
        part.labels,
        np.nan_to_num(part.probs[results.chosen]),
        part.decided[results.chosen],
        results.thresholds[results.chosen],
        results.classes,
        part.groups,
        around=results.intervals,
        weights=part.weights,
    )
    table.loc[table["support"] == 0, ["f1", "f1_low", "f1_high"]] = np.nan
    table.loc[table["threshold"] > 1, ["threshold", "threshold_low", "threshold_high"]] = np.nan
    return table


def _class_scores(row: "pd.Series") -> list[str]:
    cells = [number(int(row["support"])), number(row["average_precision"]), number(row["f1"])]
    return [*cells, span(row[["f1_low", "f1_high"]])]


def _class_dots(results: Results, tables: Sequence["pd.DataFrame"]) -> str:
    shown = np.flatnonzero(sum(part.support for part in results.parts) > 0)
    series: dict[str, Series] = {
        part.caption: tuple(
            table.iloc[shown][name].to_numpy() for name in ("f1", "f1_low", "f1_high")
        )
        for part, table in zip(results.parts, tables)
    }
    return dots([results.classes[c] for c in shown], series, f"F1 of {results.chosen}")


def curves(results: Results) -> Section:
    """Return one precision-recall panel per class."""
    rows = -(-len(results.classes) // PANELS)
    method = results.chosen
    precisions = [
        metrics.average_precision(part.labels, np.nan_to_num(part.probs[method]))
        for part in results.parts
    ]
    figure, panels = axes(PANELS, rows, 11, 1.75 * rows, fitted=False, sharex=True, sharey=True)
    edge = 0.4 / (1.75 * rows)
    figure.subplots_adjust(0.045, edge + 0.01, 0.995, 1 - edge, wspace=0.1, hspace=0.32)
    for c, panel in enumerate(panels):
        if c >= len(results.classes):
            panel.axis("off")
            continue
        _f1_lines(panel)
        for i, part in enumerate(results.parts):
            _curve(panel, part, method, c, i)
        texts = [number(values[c], 2) for values in precisions]
        panel.set_title(_short(results.classes[c]) + "\n" + " | ".join(texts), fontsize=7.5)
        panel.tick_params(labelsize=6.5)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", x=0.004, fontsize=8)
    lines = ", ".join(
        f"{'Solid blue' if i == 0 else 'dashed orange'}: {part.caption}"
        for i, part in enumerate(results.parts)
    )
    notes = [
        f"Method: {method}. {lines}. Dot: at the threshold of the class. Under each name: "
        "average precision. Grey lines: F1 of .2, .4, .6, .8."
    ]
    image = Figure(svg(figure), "Precision-recall curve of each class with its operating point")
    return Section("curves", "Precision and recall", notes, figures=[image])


def curve_points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (recall, precision) at each distinct score, the highest first.

    labels: [N] in {0, 1}; scores: [N].
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[ends]
    return hits / max(labels.sum(), 1), hits / (ends + 1)


def _curve(panel: "Axes", part: ScoredRows, method: str, c: int, i: int) -> None:
    """Plot one curve and its operating point; nothing for a class without positives."""
    labels, decided = part.labels[:, c], part.decided[method][:, c]
    if not labels.any():
        return
    recall, precision = curve_points(labels, np.nan_to_num(part.probs[method][:, c]))
    if len(recall) > CURVE_POINTS:
        places = np.searchsorted(recall, np.linspace(0, 1, CURVE_POINTS))
        kept = np.unique(places.clip(0, len(recall) - 1))
        recall, precision = recall[kept], precision[kept]
    colour = colours(2)[i]
    panel.step(recall, precision, STYLES[i], where="pre", color=colour, linewidth=1.1)
    if decided.any():
        hits = (labels & decided).sum()
        panel.plot(hits / labels.sum(), hits / decided.sum(), "o", color=colour, markersize=4)


def _f1_lines(panel: "Axes") -> None:
    recall = np.linspace(0.01, 1, 60)
    for f1 in (0.2, 0.4, 0.6, 0.8):
        with np.errstate(divide="ignore"):
            precision = f1 * recall / (2 * recall - f1)
        inside = (precision > 0) & (precision <= 1)
        panel.plot(recall[inside], precision[inside], color="#d5dae0", linewidth=0.6)
    ticks = dict(ticks=[0, 0.5, 1], labels=["0", "0.5", "1"])
    panel.set_xticks(**ticks)
    panel.set_yticks(**ticks)
    panel.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.05))


def _short(name: str, width: int = 22) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def calibration(results: Results) -> Section:
    """Return reliability curves and calibration errors of every method."""
    figure, panels = axes(len(results.parts), width=5 * len(results.parts), height=4)
    names = list(results.valid.probs)
    rows = [[name] for name in names]
    for panel, part in zip(panels, results.parts):
        panel.plot([0, 1], [0, 1], color="#9aa4af", linewidth=1)
        for i, name in enumerate(names):
            known = np.isfinite(part.probs[name])
            labels, probs = part.labels[known], part.probs[name][known]
            mean, share, counts = analysis.calibration(labels, probs, 10, "probability")
            shown = counts >= 10
            panel.plot(
                mean[shown], share[shown], f"-{MARKERS[i % len(MARKERS)]}",
                color=colours(len(names))[i], label=name, markersize=4, linewidth=1.2,
            )  # fmt: skip
            rows[i] += _calibration_cells(labels, probs)
        panel.set(xlabel="mean score of the bin", ylabel="share of positives")
        panel.set(xlim=(0, 1), ylim=(0, 1))
        panel.set_title(part.caption, fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7, loc="upper left")
    columns = ["error, all", f"error, score ≥ {HIGH}", "mean score − share"] * len(results.parts)
    groups = [("", 1), *((part.caption, 3) for part in results.parts)]
    return Section(
        "calibration",
        "Calibration",
        ["All pairs of image and class; on the grey line scores equal probabilities."],
        Table(["method", *columns], rows, groups=groups),
        [Figure(svg(figure), "Reliability curve of every method")],
        feet=[
            "Error: expected calibration error in percentage points over ten bins of equal width. "
            "Bins with fewer than ten pairs are not shown. Ranking and thresholds do not "
            "require calibrated scores; focal loss pushes scores to the middle."
        ],
    )


def _calibration_cells(labels: np.ndarray, probs: np.ndarray) -> list[str]:
    high = probs >= HIGH
    error = analysis.calibration_error(labels, probs)
    above = analysis.calibration_error(labels[high], probs[high]) if high.any() else None
    bias = float(probs.mean() - labels.mean())
    return [
        f"{number(100 * error, 1)} %",
        "–" if above is None else f"{number(100 * above, 1)} %",
        f"{signed(100 * bias, 1)} %",
    ]


def importance(gains: Mapping[int, Mapping[str, float]], classes: Sequence[str]) -> Section:
    """Return the features of the stack's trees by share of the total gain.

    gains: class number -> column -> share of the gain of its trees.
    """
    title = "Feature importance of the stack"
    if not gains:
        note = "No class has trees: they did not improve on the logistic regression."
        return Section("importance", title, [note])
    rows = []
    for c in sorted(gains):
        top = sorted(gains[c].items(), key=lambda item: (-item[1], item[0]))[:TOP_FEATURES]
        texts = (f"{feature_name(name, classes)} {100 * share:.0f} %" for name, share in top)
        rows.append([f"{c} {classes[c]}", "; ".join(texts)])
    without = [name for c, name in enumerate(classes) if c not in gains]
    notes = [
        "Share of the total gain of the boosted trees, which start from a logistic regression on "
        "the networks' scores: the contribution of the trees to it."
    ]
    if without:
        notes.append(f"No trees (too rare, or no improvement): {', '.join(without)}.")
    return Section(
        "importance",
        title,
        notes,
        Table(["class", f"the {TOP_FEATURES} most important features"], rows, text=(0, 1)),
        [Figure(_gain_bars(gains, classes), "Share of gain by kind of feature for each class")],
    )


def feature_kind(column: str) -> int:
    """Return the place in FEATURE_KINDS of a column of the stack."""
    if column.startswith("meta/"):
        return 2
    return 1 if column.startswith("mean/p") else 0


def feature_name(column: str, classes: Sequence[str]) -> str:
    """Return the display name of a column: "mean/p02" is "Nucleoli (mean of networks)"."""
    source, _, what = column.rpartition("/")
    if source == "meta":
        return what.replace("_", " ")
    if column == "own/mean":
        return "same class (mean of networks)"
    by = "mean of networks" if source == "mean" else source
    return f"{classes[int(what[1:])]} ({by})" if what[1:].isdigit() else column


def _gain_bars(gains: Mapping[int, Mapping[str, float]], classes: Sequence[str]) -> str:
    shown = sorted(gains)
    shares = np.zeros((len(FEATURE_KINDS), len(shown)))
    for i, c in enumerate(shown):
        for name, share in gains[c].items():
            shares[feature_kind(name), i] += 100 * share
    figure, (axis,) = axes(1, width=8.6, height=0.22 * len(shown) + 1.3)
    left = np.zeros(len(shown))
    for name, values, colour in zip(FEATURE_KINDS, shares, colours(len(FEATURE_KINDS))):
        axis.barh(range(len(shown)), values, left=left, color=colour, label=name, height=0.75)
        left += values
    axis.set_yticks(range(len(shown)), [classes[c] for c in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set(xlabel="% of the gain", xlim=(0, 100))
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3
    )
    return svg(figure)
