"""The stack: metafeatures and all models' probabilities to one vote per image and class.

In: inputs and labels [N, C] of the validation part.  Out: a `Stack` with out-of-fold votes in
[0, 1] [N, C], thresholds [C], nested scores and those of the baselines, and `predict` for new rows.
Follows One More Layer (outer folds, inner folds, repeats, votes of all models averaged);
deviations, with their reason: boosters start from a logistic regression that is shrunk to the mean
of the models (with little data it is then never much worse than that mean, and needs few trees);
each class gets its own columns; rare classes get no trees.

Rules: a class with fewer than `min_positives` positives (or negatives) gets no model, but the
mean of the models' logits; a class without positives gets the common threshold of the others (in
the team's protocols it is never predicted); a class without positives that no model has gets the
vote 0.
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
from hpa_jax.decision.stack.inputs import StackColumns, StackData, StackInputs
from hpa_jax.decision.stack.protocols import Protocol, resolve
from hpa_jax.decision.stack.units import StackUnit, joint_trees
from hpa_jax.inference import ensemble

FORMAT = 4
BOOTSTRAP = 500  # resamples behind the intervals of macro-F1


@dataclass
class Stack:
    """A fitted stack. oof: votes [N, C]; thresholds [C]; test_votes [T, C] with `test`.

    columns: of the fitting table; scores: nested macro-F1 and more (each row decided by thresholds
    fitted without it) of "stack" and, with models' probabilities, of "mean", "weighted_mean" and
    "logistic_regression"; nested_decisions: bool[N, C] of the stack; sizes: defaults for unknown
    sizes of new rows.
    """

    protocol: Protocol
    columns: StackColumns
    oof: np.ndarray
    thresholds: np.ndarray
    scores: dict[str, dict[str, Any]]
    nested_decisions: np.ndarray
    units: list[StackUnit] = field(default_factory=list)
    sizes: dict[str, float] = field(default_factory=dict)
    test_votes: np.ndarray | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fitted columns."""
        return self.columns.names

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

    def predict(
        self, features: np.ndarray | StackInputs, names: Sequence[str] | None = None
    ) -> np.ndarray:
        """Votes [N, C] in [0, 1] of all models for new rows.

        features: StackInputs, or [N, F] with the columns of the fit (`names`, if given, are
        compared).

        Raises:
            InputError: a different feature set, NaN.
        """
        if isinstance(features, StackInputs):
            table, names = features, features.names
        if names is not None and tuple(names) != self.names:
            different = sorted(set(names) ^ set(self.names)) or ["(another order)"]
            raise InputError(
                f"the stack was fitted on different features; first difference: {different[0]!r}"
            )
        if not isinstance(features, StackInputs):
            table = self.columns.split(features)
        table = table.filled(self.sizes)
        means = table.means()
        joint, votes = joint_trees(table, means), _start(table, means)
        of_class: dict[int, list[np.ndarray]] = {}
        for unit in self.units:
            unit_votes = unit.predict(table, self.protocol, means, joint)
            of_class.setdefault(unit.c, []).append(unit_votes)
        for c, values in of_class.items():
            votes[:, c] = np.mean(values, axis=0)
        return votes

    def decide(self, features: np.ndarray | StackInputs, argmax: str = "off") -> np.ndarray:
        """Return bool[N, C]: the votes of `predict` at or above the thresholds."""
        return thresholds.decide(self.predict(features), self.thresholds, argmax=argmax)

    def save(self, directory: str | Path) -> None:
        """Write the stack, `stack.json` last, so that a folder that has it is complete."""
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
                "columns": len(self.names),
                "classes": self.oof.shape[1],
                "thresholds": self.thresholds,
                "scores": self.scores,
                "gains": self.gains,
                "usual": {inputs.META + name: size for name, size in self.sizes.items()},
                "units": [[unit.c, unit.repeat, unit.stamp] for unit in self.units],
            },
        )


def load(directory: str | Path) -> Stack:
    """Load a stack that `save` wrote.

    Raises:
        InputError: a missing or damaged file, or another format.
    """
    return _load(Path(directory), models=True)


def load_votes(directory: str | Path) -> tuple[Protocol, np.ndarray]:
    """Load the protocol and the out-of-fold votes [N, C] of a saved stack, without its models.

    Raises:
        InputError: as `load`.
    """
    stack = _load(Path(directory), models=False)
    return stack.protocol, stack.oof


def _load(directory: Path, models: bool) -> Stack:
    path = directory / "stack.json"
    stored = artifacts.read_json(path)
    with artifacts.parsing(path, "fit the stack again"):
        if stored.get("format") != FORMAT:
            raise InputError(f"{directory}: stack format {stored.get('format')}, expected {FORMAT}")
        if stored["names"] is None:
            raise InputError(f"{directory}: fitted on columns without names; fit it again")
        arrays = np.load(directory / "votes.npz", allow_pickle=False)
        return Stack(
            protocol=resolve(stored["protocol"]),
            columns=inputs.named(stored["names"], stored["classes"]),
            oof=arrays["oof"],
            thresholds=np.array(stored["thresholds"], float),
            scores=stored["scores"],
            nested_decisions=arrays["nested"],
            units=[_unit(directory, *unit) for unit in stored["units"]] if models else [],
            sizes={k.removeprefix(inputs.META): size for k, size in stored["usual"].items()},
            test_votes=arrays.get("test_votes"),
        )


def _unit(directory: Path, c: int, repeat: int, stamp: str) -> StackUnit:
    unit = files.read(directory, c, repeat, stamp)
    if unit is None:
        file = files.path(directory, c, repeat)
        state = "belongs to another stack" if file.exists() else "missing"
        raise InputError(f"{file}: {state}; fit again")
    return unit


def fit(
    features: np.ndarray | StackInputs,
    labels: np.ndarray,
    groups: np.ndarray | None = None,
    config: str | Mapping[str, Any] | Protocol = "quick",
    *,
    names: Sequence[str] | None = None,
    prior: np.ndarray | None = None,
    test: np.ndarray | StackInputs | None = None,
    directory: str | Path | None = None,
    workers: int | None = None,
    distributed: str = "",
    progress: bool = False,
) -> Stack:
    """Fit the stack, and score it on rows that its models and thresholds were not fitted on.

    features: StackInputs, or [N, F] float; labels: [N, C] in {0, 1}; groups: [N], duplicates share
    a number and a fold; config: protocol name or mapping; names: of the F columns ("MODEL/p07",
    "meta/size"; default: as `inputs.unnamed`); prior: [C], shares in the training part (for
    `negatives="prior"`); test: rows to vote on during the fit, as `features`; directory: of
    finished units, to resume a killed fit; workers: processes (default: cores; with GPUs one per
    GPU); distributed: address of a Dask scheduler, or "local", instead of these.

    Raises:
        InputError: NaN, shapes that do not fit, unknown protocol, too few rows, device "cuda"
            without a GPU.
    """
    protocol, labels = resolve(config), checked_labels(labels)
    if len(features) != len(labels):
        raise InputError(f"{len(features)} rows of features, {len(labels)} of labels")
    if groups is not None:
        groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        if groups.shape != (len(labels),):
            raise InputError(f"{groups.size} groups for {len(labels)} rows")
    columns, table = _table(features, names, labels.shape[1])
    table = table.filled({})
    sizes = table.sizes()
    if test is not None:
        test = test if isinstance(test, StackInputs) else columns.split(test)
        test = test.filled(sizes)
    devices = runner.pick_devices(protocol.device, distributed)
    prior = None if prior is None else tuple(float(share) for share in prior)
    device = devices[0].partition(":")[0]  # the GPU's number makes no difference
    data = StackData(table, labels, groups, prior, test, protocol, device)
    units = runner.run(
        data,
        runner.jobs(labels, protocol),
        directory=directory,
        workers=workers or os.cpu_count() or 1,
        distributed=distributed,
        devices=devices,
        progress=progress,
    )
    oof = _votes(table, units, "votes")
    fit_thresholds = threshold_fitter(protocol)
    decided = nested.predictions(labels, oof, fit_thresholds, seed=protocol.seed, groups=groups)
    weights = confidence.resamples(len(labels), BOOTSTRAP, groups=groups)
    return Stack(
        protocol,
        columns,
        oof,
        fit_thresholds(labels, oof, groups),
        {"stack": nested.summary(labels, oof, decided, weights)}
        | _baselines(table.probs, labels, groups, protocol, weights),
        decided,
        units,
        sizes,
        None if test is None else _votes(test, units, "test_votes"),
    )


def _table(
    features: np.ndarray | StackInputs, names: Sequence[str] | None, num_classes: int
) -> tuple[StackColumns, StackInputs]:
    if isinstance(features, StackInputs):
        return inputs.named(features.names, num_classes), features
    if names is None:
        columns = inputs.unnamed(np.asarray(features), num_classes)
    else:
        columns = inputs.named(names, num_classes)
    return columns, columns.split(features)


def threshold_fitter(
    protocol: Protocol,
    repeats: int | None = None,
    fold_cache: dict[str, np.ndarray] | None = None,
) -> nested.Fitter:
    """Return the fitter of the final thresholds: shrunk to those that match the shares, or 5 folds
    x repeats with exact search, shrunk to the pooled one for rare classes.

    repeats: upper limit; fold_cache: as thresholds.fitter.
    """
    if protocol.threshold == "shrunk" and protocol.shrink:
        return lambda y, p, g: thresholds.shrunk_to_matched(y, p, protocol.shrink)
    if protocol.threshold == "shrunk":
        return lambda y, p, g: thresholds.exact(y, p)
    return thresholds.fitter(
        "cross_validated",
        repeats=min(protocol.threshold_repeats, repeats or protocol.threshold_repeats),
        fold_cache=fold_cache,
        seed=protocol.seed,
        shrink=protocol.shrink,
        search="exact",
    )


def _start(table: StackInputs, means: np.ndarray) -> np.ndarray:
    """[N, C]: the models' mean, final for classes without a unit; 0 if no model has the class."""
    return learners.sigmoid(means) * table.known.any(axis=0)


def _votes(table: StackInputs, units: list[StackUnit], attribute: str) -> np.ndarray:
    """[N, C]: mean over repeats."""
    votes = _start(table, table.means())
    for c in {unit.c for unit in units}:
        votes[:, c] = np.mean([getattr(u, attribute) for u in units if u.c == c], axis=0)
    return votes


def _baselines(
    probs: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    protocol: Protocol,
    weights: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Nested scores of the baselines. probs: [M, N, C], NaN where unknown."""
    if not len(probs):
        return {}
    probs, seed, fit = probs.astype(np.float64), protocol.seed, threshold_fitter(protocol)
    scores = {"mean": ensemble.mean(probs)}
    for name, blend in (
        ("weighted_mean", blends.likelihood),
        ("logistic_regression", blends.logistic),
    ):
        scores[name] = blends.out_of_fold(blend, probs, labels, groups, seed=seed)
    summaries = {}
    for name, of_blend in scores.items():
        of_blend = np.nan_to_num(of_blend)
        decided = nested.predictions(labels, of_blend, fit, seed=seed, groups=groups)
        summaries[name] = nested.summary(labels, of_blend, decided, weights)
    return summaries
