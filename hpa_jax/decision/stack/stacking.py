"""The stack: from metafeatures and all models' probabilities to one vote per image and class.

In: features [N, F] and labels [N, C] of the validation part.  Out: a `Stack` with out-of-fold votes
[N, C] in [0, 1], thresholds [C], honest scores beside the baselines', and `predict` for new rows.
Follows One More Layer (outer folds, inner folds, repeats, votes of all models averaged);
deviations, with their reason: boosters start from a logistic regression that is drawn to the mean
of the models (small parts then never lose much to that mean, and trees are few); each class sees
its own columns; rare classes get no trees.

Rules: a class with fewer than `min_positives` positives (or negatives) gets no model, the mean of
the models' logits decides; a class without positives is never predicted; a class that no model
knows and has no positives gets the vote 0.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.core.metrics import checked_labels
from hpa_jax.decision import blends, confidence, nested, thresholds
from hpa_jax.decision.stack import files, inputs, learners, runner
from hpa_jax.decision.stack.protocols import Protocol, resolve
from hpa_jax.decision.stack.runner import Data
from hpa_jax.decision.stack.unit import Unit
from hpa_jax.inference import ensemble

FORMAT = 4
BOOTSTRAP = 500  # resamples behind the intervals of macro-F1


@dataclass
class Stack:
    """A fitted stack. oof: votes [N, C]; thresholds [C]; test_votes [T, C] if `test` was given.

    scores: macro-F1 and more, nested (each row decided by cuts fitted without it), of "stack" and,
    if names tell the models, of "mean", "weighted_mean" and "logistic_regression";
    nested_decisions: bool[N, C] behind the first; usual: what fills unknown sizes of new rows;
    gains: class -> column -> total gain of its trees.
    """

    protocol: Protocol
    names: tuple[str, ...] | None
    columns: int
    num_classes: int
    oof: np.ndarray
    thresholds: np.ndarray
    scores: dict[str, dict[str, Any]]
    nested_decisions: np.ndarray
    units: list[Unit] = field(default_factory=list)
    usual: dict[str, float] = field(default_factory=dict)
    test_votes: np.ndarray | None = None

    @property
    def gains(self) -> dict[int, dict[str, float]]:
        """Class -> column -> share of the total gain of its trees, largest first."""
        total: dict[int, dict[str, float]] = {}
        for unit in self.units:
            of_class = total.setdefault(unit.c, {})
            for name, gain in unit.gains.items():
                of_class[name] = of_class.get(name, 0.0) + gain
        return {
            c: {
                name: gain / sum(gains.values())
                for name, gain in sorted(gains.items(), key=lambda item: -item[1])
            }
            for c, gains in total.items()
            if gains
        }

    def predict(self, features: np.ndarray, names: Sequence[str] | None = None) -> np.ndarray:
        """Votes [N, C] in [0, 1] of all models for new rows.

        features: [N, F] with the columns of the fit (`names`, if given, are compared).

        Raises:
            InputError: another feature set, NaN.
        """
        features = self._checked(features, names)
        where = inputs.layout(self.names, self.columns, self.num_classes)
        means = inputs.class_means(features, where)
        joint = learners.JointTrees(inputs.joint_columns(features, where, means, self.names)[0])
        votes = learners.sigmoid(means) * np.array([bool(own) for own in where.own])
        parts: dict[int, list[np.ndarray]] = {}
        for unit in self.units:
            found = unit.predict(
                features, where, self.names, self.protocol, means=means, joint=joint
            )
            parts.setdefault(unit.c, []).append(found)
        for c, values in parts.items():
            votes[:, c] = np.mean(values, axis=0)
        return votes

    def decide(self, features: np.ndarray, argmax: str = "off") -> np.ndarray:
        """bool[N, C]: `predict` cut at the thresholds."""
        return thresholds.decide(self.predict(features), self.thresholds, argmax=argmax)

    def _checked(self, features: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
        if names is not None and self.names is not None and tuple(names) != self.names:
            different = sorted(set(names) ^ set(self.names)) or ["(another order)"]
            raise InputError(
                f"the stack was fitted on another feature set; first difference: {different[0]!r}"
            )
        if np.ndim(features) != 2 or np.shape(features)[1] != self.columns:
            raise InputError(
                f"features of shape {np.shape(features)}; this stack was fitted on "
                f"{self.columns} columns"
            )
        return inputs.checked(features, self.names, self.usual)

    def save(self, directory: str | Path) -> None:
        """Writes the stack: `stack.json` last, so that a folder with it is complete."""
        directory = Path(directory)
        artifacts.remove(directory / "stack.json")
        kept = set()
        for unit in self.units:
            if not files.holds(directory, unit):
                files.write(directory, unit)
            kept.add(files.path(directory, unit.c, unit.repeat))
        for file in (directory / "units").glob("c*.zip"):
            if file not in kept:
                artifacts.remove(file)
        arrays = {"oof": self.oof, "nested": self.nested_decisions}
        if self.test_votes is not None:
            arrays["test_votes"] = self.test_votes
        with artifacts.atomic(directory / "votes.npz") as temporary:
            np.savez_compressed(temporary, **arrays)
        artifacts.write_json(
            directory / "stack.json",
            {
                "format": FORMAT,
                "protocol": asdict(self.protocol),
                "names": self.names,
                "columns": self.columns,
                "classes": self.num_classes,
                "thresholds": self.thresholds,
                "scores": self.scores,
                "gains": self.gains,
                "usual": self.usual,
                "units": [[unit.c, unit.repeat, unit.stamp] for unit in self.units],
            },
        )


def load(directory: str | Path) -> Stack:
    """The stack that `save` wrote.

    Raises:
        InputError: nothing there, a damaged file, or a stack of a newer format.
    """
    directory = Path(directory)
    stored = artifacts.read_json(directory / "stack.json")
    with artifacts.parsing(directory / "stack.json", "fit the stack again"):
        return _load(directory, stored)


def _load(directory: Path, stored: Mapping[str, Any]) -> Stack:
    if stored.get("format") != FORMAT:
        raise InputError(f"{directory}: stack of format {stored.get('format')}, not {FORMAT}")
    units = []
    for c, repeat, stamp in stored["units"]:
        unit = files.read(directory, c, repeat, stamp)
        if unit is None:
            file = files.path(directory, c, repeat)
            state = "of another stack" if file.exists() else "missing"
            raise InputError(f"{file}: {state}; fit again")
        units.append(unit)
    arrays = np.load(directory / "votes.npz", allow_pickle=False)
    return Stack(
        protocol=resolve(stored["protocol"]),
        names=None if stored["names"] is None else tuple(stored["names"]),
        columns=stored["columns"],
        num_classes=stored["classes"],
        oof=arrays["oof"],
        thresholds=np.array(stored["thresholds"], float),
        scores=stored["scores"],
        nested_decisions=arrays["nested"],
        units=units,
        usual=stored["usual"],
        test_votes=arrays.get("test_votes"),
    )


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    config: str | Mapping[str, Any] | Protocol = "quick",
    *,
    names: Sequence[str] | None = None,
    prior: np.ndarray | None = None,
    test: np.ndarray | None = None,
    directory: str | Path | None = None,
    workers: int | None = None,
    distributed: str = "",
    progress: bool = False,
) -> Stack:
    """Fits the stack and scores it on rows that its models and cuts never saw.

    features: [N, F] float, no NaN; labels: [N, C] in {0, 1}; groups: [N], duplicates share a number
    and a fold; config: protocol name or mapping; names: of the columns ("MODEL/p07", "meta/size"),
    which tell the stack each class's own columns (much better than without; a table of exactly
    15 metafeatures + C probabilities in [0, 1] a model is taken for that); prior: [C], shares in
    the training part (for `negatives="prior"`); test: [T, F], rows to vote on during the fit;
    directory: units are kept there, a killed fit goes on; workers: processes (default: cores; with
    GPUs one a GPU); distributed: address of a Dask scheduler, or "local", in place of these.

    Raises:
        InputError: NaN, shapes that do not fit, unknown protocol, too few rows, device "cuda"
            without a GPU.
    """
    protocol = resolve(config)
    labels = checked_labels(labels)
    names = None if names is None else tuple(names)
    features = inputs.checked(features, names)
    if names is None:
        names = inputs.conventional_names(features, labels.shape[1])
    if len(features) != len(labels):
        raise InputError(f"{len(features)} rows of features, {len(labels)} of labels")
    if groups is not None:
        groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        if groups.shape != (len(labels),):
            raise InputError(f"{groups.size} groups for {len(labels)} rows")
    usual = inputs.usual_sizes(features, names)
    test = None if test is None else inputs.checked(test, names, usual)
    if test is not None and test.shape[1] != features.shape[1]:
        raise InputError(f"test features have {test.shape[1]} columns, not {features.shape[1]}")
    where = inputs.layout(names, features.shape[1], labels.shape[1])
    devices = runner.pick_devices(protocol.device, distributed)
    data = Data(
        features,
        labels,
        groups,
        where,
        names,
        None if prior is None else tuple(float(value) for value in prior),
        test,
        protocol,
        devices[0].partition(":")[0],  # which of them makes no difference
    )
    units = runner.run(
        data,
        runner.jobs(labels, protocol),
        directory=directory,
        workers=workers or os.cpu_count() or 1,
        distributed=distributed,
        devices=devices,
        progress=progress,
    )
    oof = _votes(features, where, labels, units, "votes")
    test_votes = None if test is None else _votes(test, where, labels, units, "test_votes")
    cut = cutter(protocol)
    decided = nested.predictions(labels, oof, cut, seed=protocol.seed, groups=groups)
    weights = confidence.resamples(len(labels), BOOTSTRAP, groups=groups)
    scores = {"stack": nested.summary(labels, oof, decided, weights)}
    if names is not None:
        probs = inputs.by_model(features, names, labels.shape[1])
        scores.update(_baselines(probs, labels, groups, cut, protocol.seed, weights))
    return Stack(
        protocol,
        names,
        features.shape[1],
        labels.shape[1],
        oof,
        cut(labels, oof, groups),
        scores,
        decided,
        units,
        usual,
        test_votes,
    )


def cutter(
    protocol: Protocol, repeats: int | None = None, drawn: dict[str, np.ndarray] | None = None
) -> nested.Fitter:
    """The function that fits the final cuts: 5 folds x repeats, exact search, rare ones shrunk.

    repeats: at most so many; drawn: as thresholds.fitter.
    """
    return thresholds.fitter(
        "cross_validated",
        repeats=min(protocol.cut_repeats, repeats or protocol.cut_repeats),
        drawn=drawn,
        seed=protocol.seed,
        shrink=protocol.shrink,
        search="exact",
    )


def _votes(
    features: np.ndarray,
    where: inputs.Layout,
    labels: np.ndarray,
    units: list[Unit],
    attribute: str,
) -> np.ndarray:
    """[rows, C]: mean over repeats; the models' mean for classes without a unit."""
    votes = learners.sigmoid(inputs.class_means(features, where))
    votes *= np.array([bool(own) for own in where.own])
    for c in {unit.c for unit in units}:
        votes[:, c] = np.mean([getattr(u, attribute) for u in units if u.c == c], axis=0)
    return votes


def _baselines(
    probs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    cut: nested.Fitter,
    seed: int,
    weights: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Nested scores of what the stack must beat. probs: [M, N, C], NaN where unknown."""
    if not len(probs):
        return {}
    found = {"mean": ensemble.mean(probs)}
    for name, fit in (
        ("weighted_mean", blends.likelihood),
        ("logistic_regression", blends.logistic),
    ):
        found[name] = blends.out_of_fold(fit, probs, labels, groups, seed=seed)
    found = {name: np.nan_to_num(scores) for name, scores in found.items()}
    return {
        name: nested.summary(
            labels,
            scores,
            nested.predictions(labels, scores, cut, seed=seed, groups=groups),
            weights,
        )
        for name, scores in found.items()
    }
