"""Dots with 95 % intervals, a row a name: the form in which scores are compared here."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpa_jax.report.canvas import MARKERS, axes, colours, svg

Series = tuple[np.ndarray, np.ndarray, np.ndarray]  # value, low, high of each row; NaN: none


def dots(names: Sequence[str], series: Mapping[str, Series], label: str) -> str:
    """One row a name from the top, one colour and marker a series."""
    figure, (axis,) = axes(1, height=0.24 * len(names) + 1.2, width=8.6)
    rows = np.arange(len(names))
    shift = 0.18 * (np.arange(len(series)) - (len(series) - 1) / 2)
    for i, (name, (value, low, high)) in enumerate(series.items()):
        colour = colours(len(series))[i]
        axis.hlines(rows + shift[i], low, high, color=colour, alpha=0.5, linewidth=2)
        axis.plot(value, rows + shift[i], MARKERS[i], color=colour, label=name, markersize=5)
    axis.set_yticks(rows, names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set(xlabel=f"{label}; bars: 95 % bootstrap interval")
    axis.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, fontsize=8, loc="outside upper right", ncols=len(series))
    return svg(figure)
