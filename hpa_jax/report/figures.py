"""Figures of the report as data URIs (SVG for lines, PNG for pictures): the page is one file.

Colours: Okabe and Ito's palette, which colour-blind readers tell apart.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
Log = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


def training_curves(logs: Mapping[str, Log]) -> str:
    """Loss (train, validation) and validation macro-F1 at 0.5 over epochs, one colour a model."""
    figure, (losses, scores) = _axes(2)
    for (name, log), colour in zip(logs.items(), _colours(len(logs))):
        for split, style in (("train", ":"), ("valid", "-")):
            points = [line for line in log if line.get("split") == split and "loss" in line]
            epochs, values = [p["epoch"] for p in points], [p["loss"] for p in points]
            losses.plot(epochs, values, style, color=colour, label=f"{name}, {split}")
        points = [p for p in log if p.get("split") == "valid" and p.get("macro_f1") is not None]
        values = [p["macro_f1"] for p in points]
        scores.plot([p["epoch"] for p in points], values, color=colour, label=name)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    scores.set(xlabel="epoch", ylabel="macro-F1 at 0.5", title="Validation", ylim=(0, 1))
    for axis in (losses, scores):
        axis.legend(fontsize=7)
    return _svg(figure)


def learning_rates(logs: Mapping[str, Log]) -> str:
    """Learning rate of the head over steps, as it was applied."""
    figure, (axis,) = _axes(1)
    for (name, log), colour in zip(logs.items(), _colours(len(logs))):
        points = [p for p in log if p.get("split") == "train" and p.get("lr") is not None]
        axis.plot(
            [p["step"] for p in points], [_head(p["lr"]) for p in points], color=colour, label=name
        )
    axis.set(xlabel="step", ylabel="learning rate", title="Learning rate")
    axis.legend(fontsize=7)
    return _svg(figure)


def class_scores(
    names: Sequence[str], scores: Mapping[str, np.ndarray], support: np.ndarray
) -> str:
    """F1 of each class, one row a class, classes without positives left out."""
    shown = [number for number in range(len(names)) if support[number] > 0]
    figure, (axis,) = _axes(1, height=0.25 * len(shown) + 1.2, width=8)
    markers = "osD^vP*X"
    for i, (method, values) in enumerate(scores.items()):
        axis.plot(
            [values[number] for number in shown],
            range(len(shown)),
            markers[i % len(markers)],
            color=PALETTE[i % len(PALETTE)],
            label=method,
            alpha=0.8,
        )
    axis.set_yticks(range(len(shown)), [f"{names[n]} ({support[n]})" for n in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlim=(-0.02, 1.02), xlabel="F1 (in brackets: pictures that carry the class)")
    axis.grid(axis="both", alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")
    return _svg(figure)


def picture(image: np.ndarray, side: int = 160) -> str:
    """An RGB composite (uint8[H, W, 3], stretched to its own brightest percentile) as PNG."""
    from PIL import Image

    top = np.maximum(np.percentile(image, 99.5, axis=(0, 1)), 24)
    stretched = np.clip(image.astype(np.float32) * (255.0 / top), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(stretched).resize((side, side), Image.Resampling.BILINEAR).save(buffer, "PNG")
    return _uri(buffer.getvalue(), "image/png")


def class_graph(
    graph: object, positions: Mapping[int, np.ndarray], names: Sequence[str], title: str
) -> str:
    """Class co-occurrence graph: node area by count, edge width by weight."""
    import networkx as nx

    figure, (axis,) = _axes(1, width=6.5, height=6)
    counts = np.array([graph.nodes[n].get("count", 1) for n in graph], float)
    weights = np.array([data.get("weight", 1.0) for _, _, data in graph.edges(data=True)], float)
    sizes = 60 + 900 * np.sqrt(counts / max(counts.max(), 1))
    widths = 0.3 + 5 * weights / weights.max() if len(weights) else []
    nx.draw_networkx_edges(graph, positions, ax=axis, width=widths, edge_color="#999999")
    nx.draw_networkx_nodes(graph, positions, ax=axis, node_size=sizes, node_color=PALETTE[5])
    labels = {n: names[n] if isinstance(n, int | np.integer) else str(n) for n in graph}
    nx.draw_networkx_labels(graph, positions, labels, ax=axis, font_size=6.5)
    axis.set_title(title)
    axis.axis("off")
    return _svg(figure)


def _head(rate: float | Sequence[float] | Mapping[str, float]) -> float:
    """Rate of the last (head's) group where one is logged for each group."""
    if isinstance(rate, Mapping):
        return list(rate.values())[-1]
    return rate[-1] if isinstance(rate, Sequence) else rate


def _colours(count: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def _axes(count: int, width: float = 9, height: float = 3.2) -> tuple["Figure", "list[Axes]"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    return figure, axes


def _svg(figure: "Figure") -> str:
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings = {"svg.hashsalt": "hpa_jax", "svg.fonttype": "none"}  # same figure, same bytes
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _uri(buffer.getvalue(), "image/svg+xml")


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
