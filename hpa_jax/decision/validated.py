"""What validation says of a method's scores, class by class: calibration, F1 and support.

In: what the step thresholds fitted and measured on out-of-fold scores.  Out: `Validated`, which a
bundle carries, and `by_class`, a table of the classes of images with what is known of each.
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
    """What is known of the scores of C classes.

    calibration: of the scores, NaN in a class that the method does not know; f1: float[C], of
    decisions fitted without their rows; support: int[C], positives among the validation images.
    """

    calibration: Calibration
    f1: np.ndarray
    support: np.ndarray

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores [N, C]; 0 in a class that the method does not know."""
        return np.nan_to_num(self.calibration(scores))

    def of_classes(self, numbers: Sequence[int]) -> "Validated":
        """Return what is known of some classes, in their order."""
        chosen = list(numbers)
        coefficients = self.calibration.coefficients[chosen]
        return Validated(Calibration(coefficients), self.f1[chosen], self.support[chosen])

    def as_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        found = dict(calibration=self.calibration.coefficients, f1=self.f1, support=self.support)
        return {name: artifacts.plain(values) for name, values in found.items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], count: int) -> "Validated":
        """Return what `as_json` gave, of `count` classes.

        Raises:
            InputError: it is of another number of classes.
            KeyError: a part is missing.
        """
        found = cls(
            Calibration(np.array(stored["calibration"], float)),
            np.array(stored["f1"], float),
            np.array(stored["support"], int),
        )
        shapes = [found.calibration.coefficients.shape, found.f1.shape, found.support.shape]
        if shapes != [(count, 3), (count,), (count,)]:
            raise InputError(f"calibration, F1 and support of {shapes} for {count} classes")
        return found


def by_class(
    known: Validated,
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
        known: of the method that gave the scores.
        ids, names: of the N images and the C classes.
        scores: float[N, C]; decided: bool[N, C]; thresholds: float[C], inf = never.
    """
    import pandas as pd

    probability = known.probabilities(scores)
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
            "f1": known.f1[c],
            "support": known.support[c],
        }
    )
