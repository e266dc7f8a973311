"""The workdir's tables joined on id: labels, groups and probabilities of the rows of one split."""

from collections.abc import Iterator, Sequence
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

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.stack.inputs import StackInputs

AUDIT = "audit"  # labelled rows on which nothing is fitted, by the networks of the submission
FINAL = "final"  # the test part by the networks of the submission: refitted ones, if there are
GIVEN_FOLD = "given_fold"  # column of splits.parquet, by the verb decide: folds of nested scores
PLAIN = "plain"  # predictions/{valid,test}_plain.parquet: of the image as it is, no other views


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
        """The rows of bool[N]."""
        return Rows(self.ids[kept], self.labels[kept], self.groups[kept], self.weights[kept])


def catalog(context: Context, roots: Sequence[str | Path]) -> "pd.DataFrame":
    """catalog.parquet with whole paths. roots: folders of the config's sources."""
    from hpa_jax.data import catalog as catalogs

    table = artifacts.read_table(context.path("catalog.parquet"))
    return catalogs.absolute(table, roots, context.path("imported"))


def unseen_parts(context: Context) -> tuple[str, ...]:
    """The parts that no network has seen: test, and audit where one is set apart."""
    return ("test", AUDIT) if context.config.split.audit else ("test",)


def labelled_rows(context: Context) -> Rows:
    """All rows that a refitted network learns: those of train and of valid."""
    train = split_rows(context, "train")
    if context.folds() != [None]:
        return train  # of all folds
    return joined(train, split_rows(context, "valid"))


def given_folds(context: Context, ids: np.ndarray) -> np.ndarray | None:
    """int[N]: folds of the labelled rows that were given to the verb decide; None: there are none,
    and folds are drawn."""
    if "given" not in context.flags:
        return None
    table = artifacts.read_table(context.path("splits.parquet"))
    return table.set_index("id")[GIVEN_FOLD][ids].to_numpy(int) if GIVEN_FOLD in table else None


def training_shares(context: Context) -> np.ndarray:
    """float[C]: share of each class among the competition's training images (train.csv), external
    and excluded ones apart; among all labelled images where no source is a competition; or what
    the verb decide was given."""
    if context.flags.get("given") is not None:
        return np.asarray(context.flags["given"], float)
    table = artifacts.read_table(context.path("catalog.parquet"))
    table = table[[labels is not None for labels in table["labels"]]]
    competition = table[table["source"] == "train"]
    return _labels_of(table if competition.empty else competition, context.num_classes).mean(axis=0)


def joined(*parts: Rows) -> Rows:
    """The rows of all parts, one after the other."""
    return Rows(*(np.concatenate([getattr(rows, f.name) for rows in parts]) for f in fields(Rows)))


def split_rows(context: Context, split: str, fold: int | None = None) -> Rows:
    """The rows of `split` ("train", "valid", "test" or "audit").

    With folds: valid is the given fold, or all that are trained; train is all that the given fold
    trains on, or all labelled rows but those that only validate (splits.VALID_ONLY).
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
    """The stored images uint8[H, W, 4] of `ids`, in that order."""
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


def sizes(catalog: "pd.DataFrame", weigh: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """(side of the microscope image in pixels, NaN where unknown; bytes of its files), [N].

    weigh: False: no file is looked at, and the second is None.
    """
    sides = catalog["original_size"].astype(float).to_numpy()
    if not weigh:
        return sides, None
    rows = catalog[list(reader.CHANNELS)].to_numpy(object)
    files = [{path for path in row if isinstance(path, str)} for row in rows]
    return sides, np.array([sum(Path(p).stat().st_size for p in own) for own in files], float)


def predictions(context: Context, name: str, split: str, plain: bool = False) -> Path:
    """Where a model's probabilities of one split lie; plain: of the image as it is alone."""
    refit = split in (FINAL, AUDIT) and context.config.refit
    folder = refitted(context, name) if refit else context.path("models", name)
    file = f"{rows_of(split)}_{PLAIN}" if plain else rows_of(split)
    return folder / "predictions" / f"{file}.parquet"


def refitted(context: Context, name: str) -> Path:
    """Where a model lies that is trained on all labelled images."""
    return context.path("models", name, "refit")


def rows_of(split: str) -> str:
    """The rows that a split's predictions are of: those of `final` are the test part's."""
    return "test" if split == FINAL else split


def all_predictions(context: Context, *splits: str) -> tuple[Path, ...]:
    """Where the probabilities of all models lie."""
    names = context.config.models
    return tuple(predictions(context, name, split) for name in names for split in splits)


def write_probabilities(path: Path, ids: np.ndarray, probs: np.ndarray) -> None:
    """Writes [N, C] as the table id, p00, ... (design §3); a class of NaN is an absent column."""
    from hpa_jax.inference.tables import write_table

    known = np.flatnonzero(~np.isnan(probs).all(axis=0))
    write_table(path, ids, probs[:, known], known)


def probabilities(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """float32[N, C] of a table, rows in the order of `ids`; NaN in classes it does not know.

    Raises:
        InputError: an id is missing or doubled in the table, or a value is not finite.
    """
    from hpa_jax.inference import ensemble

    found, _, columns = ensemble.joined({str(path): artifacts.read_table(path)}, ids.tolist())
    probs = np.full((len(ids), context.num_classes), np.nan, np.float32)
    probs[:, [int(name[1:]) for name in columns]] = found[0]
    return probs


def of_models(context: Context, split: str, ids: np.ndarray) -> np.ndarray:
    """float32[M, N, C] of the recipe's models, in its order; NaN: the model lacks the class."""
    paths = (predictions(context, name, split) for name in context.config.models)
    return np.stack([probabilities(path, ids, context) for path in paths])


def duplicate_groups(context: Context, ids: np.ndarray) -> np.ndarray:
    """int[N]: groups of the images `ids` that match each other, by duplicates.parquet."""
    from hpa_jax.data import duplicates

    place = {name: row for row, name in enumerate(ids)}
    pairs = artifacts.read_table(context.path("duplicates.parquet"))
    inside = pairs["id_a"].isin(place) & pairs["id_b"].isin(place)
    rows = [(place[a], place[b]) for a, b in pairs.loc[inside, ["id_a", "id_b"]].to_numpy(str)]
    return duplicates.groups(len(ids), np.array(rows, int).reshape(-1, 2))


def stack_inputs(context: Context, split: str, ids: np.ndarray) -> "StackInputs":
    """Metafeatures, principal components of embeddings and all models' probabilities of `ids`.

    An unknown size (of some kind) becomes the median of the validation images, on which the stack
    is fitted; if none of them has one, the column is left out.

    Raises:
        InputError: a table lacks an id.
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
    """The folder of the principal components of stored embeddings."""
    return context.path("features", "pca")


def truth(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """bool[N, C] labels of the test part: a table Id,Target, or one in a submission's form.

    For evaluate and report alone.

    Raises:
        InputError: the table lacks an id, has it twice, or has a label that is no class.
    """
    return _labels(path, ("target", "predicted"), ids, context)


def submission(path: Path, ids: np.ndarray, context: Context) -> np.ndarray:
    """bool[N, C] of a submission file, Id,Predicted, in the order of `ids`.

    Raises:
        InputError: the table lacks an id, has it twice, or has a label that is no class.
    """
    return _labels(path, ("predicted",), ids, context)


def _labels(path: Path, names: tuple[str, ...], ids: np.ndarray, context: Context) -> np.ndarray:
    """bool[N, C] of the label texts in the first column that has one of `names`."""
    table = csv_tables.read(path)
    column = next((name for name in names if name in table), None)
    if "id" not in table or column is None:
        found = ", ".join(table.columns)
        raise InputError(f"{path}: needs the columns Id,{names[0].capitalize()}; it has {found}")
    doubled = table["id"][table["id"].duplicated()]
    if len(doubled):
        raise InputError(f"{path}: id {doubled.iloc[0]!r} is there twice")
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
