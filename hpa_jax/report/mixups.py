"""Section: which classes are taken for which."""

import numpy as np

from hpa_jax.decision import analysis
from hpa_jax.report.canvas import AREAS, axes, svg
from hpa_jax.report.findings import Findings
from hpa_jax.report.page import Figure, Section, Table, number

LISTED = 15


def section(found: Findings) -> Section:
    """Heat map and list of the commonest mix-ups on the validation rows, nested decisions."""
    valid = found.valid
    shares = analysis.confusions(valid.labels, valid.decided[found.chosen])
    support = valid.support
    counts = np.rint(shares * np.maximum(support, 1)[:, None]).astype(int)
    pairs = [(counts[i, j], i, j) for i in range(len(counts)) for j in range(len(counts)) if i != j]
    pairs = sorted((pair for pair in pairs if pair[0]), key=lambda pair: (-pair[0], pair[1:]))
    rows = [
        [found.classes[i], found.classes[j], number(int(n)), f"{100 * n / support[i]:.0f} %"]
        for n, i, j in pairs[:LISTED]
    ]
    columns = ["class that was missed", "predicted and not there", "pictures", "of the class"]
    return Section(
        "mixups",
        "What is taken for what",
        [
            f"Method: {found.chosen}; {valid.where}. An image counts where a class of its own was "
            "missed and another was predicted that it does not carry."
        ],
        Table(columns, rows, text=(0, 1)),
        [Figure(_map(found, shares), "Share of each class that was missed for another class")],
        feet=["White: never. Diagonal: missed, and nothing wrong was predicted in its place."],
    )


def _map(found: Findings, shares: np.ndarray) -> str:
    shown = np.flatnonzero(found.valid.support)
    figure, (axis,) = axes(1, width=8.8, height=6.4)
    shares = np.ma.masked_equal(100 * shares[np.ix_(shown, shown)], 0)  # white: never
    image = axis.imshow(shares, cmap=f"{AREAS}_r", interpolation="none", vmin=0)
    names = [f"{found.classes[c]} ({c})" for c in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=7)
    axis.set_xticks(range(len(shown)), [str(c) for c in shown], fontsize=7)
    axis.set_title("Row: the class that was missed. Column: what was predicted", fontsize=9)
    figure.colorbar(image, ax=axis, shrink=0.7, label="% of the class's images")
    return svg(figure)
