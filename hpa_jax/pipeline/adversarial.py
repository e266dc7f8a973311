"""The verb `adversarial`: training images against test images, by metafeatures or by a network.

In: packed images, the split, duplicate groups.  Out: the AUC of the distinction, a score of each
training image (high: similar to test), One More Layer's hold-out (every second image of the
test-like half, a list for split.force_valid), and the images most unlike test.

Labelled images are those of train and valid; the audit part and excluded images are not used.
"""

import hashlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.decision import adversarial as validation
from hpa_jax.pipeline import predict, tables
from hpa_jax.pipeline.context import Context, opened

if TYPE_CHECKING:
    import pandas as pd

INNER = 0.1  # share of a network's training rows that it validates on
LISTED = 100  # images in adversarial_unlike.csv


def adversarial(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Classify training against test images -> adversarial.{json,parquet}, adversarial_*.csv.

    A killed call resumes: finished folds are kept, the current fold's network continues training.

    Raises:
        InputError: no labelled or test images, or fewer than folds.
    """
    context, settings = opened(config, flags), config.adversarial
    rows, is_test, source = _rows(context)
    by = _by_network if settings.variant == "network" else _by_features
    result = by(context, rows, is_test)
    table = validation.table(rows.ids, is_test, result, settings.fraction)
    table["source"] = table["id"].map(dict(zip(rows.ids, source)))
    _write(context, table, _summary(context, result, table))


def _rows(context: Context) -> tuple[tables.Rows, np.ndarray, np.ndarray]:
    """Return rows of the configured sources and of test, bool[N] is test, str[N] source."""
    labelled, test = tables.labelled_rows(context), tables.split_rows(context, "test")
    catalog = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["source"]
    labelled = labelled.where(catalog[labelled.ids].isin(context.config.adversarial.sources))
    if not len(labelled.ids):
        raise InputError(
            f"config.adversarial.sources={context.config.adversarial.sources}: no labelled image"
        )
    rows = tables.joined(labelled, test)
    is_test = np.arange(len(rows.ids)) >= len(labelled.ids)
    return rows, is_test, catalog[rows.ids].to_numpy(str)


def _by_features(context: Context, rows: tables.Rows, is_test: np.ndarray) -> validation.Result:
    """Score with boosted trees on the metafeatures that are known for every image."""
    from hpa_jax.decision.features import metafeature_table

    config = context.config
    catalog = tables.catalog(context).set_index("id")
    sizes = tables.sizes(catalog.loc[rows.ids], config.features.extra)
    images = tables.images(context, rows.ids)
    features = metafeature_table(images, rows.ids, *sizes, **config.features)
    features = features.set_index("id").dropna(axis=1)
    return validation.on_features(
        features.to_numpy(float),
        is_test,
        list(features.columns),
        groups=rows.groups,
        folds=config.adversarial.folds,
        seed=config.seed,
    )


def _by_network(context: Context, rows: tables.Rows, is_test: np.ndarray) -> validation.Result:
    """Score with one network per fold, trained by the training engine -> adversarial/fold_K/."""
    config, number = context.config, itertools.count()

    def fit_predict(fit: np.ndarray, score: np.ndarray) -> np.ndarray:
        folder = context.path("adversarial", f"fold_{next(number)}")
        return _fold(context, rows, is_test, fit, score, folder)

    scores = validation.cross_fitted(
        is_test,
        fit_predict,
        groups=rows.groups,
        folds=config.adversarial.folds,
        seed=config.seed,
    )
    return validation.judged(scores, is_test)


def _fold(
    context: Context,
    rows: tables.Rows,
    is_test: np.ndarray,
    fit: np.ndarray,
    score: np.ndarray,
    folder: Path,
) -> np.ndarray:
    """Return scores of the rows `score` by a network trained on `fit`, or read stored ones.

    A folder of another model, other images or another split is replaced.
    """
    from hpa_jax.inference import sweep

    records = _records(context)
    key = _key(context, rows.ids, is_test, fit, sweep.content(records))
    if folder.is_dir() and _read(folder / "of.json") != key:
        artifacts.remove(folder)
    artifacts.write_json(folder / "of.json", key)
    scored = folder / "scores.parquet"
    if not scored.is_file():
        _train(context, rows, is_test, fit, folder)
        ids = rows.ids[score]
        outputs = predict.predict_rows(
            context, context.config.adversarial.model, folder, ids, "scored", folder.name
        )
        _write_scores(scored, ids, outputs.probs[:, 0])
        for leftover in ("predict_parts", "checkpoints", "compilation_cache"):
            artifacts.remove(folder / leftover)
    return artifacts.read_table(scored).set_index("id")["score"].loc[rows.ids[score]].to_numpy()


def _train(
    context: Context, rows: tables.Rows, is_test: np.ndarray, fit: np.ndarray, folder: Path
) -> None:
    """Train for one class, test; validate on INNER of the rows `fit`, duplicate groups whole."""
    from hpa_jax.core import stratification
    from hpa_jax.training import loop

    labels = is_test[:, None].astype(np.uint8)
    inner = stratification.holdout(labels[fit], rows.groups[fit], INNER, context.config.seed)
    loop.train(
        context.config.adversarial.model,
        name=f"adversarial {folder.name}",
        directory=folder,
        records=_records(context),
        train_ids=rows.ids[fit[~inner]],
        train_labels=labels[fit[~inner]],
        valid_ids=rows.ids[fit[inner]],
        valid_labels=labels[fit[inner]],
        class_names=("test",),
        settings=context.config.train,
        seed=context.config.seed,
    )


def _records(context: Context) -> Any:
    from hpa_jax.data.batches import Records

    return Records(context.records_of(context.config.adversarial.model))


def _key(
    context: Context, ids: np.ndarray, is_test: np.ndarray, fit: np.ndarray, stored: str
) -> dict[str, str]:
    """Return a digest of all that the scores of a fold depend on."""
    config = context.config
    facts = [config.adversarial.model.to_dict(), config.train.to_dict(), config.seed, stored]
    facts += [ids.tolist(), is_test.tolist(), fit.tolist()]
    text = json.dumps(artifacts.plain(facts), sort_keys=True)
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def _read(path: Path) -> Any:
    return artifacts.read_json(path) if path.is_file() else None


def _write_scores(path: Path, ids: np.ndarray, scores: np.ndarray) -> None:
    import pandas as pd

    artifacts.write_table(path, pd.DataFrame({"id": ids, "score": scores.astype(float)}))


def _summary(context: Context, result: validation.Result, table: "pd.DataFrame") -> dict[str, Any]:
    """Return the content of adversarial.json."""
    settings, labelled = context.config.adversarial, ~table["is_test"]
    by_source = {}
    for source in sorted(set(table.loc[labelled, "source"])):
        part = table[table["is_test"] | (table["source"] == source)]
        auc, low, high = validation.auc_interval(part["is_test"], part["score"])
        rows = int((~part["is_test"]).sum())
        by_source[source] = {"auc": auc, "auc_low": low, "auc_high": high, "rows": rows}
    return {
        **result.as_json(),
        "variant": settings.variant,
        "folds": settings.folds,
        "labelled": int(labelled.sum()),
        "effective_size": validation.effective_size(table.loc[labelled, "weight"]),
        "by_source": by_source,
    }


def _write(context: Context, table: "pd.DataFrame", summary: dict[str, Any]) -> None:
    """Write the files and print a summary."""
    artifacts.write_table(context.path("adversarial.parquet"), table)
    labelled = table[~table["is_test"]]
    lists = {
        "adversarial_valid.csv": labelled.loc[labelled["test_like"], ["id"]],
        "adversarial_unlike.csv": labelled[["id", "source", "score", "weight"]].head(LISTED),
    }
    for name, rows in lists.items():
        with artifacts.atomic(context.path(name)) as temporary:
            rows.to_csv(temporary, index=False)
    artifacts.write_json(context.path("adversarial.json"), summary)
    low, high = summary["auc_low"], summary["auc_high"]
    print(
        f"AUC of {' and '.join(summary['by_source'])} against test, by {summary['variant']}: "
        f"{summary['auc']:.3f} ({low:.3f} to {high:.3f})"
    )
    if len(summary["by_source"]) > 1:
        for source, part in summary["by_source"].items():
            low, high = part["auc_low"], part["auc_high"]
            print(f"  {source}: {part['auc']:.3f} ({low:.3f} to {high:.3f})")
    print(
        f"weighted by similarity to test, {summary['labelled']:,} images have an effective size of "
        f"{summary['effective_size']:,.0f}; {len(lists['adversarial_valid.csv']):,} test-like "
        f"ones -> adversarial_valid.csv; most unlike test: {', '.join(labelled['id'].head(3))}"
    )
