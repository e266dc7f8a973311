"""Validation results of a method by class: calibration, F1 and support.

In: results of the step thresholds on out-of-fold scores.  Out: `Validated`, which is part of a
bundle, and `by_class`, a table of the classes of each image with these results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.decision.calibration import Calibration

if TYPE_CHECKING:
    import pandas as pd

SHOWN_FROM = 0.05  # probability from which a class that is not predicted is listed


@dataclass(frozen=True)
class Validated:
    """Validation results of C classes.

    calibration: of the scores, NaN for a class that the method lacks; f1: float[C], of
    decisions fitted without their rows; support: int[C], positives among the validation images.
    """

    calibration: Calibration
    f1: np.ndarray
    support: np.ndarray

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores [N, C]; 0 for a class that the method lacks."""
        return np.nan_to_num(self.calibration(scores))

    def of_classes(self, numbers: Sequence[int]) -> "Validated":
        """Return the results of some classes, in the given order."""
        chosen = list(numbers)
        coefficients = self.calibration.coefficients[chosen]
        return Validated(Calibration(coefficients), self.f1[chosen], self.support[chosen])

    def as_json(self) -> dict[str, Any]:
        """Return the representation that `from_json` reads."""
        fields = dict(calibration=self.calibration.coefficients, f1=self.f1, support=self.support)
        return {name: artifacts.plain(values) for name, values in fields.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], count: int) -> "Validated":
        """Return the results that `as_json` wrote, of `count` classes.

        Raises:
            InputError: another number of classes.
            KeyError: a part is missing.
        """
        validated = cls(
            Calibration(np.array(stored["calibration"], float)),
            np.array(stored["f1"], float),
            np.array(stored["support"], int),
        )
        shapes = [
            validated.calibration.coefficients.shape,
            validated.f1.shape,
            validated.support.shape,
        ]
        if shapes != [(count, 3), (count,), (count,)]:
            raise InputError(f"calibration, F1 and support of {shapes} for {count} classes")
        return validated


def by_class(
    validated: Validated,
    ids: Sequence[str],
    names: Sequence[str],
    scores: np.ndarray,
    decided: np.ndarray,
    thresholds: np.ndarray,
) -> "pd.DataFrame":
    """Return a row for each class of each image, most probable first; images as in `ids`.

    Columns: id, class, predicted, score, threshold (empty: never), probability (the score,
    calibrated), f1 and support of the class on validation.  Without the rows that are not
    predicted and whose probability is below `SHOWN_FROM`.

    Args:
        validated: validation results of the method.
        ids, names: of the N images and the C classes.
        scores: float[N, C]; decided: bool[N, C]; thresholds: float[C], inf = never.
    """
    import pandas as pd

    probability = validated.probabilities(scores)
    row, c = np.nonzero(decided | (probability >= SHOWN_FROM))
    order = np.lexsort((-probability[row, c], row))
    row, c = row[order], c[order]
    return pd.DataFrame(
        {
            "id": np.asarray(ids, object)[row],
            "class": np.array(names, object)[c],
            "predicted": decided[row, c],
            "score": scores[row, c],
            "threshold": np.where(thresholds <= 1, thresholds, np.nan)[c],
            "probability": probability[row, c],
            "f1": validated.f1[c],
            "support": validated.support[c],
        }
    )
