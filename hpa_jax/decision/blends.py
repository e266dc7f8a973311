"""Blends: several models' probabilities combined to one score, by a formula or fitted to labels.

In: probs [M, N, C] (NaN: the model lacks the class) and, for fitted blends, labels [N, C].  Out: a
`Blend`, which maps probs of any rows to scores [N, C]; `out_of_fold` scores rows by blends that
were fitted without them.  Baselines of the stack: mean, weighted mean, logistic regression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs
from hpa_jax.decision.stack.inputs import ClassInputs
from hpa_jax.decision.stack.learners import logistic as newton
from hpa_jax.decision.stack.learners import sigmoid
from hpa_jax.inference import ensemble

EM_STEPS = 60
# Positive, so that a model of weight ~0 still scores classes that no other model has.
LEAST_WEIGHT = 1e-9


class Blend(Protocol):
    """probs [M, N, C] of the models it was fitted for, in the same order -> scores [N, C]."""

    def __call__(self, probs: np.ndarray) -> np.ndarray: ...

    def as_json(self, models: Sequence[str]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Formula:
    """A formula of inference/ensemble.py. weights: one per model; None: equal."""

    method: str = "mean"
    weights: tuple[float, ...] | None = None

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """Scores [N, C]; NaN for a class that no model has."""
        weights = None if self.weights is None else np.array(self.weights)
        return ensemble.METHODS[self.method](probs, weights)

    def as_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Return the representation that `from_json` reads."""
        weights = None if self.weights is None else dict(zip(models, self.weights))
        return {"method": self.method, "weights": weights}


@dataclass(frozen=True)
class Logistic:
    """Logistic regressions on the models' logits, one per class.

    coefficients: [C, 1 + M], intercept first, 0 for a model that lacks the class; a row of NaN
    where nothing could be fitted: the mean of the models is used there.
    """

    coefficients: np.ndarray

    def __call__(self, probs: np.ndarray) -> np.ndarray:
        """Scores [N, C]; NaN for a class that no model has."""
        result = ensemble.mean(probs)
        fitted = np.isfinite(self.coefficients).all(axis=1)
        logits = np.nan_to_num(inputs.logit(probs[:, :, fitted]))
        weights = self.coefficients[fitted]
        result[:, fitted] = sigmoid(weights[:, 0] + np.einsum("mnc,cm->nc", logits, weights[:, 1:]))
        return result

    def as_json(self, models: Sequence[str]) -> dict[str, Any]:
        """Return the representation that `from_json` reads."""
        columns = {name: self.coefficients[:, 1 + m] for m, name in enumerate(models)}
        return {"method": "logistic", "intercept": self.coefficients[:, 0], "weights": columns}


def from_json(stored: Mapping[str, Any], models: Sequence[str]) -> Blend:
    """Return the blend that `as_json` wrote, for `models` in this order.

    Raises:
        InputError: the blend was fitted for other models, or the method is unknown.
    """
    method, weights = stored["method"], stored["weights"]
    if weights is not None and set(weights) != set(models):
        raise InputError(f"the blend of the models {sorted(weights)} doesn't fit {sorted(models)}")
    if method == "logistic":
        columns = [stored["intercept"], *(weights[name] for name in models)]
        return Logistic(np.array(columns, float).T)  # None (NaN in JSON) becomes NaN
    if method not in ensemble.METHODS:
        raise InputError(f"blend {method!r}; known: logistic, {', '.join(ensemble.METHODS)}")
    return Formula(method, None if weights is None else tuple(weights[name] for name in models))


def likelihood(probs: np.ndarray, labels: np.ndarray, steps: int = EM_STEPS) -> Formula:
    """Return the weighted mean of the models with the maximum-likelihood weights.

    Expectation-maximisation of a mixture: each step reweighs a model by its share of the
    probability of the true labels, so weights stay >= 0 with sum 1.  Fitted on the classes that all
    models have.
    """
    shared = ~np.isnan(probs).any(axis=(0, 1))
    p, y = probs[:, :, shared], labels[:, shared]
    likely = np.where(y, p, 1 - p).reshape(len(p), -1).astype(np.float64)
    likely = np.clip(likely, inputs.LIMIT, 1)
    weights = np.full(len(p), 1 / len(p))
    for _ in range(steps if likely.size else 0):
        share = weights * (likely / (weights @ likely)).mean(axis=1)
        moved = np.abs(share - weights).max()
        weights = share
        if moved < 1e-5:
            break
    return Formula("mean", _floored(weights))


def greedy(probs: np.ndarray, labels: np.ndarray, steps: int = 30) -> Formula:
    """Return the weighted mean by greedy forward selection on macro average precision."""
    judged = labels.any(axis=0) & ~np.isnan(probs).any(axis=(0, 1))
    if not judged.any():
        return Formula("mean", _floored(np.full(len(probs), 1 / len(probs))))
    y = labels[:, judged]
    weights = ensemble.greedy(
        probs[:, :, judged], lambda p: metrics.macro_average_precision(y, p), steps
    )
    return Formula("mean", _floored(weights))


def logistic(probs: np.ndarray, labels: np.ndarray, strength: float = 1.0) -> Logistic:
    """Fit L2 logistic regressions, one per class, on the logits of the models that have it.

    strength: of the penalty on standardised logits; the intercept is free.
    """
    coefficients = np.full((labels.shape[1], 1 + len(probs)), np.nan)
    for c in range(labels.shape[1]):
        available = np.flatnonzero(~np.isnan(probs[:, :, c]).any(axis=1))
        y = labels[:, c].astype(float)
        if not len(available) or not 0 < y.sum() < len(y):
            continue
        logits = inputs.logit(probs[available, :, c].T)
        centre, deviation = logits.mean(axis=0), logits.std(axis=0)
        deviation = np.where(deviation > 1e-9, deviation, np.inf)
        fitted = newton(_inputs((logits - centre) / deviation), y, np.arange(len(y)), strength)
        coefficients[c] = 0.0
        coefficients[c, 1 + available] = fitted[1:] / deviation
        coefficients[c, 0] = fitted[0] - coefficients[c, 1 + available] @ centre
    return Logistic(coefficients)


FITTED: dict[str, Callable[[np.ndarray, np.ndarray], Blend]] = {
    "likelihood": likelihood,
    "greedy": greedy,
    "logistic": logistic,
}


def fit_and_score(
    method: str,
    probs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    weights: Sequence[float] | None = None,
    fold: np.ndarray | None = None,
) -> tuple[Blend, np.ndarray]:
    """Return (blend, its scores [N, C] for these rows, out of fold if the blend is fitted).

    method: of FITTED or of ensemble.METHODS; weights: one per model, for the latter; fold: int[N],
    replaces random folds.
    """
    if method in FITTED:
        fit = FITTED[method]
        return fit(probs, labels), out_of_fold(fit, probs, labels, groups, fold=fold)
    blend = Formula(method, None if weights is None else tuple(weights))
    return blend, blend(probs)


def out_of_fold(
    fit: Callable[[np.ndarray, np.ndarray], Blend],
    probs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    fold: np.ndarray | None = None,
) -> np.ndarray:
    """Return scores [N, C] of rows by blends fitted on the other folds; groups stay together."""
    labels = metrics.checked_labels(labels)
    fold = folding.multilabel(labels, folds, seed, groups) if fold is None else fold
    result = np.empty(labels.shape)
    for number in np.unique(fold):
        rest = fold != number
        result[~rest] = fit(probs[:, rest], labels[rest])(probs[:, ~rest])
    return result


def _floored(weights: np.ndarray) -> tuple[float, ...]:
    return tuple(float(weight) for weight in np.maximum(weights, LEAST_WEIGHT))


def _inputs(columns: np.ndarray) -> ClassInputs:
    """Columns [N, K] for the learner: with an intercept, all weights penalised towards zero."""
    linear = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    penalty = np.r_[0.0, np.ones(columns.shape[1])]
    return ClassInputs(linear, np.zeros((len(columns), 0)), penalty, np.zeros(len(penalty)), ())
