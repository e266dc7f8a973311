"""Likely label errors: images whose label set fits their scores worse than a random one.

In: labels [N, C] and out-of-fold scores [N, C].  Out: for each image the probability that its label
set is wrong (the evidence), and the list of those more likely wrong than right, ordered by
evidence; the mean evidence is the expected precision of the list.

`wrong`: a mixture of two sources of label sets.  Right: each class by its calibrated probability.
Wrong: by the classes' frequencies, whatever the image.  The share of wrong sets is fitted by
maximum likelihood (expectation-maximisation), and calibrations are fitted out of fold with each row
weighted by its probability of being right.  A hard image is not listed for being hard: calibrated
probabilities reflect how often the models err at such scores.  A single missing or spurious class
beside right ones is detected only where scores are near certain.

`likely_errors` and `trust` are confident learning on each class by itself (Northcutt, Jiang,
Chuang 2021; for several labels Thyagarajan et al. 2022), as in the library cleanlab 2.9: `trust`
equals its multilabel_classification.rank.get_label_quality_scores, `likely_errors` its
multilabel_classification.filter.find_multilabel_issues_per_class but for the rounding of the number
of errors (one label more or less in 3 of 177 classes of random sets) and the order of equal
probabilities at the threshold (the library's is arbitrary).  A test compares with its stored
results, and with the library if installed.  They list far more than is wrong (docs/decision.md).
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
LISTED = 0.5  # least evidence of a listed image: wrong is likelier than right
STEPS = 6  # rounds of refitting the calibrations
# Prior share of wrong sets, and the number of rows it counts as: with uninformative scores the
# share stays there, and no row is listed.
PRIOR_SHARE, PRIOR_ROWS = 0.02, 50


def wrong(
    labels: np.ndarray,
    probs: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (float[N], evidence that a label set is wrong; float[N, C], calibrated probabilities).

    labels: [N, C] in {0, 1}; probs: [N, C] in [0, 1], out of fold; NaN columns (a class that no
    model has) are ignored; groups: int[N], duplicates stay in one fold of the calibration.

    Raises:
        InputError: shapes, values, or fewer rows than folds.
    """
    labels, probs = _checked(labels, probs)
    usable = ~np.isnan(probs).any(axis=0) & labels.any(axis=0)
    y, s, rows = labels[:, usable], probs[:, usable], len(labels)
    calibrated = np.full(labels.shape, np.nan)
    if not usable.any():
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
    calibrated[:, usable] = q
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
    """bool [N, C]: labels that are likely wrong, set or not.

    labels: [N, C] in {0, 1}; probs: [N, C] in [0, 1], out of fold; NaN columns (a class that no
    model has) have no errors.

    For each class the confident joint counts how many of the positive (negative) labels are
    confidently the opposite; that many, those of greatest margin, are flagged, if the prediction
    at 0.5 contradicts them too.
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
    available = ~np.isnan(probs).any(axis=0)
    self_confidence = np.where(labels, probs, 1 - probs)[:, available]
    if not self_confidence.shape[1]:
        return np.full(len(labels), np.nan)
    self_confidence = -np.sort(-self_confidence, axis=1)
    average = self_confidence[:, 0].copy()
    for k in range(1, self_confidence.shape[1]):
        average = MEMORY * self_confidence[:, k] + (1 - MEMORY) * average
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
    # At least one image per value: a class that is never confident keeps its labels.
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
    """Return the images whose labels are more likely wrong than right, most certain first.

    One row per image: id, evidence (probability of being wrong; its mean is the list's
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
    listed = pd.DataFrame(rows, columns=columns)
    return listed.sort_values(["evidence", "id"], ascending=[False, True], ignore_index=True)


def summary(
    labels: np.ndarray, probs: np.ndarray, class_names: Sequence[str] = classes.NAMES
) -> "pd.DataFrame":
    """Return one row per class: class, name, given, spurious, missing (counts of likely errors)."""
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
