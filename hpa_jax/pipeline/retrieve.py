"""The step `retrieve`: metric learning, then each image's nearest labelled neighbour.

An embedding network learns to distinguish antibodies; an image whose nearest labelled neighbour has
a similarity of at least tau shows the same protein and may take its labels (bestfitting A).
Validation rows have training rows as neighbours, so that the effect on the score can be measured;
test rows have all labelled rows.  Near-duplicates do not count: the leak table covers them.  With
folds, the network was trained on the antibodies (not the labels) of all labelled rows, so scores of
neighbours are slightly optimistic on validation, not on test.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.config import settings as options
from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import inputs as inputs_of
from hpa_jax.pipeline import tables
from hpa_jax.pipeline.cache import Part, Task
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.tables import Rows

if TYPE_CHECKING:
    import pandas as pd


def retrieve(context: Context) -> list[Task]:
    """Return the tasks: train the network, embed, find neighbours -> retrieval/; none if off.

    With --collect (trained elsewhere) or retrieval.embeddings_of (a frozen network) only the
    neighbours remain.
    """
    settings = context.config.retrieval
    if settings.mode == "off":
        return []
    if context.flags.get("collect") or settings.embeddings_of:
        return [_neighbours(context)]
    return [_train(context), _embed(context), _neighbours(context)]


def _train(context: Context) -> Task:
    config, folder = context.config, context.path("retrieval", "network")
    settings = config.retrieval

    def work() -> str:
        from hpa_jax.data.batches import Records
        from hpa_jax.training import metric_learning

        rows = tables.split_rows(context, "train")
        _, held_out = metric_learning.train(
            settings.model,
            name="retrieval",
            directory=folder,
            records=Records(context.records_of(settings.model)),
            ids=rows.ids,
            antibodies=antibodies(context, rows.ids),
            groups=rows.groups,
            settings=config.train,
            seed=config.seed,
            share=settings.holdout,
            min_images=settings.min_images,
        )
        artifacts.write_json(folder / "held_out.json", list(rows.ids[held_out]))
        return f"antibodies of {len(rows.ids):,} images, {held_out.sum():,} held out"

    train_settings = {
        k: v for k, v in config.train.to_dict().items() if k not in options.WITHOUT_RESULT
    }
    stamped = {
        "retrieval.model": inputs_of.stamped(settings.model),
        "train": train_settings,
        **inputs_of.stored(context, settings.model),
        "retrieval.holdout": settings.holdout,
        "retrieval.min_images": settings.min_images,
        "seed": config.seed,
    }

    def antibody_digest() -> str:
        rows = tables.split_rows(context, "train")
        return digest(rows.ids, antibodies(context, rows.ids))

    def rows() -> list[Rows]:
        return [tables.split_rows(context, "train")]

    inputs = (
        inputs_of.rows_read(
            context, "training rows", rows, images=context.records_of(settings.model), groups=True
        ),
        Part("antibodies", context.paths(*tables.SPLIT_TABLES), antibody_digest),
        *inputs_of.started_with(settings.model),
    )
    names = ("checkpoints", "metrics.jsonl", "held_out.json")
    outputs = tuple(folder / name for name in names)
    name = "train-retrieval"
    return Task("train", name, work, stamped, inputs, outputs, "same", fitted=True)


def to_learn(context: Context) -> tuple[list[str], int]:
    """Return the antibodies that the network is trained on and the number of their images.

    Raises:
        InputError: fewer than two antibodies.
    """
    from hpa_jax.training import metric_learning

    settings = context.config.retrieval
    labels = antibodies(context, tables.split_rows(context, "train").ids)
    names, numbers = metric_learning.classes_of(labels, settings.min_images)
    return names, round((numbers >= 0).sum() * (1 - settings.holdout))


def _embed(context: Context) -> Task:
    folder, output = context.path("retrieval", "network"), context.path("retrieval", "embeddings")
    views = context.config.retrieval.model.views
    settings = {"retrieval.model.views": views}
    settings |= inputs_of.stored(context, context.config.retrieval.model)
    stored = context.records_of(context.config.retrieval.model)

    def work() -> str:
        import jax

        from hpa_jax.data.batches import Records
        from hpa_jax.inference import sweep
        from hpa_jax.inference.tables import write_embeddings
        from hpa_jax.training import metric_learning

        network, trained = metric_learning.load(folder)
        outputs = {}
        for part, ids in _ids(context).items():
            outputs[part] = sweep.predict_records(
                network,
                trained,
                Records(stored),
                ids,
                batch_size=context.config.predict.batch_size,
                views=views,
                directory=folder / "predict_parts" / part,
                title=f"retrieval, {part}",
            ).embeddings
        if jax.process_index() == 0:
            with artifacts.atomic(output) as temporary:
                temporary.mkdir()
                for part, ids in _ids(context).items():
                    write_embeddings(temporary / f"{part}.parquet", ids, outputs[part])
        artifacts.remove(folder / "predict_parts")
        return ", ".join(f"{len(rows):,} {part}" for part, rows in outputs.items())

    def rows() -> list[Rows]:
        return [Rows(ids, *[np.zeros(len(ids))] * 3) for ids in _ids(context).values()]

    inputs = (folder / "checkpoints", inputs_of.rows_read(context, "rows", rows, images=stored))
    name = "predict-retrieval"
    return Task("predict", name, work, settings, inputs, (output,), fitted=True)


def _neighbours(context: Context) -> Task:
    """Find neighbours of validation, test and audit -> retrieval/PART.parquet, scores.json."""
    parts = ("valid", *tables.unseen_parts(context))
    names = (*(f"{part}.parquet" for part in parts), "scores.json")
    outputs = tuple(context.path("retrieval", name) for name in names)
    settings = context.config.retrieval

    def work() -> str:
        from hpa_jax.inference import retrieval

        nearest = {part: _nearest(context, part) for part in parts}
        for part, output in zip(nearest, outputs):
            artifacts.write_table(output, nearest[part])
        rows = tables.split_rows(context, "valid")
        neighbour_labels = labels_of(context, nearest["valid"])
        scores = {
            "recall_at_1": _recall(context),
            "validation": retrieval.agreement(
                rows.labels,
                neighbour_labels,
                nearest["valid"]["similarity"].to_numpy(),
                sorted({*retrieval.TAUS, settings.tau}),
            ).to_dict("records"),
            "tau": settings.tau,
            "taken": {part: float((t["similarity"] >= settings.tau).mean())
                      for part, t in nearest.items()},
        }  # fmt: skip
        artifacts.write_json(outputs[-1], scores)
        recall, taken = scores["recall_at_1"], scores["taken"]["test"]
        return (
            f"recall@1 {recall['recall']:.3f} (chance {recall['chance']:.3f}, "
            f"{recall['queries']:,} held-out images); {taken:.1%} of test within tau"
        )

    stamped = {"retrieval.tau": settings.tau, "retrieval.backend": settings.backend}
    inputs: tuple[Path | Part, ...] = context.paths(*tables.SPLIT_TABLES)
    if settings.embeddings_of:

        def rows() -> list[Rows]:
            return [tables.split_rows(context, part) for part in ("train", *parts)]

        stamped["retrieval.embeddings_of"] = settings.embeddings_of
        model = context.config.models[settings.embeddings_of]
        inputs += inputs_of.embeddings_read(context, model, rows)
    else:
        inputs += context.paths("retrieval/embeddings", "retrieval/network/held_out.json")
    return Task("retrieve", "retrieve", work, stamped, inputs, outputs)


def replaced(
    context: Context, split: str, ids: np.ndarray, decided: np.ndarray
) -> tuple[np.ndarray, int]:
    """Return bool[N, C] with near neighbours' labels in mode "replace", and the rows changed.

    Raises:
        InputError: an id missing in the table of neighbours.
    """
    if context.config.retrieval.mode != "replace":
        return decided, 0
    from hpa_jax.inference import retrieval

    table = _table(context, split, ids)
    labels = labels_of(context, table)
    result, taken = retrieval.transfer(
        decided, labels, table["similarity"].to_numpy(), tau=context.config.retrieval.tau
    )
    return result, int(taken.sum())


def boosted(context: Context, split: str, ids: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Move probs [N, C] towards near neighbours' labels in mode "boost"; NaN classes stay NaN."""
    if context.config.retrieval.mode != "boost":
        return probs
    from hpa_jax.inference import retrieval

    table = _table(context, split, ids)
    labels = labels_of(context, table).astype(probs.dtype)
    similarity = table["similarity"].to_numpy()
    tau = context.config.retrieval.tau
    return retrieval.transfer(probs, labels, similarity, tau=tau, mode="boost")[0]


def files(context: Context) -> tuple[Path, ...]:
    """Return the tables of neighbours, inputs of later steps."""
    if context.config.retrieval.mode == "off":
        return ()
    parts = ("valid", *tables.unseen_parts(context))
    return context.paths(*(f"retrieval/{part}.parquet" for part in parts))


def settings(context: Context) -> dict[str, Any]:
    """Return the options that later steps depend on."""
    return {
        "retrieval.mode": context.config.retrieval.mode,
        "retrieval.tau": context.config.retrieval.tau,
    }


def labels_of(context: Context, table: "pd.DataFrame") -> np.ndarray:
    """Return bool[N, C], the labels of each row's neighbour, empty without one."""
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["labels"]
    labels = np.zeros((len(table), context.num_classes), bool)
    for row, neighbour in enumerate(table["neighbour"]):
        if isinstance(neighbour, str):  # pandas reads a missing one as None or NaN
            labels[row, np.asarray(catalog[neighbour], int)] = True
    return labels


def antibodies(context: Context, ids: np.ndarray) -> list[str | None]:
    """Return the antibody of each id, None if unknown."""
    table = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["antibody"]
    return [None if name is None or name != name else str(name) for name in table.loc[ids]]


def _ids(context: Context) -> dict[str, np.ndarray]:
    """Return ids by part; with folds, "train" holds all labelled rows but validation-only ones."""
    names = ("train", "valid", *tables.unseen_parts(context))
    parts = {part: tables.split_rows(context, part).ids for part in names}
    if context.folds() != [None]:
        parts["valid"] = parts["valid"][~np.isin(parts["valid"], parts["train"])]
    return {part: ids for part, ids in parts.items() if len(ids)}


def _nearest(context: Context, part: str) -> "pd.DataFrame":
    """Return the table id, neighbour, similarity of one part's rows, in their order."""
    import pandas as pd

    from hpa_jax.inference import retrieval

    queries = tables.split_rows(context, part)
    gallery = [tables.split_rows(context, "train")]
    query_codes, gallery_codes = queries.groups, gallery[0].groups
    if part == "valid" and context.folds() != [None]:
        # Like predictions, neighbours come from the other folds.
        query_codes, gallery_codes = _folds(context, queries), _folds(context, gallery[0])
    elif part != "valid" and context.folds() == [None]:
        gallery.append(tables.split_rows(context, "valid"))
        gallery_codes = np.concatenate([gallery_codes, gallery[1].groups])
    ids = np.concatenate([rows.ids for rows in gallery])
    pairs = retrieval.nearest(
        retrieval.standardised(_embeddings(context, queries.ids)),
        retrieval.standardised(_embeddings(context, ids)),
        query_codes=query_codes,
        gallery_codes=gallery_codes,
        backend=context.config.retrieval.backend,
    )
    first = pairs.rows[:, 0]
    neighbours = np.where(first >= 0, ids[first].astype(object), None)
    return pd.DataFrame(
        {"id": queries.ids, "neighbour": neighbours, "similarity": pairs.similarity[:, 0]}
    )


def _folds(context: Context, rows: Rows) -> np.ndarray:
    table = artifacts.read_table(context.path("splits.parquet")).set_index("id")["fold"]
    return table.loc[rows.ids].to_numpy(int)


def _embeddings(context: Context, ids: np.ndarray) -> np.ndarray:
    """Return the embeddings float32[N, E] of `ids`, from any parts."""
    if name := context.config.retrieval.embeddings_of:
        return inputs_of.pooled(context, context.config.models[name], ids)
    from hpa_jax.inference.tables import read_embeddings

    stored_ids, values = [], []
    for part in _ids(context):
        path = context.path("retrieval", "embeddings", f"{part}.parquet")
        part_ids, part_values = read_embeddings(path)
        stored_ids += list(part_ids)
        values.append(part_values)
    position = {id: row for row, id in enumerate(stored_ids)}
    return np.concatenate(values)[[position[id] for id in ids]]


def _recall(context: Context) -> dict[str, float]:
    """Return recall@1 of the held-out images among all training rows; of all rows for a frozen
    network, which was not trained on the antibodies."""
    from hpa_jax.inference import retrieval

    rows = tables.split_rows(context, "train")
    queries = None
    if not context.config.retrieval.embeddings_of:
        held_out = artifacts.read_json(context.path("retrieval", "network", "held_out.json"))
        queries = np.isin(rows.ids, held_out)
    return retrieval.recall_at_1(
        _embeddings(context, rows.ids),
        antibodies(context, rows.ids),
        rows.groups,
        among=queries,
    )


def _table(context: Context, split: str, ids: np.ndarray) -> "pd.DataFrame":
    table = artifacts.read_table(context.path("retrieval", f"{split}.parquet")).set_index("id")
    absent = [id for id in ids if id not in table.index]
    if absent:
        raise InputError(
            f"retrieval/{split}.parquet: no row for id {absent[0]!r}; run the step retrieve again"
        )
    return table.loc[ids]
