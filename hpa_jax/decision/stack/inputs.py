"""Inputs of the stack: metafeatures [N, F] and the probabilities [M, N, C] of all models.

Each class gets only relevant columns: its probability by every model, the metafeatures, and the
other classes' mean over models.  These about 55 of 323 columns make a fit cheap: trees need not
search 28 x 11 mostly redundant columns.

Rules: NaN or infinity is an error that names row and column, except in `size`, whose unknown values
become the median of the known ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.decision.features import NAMES as METAFEATURES
from hpa_jax.decision.stack.protocols import Protocol

META = "meta/"  # prefix of metafeatures in column names
SIZES = ("size", "original_size")  # metafeatures that may be unknown
LIMIT = 1e-5  # probabilities are clipped this far from 0 and 1 before the logit


@dataclass(frozen=True)
class StackInputs:
    """Inputs of N rows.

    probs: float32 [M, N, C]; known: bool[M, C], False (and NaN in probs) where a model lacks the
    class; meta: float32 [N, F]; models, metafeatures: their M and F names.
    """

    probs: np.ndarray
    known: np.ndarray
    meta: np.ndarray
    models: tuple[str, ...]
    metafeatures: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.meta)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.probs.shape[2]

    @property
    def names(self) -> tuple[str, ...]:
        """The column names: meta/NAME, then MODEL/pCC of each model."""
        known = zip(*np.nonzero(self.known))
        return (
            *(META + name for name in self.metafeatures),
            *(f"{self.models[m]}/p{c:02d}" for m, c in known),
        )

    def means(self) -> np.ndarray:
        """float[N, C]: mean logit over models of each class, 0 if no model has the class."""
        means = np.zeros(self.probs.shape[1:])
        for c in np.flatnonzero(self.known.any(axis=0)):
            means[:, c] = self.logits(c).mean(axis=1)
        return means

    def logits(self, c: int) -> np.ndarray:
        """float[N, M']: logits of class c by the M' models that have it."""
        return logit(self.probs[self.known[:, c], :, c]).T

    def filled(self, sizes: Mapping[str, float]) -> "StackInputs":
        """Return these inputs with unknown sizes replaced by `sizes`, or the median.

        Raises:
            InputError: any other value is not finite.
        """
        meta = np.array(self.meta)
        for column, name in enumerate(self.metafeatures):
            values = meta[:, column]
            if name in SIZES and not np.isinf(values).any():
                unknown = np.isnan(values)
                median = np.median(values[~unknown]) if not unknown.all() else 0.0
                values[unknown] = sizes.get(name, median)
            _check_finite(values, META + name)
        for m, c in zip(*np.nonzero(self.known)):
            _check_finite(self.probs[m, :, c], f"{self.models[m]}/p{c:02d}")
        return dataclasses.replace(self, meta=meta)

    def sizes(self) -> dict[str, float]:
        """Medians of the metafeatures that may be unknown, to fill them in new rows."""
        return {
            name: float(np.median(self.meta[:, column]))
            for column, name in enumerate(self.metafeatures)
            if name in SIZES
        }


@dataclass(frozen=True)
class StackData:
    """Data shared by all units of a stack.

    labels: bool[N, C]; groups: int[N] or None; prior: share of each class in training, or None;
    test: inputs of rows to vote on, or None; device: as XGBoost's.
    """

    inputs: StackInputs
    labels: np.ndarray
    groups: np.ndarray | None
    prior: tuple[float, ...] | None
    test: StackInputs | None
    protocol: Protocol
    device: str = "cpu"


def of_tables(
    probs: np.ndarray, models: Sequence[str], meta: np.ndarray, metafeatures: Sequence[str]
) -> StackInputs:
    """Build inputs from probabilities [M, N, C] and metafeatures [N, F], with their names.

    Raises:
        InputError: shapes or numbers of names do not fit.
    """
    probs, meta = np.asarray(probs, np.float32), np.asarray(meta, np.float32)
    fits = probs.ndim == 3 and meta.ndim == 2 and probs.shape[1] == len(meta)
    if not fits or (len(models), len(metafeatures)) != (len(probs), meta.shape[1]):
        raise InputError(
            f"stack: probabilities {probs.shape} of {len(models)} models, metafeatures "
            f"{meta.shape} with {len(metafeatures)} names; needs [M, N, C] and [N, F]"
        )
    known = ~np.isnan(probs).all(axis=1)
    return StackInputs(probs, known, meta, tuple(models), tuple(metafeatures))


@dataclass(frozen=True)
class StackColumns:
    """Meaning of the columns of a plain table [N, F]; created by `named` and `unnamed`.

    probs: int[M, C], the column of a model's class, -1 where it lacks the class; meta: int[F].
    """

    names: tuple[str, ...]
    models: tuple[str, ...]
    probs: np.ndarray
    metafeatures: tuple[str, ...]
    meta: tuple[int, ...]

    def split(self, table: np.ndarray) -> StackInputs:
        """Split a table [N, F] of these columns into inputs.

        Raises:
            InputError: another number of columns.
        """
        table = np.asarray(table, np.float32)
        if table.ndim != 2 or table.shape[1] != len(self.names):
            raise InputError(
                f"features of shape {table.shape}; this stack was fitted on {len(self.names)} "
                "columns"
            )
        probs = np.full((len(self.models), len(table), self.probs.shape[1]), np.nan, np.float32)
        known = self.probs >= 0
        for m, c in zip(*np.nonzero(known)):
            probs[m, :, c] = table[:, self.probs[m, c]]
        return StackInputs(probs, known, table[:, self.meta], self.models, self.metafeatures)


def named(names: Sequence[str], num_classes: int) -> StackColumns:
    """Parse column names: MODEL/pNN is a probability, all others are metafeatures.

    Raises:
        InputError: a duplicate name, or a class beyond C.
    """
    places: dict[str, dict[int, int]] = {}
    meta: dict[str, int] = {}
    for position, name in enumerate(names):
        model, _, column = name.rpartition("/")
        is_probability = model and column[:1] == "p" and column[1:].isdecimal()
        if is_probability and int(column[1:]) >= num_classes:
            raise InputError(f"feature {name!r}: there are only {num_classes} classes")
        kind, key = (
            (places.setdefault(model, {}), int(column[1:]))
            if is_probability
            else (meta, name.removeprefix(META))
        )
        if key in kind:
            raise InputError(f"feature name {name!r} occurs more than once")
        kind[key] = position
    probs = np.full((len(places), num_classes), -1)
    for m, of_model in enumerate(places.values()):
        probs[m, list(of_model)] = list(of_model.values())
    return StackColumns(tuple(names), tuple(places), probs, tuple(meta), tuple(meta.values()))


def unnamed(table: np.ndarray, num_classes: int) -> StackColumns:
    """Guess the columns of a table [N, F] without names.

    15 metafeatures (or none), then C probabilities per model, if that fits the number of columns
    and the supposed probabilities are in [0, 1]; otherwise all are metafeatures.
    """
    for meta in (METAFEATURES, ()):
        models, rest = divmod(table.shape[1] - len(meta), num_classes)
        body = table[:, len(meta) :]
        if rest == 0 and models >= 1 and len(body) and body.min() >= 0 and body.max() <= 1:
            names = [META + name for name in meta]
            names += [f"model_{m:02d}/p{c:02d}" for m in range(models) for c in range(num_classes)]
            return named(names, num_classes)
    return named([f"{META}column_{k:02d}" for k in range(table.shape[1])], num_classes)


def logit(probs: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), with p clipped to [LIMIT, 1 - LIMIT]."""
    p = np.clip(np.asarray(probs, np.float64), LIMIT, 1 - LIMIT)
    return np.log(p) - np.log1p(-p)


@dataclass(frozen=True)
class ClassInputs:
    """Inputs of one class. linear [N, D] with column 0 = 1 and column 1 = its mean logit.

    `trees` [N, T] float32 for boosters; `penalty`, `centre` [D]: relative strength and target of
    each linear weight (the centre is the plain mean of the models); `names` of the T columns;
    `kinds`: of the D and of the T columns (protocols.KINDS, "" for the constant).
    """

    linear: np.ndarray
    trees: np.ndarray
    penalty: np.ndarray
    centre: np.ndarray
    names: tuple[str, ...]
    kinds: tuple[tuple[str, ...], ...] = ((), ())

    def of_kinds(self, kinds: Sequence[str]) -> "ClassInputs":
        """Return these inputs with columns of other kinds zeroed, hidden from learners."""
        if set(kinds) >= {kind for side in self.kinds for kind in side}:
            return self
        linear, trees = (np.isin(side, ("", *kinds)) for side in self.kinds)
        return dataclasses.replace(
            self, linear=self.linear * linear, trees=self.trees * trees.astype(np.float32)
        )


def class_inputs(
    inputs: StackInputs,
    c: int,
    scale: tuple[np.ndarray, ...] | None = None,
    means: np.ndarray | None = None,
) -> tuple[ClassInputs, tuple[np.ndarray, ...]]:
    """Return the inputs of class c and the (mean, deviation) that standardise its linear columns.

    scale: that pair from the fitting rows, to transform other rows; None: computed from these rows;
    means: `inputs.means()`, if already computed.
    """
    means = inputs.means() if means is None else means
    # Fortran order here and in `learners`: sums depend on it in the last bit.
    meta = inputs.meta.astype(np.float64, order="F")
    logits, mean = inputs.logits(c), means[:, [c]]
    others = [k for k in np.flatnonzero(inputs.known.any(axis=0)) if k != c]
    blocks = [logits - mean, meta, means[:, others]]
    body = np.concatenate(blocks, axis=1)
    if scale is None:
        deviation = body.std(axis=0)
        scale = (body.mean(axis=0), np.where(deviation > 1e-9, deviation, np.inf))
    body = (body - scale[0]) / scale[1]
    linear = np.concatenate([np.ones((len(inputs), 1)), mean, body], axis=1)
    trees = np.concatenate([mean, logits, meta, means[:, others]], axis=1).astype(np.float32)
    strengths = np.repeat([1.0, 1.0, 3.0], [block.shape[1] for block in blocks])
    centre = np.zeros(linear.shape[1])
    centre[1] = 1.0
    models = [f"{inputs.models[m]}/p{c:02d}" for m in np.flatnonzero(inputs.known[:, c])]
    names = ["own/mean", *models, *(META + name for name in inputs.metafeatures)]
    names += [f"mean/p{k:02d}" for k in others]
    # The size of an image and of its files reveals its source.
    of_source = (*SIZES, "file_bytes")
    kinds = ["own"] * (1 + len(models))
    kinds += ["size" if name in of_source else "meta" for name in inputs.metafeatures]
    kinds += ["others"] * len(others)
    return (
        ClassInputs(
            linear,
            trees,
            np.concatenate([[0.0, 0.05], strengths]),
            centre,
            tuple(names),
            (("", *kinds), tuple(kinds)),
        ),
        scale,
    )


def joint_columns(inputs: StackInputs, means: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns [N, T] float32 for joint boosters, and their names: the metafeatures, and the mean
    over models of every class."""
    known = np.flatnonzero(inputs.known.any(axis=0))
    table = np.concatenate([np.asfortranarray(inputs.meta), means[:, known]], axis=1)
    names = (*(META + name for name in inputs.metafeatures), *(f"mean/p{k:02d}" for k in known))
    return table.astype(np.float32), names


def _check_finite(values: np.ndarray, name: str) -> None:
    rows = np.flatnonzero(~np.isfinite(values))
    if len(rows):
        raise InputError(
            f"features: {values[rows[0]]} in row {rows[0]} of {name}; "
            "predict (or measure) that image again, or leave out the column"
        )
