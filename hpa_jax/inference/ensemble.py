"""Ensembles of several models' probabilities: means, maximum, ranks, greedy selection.

In: tables `id, p00, p01, ...` by model name, joined to an array [M, N, C].  Out: an array [N, C].
Sources: bestfitting (mean over folds, maximum over crops, mean over duplicates of the test set),
pudae (weighted mean 1/5 x 5, 1, 1), greedy selection of Caruana et al. 2004.

Rules: tables are joined on id, so their order does not matter; a missing or duplicate id is an
error that names it; a class that one model lacks (an absent column) is taken from the others, with
their weights renormalised; a class that no model has stays absent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 1e-7  # lower limit of probabilities before logarithms


def joined(
    tables: Mapping[str, "pd.DataFrame"], ids: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return (probs [M, N, C] with NaN for classes a model lacks, ids, column names).

    tables: model -> `id, p00..`; ids: rows to return, in order (default: those of the first table;
    all tables must then have the same ids).

    Raises:
        InputError: no table, missing, extra or duplicate ids, NaN or infinite probabilities.
    """
    if not tables:
        raise InputError("the ensemble has no models; name at least one")
    columns = sorted({name for table in tables.values() for name in table.columns if name != "id"})
    exact = ids is None
    ids = list(next(iter(tables.values()))["id"].astype(str)) if ids is None else list(ids)
    probs = np.full((len(tables), len(ids), len(columns)), np.nan)
    for m, (model, table) in enumerate(tables.items()):
        rows = _rows(table["id"].astype(str).tolist(), ids, model, exact)
        for c, name in enumerate(columns):
            if name in table.columns:
                probs[m, :, c] = table[name].to_numpy(np.float64)[rows]
                bad = np.flatnonzero(~np.isfinite(probs[m, :, c]))
                if len(bad):
                    raise InputError(
                        f"predictions of {model}: {probs[m, bad[0], c]} for id {ids[bad[0]]!r}, "
                        f"{name}; predict again or leave out this model"
                    )
    return probs, ids, columns


def _rows(table_ids: list[str], ids: list[str], model: str, exact: bool) -> list[int]:
    place = {name: row for row, name in enumerate(table_ids)}
    if len(place) != len(table_ids):
        seen: set[str] = set()
        twice = next(name for name in table_ids if name in seen or seen.add(name))
        raise InputError(f"predictions of {model}: id {twice!r} occurs more than once")
    missing = [name for name in ids if name not in place]
    if missing:
        raise InputError(
            f"predictions of {model}: {len(missing)} ids are missing, first {missing[0]!r}; "
            "predict them, too, or leave out this model"
        )
    if exact and len(table_ids) != len(ids):
        expected = set(ids)
        extra = next(name for name in table_ids if name not in expected)
        raise InputError(f"predictions of {model}: id {extra!r} is in no other model's table")
    return [place[name] for name in ids]


def mean(probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """(Weighted) mean over models: [M, N, C] -> [N, C]; NaN: the model (or all) lacks the class.

    Raises:
        InputError: invalid weights, or all 0 for the models that have a class.
    """
    probs = np.asarray(probs)
    weight = _normal(weights, len(probs))[:, None, None] * ~np.isnan(probs)
    total = weight.sum(axis=0)
    available = ~np.isnan(probs).all(axis=0)
    if not (total[available] > 0).all():
        raise InputError(
            "ensemble: all models that have some class have weight 0; give one of them a weight"
        )
    summed = (weight * np.nan_to_num(probs)).sum(axis=0)
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=available)


def geometric(probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """exp of the (weighted) mean of log probabilities: [M, N, C] -> [N, C]."""
    return np.exp(mean(np.log(np.clip(probs, LIMIT, 1)), weights))


def maximum(probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Largest probability of any model (bestfitting over crops): [M, N, C] -> [N, C]."""
    if weights is not None:
        probs = probs[np.asarray(weights) > 0]
    return np.fmax.reduce(probs, axis=0)


def rank_mean(probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of each model's ranks, scaled to (0, 1]: independent of calibration.

    The rank of a row is the share of rows with at most its probability (ties share their mean).
    """
    from scipy.stats import rankdata

    known = ~np.isnan(probs)
    ranks = rankdata(np.nan_to_num(probs), axis=1) / probs.shape[1]
    return mean(np.where(known, ranks, np.nan), weights)


METHODS: dict[str, Callable[[np.ndarray, np.ndarray | None], np.ndarray]] = {
    "mean": mean,
    "geometric": geometric,
    "max": maximum,
    "rank_mean": rank_mean,
}


def greedy(probs: np.ndarray, score: Callable[[np.ndarray], float], steps: int = 30) -> np.ndarray:
    """Weights float[M] by forward selection with repetition (Caruana et al. 2004).

    probs: [M, N, C] of labelled rows; score: mean probabilities [N, C] -> number to maximise.  The
    first model is the best single one.  The best set of all steps is returned, so more steps never
    lower the score on these rows.
    """
    count = np.zeros(len(probs), int)
    best_score, best = -np.inf, count
    for _ in range(steps):
        tries = [
            score(mean(probs, count + (np.arange(len(probs)) == m))) for m in range(len(probs))
        ]
        count[int(np.argmax(tries))] += 1
        if max(tries) > best_score + 1e-12:
            best_score, best = max(tries), count.copy()
    return best / best.sum()


def average_duplicates(probs: np.ndarray, groups: Sequence[int] | np.ndarray) -> np.ndarray:
    """Replace each row by the mean of its duplicate group: [N, C] -> [N, C]; groups: [N].

    Raises:
        InputError: not one group per row.
    """
    groups = np.unique(np.asarray(groups), return_inverse=True)[1]
    if groups.shape != (len(probs),):
        raise InputError(f"{groups.size} groups for {len(probs)} rows of probabilities")
    total = np.zeros((groups.max(initial=-1) + 1, probs.shape[1]))
    np.add.at(total, groups, probs)
    return (total / np.bincount(groups)[:, None])[groups]


def _normal(weights: np.ndarray | None, models: int) -> np.ndarray:
    if weights is None:
        return np.full(models, 1 / models)
    weights = np.asarray(weights, float)
    if weights.shape != (models,) or not (weights >= 0).all() or not weights.sum() > 0:
        raise InputError(
            f"ensemble weights {weights.tolist()} for {models} models; one each, >= 0, not all 0"
        )
    return weights / weights.sum()
