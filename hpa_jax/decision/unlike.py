"""Detection of images unlike the training set, whose probabilities are unreliable.

Two criteria: the distance of the embedding to the nearest reference images, and metafeatures
(brightness, contrast, correlations) outside the range of the reference images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError

NEIGHBOUR = 5  # its distance is less noisy than the nearest one's
_BLOCK = 1024


@dataclass(frozen=True)
class Reference:
    """Statistics of ordinary images.

    mean, scale: [E]; axes: [D, E] principal axes of standardised embeddings; sample: [R, D];
    threshold: distance that a share `flagged` of the reference images exceeds; names: metafeatures;
    low, high: [F] their range.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    sample: np.ndarray
    threshold: float
    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Distance to the fifth nearest reference image; embeddings [N, E] -> float[N].

        Raises:
            InputError: embeddings of another size than the reference's.
        """
        if np.ndim(embeddings) != 2 or np.shape(embeddings)[1] != len(self.mean):
            raise InputError(
                f"embeddings of shape {np.shape(embeddings)}; the reference has {len(self.mean)}"
            )
        return _kth(_project(embeddings, self.mean, self.scale, self.axes), self.sample, NEIGHBOUR)

    def judge(
        self, embeddings: np.ndarray, features: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[str]]:
        """Return (bool[N], unlike the training set; the reason of each, "" if ordinary).

        features: [N, F] metafeatures in the order of `names`; NaN is ignored.
        """
        far = self.distances(embeddings) / self.threshold
        reasons = [
            [f"no similar image (distance {ratio:.1f} of the usual limit)"] if ratio > 1 else []
            for ratio in far
        ]
        if features is not None and len(self.names):
            values = np.asarray(features, float)
            for column, name in enumerate(self.names):
                below = values[:, column] < self.low[column]
                above = values[:, column] > self.high[column]
                for row in np.flatnonzero(below | above):
                    side = "below" if below[row] else "above"
                    reasons[row].append(f"{name} {values[row, column]:.3g} {side} all reference")
        return np.array([bool(texts) for texts in reasons]), ["; ".join(texts) for texts in reasons]

    def save(self, path: str | Path) -> None:
        """Write the reference as .npz."""
        with artifacts.atomic(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **vars(self))


def load(path: str | Path) -> Reference:
    """Read a reference that `Reference.save` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    with artifacts.parsing(path, "export the bundle again"):
        with np.load(path, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        names = tuple(str(name) for name in values.pop("names"))
        threshold = values.pop(
            "cut" if "cut" in values else "threshold"
        )  # "cut": name in earlier versions
        return Reference(threshold=float(threshold), names=names, **values)


def fit(
    embeddings: np.ndarray,
    features: np.ndarray | None = None,
    names: Sequence[str] = (),
    *,
    flagged: float = 0.005,
    axes: int = 64,
    sample: int = 2000,
    seed: int = 0,
) -> Reference:
    """Fit the reference to ordinary images.

    Args:
      embeddings: [N, E] of training or validation images, N > 5.
      features: [N, F] metafeatures of those images, NaN where unknown; names: their F names.
      flagged: share of ordinary images that may be flagged.
      axes: number of principal axes.  sample: number of images stored.

    Raises:
        InputError: too few images, NaN.
    """
    embeddings = np.asarray(embeddings, np.float32)
    if len(embeddings) <= NEIGHBOUR or not np.isfinite(embeddings).all():
        raise InputError(
            f"a reference of {len(embeddings)} embeddings; needs more than {NEIGHBOUR}, all finite"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(embeddings))[:sample]
    mean, scale = embeddings.mean(axis=0), embeddings.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    standard = (embeddings[chosen] - mean) / scale
    directions = np.linalg.svd(standard, full_matrices=False)[2][:axes]
    kept = standard @ directions.T
    # The nearest neighbour of a reference image is itself.
    threshold = float(np.quantile(_kth(kept, kept, NEIGHBOUR + 1), 1.0 - flagged))
    low = high = np.zeros(0)
    if features is not None and len(names):
        low, high = _range(np.asarray(features, float))
    return Reference(mean, scale, directions, kept, max(threshold, 1e-6), tuple(names), low, high)


def _range(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Range of each column plus a tenth of its width on both sides; infinite if unknown."""
    finite = np.isfinite(features).any(axis=0)
    low, high = np.full(features.shape[1], -np.inf), np.full(features.shape[1], np.inf)
    low[finite] = np.nanmin(features[:, finite], axis=0)
    high[finite] = np.nanmax(features[:, finite], axis=0)
    margin = 0.1 * (high[finite] - low[finite])
    low[finite] -= margin
    high[finite] += margin
    return low, high


def _project(
    embeddings: np.ndarray, mean: np.ndarray, scale: np.ndarray, axes: np.ndarray
) -> np.ndarray:
    return ((np.asarray(embeddings, np.float32) - mean) / scale) @ axes.T


def _kth(points: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray:
    """Euclidean distance of points[N, D] to the k-th nearest of sample[R, D]."""
    k = min(k, len(sample))
    distances = np.zeros(len(points))
    for start in range(0, len(points), _BLOCK):
        block = points[start : start + _BLOCK]
        squares = (block**2).sum(1)[:, None] + (sample**2).sum(1)[None] - 2 * block @ sample.T
        distances[start : start + _BLOCK] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return np.sqrt(np.maximum(distances, 0.0))
