"""Verbs that look or prepare and are no stage of `run`: classes, preview, lr_find, import_weights,
label_noise (adversarial has a file of its own).  Each reads a workdir in which the stages before it
have run.
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
