"""Principal components of embeddings as columns of the stack, fitted on training rows only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Projection:
    """mean: [E]; axes: [P, E], unit vectors by decreasing variance."""

    mean: np.ndarray
    axes: np.ndarray

    def columns(self, embeddings: np.ndarray) -> np.ndarray:
        """float32[N, P] of embeddings [N, E].

        Raises:
            InputError: embeddings of another size than in the fit.
        """
        if np.ndim(embeddings) != 2 or np.shape(embeddings)[1] != len(self.mean):
            raise InputError(
                f"embeddings of shape {np.shape(embeddings)}; the principal components were fitted "
                f"on {len(self.mean)} columns"
            )
        return ((np.asarray(embeddings, np.float64) - self.mean) @ self.axes.T).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the projection as .npz."""
        with artifacts.atomic(path) as temporary:
            np.savez(temporary, mean=self.mean, axes=self.axes)


def fit(embeddings: np.ndarray, count: int) -> Projection:
    """The first `count` principal components of [N, E]: scikit-learn's PCA, not whitened.

    Raises:
        InputError: more components than rows or columns.
    """
    from sklearn.decomposition import PCA

    if not 1 <= count <= min(np.shape(embeddings)):
        rows, size = np.shape(embeddings)
        raise InputError(
            f"{count} principal components of {rows} rows and {size} columns; at most the smaller"
        )
    fitted = PCA(count, svd_solver="covariance_eigh").fit(np.asarray(embeddings, np.float64))
    return Projection(fitted.mean_, fitted.components_)


def load(path: Path) -> Projection:
    """Read a projection that `save` wrote.

    Raises:
        InputError: the file is damaged.
    """
    with artifacts.parsing(path, "write it again"), np.load(path, allow_pickle=False) as stored:
        return Projection(stored["mean"], stored["axes"])


def table(
    projections: Mapping[str, Projection], embeddings: Mapping[str, np.ndarray]
) -> "pd.DataFrame":
    """Return the columns NAME.pc00, NAME.pc01, ... of N rows.

    projections: of each model, by name.  embeddings: [N, E] of each model.
    """
    import pandas as pd

    columns = {}
    for name, projection in projections.items():
        for number, column in enumerate(projection.columns(embeddings[name]).T):
            columns[f"{name}.pc{number:02d}"] = column
    return pd.DataFrame(columns)
