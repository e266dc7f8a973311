"""Likely label errors: images whose label set fits their scores worse than one drawn by chance.

In: labels [N, C] and scores [N, C] of models that did not see these rows.  Out: for each image how
sure its label set is wrong, and the list of those more likely wrong than right: it is ordered by
that evidence, states its expected precision (the mean of it), and is empty where nothing says that
labels are wrong.

`wrong`: a mixture of two ways in which a label set comes about.  Right: each class by its
calibrated probability.  Wrong: by the classes' frequencies, whatever the image.  The share of wrong
ones is what makes the given sets likeliest (expectation-maximisation), and calibrations are fitted
out of fold with each row weighted by how surely it is right.  A hard image is not listed for being
hard: calibrated probabilities say how often the models err at such scores.  A single class left out
or added beside right ones is found only where scores are near certain.

`likely_errors` and `trust` are confident learning on each class by itself (Northcutt, Jiang,
Chuang 2021; for several labels Thyagarajan et al. 2022), as in the library cleanlab 2.9: `trust`
equals its multilabel_classification.rank.get_label_quality_scores, `likely_errors` its
multilabel_classification.filter.find_multilabel_issues_per_class but for the rounding of the number
of errors (one label more or less in 3 of 177 classes of random sets) and the order of equal
probabilities at the threshold (the library's is arbitrary).  A test compares with what it said, and
with the library where it is installed.  They list far more than is wrong (docs/decision.md).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import classes
from hpa_jax.core import folds as folding
from hpa_jax.core.errors import InputError
from hpa_jax.decision import calibration

if TYPE_CHECKING:
    import pandas as pd

MEMORY = 0.8  # weight of the less trusted labels in `trust`
LISTED = 0.5  # evidence from which on an image is listed: wrong is likelier than right
STEPS = 6  # calibrations fitted anew
# Share of wrong sets to begin with, and the rows that it counts as: scores that tell nothing leave
# the share there, where no row is listed.
PRIOR_SHARE, PRIOR_ROWS = 0.02, 50


def wrong(
    labels: np.ndarray,
    probs: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(float[N], how surely an image's label set is wrong; float[N, C], calibrated probabilities).

    labels: [N, C] in {0, 1}; probs: [N, C] in [0, 1], out of fold; NaN columns (a class the models
    do not know) say nothing; groups: int[N], duplicates stay in one fold of the calibration.

    Raises:
        InputError: shapes, values, or fewer rows than folds.
    """
    labels, probs = _checked(labels, probs)
    known = ~np.isnan(probs).any(axis=0) & labels.any(axis=0)
    y, s, rows = labels[:, known], probs[:, known], len(labels)
    calibrated = np.full(labels.shape, np.nan)
    if not known.any():
        return np.zeros(rows), calibrated
    frequency = np.clip(y.mean(axis=0), 0.5 / rows, 1 - 0.5 / rows)
    by_chance = np.where(y, np.log(frequency), np.log1p(-frequency)).sum(axis=1)
    fold = folding.multilabel(y, folds, seed, groups)
    evidence, share = np.zeros(rows), PRIOR_SHARE
    for _ in range(STEPS):
        q = np.empty(s.shape)
        for number in np.unique(fold):
            rest = fold != number
            q[~rest] = calibration.fit(y[rest], s[rest], 1 - evidence[rest])(s[~rest])
        q = np.clip(q, 1e-4, 1 - 1e-4)
        right = np.where(y, np.log(q), np.log1p(-q)).sum(axis=1)
        evidence, share = _mixture(by_chance - right, share)
    calibrated[:, known] = q
    return evidence, calibrated


def _mixture(ratio: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """(evidence [N], share of wrong rows) of log likelihood ratios wrong over right [N]."""
    for _ in range(50):
        odds = np.clip(ratio + np.log(share) - np.log1p(-share), -50, 50)
        evidence = 1 / (1 + np.exp(-odds))
        moved = (evidence.sum() + PRIOR_SHARE * PRIOR_ROWS) / (len(evidence) + PRIOR_ROWS)
        if abs(moved - share) < 1e-6:
            break
        share = moved
    return evidence, share


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
    groups: np.ndarray | None = None,
) -> "pd.DataFrame":
    """The images whose labels are more likely wrong than right, the surest first.

    Returns one row an image: id, evidence (how surely it is wrong; their mean is the list's
    expected precision), trust, given, suggested (texts as "0 16"), missing and spurious (names of
    classes, joined by ", "), worst_class, worst_probability (of that class, calibrated).

    Raises:
        InputError: ids, labels and probabilities do not fit together.
    """
    import pandas as pd

    labels, probs = _checked(labels, probs)
    if len(ids) != len(labels):
        raise InputError(f"label noise: {len(ids)} ids for {len(labels)} rows of labels")
    evidence, calibrated = wrong(labels, probs, groups)
    score, names = trust(labels, probs), np.asarray(class_names, object)
    doubt = np.where(labels, 1 - calibrated, calibrated)
    rows = []
    for row in np.flatnonzero(evidence >= LISTED):
        worst = int(np.nanargmax(doubt[row]))
        errors = np.nan_to_num(doubt[row]) > 0.5
        errors[worst] = True
        rows.append(
            {
                "id": ids[row],
                "evidence": float(evidence[row]),
                "trust": score[row],
                "given": classes.decode(labels[row]),
                "suggested": classes.decode(labels[row] ^ errors),
                "missing": ", ".join(names[errors & ~labels[row]]),
                "spurious": ", ".join(names[errors & labels[row]]),
                "worst_class": names[worst],
                "worst_probability": float(calibrated[row, worst]),
            }
        )
    columns = ["id", "evidence", "trust", "given", "suggested", "missing", "spurious"]
    columns += ["worst_class", "worst_probability"]
    found = pd.DataFrame(rows, columns=columns)
    return found.sort_values(["evidence", "id"], ascending=[False, True], ignore_index=True)


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
