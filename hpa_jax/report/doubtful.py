"""Section: labels that are likely wrong, with their images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hpa_jax.report import figures
from hpa_jax.report.mistakes import Pictures
from hpa_jax.report.page import Card, Line, Section, number

if TYPE_CHECKING:
    import pandas as pd


def section(
    found: "pd.DataFrame", rows: int, classes: Sequence[str], pictures: Pictures, count: int
) -> Section:
    """found: of label_noise.table, the most doubtful first; rows: how many were looked at."""
    shown = found.head(count)
    ids = shown["id"].to_numpy(str)
    cards = []
    for row, image in zip(shown.itertuples(), pictures(ids) if len(ids) else (), strict=True):
        lines = [
            Line(f"given: {_names(row.given, classes)}"),
            Line(f"suggested: {_names(row.suggested, classes)}", "bad"),
            Line(f"trust {number(float(row.trust))}; {row.worst_class}: score "
                 f"{number(float(row.worst_probability))}"),
            Line(row.id, "id"),
        ]  # fmt: skip
        cards.append(Card(figures.picture(image[..., :3]), row.id, lines))
    notes = [
        f"{len(found):,} of {rows:,} validation images have a label that the mean of the models "
        "contradicts with confidence (confident learning, as cleanlab); the least trusted first.",
        "The models may be wrong: a list to look at, not to correct by.",
    ]
    return Section("doubtful", "Likely label errors", notes, cards=cards)


def _names(text: str, classes: Sequence[str]) -> str:
    return ", ".join(classes[int(token)] for token in text.split()) or "nothing"
