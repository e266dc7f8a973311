"""Likely label errors: images whose labels disagree with confident out-of-fold predictions.

In: labels [N, C] and probabilities [N, C] of models that did not see these rows.  Out: which
(image, class) labels are likely wrong, and images ranked by how far their labels can be
trusted.

The method is confident learning (Northcutt, Jiang, Chuang 2021) on each class by itself, and its
score for several labels at once (Thyagarajan et al. 2022), as in the library cleanlab 2.9: `trust`
equals its multilabel_classification.rank.get_label_quality_scores, `likely_errors` its
multilabel_classification.filter.find_multilabel_issues_per_class but for the rounding of the number
of errors (one label more or less in 3 of 177 classes of random sets) and the order of equal
probabilities at the cut (the library's is arbitrary).  A test compares with what it said, and with
the library where it is installed.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MEMORY = 0.8  # weight of the less trusted labels in `trust`


def likely_errors(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """bool [N, C]: labels that are likely wrong, given or not given.

    labels: [N, C] in {0, 1}; probs: [N, C] in [0, 1], out of fold; NaN columns (a class the models
    do not know) have no errors.

    For each class the confident joint counts how many of the given (ungiven) labels are surely the
    other; so many of them, those with the greatest margin, are flagged, if the prediction at 0.5
    contradicts them too.
    """
    labels, probs = _checked(labels, probs)
    errors = np.zeros(labels.shape, bool)
    for c in np.flatnonzero(~np.isnan(probs).any(axis=0)):
        if labels[:, c].any() and not labels[:, c].all():
            errors[:, c] = _errors_of_class(labels[:, c], probs[:, c])
    return errors


def trust(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """float [N] in [0, 1], low where an image's labels are doubtful.

    The probability of each label as given, sorted from most to least trusted, in an exponential
    moving average: the worst label counts 0.8, the next .16, and so on.
    """
    labels, probs = _checked(labels, probs)
    known = ~np.isnan(probs).any(axis=0)
    given = np.where(labels, probs, 1 - probs)[:, known]
    if not given.shape[1]:
        return np.full(len(labels), np.nan)
    given = -np.sort(-given, axis=1)
    average = given[:, 0].copy()
    for k in range(1, given.shape[1]):
        average = MEMORY * given[:, k] + (1 - MEMORY) * average
    return average


def confident_joint(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """int [2, 2]: images by given (row) and estimated true label (column) of one class.

    labels: bool [N] with both values; probs: float [N].  An image counts for a value if its
    probability of it is at least the mean over images given that value; for the likelier of both.
    Rows are then scaled to the numbers given.
    """
    of_value = np.stack([1 - probs, probs])  # [2, N]
    thresholds = np.array([of_value[0, ~labels].mean(), of_value[1, labels].mean()])
    above = of_value >= thresholds[:, None] - 1e-6
    true = np.where(above.all(axis=0), of_value.argmax(axis=0), above.argmax(axis=0))
    joint = np.zeros((2, 2))
    counted = above.any(axis=0)
    np.add.at(joint, (labels[counted].astype(int), true[counted]), 1)
    # No value without an image: a class that is never confident is as it is given.
    joint[np.diag_indices(2)] = np.maximum(joint.diagonal(), 1)
    totals = np.array([(~labels).sum(), labels.sum()])
    other = np.rint(joint[[0, 1], [1, 0]] / joint.sum(axis=1) * totals).astype(np.int64)
    return np.array([[totals[0] - other[0], other[0]], [other[1], totals[1] - other[1]]])


def _errors_of_class(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    joint = confident_joint(labels, probs)
    errors = np.zeros(len(labels), bool)
    for value in (0, 1):
        # At least one image keeps each label.
        number = min(joint[value, 1 - value], (labels == value).sum() - 1)
        if number <= 0:
            continue
        contradiction = (1 - probs) - probs if value else probs - (1 - probs)
        margin = np.where(labels == value, contradiction, -np.inf)
        errors[np.argsort(-margin, kind="stable")[:number]] = True
    return errors & ((probs > 0.5) != labels)


def table(
    ids: Sequence[str],
    labels: np.ndarray,
    probs: np.ndarray,
    class_names: Sequence[str] = classes.NAMES,
) -> "pd.DataFrame":
    """The likely label errors, the most doubtful image first.

    Returns one row an image: id, trust, given, suggested (texts as "0 16"), missing and spurious
    (names of classes, joined by ", "), worst_class, worst_probability (of that class).

    Raises:
        InputError: ids, labels and probabilities do not fit together.
    """
    import pandas as pd

    labels, probs = _checked(labels, probs)
    if len(ids) != len(labels):
        raise InputError(f"label noise: {len(ids)} ids for {len(labels)} rows of labels")
    errors, score = likely_errors(labels, probs), trust(labels, probs)
    names = np.asarray(class_names, object)
    given = np.where(labels, probs, 1 - probs)
    rows = []
    for row in np.flatnonzero(errors.any(axis=1)):
        worst = int(np.nanargmin(np.where(errors[row], given[row], np.nan)))
        rows.append(
            {
                "id": ids[row],
                "trust": score[row],
                "given": classes.decode(labels[row]),
                "suggested": classes.decode(labels[row] ^ errors[row]),
                "missing": ", ".join(names[errors[row] & ~labels[row]]),
                "spurious": ", ".join(names[errors[row] & labels[row]]),
                "worst_class": names[worst],
                "worst_probability": float(probs[row, worst]),
            }
        )
    columns = ["id", "trust", "given", "suggested", "missing", "spurious"]
    columns += ["worst_class", "worst_probability"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["trust", "id"], ignore_index=True)


def summary(
    labels: np.ndarray, probs: np.ndarray, class_names: Sequence[str] = classes.NAMES
) -> "pd.DataFrame":
    """One row a class: class, name, given, spurious, missing (likely errors of either kind)."""
    import pandas as pd

    labels, probs = _checked(labels, probs)
    errors = likely_errors(labels, probs)
    return pd.DataFrame(
        {
            "class": range(labels.shape[1]),
            "name": list(class_names),
            "given": labels.sum(axis=0),
            "spurious": (errors & labels).sum(axis=0),
            "missing": (errors & ~labels).sum(axis=0),
        }
    )


def _checked(labels: np.ndarray, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probs = np.asarray(labels).astype(bool), np.asarray(probs, float)
    if labels.ndim != 2 or labels.shape != probs.shape:
        raise InputError(f"label noise: labels {labels.shape}, probabilities {probs.shape}")
    if ((probs < 0) | (probs > 1)).any():
        raise InputError("label noise: probabilities outside [0, 1]")
    partly = np.isnan(probs).any(axis=0) & ~np.isnan(probs).all(axis=0)
    if partly.any():
        raise InputError(
            f"label noise: class {np.flatnonzero(partly)[0]} lacks the probability of some images"
        )
    return labels, probs
