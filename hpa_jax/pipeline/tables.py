"""Access to the workdir's tables: labels, groups and probabilities of the rows of a split."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core import artifacts, classes
from hpa_jax.core.errors import InputError
from hpa_jax.core.tables import by_id
from hpa_jax.data import reader
from hpa_jax.data.sources import csv_tables
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.sources import roots

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.stack.inputs import StackInputs

AUDIT = "audit"  # labelled rows not used for fitting; predicted by the submission's networks
FINAL = "final"  # the test part, predicted by the submission's networks (refitted if any)
GIVEN_FOLD = "given_fold"  # column of splits.parquet from the verb decide: folds of scoring
PLAIN = "plain"  # predictions/{valid,test}_plain.parquet: of the unchanged image only

SPLIT_TABLES = ("catalog.parquet", "splits.parquet", "groups.parquet")


@dataclass(frozen=True)
class Rows:
    """Rows of one split, in the order of the catalog.

    labels: bool[N, C]; groups: int[N]; weights: float[N], how often training draws an image.
    """

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    weights: np.ndarray

    def where(self, kept: np.ndarray) -> "Rows":
        """Return the rows selected by bool[N]."""
        return Rows(self.ids[kept], self.labels[kept], self.groups[kept], self.weights[kept])


def catalog(context: Context) -> "pd.DataFrame":
    """Read catalog.parquet with absolute paths."""
    from hpa_jax.data import catalog as catalogs

    table = artifacts.read_table(context.path("catalog.parquet"))
    return catalogs.absolute(table, roots(context), context.path("imported"))


def unseen_parts(context: Context) -> tuple[str, ...]:
    """Return the parts that no network is trained on: test, and audit if configured."""
    return ("test", AUDIT) if context.config.split.audit else ("test",)


def labelled_rows(context: Context) -> Rows:
    """Return the training rows of a refitted network: train and valid."""
    train = split_rows(context, "train")
    if context.folds() != [None]:
        return train  # of all folds
    return joined(train, split_rows(context, "valid"))


def given_folds(context: Context, ids: np.ndarray) -> np.ndarray | None:
    """Return int[N], the folds of labelled rows passed to the verb decide; None: random folds."""
    if "given" not in context.flags:
        return None
    table = artifacts.read_table(context.path("splits.parquet"))
    return table.set_index("id")[GIVEN_FOLD][ids].to_numpy(int) if GIVEN_FOLD in table else None


def training_shares(context: Context) -> np.ndarray:
    """Return float[C], the share of each class in the competition's train.csv.

    Without a competition, among all labelled images; for the verb decide, the shares passed to it.
    Labels of the parts that no network is trained on (`unseen_parts`) don't count.
    """
    if context.flags.get("given") is not None:
        return np.asarray(context.flags["given"], float)
    table = artifacts.read_table(context.path("catalog.parquet"))
    splits = artifacts.read_table(context.path("splits.parquet"))
    unseen = splits["id"][splits["split"].isin(unseen_parts(context))]
    table = table[table["labels"].notna() & ~table["id"].isin(unseen)]
    competition = table[table["source"] == "train"]
    return _labels_of(table if competition.empty else competition, context.num_classes).mean(axis=0)


def joined(*parts: Rows) -> Rows:
    """Concatenate rows."""
    return Rows(*(np.concatenate([getattr(rows, f.name) for rows in parts]) for f in fields(Rows)))


def split_rows(context: Context, split: str, fold: int | None = None) -> Rows:
    """Return the rows of `split` ("train", "valid", "test" or "audit").

    With folds: valid is `fold`, or all trained folds; train is the training rows of `fold`, or all
    labelled rows but those that only validate (splits.VALID_ONLY).
    """
    table = artifacts.read_table(context.path("catalog.parquet"))
    table = table.merge(artifacts.read_table(context.path("splits.parquet")), on="id")
    table = table.merge(artifacts.read_table(context.path("groups.parquet")), on="id")
    return _rows(table[_chosen(context, table, split, fold)], context.num_classes)


def _chosen(context: Context, table: "pd.DataFrame", split: str, fold: int | None) -> np.ndarray:
    if split in ("test", AUDIT) or table["fold"].isna().all():
        return (table["split"] == split).to_numpy()
    if split == "valid":
        return table["fold"].isin(context.folds() if fold is None else [fold]).to_numpy()
    return (table["split"].isin(["train", "valid"]).to_numpy()) & (table["fold"] != fold).to_numpy()


def _rows(table: "pd.DataFrame", num_classes: int) -> Rows:
    labels = _labels_of(table, num_classes)
    weights = table["weight"].to_numpy(float) if "weight" in table else np.ones(len(table))
    return Rows(table["id"].to_numpy(str), labels, table["group"].to_numpy(int), weights)


def _labels_of(table: "pd.DataFrame", num_classes: int) -> np.ndarray:
    labels = np.zeros((len(table), num_classes), bool)
    for row, numbers in enumerate(table["labels"]):
        if numbers is not None:
            labels[row, np.asarray(numbers, int)] = True
    return labels


def images(context: Context, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the stored images uint8[H, W, 4] of `ids`, in that order."""
    from hpa_jax.data.batches import Records, eval_batches

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


def sizes(catalog: "pd.DataFrame", with_bytes: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (side of the microscope image in pixels, NaN if unknown; bytes of its files), [N].

    with_bytes: False: files are not accessed, and the second is None.
    """
    sides = catalog["original_size"].astype(float).to_numpy()
    if not with_bytes:
        return sides, None
    rows = catalog[list(reader.CHANNELS)].to_numpy(object)
    files = [{path for path in row if isinstance(path, str)} for row in rows]
    return sides, np.array(
        [sum(Path(path).stat().st_size for path in paths) for paths in files], float
    )


def predictions(context: Context, name: str, split: str, plain: bool = False) -> Path:
    """Return the path of a model's probabilities of one split; plain: of the unchanged image."""
    refit = split in (FINAL, AUDIT) and context.config.refit
    folder = refitted(context, name) if refit else context.path("models", name)
    file = f"{rows_of(split)}_{PLAIN}" if plain else rows_of(split)
    return folder / "predictions" / f"{file}.parquet"


def refitted(context: Context, name: str) -> Path:
    """Return the folder of a model trained on all labelled images."""
    return context.path("models", name, "refit")


def rows_of(split: str) -> str:
    """Return the split whose rows are predicted: test for `final`."""
    return "test" if split == FINAL else split


def all_predictions(context: Context, *splits: str) -> tuple[Path, ...]:
    """Return the paths of all models' probabilities."""
    names = context.config.models
    return tuple(predictions(context, name, split) for name in names for split in splits)


def write_probabilities(path: Path, ids: np.ndarray, probs: np.ndarray) -> None:
    """Write [N, C] as the table id, p00, ... (design §3) without classes that are all NaN."""
    from hpa_jax.inference.tables import write_table

    known = np.flatnonzero(~np.isnan(probs).all(axis=0))
    write_table(path, ids, probs[:, known], known)


def probabilities(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """Read float32[N, C] from a table, rows in the order of `ids`; NaN in missing classes.

    Raises:
        InputError: a missing or duplicate id, or a value that is not finite.
    """
    from hpa_jax.inference import ensemble

    values, _, columns = ensemble.joined({str(path): artifacts.read_table(path)}, ids.tolist())
    probs = np.full((len(ids), context.num_classes), np.nan, np.float32)
    probs[:, [int(name[1:]) for name in columns]] = values[0]
    return probs


def of_models(context: Context, split: str, ids: np.ndarray) -> np.ndarray:
    """Read float32[M, N, C] of the recipe's models; NaN if a model lacks the class."""
    paths = (predictions(context, name, split) for name in context.config.models)
    return np.stack([probabilities(path, ids, context) for path in paths])


def duplicate_groups(context: Context, ids: np.ndarray) -> np.ndarray:
    """Return int[N], the groups of near-duplicates among the images `ids`."""
    from hpa_jax.data import duplicates

    place = {name: row for row, name in enumerate(ids)}
    pairs = artifacts.read_table(context.path("duplicates.parquet"))
    inside = pairs["id_a"].isin(place) & pairs["id_b"].isin(place)
    rows = [(place[a], place[b]) for a, b in pairs.loc[inside, ["id_a", "id_b"]].to_numpy(str)]
    return duplicates.groups(len(ids), np.array(rows, int).reshape(-1, 2))


def stack_inputs(context: Context, split: str, ids: np.ndarray) -> "StackInputs":
    """Return metafeatures, principal components and all models' probabilities of `ids`.

    Unknown sizes become the median of the validation images, on which the stack is fitted; if it is
    unknown, too, the column is dropped.

    Raises:
        InputError: a missing id.
    """
    from hpa_jax.decision.stack import inputs

    fitted, table = (
        artifacts.read_table(context.path("features", f"{part}.parquet"))
        for part in ("valid", rows_of(split))
    )
    sizes = [name for name in inputs.SIZES if name in fitted]
    medians = fitted[sizes].median().dropna()
    table = table.drop(columns=[name for name in sizes if name not in medians]).fillna(medians)
    meta = by_id(table, ids, f"features of {split}").drop(columns="id")
    if context.config.embeddings.pca:
        path = components(context) / f"{rows_of(split)}.parquet"
        reduced = by_id(artifacts.read_table(path), ids, f"components of {split}")
        meta = meta.reset_index(drop=True).join(reduced.drop(columns="id").reset_index(drop=True))
    models, probs = list(context.config.models), of_models(context, split, ids)
    return inputs.of_tables(probs, models, meta.to_numpy(np.float64), list(meta.columns))


def components(context: Context) -> Path:
    """Return the folder of the principal components of stored embeddings."""
    return context.path("features", "pca")


def truth(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """Read test labels bool[N, C] from a table Id,Target or Id,Predicted.

    Only for evaluate and report.

    Raises:
        InputError: a missing or duplicate id, or an invalid label.
    """
    return _labels(path, ("target", "predicted"), ids, context)


def submission(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """Read bool[N, C] from a submission file Id,Predicted, in the order of `ids`.

    Raises:
        InputError: a missing or duplicate id, or an invalid label.
    """
    return _labels(path, ("predicted",), ids, context)


def _labels(path: Path, names: tuple[str, ...], ids: np.ndarray, context: Context) -> np.ndarray:
    """Read labels bool[N, C] from the first column of `names` in the table."""
    table = csv_tables.read(path)
    column = next((name for name in names if name in table), None)
    if "id" not in table or column is None:
        columns = ", ".join(table.columns)
        raise InputError(f"{path}: needs the columns Id,{names[0].capitalize()}; it has {columns}")
    duplicates = table["id"][table["id"].duplicated()]
    if len(duplicates):
        raise InputError(f"{path}: id {duplicates.iloc[0]!r} is there twice")
    texts = dict(zip(table["id"], table[column]))
    labels = np.zeros((len(ids), context.num_classes), bool)
    for row, identity in enumerate(ids):
        if identity not in texts:
            raise InputError(f"{path}: no row for test id {str(identity)!r}")
        try:
            labels[row] = classes.encode(texts[identity], context.num_classes)
        except ValueError as error:
            raise InputError(f"{path}: id {str(identity)!r}: {error}") from None
    return labels
