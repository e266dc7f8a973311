"""Figures of training, of single images and of the class graph, as data URIs."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpa_jax.report.canvas import PALETTE, axes, colours, marker, svg, uri

JPEG_QUALITY = 88
Log = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


def training_curves(logs: Mapping[str, Log]) -> str:
    """Loss (train, validation) and validation macro-F1 at 0.5 over epochs, one colour a model."""
    figure, (losses, scores) = axes(2)
    for number, ((name, log), colour) in enumerate(zip(logs.items(), colours(len(logs)))):
        for split, style in (("train", ":"), ("valid", "-")):
            points = [line for line in log if line.get("split") == split and "loss" in line]
            epochs, values = [p["epoch"] for p in points], [p["loss"] for p in points]
            look = dict(color=colour, marker=marker(number, len(points)), markersize=4)
            losses.plot(epochs, values, style, label=f"{name}, {split}", **look)
        points = [p for p in log if p.get("split") == "valid" and p.get("macro_f1") is not None]
        values = [p["macro_f1"] for p in points]
        look = dict(color=colour, marker=marker(number, len(points)), markersize=4)
        scores.plot([p["epoch"] for p in points], values, label=name, **look)
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    scores.set(xlabel="epoch", ylabel="macro-F1 at 0.5", title="Validation", ylim=(0, 1))
    for axis in (losses, scores):
        axis.legend(fontsize=7)
    return svg(figure)


def learning_rates(logs: Mapping[str, Log]) -> str:
    """Learning rate of the head over steps, as it was applied."""
    figure, (axis,) = axes(1)
    for number, ((name, log), colour) in enumerate(zip(logs.items(), colours(len(logs)))):
        points = [p for p in log if p.get("split") == "train" and p.get("lr") is not None]
        look = dict(color=colour, marker=marker(number, len(points)), markersize=4)
        axis.plot([p["step"] for p in points], [_head(p["lr"]) for p in points], label=name, **look)
    axis.set(xlabel="step", ylabel="learning rate", title="Learning rate")
    axis.legend(fontsize=7)
    return svg(figure)


def picture(image: np.ndarray, side: int = 160) -> str:
    """An RGB composite (uint8[H, W, 3], stretched to its own brightest percentile) as JPEG."""
    from PIL import Image

    top = np.maximum(np.percentile(image, 99.5, axis=(0, 1)), 24)
    stretched = np.clip(image.astype(np.float32) * (255.0 / top), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    small = Image.fromarray(stretched).resize((side, side), Image.Resampling.BILINEAR)
    small.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return uri(buffer.getvalue(), "image/jpeg")


def draw_classes(
    axis: object, graph: object, positions: Mapping[int, np.ndarray], names: Sequence[str]
) -> None:
    """Class co-occurrence graph on an axis: node area by count, edge width by weight."""
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


def _head(rate: float | Sequence[float] | Mapping[str, float]) -> float:
    """Rate of the last (head's) group where one is logged for each group."""
    if isinstance(rate, Mapping):
        return list(rate.values())[-1]
    return rate[-1] if isinstance(rate, Sequence) else rate
