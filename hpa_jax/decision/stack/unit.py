"""One class, one repeat: the unit of work of the stack.

In: features [N, F], the 0/1 targets of one class, groups, a protocol.  Out: a vote for every row
by models that never saw it (nor its group), votes of test rows, and the models.

Inside each outer fold every inner split gives one model: fitted on two parts, stopped and cut on
the third, asked for the outer fold.  Rows left out when negatives are drawn are asked too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpa_jax.core import folds as folding
from hpa_jax.decision import thresholds
from hpa_jax.decision.stack import learners
from hpa_jax.decision.stack.inputs import ClassInputs, Layout, class_inputs, class_means
from hpa_jax.decision.stack.learners import Booster, Fitted
from hpa_jax.decision.stack.protocols import Protocol

OUTER_STEP, INNER_STEP = 57, 101  # seeds of repeats, as in the team's code


@dataclass
class Unit:
    """Result of one class and repeat. votes [N] in [0, 1]; fold int8[N] of the outer split."""

    c: int
    repeat: int
    votes: np.ndarray
    fold: np.ndarray
    models: list[Fitted]
    scale: tuple[np.ndarray, ...]
    gains: dict[str, float] = field(default_factory=dict)
    test_votes: np.ndarray | None = None
    stamp: str = ""  # hash of all that it was fitted on

    def predict(
        self,
        features: np.ndarray,
        where: Layout,
        names: Sequence[str] | None,
        protocol: Protocol,
        *,
        means: np.ndarray | None = None,
        joint: learners.JointTrees | None = None,
    ) -> np.ndarray:
        """Mean vote [N] of this unit's models for new rows. means, joint: shared by all units."""
        protocol = protocol.of(self.c)
        inputs, _ = class_inputs(features, where, self.c, self.scale, names, means)
        total = np.zeros(len(features))
        for model in self.models:
            total += vote(learners.score(model, inputs, joint), model.threshold, protocol)
        return total / max(1, len(self.models))


def fit_unit(
    features: np.ndarray,
    positive: np.ndarray,
    groups: np.ndarray | None,
    where: Layout,
    names: Sequence[str] | None,
    c: int,
    repeat: int,
    protocol: Protocol,
    prior: float | None = None,
    test: np.ndarray | None = None,
    device: str = "cpu",
) -> Unit:
    """Fits all models of class c in one repeat. positive: bool[N]; prior: share in training.

    The result depends on the arguments alone (seeds come from protocol, class and repeat), so units
    may run anywhere and in any order.
    """
    protocol = protocol.of(c)
    inputs, scale = class_inputs(
        features, where, c, names=names, means=class_means(features, where)
    )
    test_inputs = None
    if test is not None:
        test_inputs, _ = class_inputs(test, where, c, scale, names)
    fitter = Fitter(inputs, positive.astype(float), protocol, device, test_inputs)
    fold, plan = splits(positive, groups, c, repeat, protocol, prior)
    votes = np.zeros(len(positive))
    for held, inner in plan:
        votes[held] = fitter.outer_fold(inner, held)
    weight = max(1, len(fitter.models))
    test_votes = None if test_inputs is None else fitter.test_total / weight
    return Unit(c, repeat, votes, fold, fitter.models, scale, fitter.gains, test_votes)


def splits(
    positive: np.ndarray,
    groups: np.ndarray | None,
    c: int,
    repeat: int,
    protocol: Protocol,
    prior: float | None = None,
) -> tuple[np.ndarray, list[tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]]]:
    """(fold int8[N], for each outer fold: held rows and the inner (fitting, stopping) rows)."""
    _, outer, inner_repeats, inner = protocol.counts(int(positive.sum()))
    base = protocol.seed + OUTER_STEP * repeat
    drawn = _drawn(positive, prior, protocol, np.random.default_rng((base, c)))
    fold = folding.stratified(positive[:, None], outer, [base], groups)[0, 0]
    seeds = [base + INNER_STEP * j for j in range(inner_repeats)]
    plan = []
    for number in range(outer):
        rows = np.flatnonzero((fold != number) & drawn)
        inner_groups = None if groups is None else groups[rows]
        inner_fold = folding.stratified(positive[rows][:, None], inner, seeds, inner_groups)
        pairs = [
            (rows[assigned != part], rows[assigned == part])
            for assigned in inner_fold[:, 0]
            for part in range(inner)
        ]
        plan.append((np.flatnonzero(fold == number), pairs))
    return fold, plan


def _drawn(
    positive: np.ndarray, prior: float | None, protocol: Protocol, rng: np.random.Generator
) -> np.ndarray:
    """bool[N]: all positives, and as many random negatives as restore the training share."""
    if protocol.negatives == "all" or prior is None or not 0 < prior < 1:
        return np.ones(len(positive), bool)
    negatives = rng.permutation(np.flatnonzero(~positive))
    wanted = int(positive.sum() * (1 - prior) / prior)
    drawn = positive.copy()
    drawn[negatives[: max(wanted, 1)]] = True
    return drawn


class Fitter:
    """Fits the inner models of one outer fold after the other, and adds up what they say."""

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
        self.models: list[Fitted] = []
        self.gains: dict[str, float] = {}
        self.test_total = np.zeros(len(test.linear)) if test is not None else None

    def outer_fold(
        self, splits: list[tuple[np.ndarray, np.ndarray]], held: np.ndarray
    ) -> np.ndarray:
        """Votes of the held rows: mean over the models of the inner splits."""
        usable = [
            (fit, stop) for fit, stop in splits if 0 < self.y[fit].sum() < len(fit) and len(stop)
        ]
        total = np.zeros(len(held))
        for (fit, stop), weights in zip(usable, self.linear(usable)):
            model, scores = self._complete(fit, stop, weights)
            model.threshold = self.cut(stop, scores[stop])
            self.models.append(model)
            total += self.vote(scores[held], model.threshold)
            if self.test is not None:
                test_scores = learners.score(model, self.test)
                self.test_total += self.vote(test_scores, model.threshold)
        if not usable:  # groups left no positive to fit on: the mean of the models votes
            return learners.sigmoid(self.inputs.linear[held, 1])
        return total / len(usable)

    def linear(self, splits: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
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
    ) -> tuple[Fitted, np.ndarray]:
        """The model of one split and its scores for all rows."""
        margin = self.inputs.linear @ weights
        if self.kind == "ridge":
            return Fitted("ridge", weights), margin
        if self.booster is None:
            return Fitted("logistic", weights), learners.sigmoid(margin)
        rows = np.zeros(len(self.y), bool)
        rows[fit] = True
        seed = self.protocol.seed + len(self.models)
        margin, raw, rounds, gains = self.booster.fit(margin, rows, stop, seed)
        for name, gain in gains.items():
            self.gains[name] = self.gains.get(name, 0.0) + gain
        return Fitted("boosted", weights, raw, rounds), learners.sigmoid(margin)

    def cut(self, stop: np.ndarray, scores: np.ndarray) -> float:
        """Threshold of one model: the best F1 on its stopping rows."""
        positive = self.y[stop] > 0
        if not positive.any():
            return float(np.quantile(scores, 1 - self.y.mean()))
        return float(thresholds.exact(positive[:, None], scores[:, None])[0])

    def vote(self, scores: np.ndarray, cut: float) -> np.ndarray:
        """What one model says: yes or no, or its probability."""
        return vote(scores, cut, self.protocol)


def vote(scores: np.ndarray, cut: float, protocol: Protocol) -> np.ndarray:
    """Binary votes 0/1, or soft ones in [0, 1]."""
    if protocol.vote == "binary":
        return (scores >= cut * protocol.vote_factor).astype(float)
    return np.clip(scores, 0, 1)
