"""The learners of the stack: logistic regression shrunk to the mean, ridge, boosted trees.

In: inputs of one class (inputs.ClassInputs), 0/1 targets, fitting rows and stopping rows.  Out:
weights (and a booster), and a score for every row.

The logistic regression is penalised towards the plain mean of the models, not towards zero: with
few positives it falls back to that mean, which is hard to beat.  Boosters start from its margin
(`base_margin`) and fit the residual, so 20 to 40 shallow trees suffice, where 300 are needed from
scratch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpa_jax.decision.stack.inputs import ClassInputs
from hpa_jax.decision.stack.protocols import Protocol

MARGIN_LIMIT = 30.0


@dataclass
class StackModel:
    """One model of the stack. weights [D]; booster: .ubj bytes or None; rounds: trees used.

    score = sigmoid(linear @ weights + trees), or just linear @ weights for ridge.
    """

    kind: str
    weights: np.ndarray
    booster: bytes | None = None
    rounds: int = 0
    threshold: float = 0.5
    output: int = 0  # which output of a joint booster (kind "joint")


def sigmoid(margin: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-margin)), without overflow."""
    return 1.0 / (1.0 + np.exp(-np.clip(margin, -MARGIN_LIMIT, MARGIN_LIMIT)))


def log_loss(y: np.ndarray, margin: np.ndarray) -> float:
    """Mean binary log loss of margins."""
    m = np.clip(margin, -MARGIN_LIMIT, MARGIN_LIMIT)
    return float(np.mean(np.logaddexp(0, m) - y * m))


def logistic(
    inputs: ClassInputs,
    y: np.ndarray,
    rows: np.ndarray,
    strength: float,
    start: np.ndarray | None = None,
    iterations: int = 30,
) -> np.ndarray:
    """weights [D] that minimise sum log loss + strength/2 * sum penalty * (w - centre)^2.

    Newton's method on `rows`; y: [N] float.
    """
    x, target, centre = np.asfortranarray(inputs.linear[rows]), y[rows], inputs.centre
    penalty = strength * inputs.penalty + 1e-6
    w = centre.copy() if start is None else start.copy()
    for _ in range(iterations):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - target) + penalty * (w - centre)
        curvature = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x
        curvature[np.diag_indices(len(w))] += penalty
        step = np.linalg.solve(curvature, gradient)
        w -= step * min(1.0, 3.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-4:
            break
    return w


def ridge(inputs: ClassInputs, y: np.ndarray, rows: np.ndarray, alpha: float) -> np.ndarray:
    """weights [D] of ridge regression of 0/1 targets on the standardised columns, intercept free.

    Equals scikit-learn's Ridge(alpha) on the columns from 1 on (a test proves it).
    """
    x, target = np.asfortranarray(inputs.linear[rows]), y[rows]
    centre = x[:, 1:].mean(axis=0)
    body = x[:, 1:] - centre
    gram = body.T @ body
    gram[np.diag_indices(len(gram))] += alpha
    slope = np.linalg.solve(gram, body.T @ (target - target.mean()))
    return np.concatenate([[target.mean() - centre @ slope], slope])


class Booster:
    """Boosted trees of one class (or of K jointly), fitted many times on subsets of rows.

    All fits share one QuantileDMatrix; excluded rows get weight 0.  Their margins come from the
    training cache, so early stopping and the votes of held-out rows need no prediction pass.
    """

    def __init__(
        self,
        trees: np.ndarray,
        names: Sequence[str],
        y: np.ndarray,
        protocol: Protocol,
        device: str,
    ) -> None:
        """trees: [N, T] float32; y: [N], or [N, K] for one booster with K outputs."""
        import xgboost

        self._xgboost = xgboost
        self._y = y
        self._protocol = protocol
        self._names = names
        self._matrix = xgboost.QuantileDMatrix(
            trees, y.astype(np.float32), max_bin=protocol.bins, nthread=1
        )
        self._settings = dict(
            objective="binary:logistic",
            base_score=0.5,
            tree_method="hist",
            device=device,
            max_bin=protocol.bins,
            max_depth=protocol.depth,
            eta=protocol.eta,
            colsample_bytree=protocol.colsample,
            subsample=protocol.subsample,
            min_child_weight=protocol.min_child_weight,
            reg_lambda=protocol.penalty,
            nthread=1,
            verbosity=0,
        )
        if y.ndim == 2:
            self._settings["multi_strategy"] = "multi_output_tree"

    def fit(
        self, margin: np.ndarray, rows: np.ndarray, stop: np.ndarray, seed: int
    ) -> tuple[np.ndarray, bytes | None, int, dict[str, float]]:
        """(margins of all rows, .ubj bytes, rounds, total gain by column).

        margin: [N] (or [N, K]), initial value of the trees; rows: row numbers to fit; stop: row
        numbers whose log loss stops the fit.  If no tree lowers that loss, none is kept and bytes
        is None.
        """
        matrix, patience = self._matrix, self._protocol.patience
        weight = np.zeros(len(self._y), np.float32)
        weight[rows] = 1
        matrix.set_weight(weight)
        matrix.set_base_margin(margin.astype(np.float32))
        booster = self._xgboost.Booster({**self._settings, "seed": seed}, [matrix])
        best, best_round, best_margin = log_loss(self._y[stop], margin[stop]), 0, margin
        for round_number in range(1, self._protocol.rounds + 1):
            booster.update(matrix, round_number - 1)
            # XGBoost drops the second axis where a joint booster has one output
            now = booster.predict(matrix, output_margin=True).reshape(self._y.shape)
            loss = log_loss(self._y[stop], now[stop])
            if loss < best - 1e-6:
                best, best_round, best_margin = loss, round_number, now
            elif round_number - best_round >= patience:
                break
        if best_round == 0:
            return margin, None, 0, {}
        kept = booster[:best_round]
        gains = kept.get_score(importance_type="total_gain")
        named = {self._names[int(key[1:])]: float(value) for key, value in gains.items()}
        return best_margin.astype(np.float64), bytes(kept.save_raw("ubj")), best_round, named


def tree_margin(booster: bytes, trees: np.ndarray) -> np.ndarray:
    """Return the margin of a booster's trees for `trees` [N, T]: [N], or [N, K] if joint."""
    import xgboost

    model = xgboost.Booster({"nthread": 1})
    model.load_model(bytearray(booster))
    return model.inplace_predict(trees, predict_type="margin").astype(np.float64)


class JointTrees:
    """Columns [N, T] of joint boosters, and their margins [N, K], computed once for all classes."""

    def __init__(self, columns: np.ndarray) -> None:
        self._columns = columns
        self._margins: dict[bytes, np.ndarray] = {}

    def margin(self, booster: bytes, output: int) -> np.ndarray:
        """[N]: one output of a joint booster."""
        key = hashlib.sha256(booster).digest()
        if key not in self._margins:
            self._margins[key] = tree_margin(booster, self._columns).reshape(len(self._columns), -1)
        return self._margins[key][:, output]


def score(model: StackModel, inputs: ClassInputs, joint: JointTrees | None = None) -> np.ndarray:
    """Scores [N] of a fitted model: probabilities, or the regression value of ridge."""
    margin = inputs.linear @ model.weights
    if model.kind == "ridge":
        return margin
    if model.booster is not None:
        joined = model.kind == "joint"
        margin = margin + (
            joint.margin(model.booster, model.output)
            if joined
            else tree_margin(model.booster, inputs.trees)
        )
    return sigmoid(margin)
