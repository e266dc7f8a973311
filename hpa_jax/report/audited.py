"""Section: every method on the audit part, on which nothing was fitted or chosen."""

from collections.abc import Mapping
from typing import Any

from hpa_jax.report.page import Section, Table, number, span


def section(found: Mapping[str, Any], valid: Mapping[str, Mapping[str, Any]]) -> Section:
    """found: audit.json; valid: method -> its score on the validation rows (metrics.json)."""
    rows = []
    for name, score in found["scores"].items():
        cells = [number(valid[name]["macro_f1"]), number(score["macro_f1"])]
        cells += [span(score["macro_f1_interval"]), number(score["macro_f1_at_half"])]
        rows.append([name, *cells, number(score["mean_average_precision"])])
    columns = ["method", "validation", "audit", "95 %", "at 0.5", "mAP"]
    table = Table(columns, rows, list(found["scores"]).index(found["chosen"]))
    final = found["submission"]
    notes = [
        f"{found['rows']}. As it is submitted ({found['chosen']}), macro-F1 is "
        f"{number(final['macro_f1'])} ({span(final['macro_f1_interval'])}) there."
    ]
    if found["classes_without_positives"]:
        absent = ", ".join(found["classes_without_positives"])
        notes.append(f"Without an image in this part, and so counted as 0: {absent}.")
    feet = ["Validation: nested, as in the section Result; all columns but the last two with own "
            "cuts."]  # fmt: skip
    return Section("audit", "The audit part", notes, table, feet=feet)
