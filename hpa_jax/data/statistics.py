"""Class statistics and the class graph: how often classes occur, alone and together.

In: multi-hot labels of one or several parts (train, external, predictions for test).  Out: tables,
and networkx graphs (node: class, size by count; edge: classes that occur together) laid out by
`kamada_kawai_layout` and `circular_layout`, the two of One More Layer's talk (spec 1).  Their
plotting code is not public; edges are weighted by Jaccard's index by default, since counts draw
nothing but the two or three largest classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError, near

if TYPE_CHECKING:
    import networkx
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHTS = ("jaccard", "count", "conditional")
LAYOUTS = ("kamada_kawai", "circular")
_FAR = 1.0  # distance of classes without a path, in units of the longest path there is


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """int [C, C]: images that have both classes; the diagonal has the classes' counts.

    labels: [N, C] in {0, 1}.

    Raises:
        InputError: labels of another shape.
    """
    labels = np.asarray(labels)
    if labels.ndim != 2:
        raise InputError(f"labels of shape {labels.shape}: need [N, C]")
    # float64 multiplies through BLAS; exact below 2^53 images.
    values = labels.astype(np.float64)
    return (values.T @ values).astype(np.int64)


def conditional(labels: np.ndarray) -> np.ndarray:
    """float [C, C]: P(class j | class i) in row i, column j; NaN where class i never occurs."""
    together = cooccurrence(labels)
    count = np.diag(together)[:, None]
    return np.divide(together, count, where=count > 0, out=np.full(together.shape, np.nan))


def jaccard(labels: np.ndarray) -> np.ndarray:
    """float [C, C]: images with both classes over those with either; 0 where both are absent."""
    together = cooccurrence(labels)
    count = np.diag(together)
    either = count[:, None] + count - together
    return np.divide(together, either, where=either > 0, out=np.zeros(together.shape))


def frequencies(parts: Mapping[str, np.ndarray], class_names: Sequence[str]) -> "pd.DataFrame":
    """One row a class: class, name, and for each part its count and share (PART, PART_share)."""
    import pandas as pd

    table = pd.DataFrame({"class": range(len(class_names)), "name": list(class_names)})
    for part, labels in parts.items():
        _check(labels, class_names, part)
        table[part] = np.asarray(labels).astype(np.int64).sum(axis=0)
        table[f"{part}_share"] = table[part] / max(len(labels), 1)
    return table


def strongest(labels: np.ndarray, class_names: Sequence[str], number: int = 20) -> "pd.DataFrame":
    """The most frequent pairs of classes: class_a, class_b, count, p_a_given_b, p_b_given_a."""
    import pandas as pd

    together, given = cooccurrence(labels), conditional(labels)
    a, b = np.triu_indices(len(class_names), 1)
    order = np.argsort(-together[a, b], kind="stable")[:number]
    a, b = a[order], b[order]
    keep = together[a, b] > 0
    a, b = a[keep], b[keep]
    names = np.asarray(class_names, object)
    return pd.DataFrame(
        {
            "class_a": names[a],
            "class_b": names[b],
            "count": together[a, b],
            "p_a_given_b": given[b, a],
            "p_b_given_a": given[a, b],
        }
    )


def graph(
    labels: np.ndarray,
    class_names: Sequence[str],
    weight: str = "jaccard",
    at_least: float = 0.01,
) -> "networkx.Graph":
    """The class graph of labels [N, C].

    Nodes 0..C-1 with `name`, `count`; edges with `weight`, `count` and `distance` (near 0 for
    classes that always occur together, 1 for the weakest).  "conditional" gives a directed graph,
    edge i -> j weighing P(j | i).  Edges below `at_least` (of the largest count, for "count") are
    left out.

    Raises:
        InputError: unknown weight, or labels of other width than the names.
    """
    import networkx

    if weight not in WEIGHTS:
        raise InputError(f"weight={weight!r}: one of {', '.join(WEIGHTS)}{near(weight, WEIGHTS)}")
    _check(labels, class_names, "labels")
    together = cooccurrence(labels)
    off = together - np.diag(np.diag(together))
    values = {
        "jaccard": jaccard(labels),
        "count": off / max(off.max(initial=0), 1),
        "conditional": np.nan_to_num(conditional(labels)),
    }[weight]
    result = networkx.DiGraph() if weight == "conditional" else networkx.Graph()
    for number, name in enumerate(class_names):
        result.add_node(number, name=name, count=int(together[number, number]))
    for i, j in np.argwhere((values >= at_least) & (off > 0)):
        if weight == "conditional" or i < j:
            result.add_edge(
                int(i),
                int(j),
                weight=float(off[i, j] if weight == "count" else values[i, j]),
                count=int(off[i, j]),
                distance=float(1.0 - 0.95 * values[i, j]),
            )
    return result


def layout(graph: "networkx.Graph", name: str = "kamada_kawai") -> dict[int, np.ndarray]:
    """Positions [x, y] in [-1, 1] of the nodes.

    "kamada_kawai" puts classes that occur together near each other: its distances are the shortest
    paths over the edges' `distance`; "circular" keeps the classes' order.

    Raises:
        InputError: unknown layout.
    """
    import networkx

    if name not in LAYOUTS:
        raise InputError(f"layout={name!r}: one of {', '.join(LAYOUTS)}{near(name, LAYOUTS)}")
    if name == "circular" or len(graph) < 3:
        return networkx.circular_layout(graph)
    plain = graph.to_undirected()
    paths = dict(networkx.all_pairs_dijkstra_path_length(plain, weight="distance"))
    far = _FAR * max((d for row in paths.values() for d in row.values()), default=1.0) or 1.0
    # networkx itself puts nodes without a path a million away, and the rest in one point.
    distances = {a: {b: paths[a].get(b, far) for b in plain} for a in plain}
    start = dict(zip(plain, _scaled(np.array([[distances[a][b] for b in plain] for a in plain]))))
    return networkx.kamada_kawai_layout(plain, dist=distances, pos=start)


def _scaled(distances: np.ndarray) -> np.ndarray:
    """[C, 2] positions by classical scaling. networkx would start on a circle in the nodes' order,
    from where its descent does not find classes that belong together on opposite sides."""
    centre = np.eye(len(distances)) - 1 / len(distances)
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))
    # No two nodes on one spot, where the descent's gradient is not defined.
    return places + np.random.default_rng(0).normal(0, 1e-3, places.shape)


def draw(graph: "networkx.Graph", axes: "Axes", name: str = "kamada_kawai") -> None:
    """Draws the graph: area of a node by the root of its count, width of an edge by its weight."""
    import networkx

    positions = layout(graph, name)
    counts = np.array([count for _, count in graph.nodes(data="count")], float)
    weights = np.array([weight for *_, weight in graph.edges(data="weight")], float)
    scale = weights / weights.max() if len(weights) else weights
    networkx.draw_networkx_edges(
        graph,
        positions,
        ax=axes,
        width=0.4 + 4 * scale,
        edge_color=scale,
        edge_cmap=_colours("Greys"),
        edge_vmin=-0.4,
        edge_vmax=1.0,
        arrows=graph.is_directed(),
        node_size=60,
    )
    networkx.draw_networkx_nodes(
        graph,
        positions,
        ax=axes,
        node_size=30 + 900 * np.sqrt(counts / max(counts.max(initial=1), 1)),
        node_color=np.log10(np.maximum(counts, 1)),
        cmap=_colours("viridis"),
    )
    labels = {node: f"{node} {text}" for node, text in graph.nodes(data="name")}
    networkx.draw_networkx_labels(
        graph, positions, labels, ax=axes, font_size=7, verticalalignment="bottom"
    )
    axes.set_axis_off()
    axes.margins(0.15)


def figure(graph: "networkx.Graph", title: str = "") -> "Figure":
    """Both layouts side by side; needs no display."""
    from matplotlib.figure import Figure

    result = Figure(figsize=(16, 8), layout="constrained")
    for axes, name in zip(result.subplots(1, 2), LAYOUTS):
        draw(graph, axes, name)
        axes.set_title(f"{title} {name}".strip())
    return result


def write(
    directory: str | Path, parts: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> list[Path]:
    """All tables and graphs of the parts (name -> labels [N, C]); returns the files' paths.

    class_frequencies.parquet, and for each part PART_cooccurrence.parquet,
    PART_conditional.parquet, PART_graph.svg.
    """
    import pandas as pd

    directory = Path(directory)
    paths = [directory / "class_frequencies.parquet"]
    artifacts.write_table(paths[0], frequencies(parts, class_names))
    for part, labels in parts.items():
        for what, matrix in (
            ("cooccurrence", cooccurrence(labels)),
            ("conditional", conditional(labels)),
        ):
            table = pd.DataFrame(matrix, columns=list(class_names))
            table.insert(0, "class", list(class_names))
            paths.append(directory / f"{part}_{what}.parquet")
            artifacts.write_table(paths[-1], table)
        paths.append(directory / f"{part}_graph.svg")
        with artifacts.atomic(paths[-1]) as temporary:
            figure(graph(labels, class_names), part).savefig(temporary, format="svg")
    return paths


def _colours(name: str):  # noqa: ANN202 (a matplotlib colour map)
    import matplotlib

    return matplotlib.colormaps[name]


def _check(labels: np.ndarray, class_names: Sequence[str], part: str) -> None:
    if np.ndim(labels) != 2 or np.shape(labels)[1] != len(class_names):
        raise InputError(
            f"{part}: labels of shape {np.shape(labels)} for {len(class_names)} class names"
        )
