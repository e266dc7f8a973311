"""Section: matched images side by side, those that a person should look at first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.report import figures
from hpa_jax.report.mistakes import Pictures
from hpa_jax.report.page import Card, Line, Section

if TYPE_CHECKING:
    import pandas as pd

BITS = ("distance_r", "distance_g", "distance_b")


def chosen(pairs: "pd.DataFrame", count: int) -> "pd.DataFrame":
    """At most `count` pairs: external with test first, conflicts foremost; then test with other
    labelled images; then the rest, each by the greatest distance.  A quarter is kept for the
    largest group.

    pairs: id_a, id_b, source_a, source_b, distances, group, conflict (bool).
    """
    sources = [set(pair) for pair in zip(pairs["source_a"], pairs["source_b"])]
    rank = [0 if s == {"external", "test"} else 1 if "test" in s else 2 for s in sources]
    ordered = pairs.assign(
        rank=rank, agrees=~pairs["conflict"].to_numpy(bool), total=-_total(pairs)
    ).sort_values(["rank", "agrees", "total", "id_a", "id_b"])
    sizes = ordered["group"].value_counts()
    largest = ordered[ordered["group"] == sizes.index[0]] if len(sizes) else ordered
    first = ordered.head(count - min(len(largest), count // 4)).index
    order = [*first, *largest.index.difference(first, sort=False), *ordered.index]
    return ordered.loc[list(dict.fromkeys(order))[:count]]


def section(
    pairs: "pd.DataFrame", classes: Sequence[str], pictures: Pictures, count: int
) -> Section:
    """pairs: as in `chosen`, with labels_a and labels_b (class numbers, or None)."""
    shown = chosen(pairs, count)
    ids = shown[["id_a", "id_b"]].to_numpy(str).ravel()
    images = iter(pictures(ids) if len(ids) else ())
    cards = []
    for pair in shown.to_dict("records"):
        one, other = (figures.picture(image[..., :3]) for image in (next(images), next(images)))
        lines = [Line(_bits(pair), "bad" if pair["conflict"] else "")]
        for side in "ab":
            named = _names(pair[f"labels_{side}"], classes)
            lines.append(Line(f"{pair[f'source_{side}']}: {named}"))
            lines.append(Line(str(pair[f"id_{side}"]), "id"))
        cards.append(Card(one, f"{pair['id_a']} and {pair['id_b']}", lines, other))
    groups = pairs["group"].value_counts()
    notes = [f"{len(pairs):,} pairs within the radius on each of red, green and blue."]
    if len(pairs):
        in_largest = set(pairs.loc[pairs["group"] == groups.index[0], ["id_a", "id_b"]].stack())
        notes.append(
            f"{int(pairs['conflict'].sum()):,} of them lend a test image labels that another "
            f"lender contradicts. The largest group has {len(in_largest)} images."
        )
    feet = [
        "First external with test, conflicts foremost, then the greatest distances. "
        "Bits: Hamming distance of each channel's hash; – where the channel is flat in both."
    ]
    return Section("twins", "Twins", notes, cards=cards, feet=feet)


def _total(pairs: "pd.DataFrame") -> np.ndarray:
    return pairs[list(BITS)].astype(float).fillna(0).sum(axis=1).to_numpy()


def _bits(pair: dict) -> str:
    import pandas as pd

    bits = ["–" if pd.isna(pair[name]) else int(pair[name]) for name in BITS]
    text = f"bits: R {bits[0]}, G {bits[1]}, B {bits[2]}"
    text += ", equal pixels" if pair["exact"] else ""
    return text + (", conflict" if pair["conflict"] else "")


def _names(labels: Sequence[int] | None, classes: Sequence[str]) -> str:
    if labels is None:
        return "labels unknown"
    return ", ".join(classes[int(number)] for number in labels) or "no label"
