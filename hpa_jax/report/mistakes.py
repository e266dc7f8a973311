"""Section: the largest errors with their images: missed classes, and classes seen wrongly."""

from collections.abc import Callable, Iterator

import numpy as np

from hpa_jax.decision import analysis
from hpa_jax.report import figures
from hpa_jax.report.findings import Findings
from hpa_jax.report.page import Card, Line, Section, number

Pictures = Callable[[np.ndarray], Iterator[np.ndarray]]  # ids -> uint8[H, W, 4]


def sections(found: Findings, pictures: Pictures, count: int) -> list[Section]:
    """Two sections of at most `count` images each, worst first, on the validation rows."""
    valid = found.valid
    decided, scores = valid.decided[found.chosen], np.nan_to_num(valid.probs[found.chosen])
    missed = _cards(found, scores, valid.labels & ~decided, pictures, count)
    wrong = _cards(found, scores, decided & ~valid.labels, pictures, count)
    about = f"Method: {found.chosen}; {valid.where}; nested cuts; the classes with the largest "
    about += "log loss, one an image. Some of these may be errors of the labels."
    return [
        Section("missed", "Largest errors: missed", [about], cards=missed),
        Section("wrong", "Largest errors: seen and not there", [about], cards=wrong),
    ]


def _cards(
    found: Findings, scores: np.ndarray, among: np.ndarray, pictures: Pictures, count: int
) -> list[Card]:
    valid, cuts = found.valid, found.cuts[found.chosen]
    worst = analysis.largest_errors(valid.labels, scores, count, among)
    if not worst:
        return []
    cards = []
    shown = pictures(valid.ids[[row for row, _, _ in worst]])
    for (row, c, loss), image in zip(worst, shown, strict=True):
        kind = "missed" if valid.labels[row, c] else "wrong"
        cut = number(cuts[c] if cuts[c] <= 1 else None)
        lines = [
            Line(f"{kind}: {found.classes[c]}", "bad"),
            Line(f"score {number(float(scores[row, c]))}, cut {cut}, loss {number(loss, 1)}"),
            Line(f"labels: {found.named(valid.labels[row])}"),
            Line(f"predicted: {found.named(valid.decided[found.chosen][row])}"),
            Line(str(valid.ids[row]), "id"),
        ]
        cards.append(Card(figures.picture(image[..., :3]), str(valid.ids[row]), lines))
    return cards
