"""All classes in one booster: trees whose leaves hold a vector, one number a class.

In: features [N, F], labels [N, C], the classes to fit.  Out: one unit a class, as in
stack_class.py, whose models share boosters.  XGBoost's `multi_strategy="multi_output_tree"`; each
class starts from its own logistic regression, the trees add what classes have in common.

Deviation: folds are the same for all classes (multilabel, rare classes balanced first), and
negatives are not drawn, because what is a negative of one class is a positive of another.
"""

from collections.abc import Sequence

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.decision.stack import learners
from hpa_jax.decision.stack.inputs import Layout, class_inputs, class_means, joint_columns
from hpa_jax.decision.stack.learners import Fitted
from hpa_jax.decision.stack.protocols import Protocol
from hpa_jax.decision.stack.unit import INNER_STEP, OUTER_STEP, Fitter, Unit


def fit_joint(
    features: np.ndarray,
    labels: np.ndarray,
    fitted: Sequence[int],
    groups: np.ndarray | None,
    where: Layout,
    names: Sequence[str] | None,
    repeat: int,
    protocol: Protocol,
    test: np.ndarray | None = None,
    device: str = "cpu",
) -> list[Unit]:
    """Units of all `fitted` classes in one repeat; labels: bool[N, C]."""
    means = class_means(features, where)
    columns, column_names = joint_columns(features, where, means, names)
    y = labels[:, list(fitted)].astype(float)
    fitters, scales = [], []
    for position, c in enumerate(fitted):
        inputs, scale = class_inputs(features, where, c, names=names, means=means)
        fitters.append(Fitter(inputs, y[:, position], protocol, device, None, kind="logistic"))
        scales.append(scale)
    booster = learners.Booster(columns, column_names, y, protocol, device)
    base = protocol.seed + OUTER_STEP * repeat
    fold = folding.multilabel(y > 0, protocol.outer, base, groups)
    votes = np.zeros(y.shape)
    gains: dict[str, float] = {}
    for number in range(protocol.outer):
        held, rows = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        plan = _inner(y[rows] > 0, rows, None if groups is None else groups[rows], base, protocol)
        votes[held] = _outer_fold(fitters, booster, y, plan, held, protocol, gains)
    units = [
        Unit(c, repeat, votes[:, k], fold, fitters[k].models, scales[k], gains)
        for k, c in enumerate(fitted)
    ]
    if test is not None:
        joint = learners.JointTrees(joint_columns(test, where, class_means(test, where), names)[0])
        for unit in units:
            unit.test_votes = unit.predict(test, where, names, protocol, joint=joint)
    return units


def _inner(
    y: np.ndarray, rows: np.ndarray, groups: np.ndarray | None, base: int, protocol: Protocol
) -> list[tuple[np.ndarray, np.ndarray]]:
    plan = []
    for j in range(protocol.inner_repeats):
        fold = folding.multilabel(y, protocol.inner, base + INNER_STEP * j, groups)
        plan += [(rows[fold != part], rows[fold == part]) for part in range(protocol.inner)]
    return plan


def _outer_fold(
    fitters: list[Fitter],
    booster: learners.Booster,
    y: np.ndarray,
    plan: list[tuple[np.ndarray, np.ndarray]],
    held: np.ndarray,
    protocol: Protocol,
    gains: dict[str, float],
) -> np.ndarray:
    """Votes [held, K] of the models of all inner splits; the models join their fitters' lists."""
    weights = [fitter.linear(plan) for fitter in fitters]
    total = np.zeros((len(held), y.shape[1]))
    for i, (fit, stop) in enumerate(plan):
        margin = np.stack(
            [fitter.inputs.linear @ w[i] for fitter, w in zip(fitters, weights)], axis=1
        )
        rows = np.zeros(len(y), bool)
        rows[fit] = True
        seed = protocol.seed + len(fitters[0].models)
        margin, raw, rounds, found = booster.fit(margin, rows, stop, seed)
        for name, gain in found.items():
            gains[name] = gains.get(name, 0.0) + gain
        scores = learners.sigmoid(margin)
        for k, fitter in enumerate(fitters):
            model = Fitted("joint", weights[k][i], raw, rounds, output=k)
            model.threshold = fitter.cut(stop, scores[stop, k])
            fitter.models.append(model)
            total[:, k] += fitter.vote(scores[held, k], model.threshold)
    return total / len(plan)
