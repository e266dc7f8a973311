"""Section: what the stack's trees look at, class by class (share of the total gain)."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpa_jax.report.canvas import axes, colours, svg
from hpa_jax.report.page import Figure, Section, Table

KINDS = ("own class, by the networks", "other classes", "metafeatures")
TOP = 4


def section(gains: Mapping[int, Mapping[str, float]], classes: Sequence[str]) -> Section:
    """gains: class number -> column -> share of its trees' gain, largest first."""
    if not gains:
        note = "No class got trees: nothing beyond the logistic regression lowered the loss."
        return Section("importance", "What the stack looks at", [note])
    rows = [
        [
            f"{c} {classes[c]}",
            "; ".join(
                f"{readable(name, classes)} {100 * share:.0f} %" for name, share in _top(gains[c])
            ),
        ]
        for c in sorted(gains)
    ]
    without = [name for c, name in enumerate(classes) if c not in gains]
    notes = [
        "Share of the total gain of the boosted trees, which start from a logistic regression on "
        "the networks' scores: this is what the trees add to it."
    ]
    if without:
        notes.append(f"No trees (too rare, or they did not help): {', '.join(without)}.")
    return Section(
        "importance",
        "What the stack looks at",
        notes,
        Table(["class", f"the {TOP} strongest columns"], rows, text=(0, 1)),
        [Figure(_bars(gains, classes), "Share of gain by kind of column for each class")],
    )


def kind(column: str) -> int:
    """Which of KINDS a column of the stack is."""
    if column.startswith("meta/"):
        return 2
    return 1 if column.startswith("mean/p") else 0


def readable(column: str, classes: Sequence[str]) -> str:
    """A column's name for people: "mean/p02" is "Nucleoli (mean of networks)"."""
    source, _, what = column.rpartition("/")
    if source == "meta":
        return what.replace("_", " ")
    if column == "own/mean":
        return "own class (mean of networks)"
    by = "mean of networks" if source == "mean" else source
    return f"{classes[int(what[1:])]} ({by})" if what[1:].isdigit() else column


def _top(shares: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:TOP]


def _bars(gains: Mapping[int, Mapping[str, float]], classes: Sequence[str]) -> str:
    shown = sorted(gains)
    shares = np.zeros((len(KINDS), len(shown)))
    for i, c in enumerate(shown):
        for name, share in gains[c].items():
            shares[kind(name), i] += 100 * share
    figure, (axis,) = axes(1, width=8.6, height=0.22 * len(shown) + 1.3)
    left = np.zeros(len(shown))
    for name, values, colour in zip(KINDS, shares, colours(len(KINDS))):
        axis.barh(range(len(shown)), values, left=left, color=colour, label=name, height=0.75)
        left += values
    axis.set_yticks(range(len(shown)), [classes[c] for c in shown], fontsize=8)
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set(xlabel="% of the gain", xlim=(0, 100))
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=8, loc="outside upper center", ncols=3
    )
    return svg(figure)
