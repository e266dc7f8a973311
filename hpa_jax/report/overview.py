"""The report's first screen: the result, on which data, and sections to read next."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpa_jax.core import metrics
from hpa_jax.report import errors
from hpa_jax.report.inputs import Examples, ReportData, ScoredRows
from hpa_jax.report.page import Overview, number, span

SHOWN = 6  # images
GOOD = 0.5  # F1
FEW = 20  # training images of a class
WEAKEST = 3


def overview(data: ReportData) -> Overview:
    """Return the first screen of a run's report."""
    results = data.results
    part = results.test or results.valid
    occur = np.flatnonzero(part.support)
    f1 = metrics.class_f1(part.labels, _decided(data, part))
    good = int((f1[occur] >= GOOD).sum())
    valid = results.valid.scores[results.chosen]
    facts = []
    if results.test is not None and results.evaluation is not None:
        final = results.evaluation["submission"]
        facts.append((number(final["macro_f1"]), f"macro-F1, {part.caption}"))
    precision = part.scores[results.chosen]["mean_average_precision"]
    facts += [
        (number(valid["macro_f1"]), f"macro-F1, {results.valid.caption} (nested)"),
        (number(precision), f"mean average precision, {part.name}"),
        (f"{good} of {len(occur)}", f"classes with an F1 of {GOOD} or more, {part.name}"),
        (f"{int(data.labels['train'].shape[0]):,}" if "train" in data.labels else "–",
         "labelled images of the source train"),
    ]  # fmt: skip
    shown = data.examples
    labels = None if shown.labels is None else shown.labels[:SHOWN]
    few = Examples(shown.ids[:SHOWN], shown.decided[:SHOWN], labels)
    cards = errors.examples(few, data.classes, data.images).cards
    return Overview(_verdict(data, valid), facts, _next(data, part, f1), cards)


def _decided(data: ReportData, part: ScoredRows) -> np.ndarray:
    """The decisions of the last applicable step on these rows, if possible the submission's."""
    for step in reversed(data.results.chain):
        if part.name in step.decided:
            return step.decided[part.name]
    return part.decided[data.results.chosen]


def _verdict(data: ReportData, valid: Mapping[str, Any]) -> str:
    results = data.results
    if results.test is not None and results.evaluation is not None:
        final = results.evaluation["submission"]
        return (
            f"The submission reaches a macro-F1 of {number(final['macro_f1'])} "
            f"(95 % interval {span(final['macro_f1_interval'])}) on {len(results.test.ids):,} test "
            "images, on which nothing was fitted or chosen. Submitted method: "
            f"{_the(results.chosen)}, out of {len(results.valid.probs)} methods."
        )
    return (
        f"On {len(results.valid.ids):,} validation images {_the(results.chosen)} reaches a "
        f"macro-F1 of {number(valid['macro_f1'])} (95 % interval "
        f"{span(valid['macro_f1_interval'])}), each image decided by thresholds fitted "
        "without its fold. The labels of the test images are unknown."
    )


def _the(method: str) -> str:
    return f"the {method}" if method in ("stack", "ensemble") or " " in method else method


def _next(data: ReportData, part: ScoredRows, f1: np.ndarray) -> list[tuple[str, str, str]]:
    """Links to the sections that are relevant for this run."""
    results, links = data.results, []
    occur = np.flatnonzero(part.support)
    weak = occur[np.argsort(f1[occur], kind="stable")][:WEAKEST]
    names = ", ".join(f"{data.classes[c]} {number(float(f1[c]), 2)}" for c in weak)
    links.append(
        ("classes", "Weakest classes", f"{names} (F1, {part.name}); click a row for its errors")
    )
    confusions = errors.confusions(results).table
    if confusions is not None and confusions.rows:
        missed, wrong, count, _ = confusions.rows[0]
        links.append(
            ("confusions", "Confusions", f"{missed} is missed for {wrong} in {count} images")
        )
    suspect = data.label_errors
    if len(suspect.table):
        links.append(
            ("label_errors", "Likely label errors",
             f"{len(suspect.table):,} of {suspect.rows:,} validation images; check them by eye")
        )  # fmt: skip
    rare = [c for c in range(len(data.classes)) if data.train_support[c] < FEW]
    if rare:
        first = ", ".join(f"{data.classes[c]} {int(data.train_support[c])}" for c in rare[:WEAKEST])
        links.append(
            ("frequencies", "Rare classes",
             f"{len(rare)} with fewer than {FEW} training images: {first}"
             + (", …" if len(rare) > WEAKEST else ""))
        )  # fmt: skip
    conflicts = int(data.duplicates["conflict"].sum()) if len(data.duplicates) else 0
    if conflicts:
        links.append(
            (
                "duplicates",
                "Near-duplicates",
                f"{conflicts} pairs whose labels contradict each other",
            )
        )
    return links
