"""Section: how often classes occur, alone and together, in each part."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpa_jax.data import statistics
from hpa_jax.report import figures
from hpa_jax.report.canvas import AREAS, axes, svg
from hpa_jax.report.page import Figure, Section, Table, number

AT_LEAST = 0.01  # Jaccard index: pairs that occur together less have no edge
LAYOUTS = {"kamada_kawai": "Kamada-Kawai", "circular": "circle"}


def section(parts: Mapping[str, np.ndarray], classes: Sequence[str]) -> Section:
    """parts: name -> labels bool[N, C]."""
    counted = statistics.frequencies(parts, classes)
    rows = []
    for row in counted.to_dict("records"):
        cells = [f"{row['class']} {row['name']}"]
        for part in parts:
            cells += [number(int(row[part])), f"{100 * row[f'{part}_share']:.1f} %"]
        rows.append(cells)
    columns = ["class", *(word for _ in parts for word in ("pictures", "share"))]
    groups = [("", 1), *((f"{part}, {len(labels):,}", 2) for part, labels in parts.items())]
    images = [
        Figure(graphs(parts, classes, kind), f"Class graphs of each part, {title} layout")
        for kind, title in LAYOUTS.items()
    ]
    images.append(Figure(_conditional(parts), "Probability of a class given another, each part"))
    notes = [
        "Labels of the training and validation images by source, and what the submission says of "
        "the test part."
    ]
    feet = [
        "Node: images that carry the class. Edge: those that carry both over those that carry "
        "either. Heat map: of the images with the row's class, the share that also has the "
        "column's."
    ]
    table = Table(columns, rows, groups=groups)
    return Section("graph", "Classes, alone and together", notes, table, images, feet=feet)


def graphs(parts: Mapping[str, np.ndarray], classes: Sequence[str], kind: str) -> str:
    """The parts' class graphs in one layout, two side by side: of three none could be read."""
    rows = -(-len(parts) // 2)
    figure, panels = axes(2, rows, width=13, height=6 * rows, fitted=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.06 / rows, wspace=0.02, hspace=0.08)
    for axis in panels[len(parts) :]:
        axis.axis("off")
    for axis, (part, labels) in zip(panels, parts.items()):
        graph = statistics.graph(labels, classes, at_least=AT_LEAST)
        figures.draw_classes(axis, graph, statistics.layout(graph, kind), classes)
        axis.set_title(f"{part}, {len(labels):,} images")
    return svg(figure)


def _conditional(parts: Mapping[str, np.ndarray]) -> str:
    figure, panels = axes(len(parts), width=5 * len(parts), height=4.6)
    for axis, (part, labels) in zip(panels, parts.items()):
        shares = np.ma.masked_invalid(100 * statistics.conditional(labels))
        image = axis.imshow(shares, cmap=f"{AREAS}_r", interpolation="none", vmin=0, vmax=100)
        axis.set_title(part, fontsize=9)
        axis.set(xlabel="class", ylabel="given class")
    figure.colorbar(image, ax=panels, shrink=0.8, label="%")
    return svg(figure)
