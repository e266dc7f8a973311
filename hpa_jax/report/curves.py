"""Section: precision against recall of every class, with the point at which it is cut."""

from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.report.canvas import axes, colours, svg
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.page import Figure, Section, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 7
POINTS = 80  # of a curve: more than a small panel can show
STYLES = ("-", "--")


def section(found: Findings) -> Section:
    """28 small panels, one a class; classes without positives say so."""
    rows = -(-len(found.classes) // COLUMNS)
    method = found.chosen
    precisions = [
        metrics.average_precision(part.labels, np.nan_to_num(part.probs[method]))
        for part in found.parts
    ]
    figure, panels = axes(COLUMNS, rows, 11, 1.75 * rows, fitted=False, sharex=True, sharey=True)
    edge = 0.4 / (1.75 * rows)
    figure.subplots_adjust(0.045, edge + 0.01, 0.995, 1 - edge, wspace=0.1, hspace=0.32)
    for c, panel in enumerate(panels):
        if c >= len(found.classes):
            panel.axis("off")
            continue
        _background(panel)
        for i, part in enumerate(found.parts):
            _draw(panel, part, method, c, i)
        texts = [number(own[c], 2) for own in precisions]
        panel.set_title(_short(found.classes[c]) + "\n" + " | ".join(texts), fontsize=7.5)
        panel.tick_params(labelsize=6.5)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", x=0.004, fontsize=8)
    lines = ", ".join(
        f"{'Solid blue' if i == 0 else 'dashed orange'}: {part.where}"
        for i, part in enumerate(found.parts)
    )
    notes = [
        f"Method: {method}. {lines}. Dot: what the cut of the class gives. Under each name: "
        "average precision. Grey lines: F1 of .2, .4, .6, .8."
    ]
    image = Figure(svg(figure), "Precision-recall curve of each class with its operating point")
    return Section("curves", "Precision and recall", notes, images=[image])


def points(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) at each distinct score, from the strictest. labels, scores: [N]."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[ends]
    return hits / max(labels.sum(), 1), hits / (ends + 1)


def _draw(panel: "Axes", part: Scored, method: str, c: int, i: int) -> None:
    """One curve and its dot; nothing for a class without positives."""
    labels, decided = part.labels[:, c], part.decided[method][:, c]
    if not labels.any():
        return
    recall, precision = points(labels, np.nan_to_num(part.probs[method][:, c]))
    if len(recall) > POINTS:
        kept = np.unique(
            np.searchsorted(recall, np.linspace(0, 1, POINTS)).clip(0, len(recall) - 1)
        )
        recall, precision = recall[kept], precision[kept]
    colour = colours(2)[i]
    panel.step(recall, precision, STYLES[i], where="pre", color=colour, linewidth=1.1)
    if decided.any():
        hits = (labels & decided).sum()
        panel.plot(hits / labels.sum(), hits / decided.sum(), "o", color=colour, markersize=4)


def _background(panel: "Axes") -> None:
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
