"""Adversarial validation: can a model distinguish training from test images, and by what?

In: metafeatures of training and test images (the fast variant, boosted trees), or any callable
that fits on some rows and scores others (the network variant, `pipeline.adversarial`).  Out:
out-of-fold scores of every image (high: similar to test), their AUC with a confidence interval,
importance weights of the training images, and a test-like validation set: One More Layer ranked
the training images by the score of an Xception and took every second one of the upper half
(spec 2.3).

AUC 0.5: the sets are indistinguishable, and an ordinary validation set is typical of the test set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# fit_predict(fit rows, score rows) -> score of each score row; it must not use which of the score
# rows are test images.
FitPredict = Callable[[np.ndarray, np.ndarray], np.ndarray]

TREES = 200
PARAMETERS = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_depth": 4,
    "eta": 0.1,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 5,
}


@dataclass(frozen=True)
class Result:
    """scores: float[N] out of fold, high for test-like images; low, high: 95 % interval of auc.

    importances: share of the trees' gain by feature (sums to 1), empty for other models.
    """

    scores: np.ndarray
    auc: float
    low: float
    high: float
    importances: dict[str, float]

    def as_json(self) -> dict:
        """Return what the verb writes: AUC, its interval, number of rows, feature importances."""
        return {
            "auc": self.auc,
            "auc_low": self.low,
            "auc_high": self.high,
            "rows": len(self.scores),
            "importances": self.importances,
        }


def on_features(
    features: np.ndarray,
    is_test: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    threads: int = 0,
) -> Result:
    """The fast variant: gradient-boosted trees on features [N, F] (NaN: unknown).

    Args:
        is_test: bool [N].
        names: of the F features, for the importances.
        groups: int [N] duplicate groups, kept in one fold: copies would be recognised.
        threads: of XGBoost; 0 is all.

    Raises:
        InputError: shapes differ, infinite values, or fewer rows of either set than folds.
    """
    features, is_test = np.asarray(features, np.float32), np.asarray(is_test, bool)
    if features.ndim != 2 or is_test.shape != features.shape[:1]:
        raise InputError(f"features {features.shape} and is_test {is_test.shape}: need [N, F], [N]")
    if np.isinf(features).any():
        row, column = np.argwhere(np.isinf(features))[0]
        raise InputError(f"features: row {row}, column {column} is infinite; compute them again")
    names = list(names) if names is not None else [f"f{k}" for k in range(features.shape[1])]
    gains = np.zeros(features.shape[1])

    def fit_predict(fit: np.ndarray, score: np.ndarray) -> np.ndarray:
        import xgboost

        train = xgboost.QuantileDMatrix(features[fit], is_test[fit], nthread=threads)
        parameters = PARAMETERS | {"seed": seed, "nthread": threads}
        booster = xgboost.train(parameters, train, TREES)
        for key, gain in booster.get_score(importance_type="total_gain").items():
            gains[int(key[1:])] += gain
        return booster.inplace_predict(features[score])

    scores = cross_fitted(is_test, fit_predict, groups=groups, folds=folds, seed=seed)
    shares = gains / gains.sum() if gains.sum() else gains
    order = np.argsort(-shares, kind="stable")
    return judged(scores, is_test, {names[k]: float(shares[k]) for k in order})


def cross_fitted(
    is_test: np.ndarray,
    fit_predict: FitPredict,
    *,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """float[N]: out-of-fold scores; each row is scored by a model fitted without its group.

    Args:
        fit_predict: (rows to fit on, rows to score) -> scores; row numbers ascending.

    Raises:
        InputError: either set has fewer rows than folds, or scores are not finite.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    is_test = np.asarray(is_test, bool)
    fewest = min(is_test.sum(), (~is_test).sum())
    if fewest < folds:
        raise InputError(
            f"{fewest} images in the smaller of train and test, fewer than {folds} folds"
        )
    groups = np.arange(len(is_test)) if groups is None else np.asarray(groups)
    scores = np.full(len(is_test), np.nan)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fit, score in splitter.split(is_test, is_test, groups):
        scores[score] = fit_predict(fit, score)
        if not np.isfinite(scores[score]).all():
            raise InputError("adversarial: the model returned NaN or infinite scores")
    return scores


def judged(
    scores: np.ndarray, is_test: np.ndarray, importances: dict[str, float] | None = None
) -> Result:
    """The scores with their AUC and its 95 % interval."""
    return Result(np.asarray(scores), *auc_interval(is_test, scores), importances or {})


def auc_interval(
    is_test: np.ndarray, scores: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """AUC and its interval: DeLong, DeLong and Clarke-Pearson 1988, on the logit scale.

    The logit keeps the interval in [0, 1].  A perfect separation has no variance; its interval is
    that of min(positives, negatives) successes in as many trials (Clopper and Pearson).
    Equals sklearn.metrics.roc_auc_score in its first value.

    Raises:
        InputError: no training or no test images.
    """
    from scipy.stats import norm, rankdata

    is_test, scores = np.asarray(is_test, bool), np.asarray(scores, float)
    positives, negatives = int(is_test.sum()), int((~is_test).sum())
    if not positives or not negatives:
        raise InputError("AUC: needs images of train and of test")
    ranks = rankdata(scores)
    # Share of negatives below each positive, and of positives above each negative.
    above = (ranks[is_test] - rankdata(scores[is_test])) / negatives
    below = 1 - (ranks[~is_test] - rankdata(scores[~is_test])) / positives
    auc = float(above.mean())
    variance = sum(
        part.var(ddof=1) / len(part) if len(part) > 1 else 0.25 for part in (above, below)
    )
    if not 0 < auc < 1:
        open_end = (0.5 - level / 2) ** (1 / min(positives, negatives))
        return (1.0, open_end, 1.0) if auc == 1 else (0.0, 0.0, 1 - open_end)
    logit = np.log(auc / (1 - auc))
    half = norm.ppf(0.5 + level / 2) * np.sqrt(variance) / (auc * (1 - auc))
    low, high = 1 / (1 + np.exp(-(logit + np.array([-half, half]))))
    return auc, float(low), float(high)


def test_like(scores: np.ndarray, fraction: float = 0.25) -> np.ndarray:
    """bool[N]: a test-like validation set of `fraction` of the training rows.

    scores: float[N] of the training rows only.  Every second of the 2 * fraction rows with the
    highest scores: with fraction 0.25 One More Layer's rule (every second of the upper half), so
    that training keeps as many test-like images as validation gets.

    Raises:
        InputError: fraction outside (0, 0.5].
    """
    if not 0 < fraction <= 0.5:
        raise InputError(f"fraction={fraction}: more than 0, at most 0.5 (every second of all)")
    order = np.argsort(scores, kind="stable")
    chosen = np.zeros(len(order), bool)
    chosen[order[len(order) - round(2 * fraction * len(order)) :: 2]] = True
    return chosen


def weights(scores: np.ndarray, is_test: np.ndarray, limit: float = 10.0) -> np.ndarray:
    """float[N]: importance weights, the density ratio of test to training images.

    The odds of the score over the prior odds, clipped to 1/limit .. limit and scaled to mean 1 over
    the training rows.  Scores must be probabilities.

    Raises:
        InputError: a score outside [0, 1].
    """
    scores, is_test = np.asarray(scores, float), np.asarray(is_test, bool)
    if ((scores < 0) | (scores > 1)).any():
        raise InputError("adversarial weights need probabilities as scores")
    odds = (~is_test).sum() / max(is_test.sum(), 1)
    ratio = np.clip(scores, 1e-6, None) / np.clip(1 - scores, 1e-6, None) * odds
    ratio = np.clip(ratio, 1 / limit, limit)
    return ratio / ratio[~is_test].mean()


def effective_size(weights: np.ndarray) -> float:
    """Return Kish's effective sample size of the weighted training set."""
    return float(np.sum(weights) ** 2 / np.sum(np.square(weights)))


def table(
    ids: Sequence[str], is_test: np.ndarray, result: Result, fraction: float = 0.25
) -> "pd.DataFrame":
    """Return one row per image: id, is_test, score, weight, test_like; most unlike test first.

    test_like marks the validation set of `test_like`; a file of its ids is the input of
    `split.force_valid` with `split.scheme="listed"`.
    """
    import pandas as pd

    is_test = np.asarray(is_test, bool)
    chosen = np.zeros(len(is_test), bool)
    chosen[~is_test] = test_like(result.scores[~is_test], fraction)
    rows = pd.DataFrame(
        {
            "id": np.asarray(ids),
            "is_test": is_test,
            "score": result.scores,
            "weight": weights(result.scores, is_test),
            "test_like": chosen,
        }
    )
    return rows.sort_values(["score", "id"], ignore_index=True)
