"""Section: adversarial validation, and the images most unlike test."""

from typing import TYPE_CHECKING, Any

from hpa_jax.report import figures
from hpa_jax.report.mistakes import Pictures
from hpa_jax.report.page import Card, Line, Section, Table, number, span

if TYPE_CHECKING:
    import pandas as pd


def section(
    summary: dict[str, Any], table: "pd.DataFrame", pictures: Pictures, count: int
) -> Section:
    """summary: adversarial.json; table: adversarial.parquet, most unlike test first."""
    low, high = summary["auc_low"], summary["auc_high"]
    apart = "can be told apart" if low > 0.5 else "can't be told apart with certainty"
    notes = [
        f"By {summary['variant']}, {summary['folds']} folds: AUC {number(summary['auc'])} "
        f"({span((low, high))}); training and test images {apart}.",
        f"Weighted to look like test, {summary['labelled']:,} labelled images are worth "
        f"{summary['effective_size']:,.0f}.",
    ]
    rows = [
        [source, number(own["rows"]), number(own["auc"]), span((own["auc_low"], own["auc_high"]))]
        for source, own in summary["by_source"].items()
    ]
    shown = table[~table["is_test"]].head(count)
    ids = shown["id"].to_numpy(str)
    cards = [
        Card(
            figures.picture(image[..., :3]),
            row.id,
            [Line(f"score {number(float(row.score))}, weight {number(float(row.weight), 2)}"),
             Line(row.source), Line(row.id, "id")],
        )
        for row, image in zip(shown.itertuples(), pictures(ids), strict=True)
    ]  # fmt: skip
    telling = sorted(summary["importances"].items(), key=lambda pair: -pair[1])[:5]
    feet = ["Pictures: the labelled ones most unlike test, by the score of a model without them."]
    if telling:
        said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in telling)
        feet.append(f"What tells them apart (share of the gain): {said}.")
    columns = ["source", "pictures", "AUC against test", "95 %"]
    return Section("unlike", "Is train like test?", notes, Table(columns, rows), [], cards, feet)
