"""Scores of real networks on the competition's test images: loaded, halved, and drawn anew.

In: a folder of tables NAME.parquet (`id, p00..p27` of all test images) and labels.csv (true labels
of some of them, known because a near-duplicate lies in the external data).  Out: arrays, and
simulated sets of any size: label sets of real images, and for each class the logits of real
positives and negatives, resampled jointly over the networks, so that their residual correlations
are kept.

Caution: the networks were trained on external data that hold the duplicates of the labelled images,
so scores on them are optimistic.  What they are good for: real correlations between networks, real
calibration, real class imbalance.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpa_jax.core import classes
from hpa_jax.decision.stack.inputs import logit
from hpa_jax.decision.stack.learners import sigmoid

# Classes with two or three known positives lend them to the classes that have none.
FEW = 3


@dataclass(frozen=True)
class RealScores:
    """names of M networks; probs [M, N, C] and labels bool[N, C] of the labelled rows; rest
    [M, U, C], the scores of the others."""

    names: tuple[str, ...]
    probs: np.ndarray
    labels: np.ndarray
    rest: np.ndarray


def load(folder: str | Path) -> RealScores:
    """All score tables of a folder."""
    import pandas as pd

    files = sorted(Path(folder).glob("*.parquet"))
    tables = [pd.read_parquet(file).set_index("id") for file in files]
    truth = pd.read_csv(Path(folder) / "labels.csv", dtype=str).set_index("Id")["Target"]
    labelled = tables[0].index.isin(truth.index)
    ids = tables[0].index[labelled]
    return RealScores(
        tuple(file.stem for file in files),
        np.stack([table.loc[ids].to_numpy(float) for table in tables]),
        np.array([classes.encode(truth[name]) for name in ids]),
        np.stack([table.loc[tables[0].index[~labelled]].to_numpy(float) for table in tables]),
    )


def label_sets(path: str | Path) -> np.ndarray:
    """bool[N, C] of the competition's train.csv."""
    import pandas as pd

    return np.array([classes.encode(text) for text in pd.read_csv(path, dtype=str)["Target"]])


def simulate(
    real: RealScores, rows: int, seed: int, sets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(labels bool[rows, C], probs [M, rows, C]): label sets drawn from `sets`, scores from `real`.

    A drawn logit vector is moved by a Gaussian of the class's covariance over the networks, half
    as wide as Scott's rule says for one dimension, and shrunk so that the variance stays.
    """
    rng = np.random.default_rng(seed)
    labels = sets[rng.integers(0, len(sets), rows)]
    logits, known = logit(real.probs), real.labels
    few = [c for c in range(known.shape[1]) if 0 < known[:, c].sum() <= FEW]
    borrowed = np.concatenate([logits[:, known[:, c], c].T for c in few])
    probs = np.empty((len(logits), *labels.shape))
    for c in range(labels.shape[1]):
        for value in (False, True):
            donors = logits[:, known[:, c] == value, c].T
            donors = donors if len(donors) else borrowed
            chosen = labels[:, c] == value
            probs[:, chosen, c] = sigmoid(_drawn(donors, int(chosen.sum()), rng)).T
    return labels, probs


def _drawn(donors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """[count, M] of a smoothed bootstrap of donors [n, M]."""
    width = 0.5 * len(donors) ** -0.2
    covariance = np.cov(donors.T) if len(donors) > 2 else 0.5 * np.eye(donors.shape[1])
    noise = rng.multivariate_normal(np.zeros(donors.shape[1]), covariance, count)
    centre = donors.mean(axis=0)
    drawn = donors[rng.integers(0, len(donors), count)]
    return centre + (drawn - centre + width * noise) / np.sqrt(1 + width**2)
