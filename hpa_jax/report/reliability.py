"""Section: whether a probability of .3 means three in ten."""

import numpy as np

from hpa_jax.decision import analysis
from hpa_jax.report.canvas import MARKERS, axes, colours, svg
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.page import Figure, Section, Table, number, signed

HIGH = 0.1  # most pairs of image and class are surely not; above this the doubt begins


def section(found: Findings) -> Section:
    """Reliability curves of every method, and calibration errors, on each set of scored rows."""
    figure, panels = axes(len(found.parts), width=5 * len(found.parts), height=4)
    methods = list(found.valid.probs)
    rows = [[name] for name in methods]
    for panel, part in zip(panels, found.parts):
        panel.plot([0, 1], [0, 1], color="#9aa4af", linewidth=1)
        for i, name in enumerate(methods):
            labels, probs = _known(part, name)
            mean, share, counts = analysis.calibration(labels, probs, 10, "probability")
            shown = counts >= 10
            panel.plot(
                mean[shown], share[shown], f"-{MARKERS[i % len(MARKERS)]}",
                color=colours(len(methods))[i], label=name, markersize=4, linewidth=1.2,
            )  # fmt: skip
            rows[i] += _errors(labels, probs)
        panel.set(xlabel="mean score of the bin", ylabel="share that carries the class")
        panel.set(xlim=(0, 1), ylim=(0, 1))
        panel.set_title(part.where, fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=7, loc="upper left")
    columns = ["method"] + ["error, all", f"error, score ≥ {HIGH}", "mean score − share"] * len(
        found.parts
    )
    groups = [("", 1), *((part.where, 3) for part in found.parts)]
    return Section(
        "calibration",
        "Calibration",
        ["All pairs of image and class; on the grey line a score is a probability."],
        Table(columns, rows, groups=groups),
        [Figure(svg(figure), "Reliability curve of every method")],
        feet=[
            "Error: expected calibration error in percentage points over ten bins of equal width. "
            "Bins with fewer than ten pairs are not drawn. A score need not be a probability to "
            "rank or to be cut well; focal loss pulls scores to the middle."
        ],
    )


def _known(part: Scored, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of all pairs whose class the method knows: [n], [n]."""
    probs = part.probs[name]
    known = np.isfinite(probs)
    return part.labels[known], probs[known]


def _errors(labels: np.ndarray, probs: np.ndarray) -> list[str]:
    high = probs >= HIGH
    error = analysis.calibration_error(labels, probs)
    above = analysis.calibration_error(labels[high], probs[high]) if high.any() else None
    bias = float(probs.mean() - labels.mean())
    return [
        f"{number(100 * error, 1)} %",
        "–" if above is None else f"{number(100 * above, 1)} %",
        f"{signed(100 * bias, 1)} %",
    ]
