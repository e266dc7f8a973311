"""What the stack must beat: the mean of the models, their weighted mean, logistic regression.

In: features [N, F] with a named layout and labels [N, C].  Out: scores [N, C] that no row's own
label has touched (weights and regressions are fitted on the other folds).
"""

import numpy as np

from hpa_jax.decision import folds as folding
from hpa_jax.decision import stack_inputs
from hpa_jax.decision.stack_inputs import ClassInputs, Layout
from hpa_jax.decision.stack_learners import logistic, sigmoid

EM_STEPS = 60


def mean(features: np.ndarray, where: Layout) -> np.ndarray:
    """Mean probability over the models of each class: [N, C]; 0 for a class no model knows."""
    result = np.zeros((len(features), len(where.own)))
    for c, columns in enumerate(where.own):
        if columns:
            result[:, c] = features[:, columns].mean(axis=1)
    return result


def model_weights(probs: np.ndarray, labels: np.ndarray, steps: int = EM_STEPS) -> np.ndarray:
    """Weights float[M], >= 0 and of sum 1, of the mixture of models with the highest likelihood.

    probs: [M, N, C]; labels: [N, C].  Expectation-maximisation: each step reweighs a model by its
    share of the probability given to what was true, so weights stay on the simplex by themselves.
    """
    likelihood = np.where(labels, probs, 1 - probs).reshape(len(probs), -1).astype(np.float64)
    likelihood = np.clip(likelihood, stack_inputs.LIMIT, 1)
    weights = np.full(len(probs), 1 / len(probs))
    for _ in range(steps):
        total = weights @ likelihood
        share = weights * (likelihood / total).mean(axis=1)
        if np.abs(share - weights).max() < 1e-5:
            return share
        weights = share
    return weights


def weighted_mean(
    features: np.ndarray,
    where: Layout,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Out-of-fold scores [N, C] of the weighted mean, one weight a model, found on other folds.

    Only models that know every class that any model knows take part; else the plain mean is given.
    """
    known = [columns for columns in where.own if columns]
    if len({len(columns) for columns in known}) != 1 or len(known[0]) == 1:
        return mean(features, where)
    have = [c for c, columns in enumerate(where.own) if columns]
    probs = features[:, np.array(known).T].transpose(1, 0, 2)  # [M, N, classes known]
    result = np.zeros((len(features), len(where.own)))
    fold = folding.multilabel(labels, folds, seed, groups)
    for number in range(folds):
        rest = fold != number
        weights = model_weights(probs[:, rest], labels[rest][:, have])
        result[np.ix_(~rest, have)] = np.tensordot(weights, probs[:, ~rest], axes=1)
    return result


def logistic_regression(
    features: np.ndarray,
    where: Layout,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 0,
    strength: float = 1.0,
) -> np.ndarray:
    """Out-of-fold scores [N, C] of one L2 logistic regression a class on the models' own logits.

    Without a named layout it sees all columns.  A class with positives in fewer than two folds
    keeps the mean.
    """
    result = mean(features, where)
    for c in range(labels.shape[1]):
        inputs = _own_columns(features, where, c)
        y = labels[:, c].astype(float)
        fold = folding.stratified(labels[:, [c]], folds, [seed], groups)[0, 0]
        start = None
        for number in range(folds):
            rows = np.flatnonzero(fold != number)
            if 0 < y[rows].sum() < len(rows):
                start = logistic(inputs, y, rows, strength, start)
                result[fold == number, c] = sigmoid(inputs.linear[fold == number] @ start)
    return result


def _own_columns(features: np.ndarray, where: Layout, c: int) -> ClassInputs:
    """The models' logits of class c, standardised, and nothing else; drawn to zero."""
    if where.own[c]:
        body = stack_inputs.logit(features[:, where.own[c]])
    else:
        body = features[:, where.meta].astype(np.float64)
    deviation = body.std(axis=0)
    body = (body - body.mean(axis=0)) / np.where(deviation > 1e-9, deviation, np.inf)
    linear = np.concatenate([np.ones((len(body), 1)), body], axis=1)
    penalty = np.r_[0.0, np.ones(body.shape[1])]
    named = bool(where.own[c])
    return ClassInputs(linear, body[:, :0], penalty, np.zeros(len(penalty)), (), named)
