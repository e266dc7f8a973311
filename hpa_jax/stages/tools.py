"""Verbs that look or prepare and are no stage of `run`: classes, preview, lr_find, import_weights,
adversarial, label_noise.  Each reads a workdir in which the stages before it have run.
"""

import base64
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax import artifacts
from hpa_jax.errors import InputError
from hpa_jax.stages import tables
from hpa_jax.stages.networks import rows_to_fit, share_compiled
from hpa_jax.stages.prepare import opened


def classes(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Counts, pairs and graphs of the classes -> classes/."""
    from hpa_jax.data import statistics
    from hpa_jax.report import figures

    context = opened(config, flags)
    names = config.classes
    parts = {part: tables.split_rows(context, part).labels for part in ("train", "valid")}
    counts = statistics.frequencies(parts, names)
    pairs = statistics.strongest(parts["train"], names)
    for name, table in (("counts", counts), ("pairs", pairs)):
        with artifacts.atomic(context.path("classes", f"{name}.csv")) as temporary:
            table.to_csv(temporary, index=False)
    graph = statistics.graph(parts["train"], names, weight="count", at_least=0.02)
    for kind in ("kamada_kawai", "circular"):
        uri = figures.class_graph(graph, statistics.layout(graph, kind), names, kind)
        with artifacts.atomic(context.path("classes", f"graph_{kind}.svg")) as temporary:
            temporary.write_bytes(base64.b64decode(uri.split(",")[1]))
    print(counts.to_string(index=False, float_format=lambda share: f"{share:.3f}"))
    print(f"-> {context.path('classes')}")


def preview(config: ConfigDict, flags: dict[str, Any]) -> None:
    """A grid of pictures as each model's augmentation changes them -> preview/NAME.png."""
    from hpa_jax.training import preview as previews

    context = opened(config, flags)
    ids = tables.split_rows(context, "train").ids[:4]
    images = np.stack(list(tables.images(context, ids)))
    for name, model in context.models().items():
        path = context.path("preview", f"{name}.png")
        previews.write_png(path, previews.grid(images, model.augment, seed=config.seed))
        print(f"{model.augment} -> {path}")


def lr_find(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Learning-rate sweep of each model -> models/NAME/lr_find.{json,png}."""
    from hpa_jax.training import lr_finder

    context = opened(config, flags)
    share_compiled(context)
    for name, model, fold, folder in context.fits():
        found = lr_finder.find(
            model,
            name=name,
            directory=folder,
            **rows_to_fit(context, model, fold),
            settings=config.train,
            seed=config.seed,
            iterations=int(flags["iterations"]),
        )
        print(
            f"{name}: steepest {found['steepest']:.2g}, a tenth of the lowest's "
            f"{found['minimum_tenth']:.2g} -> {folder / 'lr_find.png'}"
        )


def import_weights(config: ConfigDict, flags: dict[str, Any]) -> None:
    """A published weight file -> an Orbax folder that a model's `init_from` takes."""
    from hpa_jax.models import pretrained

    for name in ("model", "weights", "out"):
        if not flags.get(name):
            raise InputError(f"import_weights: --{name} is missing")
    report = pretrained.import_weights(flags["model"], flags["weights"], flags["out"])
    print(f"{report.text()} -> {flags['out']}")


def label_noise(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Likely label errors among the validation pictures -> label_noise.csv."""
    from hpa_jax.decision import label_noise as noise
    from hpa_jax.inference import ensemble

    context = opened(config, flags)
    rows = tables.split_rows(context, "valid")
    probs = ensemble.mean(tables.of_models(context, "valid", rows.ids))
    found = noise.table(rows.ids, rows.labels, probs, config.classes)
    with artifacts.atomic(context.path("label_noise.csv")) as temporary:
        found.to_csv(temporary, index=False)
    print(f"{len(found)} of {len(rows.ids)} pictures -> {context.path('label_noise.csv')}")


def adversarial(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Can train and test be told apart by the metafeatures? -> adversarial.json, .parquet.

    And One More Layer's hold-out -> adversarial_valid.csv, a list for config.split.force_valid: of
    the competition's labelled pictures the half that looks like test, every second of it.
    """
    import pandas as pd

    from hpa_jax.decision import adversarial as validation
    from hpa_jax.decision.features import metafeature_table

    context = opened(config, flags)
    parts = {part: tables.split_rows(context, part) for part in ("train", "valid", "test")}
    ids = np.concatenate([rows.ids for rows in parts.values()])
    groups = np.concatenate([rows.groups for rows in parts.values()])
    is_test = np.isin(ids, parts["test"].ids)
    features = metafeature_table(tables.images(context, ids), ids).set_index("id")
    features = features.dropna(axis=1)
    found = validation.on_features(
        features.to_numpy(float), is_test, list(features.columns), groups=groups, seed=config.seed
    )
    table = pd.DataFrame({"id": ids, "is_test": is_test, "score": found.scores})
    table["test_like"] = False
    table.loc[~is_test, "test_like"] = validation.test_like(found.scores[~is_test])
    artifacts.write_table(context.path("adversarial.parquet"), table)
    source = artifacts.read_table(context.path("catalog.parquet")).set_index("id")["source"]
    own = table[(source.loc[ids] == "train").to_numpy()]
    with artifacts.atomic(context.path("adversarial_valid.csv")) as temporary:
        own.loc[validation.test_like(own["score"].to_numpy()), ["id"]].to_csv(
            temporary, index=False
        )
    artifacts.write_json(context.path("adversarial.json"), found.as_json())
    print(f"AUC of train against test {found.auc:.3f} ({found.low:.3f} to {found.high:.3f})")
