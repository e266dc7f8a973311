"""Sections on the data: class frequencies, near-duplicates, the leak, nearest labelled images, and
adversarial validation.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.data import statistics
from hpa_jax.report.figures import HEAT, PALETTE, axes, svg
from hpa_jax.report.inputs import Leak, ReportData, class_names, read_images
from hpa_jax.report.page import Card, Figure, Line, Section, Table, cells, number, span

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    from matplotlib.axes import Axes

AT_LEAST = 0.01  # Jaccard index: rarer pairs of classes have no edge
LAYOUTS = {"kamada_kawai": "Kamada-Kawai", "circular": "circle"}
DISTANCES = ("distance_r", "distance_g", "distance_b")
CONFLICTS_LISTED = 30


def frequencies(parts: Mapping[str, np.ndarray], classes: Sequence[str]) -> Section:
    """Return counts, co-occurrence graphs and conditional probabilities of the classes.

    parts: name -> labels bool[N, C].
    """
    rows = []
    for row in statistics.frequencies(parts, classes).to_dict("records"):
        cells = [f"{row['class']} {row['name']}"]
        for part in parts:
            cells += [number(int(row[part])), f"{100 * row[f'{part}_share']:.1f} %"]
        rows.append(cells)
    columns = ["class", *(word for _ in parts for word in ("images", "share"))]
    groups = [("", 1), *((f"{part}, {len(labels):,}", 2) for part, labels in parts.items())]
    figures = [
        Figure(class_graphs(parts, classes, kind), f"Class graphs of each part, {title} layout")
        for kind, title in LAYOUTS.items()
    ]
    figures.append(Figure(_conditional(parts), "Probability of a class given another, each part"))
    return Section(
        "frequencies",
        "Class frequencies and co-occurrence",
        [
            "Labels of the training and validation images by source, and the submitted labels of "
            "the test part."
        ],
        Table(columns, rows, groups=groups),
        figures,
        feet=[
            "Node: images of the class. Edge: images of both classes over images of either. Heat "
            "map: of the images of the row's class, the share that also has the column's class."
        ],
    )


def class_graphs(parts: Mapping[str, np.ndarray], classes: Sequence[str], kind: str) -> str:
    """Return the class graph of each part in one layout, two per row for legibility."""
    rows = -(-len(parts) // 2)
    figure, panels = axes(2, rows, width=13, height=6 * rows, fitted=False)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.06 / rows, wspace=0.02, hspace=0.08)
    for axis in panels[len(parts) :]:
        axis.axis("off")
    for axis, (part, labels) in zip(panels, parts.items()):
        graph = statistics.graph(labels, classes, at_least=AT_LEAST)
        plot_graph(axis, graph, statistics.layout(graph, kind), classes)
        axis.set_title(f"{part}, {len(labels):,} images")
    return svg(figure)


def plot_graph(
    axis: "Axes",
    graph: "nx.Graph",
    positions: Mapping[int, np.ndarray],
    names: Sequence[str],
) -> None:
    """Plot a class co-occurrence graph: node area by count, edge width by weight."""
    import networkx as nx

    counts = np.array([graph.nodes[n].get("count", 1) for n in graph], float)
    weights = np.array([data.get("weight", 1.0) for _, _, data in graph.edges(data=True)], float)
    sizes = 60 + 900 * np.sqrt(counts / max(counts.max(), 1))
    widths = 0.3 + 5 * weights / weights.max() if len(weights) else []
    nx.draw_networkx_edges(graph, positions, ax=axis, width=widths, edge_color="#999999")
    nx.draw_networkx_nodes(graph, positions, ax=axis, node_size=sizes, node_color=PALETTE[5])
    labels = {n: names[n] if isinstance(n, int | np.integer) else str(n) for n in graph}
    nx.draw_networkx_labels(graph, positions, labels, ax=axis, font_size=8.5)
    axis.margins(0.12)  # names are wider than nodes
    axis.axis("off")


def _conditional(parts: Mapping[str, np.ndarray]) -> str:
    figure, panels = axes(len(parts), width=5 * len(parts), height=4.6)
    for axis, (part, labels) in zip(panels, parts.items()):
        shares = np.ma.masked_invalid(100 * statistics.conditional(labels))
        image = axis.imshow(shares, cmap=HEAT, interpolation="none", vmin=0, vmax=100)
        axis.set_title(part, fontsize=9)
        axis.set(xlabel="class", ylabel="given class")
    figure.colorbar(image, ax=panels, shrink=0.8, label="%")
    return svg(figure)


def duplicates(data: ReportData) -> Section:
    """Return pairs of near-duplicates side by side, the most questionable first."""
    pairs = data.duplicates
    shown = pairs_to_check(pairs, data.shown // 2)
    images = read_images(data.images, shown[["id_a", "id_b"]].to_numpy(str).ravel())
    cards = []
    for pair in shown.to_dict("records"):
        a, b = (cells(image) for image in (next(images), next(images)))
        lines = [Line(_bits(pair), "bad" if pair["conflict"] else "")]
        for side in "ab":
            labels, source = pair[f"labels_{side}"], pair[f"source_{side}"]
            named = "labels unknown" if labels is None else class_names(labels, data.classes)
            lines += [Line(f"{source}: {named}"), Line(str(pair[f"id_{side}"]), "id")]
        cards.append(Card(a, f"{pair['id_a']} and {pair['id_b']}", lines, b))
    notes = [f"{len(pairs):,} pairs within the radius on each of red, green and blue."]
    if len(pairs):
        largest = pairs["group"] == pairs["group"].value_counts().index[0]
        size = pairs.loc[largest, ["id_a", "id_b"]].stack().nunique()
        notes.append(
            f"{int(pairs['conflict'].sum()):,} of them match a test image to labels that another "
            f"match contradicts. The largest group has {size} images."
        )
    feet = [
        "Order: external with test first, conflicts before others, then by greatest distance. "
        "Bits: Hamming distance of each channel's hash; –: the channel is flat in both."
    ]
    return Section("duplicates", "Near-duplicates", notes, cards=cards, feet=feet)


def pairs_to_check(pairs: "pd.DataFrame", count: int) -> "pd.DataFrame":
    """Return at most `count` pairs: external with test first, conflicts before others; then test
    with other labelled images; then the rest, each by greatest distance. A quarter is reserved
    for the largest group.

    pairs: id_a, id_b, source_a, source_b, distances, group, conflict (bool).
    """
    sources = [set(pair) for pair in zip(pairs["source_a"], pairs["source_b"])]
    rank = [0 if s == {"external", "test"} else 1 if "test" in s else 2 for s in sources]
    total = pairs[list(DISTANCES)].astype(float).fillna(0).sum(axis=1).to_numpy()
    ordered = pairs.assign(
        rank=rank, agrees=~pairs["conflict"].to_numpy(bool), total=-total
    ).sort_values(["rank", "agrees", "total", "id_a", "id_b"])
    sizes = ordered["group"].value_counts()
    largest = ordered[ordered["group"] == sizes.index[0]] if len(sizes) else ordered
    first = ordered.head(count - min(len(largest), count // 4)).index
    order = [*first, *largest.index.difference(first, sort=False), *ordered.index]
    return ordered.loc[list(dict.fromkeys(order))[:count]]


def _bits(pair: Mapping) -> str:
    import pandas as pd

    red, green, blue = ("–" if pd.isna(pair[name]) else int(pair[name]) for name in DISTANCES)
    text = f"bits: R {red}, G {green}, B {blue}"
    text += ", equal pixels" if pair["exact"] else ""
    return text + (", conflict" if pair["conflict"] else "")


def leak(leak: Leak, classes: Sequence[str], truth: Mapping[str, np.ndarray] | None) -> Section:
    """Return how many test labels are known from duplicates and tables, and the conflicts.

    truth: test id -> bool[C], None if unknown.
    """
    known = leak.overlay[leak.overlay["id"].isin(leak.tests)]
    use = "replace the prediction" if leak.used else "are not used: config.leak is off"
    notes = [
        "Test images with labels known from a labelled near-duplicate or a leak table: "
        f"{len(known):,} of {len(leak.tests):,} "
        f"({100 * len(known) / max(len(leak.tests), 1):.1f} %); they {use}."
    ]
    if truth is not None and len(known):
        right = sum(
            set(np.flatnonzero(truth[row.id])) == set(row.labels) for row in known.itertuples()
        )
        notes.append(f"They equal the true labels for {right} of {len(known)}.")
    title = "Leaked test labels"
    if leak.conflicts.empty:
        return Section("leak", title, [*notes, "No conflicts: all sources of a label agree."])
    notes.append(f"{len(leak.conflicts)} further matches have labels different from those used.")
    used = {row.id: _leak_cells(row, classes) for row in leak.overlay.itertuples()}
    rows = [
        [row.id, *used.get(row.id, ["–"] * 3), *_leak_cells(row, classes)]
        for row in leak.conflicts.head(CONFLICTS_LISTED).itertuples()
    ]
    columns = ["test image", "source used", "its labels", "bits", "other source", "its labels"]
    feet = ["Bits: Hamming distance of the hashes, summed over channels."]
    if len(leak.conflicts) > CONFLICTS_LISTED:
        feet.append(f"The first {CONFLICTS_LISTED} are listed; for all see leak_conflicts.csv.")
    table = Table([*columns, "bits"], rows, text=(0, 1, 2, 4, 5))
    return Section("leak", title, notes, table, feet=feet)


def _leak_cells(row: "pd.Series", classes: Sequence[str]) -> list[str]:
    """Return the matching image (or the table's name), its labels, and the distance."""
    return [
        row.origin or row.table,
        class_names(row.labels, classes),
        number(float(row.distance), 0),
    ]


def neighbours(data: ReportData) -> Section | None:
    """Return the nearest labelled images and their reliability, None if retrieval is off."""
    if data.neighbours is None:
        return None
    pairs, labels, scores = data.neighbours.pairs, data.neighbours.labels, data.neighbours.scores
    truth, tau, recall = data.results.truth, scores["tau"], scores["recall_at_1"]
    near = np.flatnonzero(pairs["similarity"].to_numpy() >= tau)
    notes = [
        f"For {len(near):,} of {len(pairs):,} test images the nearest labelled image is within "
        f"the threshold (cosine ≥ {tau:g}).",
        f"Recall@1 of the antibody: {number(recall['recall'])} on {recall['queries']:,} hold-out "
        f"images; chance level {number(recall['chance'])}.",
    ]
    if truth is not None and len(near):
        right = sum((truth[pairs["id"].iloc[row]] == labels[row]).all() for row in near)
        notes.append(f"The neighbour's labels equal the true labels for {right} of {len(near)}.")
    rows = [
        [number(row["tau"], 2), f"{100 * row['taken']:.1f} %", number(row["same"]),
         number(row["jaccard"])]
        for row in scores["validation"]
    ]  # fmt: skip
    columns = ["cosine at least", "validation rows", "same labels", "overlap (Jaccard)"]
    chosen = next((i for i, row in enumerate(scores["validation"]) if row["tau"] == tau), -1)
    return Section(
        "neighbours",
        "Nearest labelled images",
        notes,
        Table(columns, rows, chosen),
        cards=_neighbour_cards(data, truth),
    )


def _neighbour_cards(data: ReportData, truth: Mapping[str, np.ndarray] | None) -> list[Card]:
    """Return query and neighbour side by side, the nearest pairs first."""
    pairs, labels = data.neighbours.pairs, data.neighbours.labels
    similarity = pairs["similarity"].to_numpy()
    order = np.argsort(-similarity, kind="stable")
    shown = order[np.isfinite(similarity[order])][: data.shown // 4]
    ids = pairs[["id", "neighbour"]].iloc[shown].to_numpy().ravel()
    images = read_images(data.images, ids)
    cards = []
    for place, row in enumerate(shown):
        id, neighbour = pairs["id"].iloc[row], pairs["neighbour"].iloc[row]
        query, near = (cells(image) for image in (next(images), next(images)))
        lines = [Line(f"pair {place + 1}, cosine {number(similarity[row], 2)}")]
        if truth is not None:
            lines.append(Line(f"truth: {class_names(truth[id], data.classes)}"))
        lines.append(Line(id, "id"))
        lines.append(Line(f"neighbour: {class_names(labels[row], data.classes)}"))
        lines.append(Line(neighbour, "id"))
        cards.append(Card(query, f"{id} and {neighbour}", lines, near))
    return cards


def adversarial(data: ReportData) -> Section | None:
    """Return whether train and test differ and the least test-like images, if measured."""
    if data.adversarial is None:
        return None
    summary, table = data.adversarial.summary, data.adversarial.table
    bounds = summary["auc_low"], summary["auc_high"]
    verdict = "differ" if bounds[0] > 0.5 else "can't be distinguished with certainty"
    notes = [
        f"By {summary['variant']}, {summary['folds']} folds: AUC {number(summary['auc'])} "
        f"({span(bounds)}); training and test images {verdict}.",
        f"Effective size of the {summary['labelled']:,} labelled images, weighted to resemble "
        f"test: {summary['effective_size']:,.0f}.",
    ]
    rows = [
        [
            source,
            number(part["rows"]),
            number(part["auc"]),
            span((part["auc_low"], part["auc_high"])),
        ]
        for source, part in summary["by_source"].items()
    ]
    shown = table[~table["is_test"]].head(data.shown // 2)
    cards = [
        Card(
            cells(image),
            row.id,
            [
                Line(f"score {number(float(row.score))}, weight {number(float(row.weight), 2)}"),
                Line(row.source),
                Line(row.id, "id"),
            ],
        )
        for row, image in zip(shown.itertuples(), read_images(data.images, shown["id"]))
    ]
    columns = ["source", "images", "AUC against test", "95 %"]
    feet = ["Images: the least test-like labelled ones, by out-of-fold scores."]
    features = _shares(summary["importances"].items())
    if features:
        feet.append(f"Most important features (share of the gain): {features}.")
    title = "Adversarial validation: training against test images"
    return Section("adversarial", title, notes, Table(columns, rows), [], cards, feet)


def _shares(importances: Iterable[tuple[str, float]], count: int = 5) -> str:
    top = sorted(importances, key=lambda pair: -pair[1])[:count]
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in top)
