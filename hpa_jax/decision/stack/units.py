"""The unit of work of the stack: all models of one class in one repeat.

In: the shared data (inputs, labels, groups, protocol).  Out: a vote for every row by models that
were fitted without it and its group, votes on test rows, and the models.

In each outer fold every inner split gives one model: fitted on all parts but one, stopped and
thresholded on that one, used for the outer fold.  Negatives left out by subsampling get votes, too.

`fit_joint` fits all classes in one booster (XGBoost's `multi_strategy="multi_output_tree"`: leaves
hold a vector, one number per class): each class starts from its own logistic regression, and the
trees share structure between classes.  All classes then have the same folds (multilabel, rare
classes balanced first), and negatives are not subsampled: a negative of one class is a positive of
another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.decision import thresholds
from hpa_jax.decision.stack import learners
from hpa_jax.decision.stack.inputs import (
    ClassInputs,
    StackData,
    StackInputs,
    class_inputs,
    joint_columns,
)
from hpa_jax.decision.stack.learners import Booster, StackModel
from hpa_jax.decision.stack.protocols import Protocol

OUTER_STEP, INNER_STEP = 57, 101  # seeds of repeats, as in the team's code
Split = tuple[np.ndarray, np.ndarray]  # fitting rows, stopping rows


@dataclass
class StackUnit:
    """Result of one class and repeat. votes [N] in [0, 1]; fold int8[N] of the outer split."""

    c: int
    repeat: int
    votes: np.ndarray
    fold: np.ndarray
    models: list[StackModel]
    scale: tuple[np.ndarray, ...]
    gains: dict[str, float] = field(default_factory=dict)
    test_votes: np.ndarray | None = None
    stamp: str = ""  # hash of everything it depends on

    def predict(
        self,
        inputs: StackInputs,
        protocol: Protocol,
        means: np.ndarray,
        joint: learners.JointTrees,
    ) -> np.ndarray:
        """Return the mean vote [N] of this unit's models. means, joint: shared by all units."""
        protocol = protocol.of(self.c)
        of_class, _ = class_inputs(inputs, self.c, self.scale, means)
        total = np.zeros(len(inputs))
        for model in self.models:
            total += vote(learners.score(model, of_class, joint), model.threshold, protocol)
        return total / max(1, len(self.models))


def joint_trees(inputs: StackInputs, means: np.ndarray) -> learners.JointTrees:
    """Return the inputs of joint boosters for these rows. means: `inputs.means()`."""
    return learners.JointTrees(joint_columns(inputs, means)[0])


def fit_unit(data: StackData, c: int, repeat: int) -> StackUnit:
    """Fit all models of class c in one repeat.

    The result depends on the arguments alone (seeds come from protocol, class and repeat), so units
    can run anywhere and in any order.
    """
    protocol, positive = data.protocol.of(c), data.labels[:, c]
    inputs, scale = class_inputs(data.inputs, c)
    test = None if data.test is None else class_inputs(data.test, c, scale)[0]
    fitter = UnitFitter(inputs, positive.astype(float), protocol, data.device, test)
    prior = None if data.prior is None else data.prior[c]
    fold, plan = splits(positive, data.groups, c, repeat, protocol, prior)
    votes = np.zeros(len(positive))
    for heldout, inner in plan:
        votes[heldout] = fitter.outer_fold(inner, heldout)
    test_votes = None if test is None else fitter.test_total / max(1, len(fitter.models))
    return StackUnit(c, repeat, votes, fold, fitter.models, scale, fitter.gains, test_votes)


def splits(
    positive: np.ndarray,
    groups: np.ndarray | None,
    c: int,
    repeat: int,
    protocol: Protocol,
    prior: float | None = None,
) -> tuple[np.ndarray, list[tuple[np.ndarray, list[Split]]]]:
    """Return (fold int8[N]; for each outer fold its rows and inner (fitting, stopping) rows)."""
    _, outer, inner_repeats, inner = protocol.counts(int(positive.sum()))
    base = protocol.seed + OUTER_STEP * repeat
    used = _with_negatives(positive, prior, protocol, np.random.default_rng((base, c)))
    fold = folding.stratified(positive[:, None], outer, [base], groups)[0, 0]
    seeds = [base + INNER_STEP * j for j in range(inner_repeats)]
    plan = []
    for number in range(outer):
        rows = np.flatnonzero((fold != number) & used)
        inner_groups = None if groups is None else groups[rows]
        inner_folds = folding.stratified(positive[rows][:, None], inner, seeds, inner_groups)
        pairs = [pair for assigned in inner_folds[:, 0] for pair in _pairs(rows, assigned, inner)]
        plan.append((np.flatnonzero(fold == number), pairs))
    return fold, plan


def _pairs(rows: np.ndarray, fold: np.ndarray, parts: int) -> Iterator[Split]:
    for part in range(parts):
        yield rows[fold != part], rows[fold == part]


def _with_negatives(
    positive: np.ndarray, prior: float | None, protocol: Protocol, rng: np.random.Generator
) -> np.ndarray:
    """bool[N]: all positives, and as many random negatives as restore the training share."""
    if protocol.negatives == "all" or prior is None or not 0 < prior < 1:
        return np.ones(len(positive), bool)
    negatives = rng.permutation(np.flatnonzero(~positive))
    count = int(positive.sum() * (1 - prior) / prior)
    used = positive.copy()
    used[negatives[: max(count, 1)]] = True
    return used


class UnitFitter:
    """Fits the inner models of one outer fold after another, and sums their votes."""

    def __init__(
        self,
        inputs: ClassInputs,
        y: np.ndarray,
        protocol: Protocol,
        device: str,
        test: ClassInputs | None,
        kind: str = "",
    ) -> None:
        positives = int(y.sum())
        rare = positives < protocol.rare_below
        if rare:
            inputs = inputs.of_kinds(protocol.rare_features)
        self.inputs, self.y, self.protocol, self.test = inputs, y, protocol, test
        self.kind = kind or (protocol.rare_learner if rare else protocol.learner)
        self.booster = None
        if self.kind == "boosted" and positives >= protocol.boost_from and inputs.trees.shape[1]:
            self.booster = Booster(inputs.trees, inputs.names, y, protocol, device)
        self.models: list[StackModel] = []
        self.gains: dict[str, float] = {}
        self.test_total = np.zeros(len(test.linear)) if test is not None else None

    def outer_fold(self, splits: list[Split], heldout: np.ndarray) -> np.ndarray:
        """Votes on the held-out rows: mean over the models of the inner splits."""
        usable = [
            (fit, stop) for fit, stop in splits if 0 < self.y[fit].sum() < len(fit) and len(stop)
        ]
        total = np.zeros(len(heldout))
        for (fit, stop), weights in zip(usable, self.linear(usable)):
            model, scores = self._complete(fit, stop, weights)
            model.threshold = self.threshold(stop, scores[stop])
            self.models.append(model)
            total += vote(scores[heldout], model.threshold, self.protocol)
            if self.test is not None:
                test_scores = learners.score(model, self.test)
                self.test_total += vote(test_scores, model.threshold, self.protocol)
        if not usable:  # no positive to fit on because of groups: use the mean of the models
            return learners.sigmoid(self.inputs.linear[heldout, 1])
        return total / len(usable)

    def linear(self, splits: list[Split]) -> list[np.ndarray]:
        """Weights for every split; one penalty for all of them, by the stopping rows' log loss."""
        if self.kind == "ridge":
            alpha = self.protocol.ridge_alpha
            return [learners.ridge(self.inputs, self.y, fit, alpha) for fit, _ in splits]
        best, best_loss = [], np.inf
        starts: list[np.ndarray | None] = [None] * len(splits)
        for strength in sorted(self.protocol.strengths, reverse=True):
            loss = 0.0
            for i, (fit, stop) in enumerate(splits):
                start = starts[i] if starts[i] is not None else starts[0]
                starts[i] = learners.logistic(self.inputs, self.y, fit, strength, start)
                margin = self.inputs.linear[stop] @ starts[i]
                loss += learners.log_loss(self.y[stop], margin) * len(stop)
            if loss < best_loss - 1e-9:
                best, best_loss = list(starts), loss
        return best

    def _complete(
        self, fit: np.ndarray, stop: np.ndarray, weights: np.ndarray
    ) -> tuple[StackModel, np.ndarray]:
        """The model of one split and its scores for all rows."""
        margin = self.inputs.linear @ weights
        if self.kind == "ridge":
            return StackModel("ridge", weights), margin
        if self.booster is None:
            return StackModel("logistic", weights), learners.sigmoid(margin)
        seed = self.protocol.seed + len(self.models)
        margin, raw, rounds, gains = self.booster.fit(margin, fit, stop, seed)
        _add(self.gains, gains)
        return StackModel("boosted", weights, raw, rounds), learners.sigmoid(margin)

    def threshold(self, stop: np.ndarray, scores: np.ndarray) -> float:
        """Threshold of one model: the best F1 on its stopping rows."""
        positive = self.y[stop] > 0
        if not positive.any():
            return float(np.quantile(scores, 1 - self.y.mean()))
        return float(thresholds.exact(positive[:, None], scores[:, None])[0])


def vote(scores: np.ndarray, threshold: float, protocol: Protocol) -> np.ndarray:
    """Return one model's votes: binary, 0 or 1, or soft, its probability in [0, 1]."""
    if protocol.vote == "binary":
        return (scores >= threshold * protocol.vote_factor).astype(float)
    return np.clip(scores, 0, 1)


def fit_joint(data: StackData, fitted: Sequence[int], repeat: int) -> list[StackUnit]:
    """Fit the classes `fitted` in one repeat with shared boosters; returns one unit per class."""
    protocol, means = data.protocol, data.inputs.means()
    y = data.labels[:, list(fitted)].astype(float)
    fitters, scales = [], []
    for position, c in enumerate(fitted):
        inputs, scale = class_inputs(data.inputs, c, means=means)
        fitters.append(
            UnitFitter(inputs, y[:, position], protocol, data.device, None, kind="logistic")
        )
        scales.append(scale)
    booster = Booster(*joint_columns(data.inputs, means), y, protocol, data.device)
    base = protocol.seed + OUTER_STEP * repeat
    fold = folding.multilabel(y > 0, protocol.outer, base, data.groups)
    votes = np.zeros(y.shape)
    gains: dict[str, float] = {}
    for number in range(protocol.outer):
        heldout, rows = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        groups = None if data.groups is None else data.groups[rows]
        plan = []
        for j in range(protocol.inner_repeats):
            inner = folding.multilabel(y[rows] > 0, protocol.inner, base + INNER_STEP * j, groups)
            plan += _pairs(rows, inner, protocol.inner)
        votes[heldout] = _joint_outer_fold(fitters, booster, y, plan, heldout, gains)
    units = [
        StackUnit(c, repeat, votes[:, k], fold, fitters[k].models, scales[k], gains)
        for k, c in enumerate(fitted)
    ]
    if data.test is not None:
        test_means = data.test.means()
        joint = joint_trees(data.test, test_means)
        for unit in units:
            unit.test_votes = unit.predict(data.test, protocol, test_means, joint)
    return units


def _joint_outer_fold(
    fitters: list[UnitFitter],
    booster: Booster,
    y: np.ndarray,
    plan: list[Split],
    heldout: np.ndarray,
    gains: dict[str, float],
) -> np.ndarray:
    """Fit the models of all inner splits; returns their votes [held-out rows, K]."""
    weights = [fitter.linear(plan) for fitter in fitters]
    total = np.zeros((len(heldout), y.shape[1]))
    for i, (fit, stop) in enumerate(plan):
        margin = np.stack(
            [fitter.inputs.linear @ w[i] for fitter, w in zip(fitters, weights)], axis=1
        )
        seed = fitters[0].protocol.seed + len(fitters[0].models)
        margin, raw, rounds, more = booster.fit(margin, fit, stop, seed)
        _add(gains, more)
        scores = learners.sigmoid(margin)
        for k, fitter in enumerate(fitters):
            model = StackModel("joint", weights[k][i], raw, rounds, output=k)
            model.threshold = fitter.threshold(stop, scores[stop, k])
            fitter.models.append(model)
            total[:, k] += vote(scores[heldout, k], model.threshold, fitter.protocol)
    return total / len(plan)


def _add(total: dict[str, float], gains: dict[str, float]) -> None:
    for name, gain in gains.items():
        total[name] = total.get(name, 0.0) + gain
