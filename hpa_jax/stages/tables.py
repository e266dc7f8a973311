"""The workdir's tables joined on id: labels, groups and probabilities of the rows of one split."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax import artifacts, classes
from hpa_jax.context import Context
from hpa_jax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

PLAIN = "plain"  # predictions/{valid,test}_plain.parquet: of the picture as it is, no other views


@dataclass(frozen=True)
class Rows:
    """Rows of one split, in the order of the catalog.

    labels: bool[N, C]; groups: int[N]; weights: float[N], how often training draws a picture.
    """

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    weights: np.ndarray


def split_rows(context: Context, split: str, fold: int | None = None) -> Rows:
    """The rows of `split` ("train", "valid" or "test").

    With folds, valid is every row that has a fold (or the given fold's), train all others of them.
    """
    table = artifacts.read_table(context.path("catalog.parquet"))
    table = table.merge(artifacts.read_table(context.path("splits.parquet")), on="id")
    table = table.merge(artifacts.read_table(context.path("groups.parquet")), on="id")
    return _rows(table[_chosen(table, split, fold)], context.num_classes)


def _chosen(table: "pd.DataFrame", split: str, fold: int | None) -> np.ndarray:
    folds = table["fold"].notna().to_numpy()
    if split == "test" or not folds.any():
        return (table["split"] == split).to_numpy()
    if split == "valid":
        return folds & ((table["fold"] == fold).to_numpy() if fold is not None else True)
    return (table["split"].isin(["train", "valid"]).to_numpy()) & (table["fold"] != fold).to_numpy()


def _rows(table: "pd.DataFrame", num_classes: int) -> Rows:
    labels = np.zeros((len(table), num_classes), bool)
    for row, numbers in enumerate(table["labels"]):
        if numbers is not None:
            labels[row, np.asarray(numbers, int)] = True
    weights = table["weight"].to_numpy(float) if "weight" in table else np.ones(len(table))
    return Rows(table["id"].to_numpy(str), labels, table["group"].to_numpy(int), weights)


def images(context: Context, ids: np.ndarray) -> Iterator[np.ndarray]:
    """The stored pictures uint8[H, W, 4] of `ids`, in that order."""
    from hpa_jax.data.input import Records, eval_batches

    records = Records(context.records)
    batches = eval_batches(
        records,
        ids,
        None,
        batch_size=min(64, len(ids)),
        channels=records.channels,
        image_size=records.image_size,
    )
    for batch in batches:
        yield from batch["image"][batch["mask"]]


def predictions(context: Context, name: str, split: str) -> Path:
    """Where a model's probabilities of one split lie (split_PLAIN: of the plain view alone)."""
    return context.path("models", name, "predictions", f"{split}.parquet")


def write_probabilities(path: Path, ids: np.ndarray, probs: np.ndarray) -> None:
    """Writes float32 [N, C] as the table id, p00, p01, ... (design §3)."""
    import pandas as pd

    columns = {f"p{number:02d}": probs[:, number] for number in range(probs.shape[1])}
    artifacts.write_table(path, pd.DataFrame({"id": ids, **columns}))


def probabilities(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """float32[N, C] of a table, rows in the order of `ids`; NaN in classes it does not know.

    Raises:
        InputError: an id is missing or doubled in the table, or a value is not finite.
    """
    table = artifacts.read_table(path)
    doubled = table["id"][table["id"].duplicated()]
    if len(doubled):
        raise InputError(f"{path}: id {doubled.iloc[0]!r} is doubled; predict again")
    table = table.set_index("id")
    absent = np.setdiff1d(ids, table.index.to_numpy(str))
    if len(absent):
        raise InputError(f"{path}: no row for id {absent[0]!r} (of {len(absent)}); predict again")
    probs = np.full((len(ids), context.num_classes), np.nan, np.float32)
    for number in range(context.num_classes):
        column = f"p{number:02d}"
        if column in table:
            probs[:, number] = table.loc[ids, column]
            if not np.isfinite(probs[:, number]).all():
                row = ids[~np.isfinite(probs[:, number])][0]
                raise InputError(f"{path}: {column} of id {row!r} is no finite number")
    return probs


def stack_features(context: Context, split: str, ids: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """float[N, F] of the stack and its columns: "meta/NAME", then "MODEL/pNN" of each model.

    A metafeature that is unknown (NaN) for any validation or test picture is left out.
    """
    both = {
        part: artifacts.read_table(context.path("features", f"{part}.parquet")).set_index("id")
        for part in ("valid", "test")
    }
    known = [name for name in both["valid"] if not any(t[name].isna().any() for t in both.values())]
    names, columns = (
        [f"meta/{name}" for name in known],
        [both[split].loc[ids, known].to_numpy(float)],
    )
    for model in context.config.models:
        probs = probabilities(predictions(context, model, split), ids, context)
        own = np.flatnonzero(~np.isnan(probs).all(axis=0))
        names += [f"{model}/p{number:02d}" for number in own]
        columns.append(probs[:, own])
    return np.concatenate(columns, axis=1), names


def truth(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """bool[N, C] labels of the test part. For evaluate and report alone.

    Raises:
        InputError: the table lacks an id or has a label that is no class.
    """
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if "Id" not in table or len(table.columns) < 2:
        raise InputError(f"{path}: needs the columns Id,Target")
    targets = dict(zip(table["Id"].str.strip(), table[table.columns[1]]))
    labels = np.zeros((len(ids), context.num_classes), bool)
    for row, identity in enumerate(ids):
        if identity not in targets:
            raise InputError(f"{path}: no row for test id {identity!r}")
        try:
            labels[row] = classes.encode(targets[identity], context.num_classes)
        except ValueError as error:
            raise InputError(f"{path}: id {identity!r}: {error}") from None
    return labels
