"""Sections on errors: confusions between classes, the largest errors, likely label errors, and
example images.
"""

from collections.abc import Sequence

import numpy as np

from hpa_jax.decision import analysis
from hpa_jax.report.figures import HEAT, axes, svg
from hpa_jax.report.inputs import (
    Examples,
    Images,
    LabelErrors,
    ReportData,
    Results,
    class_names,
    read_images,
)
from hpa_jax.report.page import Card, Figure, Line, Section, Table, cells, number

LISTED = 15  # confusions in the table


def confusions(results: Results) -> Section:
    """Return the heat map and the most frequent confusions of the validation rows."""
    valid = results.valid
    shares = analysis.confusions(valid.labels, valid.decided[results.chosen])
    support = valid.support
    counts = np.rint(shares * np.maximum(support, 1)[:, None]).astype(int)
    np.fill_diagonal(counts, 0)
    pairs = sorted((-counts[i, j], i, j) for i, j in np.argwhere(counts))
    rows = [
        [results.classes[i], results.classes[j], number(int(-n)), f"{100 * -n / support[i]:.0f} %"]
        for n, i, j in pairs[:LISTED]
    ]
    columns = ["missed class", "wrongly predicted class", "images", "of the missed class"]
    return Section(
        "confusions",
        "Confusions between classes",
        [
            f"Method: {results.chosen}; {valid.caption}. Counts are images with a missed label "
            "and a wrongly predicted class."
        ],
        Table(columns, rows, text=(0, 1)),
        [Figure(_heat_map(results, shares), "Share of each class that was missed for another")],
        feet=["White: never. Diagonal: missed, without a wrong prediction instead."],
    )


def _heat_map(results: Results, shares: np.ndarray) -> str:
    shown = np.flatnonzero(results.valid.support)
    figure, (axis,) = axes(1, width=8.8, height=6.4)
    shares = np.ma.masked_equal(100 * shares[np.ix_(shown, shown)], 0)  # white: never
    image = axis.imshow(shares, cmap=HEAT, interpolation="none", vmin=0)
    names = [f"{results.classes[c]} ({c})" for c in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=7)
    axis.set_xticks(range(len(shown)), [str(c) for c in shown], fontsize=7)
    axis.set_title("Row: missed class. Column: wrongly predicted class", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.7, label="% of the images of the class")
    return svg(figure)


def largest(data: ReportData) -> list[Section]:
    """Return two sections of validation images: missed classes and false positives, worst first."""
    results, valid = data.results, data.results.valid
    decided = valid.decided[results.chosen]
    missed = _error_cards(data, valid.labels & ~decided, "missed")
    wrong = _error_cards(data, decided & ~valid.labels, "false positive")
    notes = [
        f"Method: {results.chosen}; {valid.caption}; nested thresholds; the classes with the "
        "largest log loss, one per image. Some of these may be label errors."
    ]
    return [
        Section("missed", "Largest errors: missed classes", notes, cards=missed),
        Section("false_positives", "Largest errors: false positives", notes, cards=wrong),
    ]


def _error_cards(data: ReportData, among: np.ndarray, kind: str) -> list[Card]:
    results, valid = data.results, data.results.valid
    scores = np.nan_to_num(valid.probs[results.chosen])
    thresholds = results.thresholds[results.chosen]
    worst = analysis.largest_errors(valid.labels, scores, data.shown // 2, among)
    cards = []
    shown = valid.ids[[row for row, _, _ in worst]] if worst else ()
    for (row, c, loss), image in zip(worst, read_images(data.images, shown), strict=True):
        threshold = number(thresholds[c] if thresholds[c] <= 1 else None)
        id, score = str(valid.ids[row]), number(float(scores[row, c]))
        decided = valid.decided[results.chosen][row]
        lines = [
            Line(f"{kind}: {results.classes[c]}", "bad"),
            Line(f"score {score}, threshold {threshold}, loss {number(loss, 1)}"),
            Line(f"labels: {class_names(valid.labels[row], results.classes)}"),
            Line(f"predicted: {class_names(decided, results.classes)}"),
            Line(id, "id"),
        ]
        cards.append(Card(cells(image), id, lines))
    return cards


def label_errors(
    errors: LabelErrors, classes: Sequence[str], images: Images, count: int
) -> Section:
    """Return at most `count` images whose labels are likely wrong, most certain first."""
    shown = errors.table.head(count)
    cards = []
    for row, image in zip(shown.itertuples(), read_images(images, shown["id"]), strict=True):
        given, suggested = (
            class_names(np.array(text.split(), int), classes) for text in (row.given, row.suggested)
        )
        score = number(float(row.worst_probability))
        lines = [
            Line(f"given: {given}"),
            Line(f"suggested: {suggested}", "bad"),
            Line(f"trust {number(float(row.trust))}; {row.worst_class}: score {score}"),
            Line(row.id, "id"),
        ]
        cards.append(Card(cells(image), row.id, lines))
    listed = len(errors.table)
    precision = f"{100 * errors.table['evidence'].mean():.0f} %" if listed else "none"
    notes = [
        f"{listed:,} of {errors.rows:,} validation images have labels that are more likely wrong "
        f"than right, by the calibrated mean of the models; most certain first. Expected to be "
        f"wrong: {precision} of them.",
        "The models may be wrong: check these labels before replacing them.",
    ]
    return Section("label_errors", "Likely label errors", notes, cards=cards)


def _class_lines(shown: Examples, id: str) -> list[Line]:
    """Score, probability and F1 of each predicted class of an image."""
    if shown.by_class is None:
        return []
    rows = shown.by_class[(shown.by_class["id"] == id) & shown.by_class["predicted"]]
    return [
        Line(
            f"{row['class']}: score {number(row['score'], 2)}, threshold "
            f"{number(row['threshold'], 2)}, probability {number(row['probability'], 2)}; "
            f"F1 {number(row['f1'], 2)} on {row['support']}"
        )
        for row in rows.to_dict("records")
    ]


def examples(shown: Examples, classes: Sequence[str], images: Images) -> Section:
    """Return test images with true labels (if known) and predictions."""
    cards = []
    for row, image in enumerate(read_images(images, shown.ids)):
        predicted = f"predicted: {class_names(shown.decided[row], classes)}"
        lines = [Line(predicted)]
        if shown.labels is not None:
            right = (shown.labels[row] == shown.decided[row]).all()
            truth = Line(f"truth: {class_names(shown.labels[row], classes)}")
            sign, kind = ("✓", "good") if right else ("✗", "bad")
            lines = [truth, Line(f"{sign} {predicted}", kind)]
        lines += _class_lines(shown, str(shown.ids[row]))
        cards.append(Card(cells(image), str(shown.ids[row]), lines))
    notes = ["Red: microtubules; green: the protein; blue: nucleus. Brightness is stretched."]
    if shown.by_class is not None:
        notes.append(
            "For each class that the method predicts (the leak table may override it): score, "
            "threshold, calibrated probability, and the F1 of the class on its number of "
            "validation images."
        )
    return Section("examples", "Examples from the test part", notes, cards=cards)
