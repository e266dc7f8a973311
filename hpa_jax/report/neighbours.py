"""Section: which labelled images lend their labels by being near, and how far that can be
trusted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.report import figures
from hpa_jax.report.page import Card, Line, Section, Table, number

if TYPE_CHECKING:
    import pandas as pd

Pictures = Callable[[np.ndarray], Iterator[np.ndarray]]  # ids -> uint8[H, W, 4]


def section(
    pairs: "pd.DataFrame",
    lent: np.ndarray,
    classes: Sequence[str],
    found: Mapping[str, Any],
    pictures: Pictures,
    count: int,
    truth: Mapping[str, np.ndarray] | None,
) -> Section:
    """pairs: id, neighbour, similarity of the test images; lent: bool[N, C], the neighbours'
    labels; found: retrieval/scores.json; count: pairs shown, nearest first; truth: test id ->
    bool[C], if it is known."""
    tau, recall = found["tau"], found["recall_at_1"]
    taken = pairs["similarity"].to_numpy() >= tau
    notes = [
        f"For {taken.sum():,} of {len(pairs):,} test images a labelled image is nearer than "
        f"the cut (cosine ≥ {tau:g}).",
        f"Recall@1 of the antibody: {number(recall['recall'])} on {recall['queries']:,} held-out "
        f"images, by chance {number(recall['chance'])}.",
    ]
    if truth is not None and taken.any():
        right = sum((truth[pairs["id"].iloc[row]] == lent[row]).all() for row in taken.nonzero()[0])
        notes.append(f"The lent labels equal the test truth for {right} of {taken.sum()}.")
    rows = [
        [number(row["tau"], 2), f"{100 * row['taken']:.1f} %", number(row["same"]),
         number(row["jaccard"])]
        for row in found["validation"]
    ]  # fmt: skip
    columns = ["cosine at least", "validation rows", "same labels", "overlap (Jaccard)"]
    chosen = next((i for i, row in enumerate(found["validation"]) if row["tau"] == tau), -1)
    cards = _cards(pairs, lent, classes, pictures, count, truth)
    return Section(
        "neighbours", "Nearest labelled images", notes, Table(columns, rows, chosen), cards=cards
    )


def _cards(
    pairs: "pd.DataFrame",
    lent: np.ndarray,
    classes: Sequence[str],
    pictures: Pictures,
    count: int,
    truth: Mapping[str, np.ndarray] | None,
) -> list[Card]:
    """Query and neighbour side by side, the nearest pairs first."""
    has = np.isfinite(pairs["similarity"].to_numpy())
    order = np.argsort(-pairs["similarity"].to_numpy(), kind="stable")
    shown = [row for row in order if has[row]][:count]
    ids = pairs[["id", "neighbour"]].iloc[shown].to_numpy().ravel()
    cards = []
    for place, image in enumerate(pictures(ids) if len(ids) else ()):
        row, own = shown[place // 2], str(ids[place])
        if place % 2:
            labels = lent[row]
            lines = [Line(f"lends: {_names(labels, classes)}")]
        else:
            lines = [
                Line(f"pair {place // 2 + 1}, cosine {number(pairs['similarity'].iloc[row], 2)}")
            ]
            if truth is not None:
                lines.append(Line(f"truth: {_names(truth[own], classes)}"))
        cards.append(Card(figures.picture(image[..., :3]), own, [*lines, Line(own, "id")]))
    return cards


def _names(labels: np.ndarray, classes: Sequence[str]) -> str:
    return ", ".join(classes[c] for c in np.flatnonzero(labels)) or "nothing"
