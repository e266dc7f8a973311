"""Section: every method side by side, the simple ones always, and what was submitted."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpa_jax.report import intervals
from hpa_jax.report.findings import Findings, Scored
from hpa_jax.report.page import Figure, Section, Table, number, span

COLUMNS = ["at 0.5", "own cuts", "95 % interval", "mAP"]


def section(
    found: Findings, evaluation: Mapping[str, Any] | None, weights: Mapping[str, Mapping]
) -> Section:
    """Table and dots of all methods.

    evaluation: evaluation.json, if the test truth is known; weights: blend -> model -> number.
    """
    names = list(found.valid.probs)
    rows = [[name] for name in names]
    for part in found.parts:
        for row in rows:
            row += _cells(part.scores[row[0]])
    head = [("", 1), *((part.where, len(COLUMNS)) for part in found.parts)]
    columns = ["method", *(COLUMNS * len(found.parts))]
    table = Table(columns, rows, names.index(found.chosen), groups=head)
    series = {part.where: _series(names, part) for part in found.parts}
    uri = intervals.dots(names, series, "macro-F1 with each method's own cuts")
    return Section(
        "result",
        "Result",
        _notes(found, evaluation),
        table,
        [Figure(uri, "Macro-F1 of every method with its interval")],
        feet=[
            "mAP: mean average precision over the classes that occur, which needs no cut. What is "
            "fitted to labels (weights, regressions, the stack, cuts) never saw the row it scores.",
            *(f"Weights of the {name}: {_weights(own)}." for name, own in weights.items()),
            *(f"{part.name.capitalize()}: {part.note}." for part in found.parts),
        ],
    )


def _cells(score: Mapping[str, Any]) -> list[str]:
    cells = [number(score["macro_f1_at_half"]), number(score["macro_f1"])]
    return [*cells, span(score["macro_f1_interval"]), number(score["mean_average_precision"])]


def _series(names: list[str], part: Scored) -> intervals.Series:
    scores = [part.scores[name] for name in names]
    low, high = np.array([score["macro_f1_interval"] for score in scores]).T
    return np.array([score["macro_f1"] for score in scores]), low, high


def _weights(of_models: Mapping[str, float]) -> str:
    return ", ".join(f"{model} {number(value, 2)}" for model, value in of_models.items())


def _notes(found: Findings, evaluation: Mapping[str, Any] | None) -> list[str]:
    notes = [
        f"Macro-F1 over {len(found.classes)} classes. Submitted: {found.chosen}. Taking the best "
        f"method on validation scores {number(found.automatic['macro_f1'])} there, if each fold is "
        "decided by the method that is best on the others: that is what the choice is worth."
    ]
    if evaluation is None:
        return [*notes, "The truth of the test part is not known: no test scores."]
    final = evaluation["submission"]
    notes.append(
        f"The submission scores {number(final['macro_f1'])} "
        f"({span(final['macro_f1_interval'])}) on the test truth, "
        f"{number(final['macro_f1_classes_present'])} over the classes that occur there; "
        f"leak table off {number(evaluation['leak_off']['macro_f1'])}, "
        f"on {number(evaluation['leak_on']['macro_f1'])}."
    )
    return [*notes, _verdict(found)]


def _verdict(found: Findings) -> str:
    """Whether the stack paid on the test truth."""
    values = {name: score["macro_f1"] for name, score in found.test.scores.items()}
    stack = values.pop(found.stack)
    best = max(values, key=values.get)
    word = "beats" if stack > values[best] else "does not beat"
    return (
        f"On the test truth the stack ({number(stack)}) {word} the best of the others, "
        f"{best} ({number(values[best])}), each with its own cuts."
    )
