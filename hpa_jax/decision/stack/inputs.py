"""What the stack looks at: one table of metafeatures and of all models' probabilities.

In: prediction tables (id, p00..) by model name and a metafeature table (id, ...), joined on id.
Out: features [N, F] float32 with column names "meta/NAME" and "MODEL/pCC"; and, for each class, the
columns that matter for it: its own probability by every model, metafeatures, and the other classes'
mean over models.  Choosing these (about 55 of 323 columns) is what makes a fit cheap: trees need
not search 28 x 11 columns of which most repeat each other.

Rules: an id that a table lacks, or has twice, is an error that names it; NaN or infinity is an
error that names the column, except in `size`, whose unknown values become the known ones' median.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.decision.features import NAMES as METAFEATURES

if TYPE_CHECKING:
    import pandas as pd

_PROBABILITY = re.compile(r"^(?P<model>.+)/p(?P<number>\d+)$")
_COLUMN = re.compile(r"^p\d{2,}$")
UNKNOWN_ALLOWED = ("size", "original_size")
LIMIT = 1e-5  # probabilities are kept this far from 0 and 1 before the logit


def assemble(
    predictions: Mapping[str, "pd.DataFrame"],
    metafeatures: "pd.DataFrame | None",
    ids: Sequence[str],
) -> tuple[np.ndarray, list[str]]:
    """features [N, F] float32 in the order of `ids`, and their F names.

    predictions: model name -> table `id, p00..` (a class that the model lacks is an absent column);
    metafeatures: table `id` + numbers, or None.

    Raises:
        InputError: a missing or doubled id, NaN, no column at all.
    """
    blocks, names = [], []
    if metafeatures is not None:
        columns = [name for name in metafeatures.columns if name != "id"]
        blocks.append(aligned(metafeatures, ids, "metafeatures", columns))
        names += [f"meta/{name}" for name in columns]
    for model, table in predictions.items():
        columns = sorted(name for name in table.columns if _COLUMN.match(name))
        if not columns:
            raise InputError(f"predictions of {model}: no column p00, p01, ...")
        blocks.append(aligned(table, ids, f"predictions of {model}", columns))
        names += [f"{model}/{name}" for name in columns]
    if not blocks:
        raise InputError("the stack has neither predictions nor metafeatures to look at")
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    return checked(features, names), names


def aligned(
    table: "pd.DataFrame", ids: Sequence[str], what: str, columns: Sequence[str]
) -> np.ndarray:
    """float64 [N, len(columns)]: the rows of `ids`, in their order. Extra rows are left out.

    Raises:
        InputError: an id is missing or there twice.
    """
    own = table["id"].astype(str)
    doubled = own[own.duplicated()]
    if len(doubled):
        raise InputError(f"{what}: id {doubled.iloc[0]!r} is there more than once")
    lookup = dict(zip(own, range(len(own))))
    missing = [name for name in ids if name not in lookup]
    if missing:
        raise InputError(
            f"{what}: {len(missing)} of {len(ids)} ids are missing, first {missing[0]!r}; "
            "predict these images too, or leave this table out"
        )
    rows = [lookup[name] for name in ids]
    return table[list(columns)].to_numpy(np.float64)[rows]


def checked(
    features: np.ndarray,
    names: Sequence[str] | None,
    usual: Mapping[str, float] | None = None,
) -> np.ndarray:
    """features as float32 [N, F] without NaN: unknown `size` filled, everything else an error.

    usual: column -> what fills it; the median of its known values where it is not named.

    Raises:
        InputError: another shape, or a column that is not finite, by name.
    """
    array = np.array(features, np.float32)
    if array.ndim != 2 or (names is not None and array.shape[1] != len(names)):
        count = "" if names is None else f" for {len(names)} names"
        raise InputError(f"features of shape {array.shape}{count}; rows x columns are needed")
    for column in np.flatnonzero(~np.isfinite(array).all(axis=0)):
        name = names[column] if names is not None else f"column {column}"
        if name.rpartition("/")[2] in UNKNOWN_ALLOWED and not np.isinf(array[:, column]).any():
            known = array[np.isfinite(array[:, column]), column]
            median = float(np.median(known)) if len(known) else 0.0
            array[np.isnan(array[:, column]), column] = (usual or {}).get(name, median)
            continue
        row = np.flatnonzero(~np.isfinite(array[:, column]))[0]
        raise InputError(
            f"features: {array[row, column]} in row {row} of {name}; "
            "predict (or measure) that image again, or leave the column out"
        )
    return array


def usual_sizes(features: np.ndarray, names: Sequence[str] | None) -> dict[str, float]:
    """Medians of the columns that may be unknown, by name: what fills them in new rows."""
    return {
        name: float(np.median(features[:, column]))
        for column, name in enumerate(names or ())
        if name.rpartition("/")[2] in UNKNOWN_ALLOWED
    }


@dataclass(frozen=True)
class Layout:
    """Which column is what. `own[c]`: columns of class c by every model; `meta`: the others."""

    columns: int
    own: tuple[tuple[int, ...], ...]
    meta: tuple[int, ...]

    @property
    def named(self) -> bool:
        """Whether any column is known to be a model's probability of a class."""
        return any(self.own)


def layout(names: Sequence[str] | None, columns: int, num_classes: int) -> Layout:
    """The layout that column names tell; without names every column is as good as another.

    Raises:
        InputError: another number of names than columns, a doubled name, a class beyond C.
    """
    if names is None:
        return Layout(columns, tuple(() for _ in range(num_classes)), tuple(range(columns)))
    if len(names) != columns:
        raise InputError(f"{len(names)} feature names for {columns} columns")
    if len(set(names)) != len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"feature name {twice!r} is there more than once")
    own: list[list[int]] = [[] for _ in range(num_classes)]
    meta = []
    for position, name in enumerate(names):
        found = _PROBABILITY.match(name)
        if found is None:
            meta.append(position)
        elif int(found["number"]) < num_classes:
            own[int(found["number"])].append(position)
        else:
            raise InputError(f"feature {name!r}: there are only {num_classes} classes")
    return Layout(columns, tuple(tuple(c) for c in own), tuple(meta))


def by_model(features: np.ndarray, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Probabilities [M, N, C] of the columns "MODEL/pNN", models as they first come.

    NaN: the model lacks the class.
    """
    found = [_PROBABILITY.match(name) for name in names]
    models = list(dict.fromkeys(match["model"] for match in found if match))
    probs = np.full((len(models), len(features), num_classes), np.nan)
    for column, match in enumerate(found):
        if match:
            probs[models.index(match["model"]), :, int(match["number"])] = features[:, column]
    return probs


def conventional_names(features: np.ndarray, num_classes: int) -> tuple[str, ...] | None:
    """Names for a table that came without: the team's layout, if the table can be that.

    The layout: 15 metafeatures (or none), then C probabilities a model.  None if the number of
    columns does not fit it or the supposed probabilities leave [0, 1].
    """
    for meta in (METAFEATURES, ()):
        models, rest = divmod(features.shape[1] - len(meta), num_classes)
        body = features[:, len(meta) :]
        if rest == 0 and models >= 1 and len(body) and body.min() >= 0 and body.max() <= 1:
            names = [f"meta/{name}" for name in meta]
            names += [f"model_{m:02d}/p{c:02d}" for m in range(models) for c in range(num_classes)]
            return tuple(names)
    return None


def logit(probs: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) with p kept `LIMIT` away from 0 and 1."""
    p = np.clip(np.asarray(probs, np.float64), LIMIT, 1 - LIMIT)
    return np.log(p) - np.log1p(-p)


@dataclass(frozen=True)
class ClassInputs:
    """Inputs of one class. linear [N, D] with column 0 = 1 and column 1 = mean own logit.

    `trees` [N, T] float32 for boosters; `penalty`, `centre` [D]: relative strength and target of
    each linear weight (the centre is the plain mean of the models); `names` of the T columns;
    `named`: whether names tell which columns matter (else learners preselect); `kinds`: of the D
    and of the T columns (stack_protocols.KINDS, "" the constant), () where names don't tell.
    """

    linear: np.ndarray
    trees: np.ndarray
    penalty: np.ndarray
    centre: np.ndarray
    names: tuple[str, ...]
    named: bool = True
    kinds: tuple[tuple[str, ...], ...] = ((), ())

    def of_kinds(self, wanted: Sequence[str]) -> "ClassInputs":
        """These inputs with the columns of other kinds zero, so that no learner can use them."""
        if not self.named or set(wanted) >= {kind for side in self.kinds for kind in side}:
            return self
        linear, trees = (np.isin(side, ("", *wanted)) for side in self.kinds)
        return dataclasses.replace(
            self, linear=self.linear * linear, trees=self.trees * trees.astype(np.float32)
        )


def class_means(features: np.ndarray, where: Layout) -> np.ndarray:
    """Mean logit over models of every class: [N, C], 0 for a class that no model knows."""
    means = np.zeros((len(features), len(where.own)))
    for c, columns in enumerate(where.own):
        if columns:
            means[:, c] = logit(features[:, columns]).mean(axis=1)
    return means


def class_inputs(
    features: np.ndarray,
    where: Layout,
    c: int,
    scale: tuple[np.ndarray, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
    means: np.ndarray | None = None,
) -> tuple[ClassInputs, tuple[np.ndarray, np.ndarray]]:
    """Inputs of class c and the (mean, deviation) that standardise its linear columns.

    scale: the pair found on the fitting rows, to transform other rows; None finds it here;
    means: `class_means`, if already computed.
    """
    meta = features[:, where.meta].astype(np.float64)
    if where.named:
        means = class_means(features, where) if means is None else means
        own = logit(features[:, where.own[c]]) if where.own[c] else np.zeros((len(features), 0))
        mean = means[:, [c]]
        known = [k for k, columns in enumerate(where.own) if columns and k != c]
        blocks = [own - mean, meta, means[:, known]]
        trees = np.concatenate([mean, own, meta, means[:, known]], axis=1)
        labels = ["own/mean", *_labels(where.own[c], names), *_labels(where.meta, names)]
        labels += [f"mean/p{k:02d}" for k in known]
        kinds = ["own"] * (1 + len(where.own[c])) + _kinds(where.meta, names)
        kinds += ["others"] * len(known)
    else:
        kinds = []
        shares = (meta.min(axis=0) >= 0) & (meta.max(axis=0) <= 1) if len(meta) else False
        mean = np.zeros((len(features), 1))
        blocks = [np.where(_shares(scale, shares), logit(meta), meta)]
        trees, labels = meta, _labels(where.meta, names)
    body = np.concatenate(blocks, axis=1)
    if scale is None:
        deviation = body.std(axis=0)
        scale = (body.mean(axis=0), np.where(deviation > 1e-9, deviation, np.inf))
        if not where.named:
            scale = (*scale, shares)
    body = (body - scale[0]) / scale[1]
    linear = np.concatenate([np.ones((len(features), 1)), mean, body], axis=1)
    width = [block.shape[1] for block in blocks]
    penalty = np.repeat([1.0, 1.0, 3.0][: len(width)], width)
    penalty = np.concatenate([[0.0, 0.05], penalty])
    centre = np.zeros(len(penalty))
    centre[1] = 1.0
    trees = trees.astype(np.float32)
    by_kind = (("", *kinds), tuple(kinds)) if kinds else ((), ())
    return ClassInputs(linear, trees, penalty, centre, tuple(labels), where.named, by_kind), scale


def joint_columns(
    features: np.ndarray, where: Layout, means: np.ndarray, names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Columns [N, T] float32 for boosters of all classes, and their names: all that is no
    probability, and every class's mean over models."""
    known = [k for k, columns in enumerate(where.own) if columns]
    table = np.concatenate([features[:, where.meta], means[:, known]], axis=1)
    labels = (*_labels(where.meta, names), *(f"mean/p{k:02d}" for k in known))
    return table.astype(np.float32), labels


def _kinds(columns: Sequence[int], names: Sequence[str] | None) -> list[str]:
    """Metafeatures, and those of them that tell an image's side, or its files' size."""
    sides = [f"meta/{name}" for name in (*UNKNOWN_ALLOWED, "file_bytes")]
    return ["size" if label in sides else "meta" for label in _labels(columns, names)]


def _labels(columns: Sequence[int], names: Sequence[str] | None) -> list[str]:
    return [f"column {i}" if names is None else names[i] for i in columns]


def _shares(scale: tuple | None, found: np.ndarray) -> np.ndarray:
    return found if scale is None or len(scale) < 3 else scale[2].astype(bool)
