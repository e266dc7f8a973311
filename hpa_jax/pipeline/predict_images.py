"""`predict --model`: predictions for a folder of images.

Writes predictions.csv, predictions_by_class.csv, predictions.parquet,
embeddings/NAME.parquet and predictions/index.html; while running, partial results in
predict_parts/part-00000.csv, ...
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.contents import digest
from hpa_jax.core.errors import InputError
from hpa_jax.core.tables import cell
from hpa_jax.data.sources import csv_tables
from hpa_jax.models import published
from hpa_jax.pipeline import arrays, bundles, formats, tables
from hpa_jax.pipeline.answers import Answers, write_csv
from hpa_jax.pipeline.context import Context, opened
from hpa_jax.pipeline.sources import sources
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle


@dataclass(frozen=True)
class Labelled:
    """Images and their predictions."""

    predictions: Predictions
    catalog: "pd.DataFrame"


def predict(context: Context, packed: "Bundle", model: str = "") -> str:
    """Write labels, scores, embeddings and the page of all images of the config's sources.

    model: value of --model, used to find its gallery of labelled images.

    Raises:
        InputError: no folder of images, or unusable images.
    """
    from hpa_jax.inference.tables import write_embeddings
    from hpa_jax.pipeline import predictions_page

    requested = formats.named(context.flags.get("format"))
    table_of_names = context.flags.get("names")
    names = formats.gene_names(table_of_names) if table_of_names else None
    labelled = label(context, packed)
    predictions = labelled.predictions
    if packed.class_names and "csv" in requested:
        write_csv(context.path("predictions.csv"), arrays.table(packed, predictions))
    _write_by_class(
        context.path("predictions_by_class.csv"), predictions if "csv" in requested else None
    )
    if packed.class_names and "parquet" in requested:
        scored = predictions.scores.astype(np.float32)
        tables.write_probabilities(context.path("predictions.parquet"), predictions.ids, scored)
    for name in formats.WRITERS.keys() & {*requested}:
        formats.WRITERS[name](context.workdir, predictions, names)
    for name, values in predictions.embeddings.items():
        write_embeddings(context.path("embeddings", f"{name}.parquet"), predictions.ids, values)
    lines = [summary(context, packed, labelled), *notes(context, packed)]
    page = predictions_page.write(context, packed, predictions, labelled.catalog, model, lines)
    artifacts.remove(context.path("predict_parts"))
    in_table = packed.class_names and "csv" in requested
    answers = context.path("predictions.csv" if in_table else "embeddings")
    lines[0] += f" -> {answers}, {page}"
    return "\n".join(lines)


def _write_by_class(path: Path, predictions: Predictions | None) -> None:
    """Write predictions_by_class.csv, in the form of a run's predictions.csv.

    Without calibration, remove that of an earlier call.
    """
    from hpa_jax.decision import validated

    if predictions is None or predictions.validated is None:
        artifacts.remove(path)
        return
    table = validated.by_class(
        predictions.validated,
        predictions.ids,
        predictions.classes,
        predictions.scores,
        predictions.labels,
        predictions.thresholds,
    )
    for name in ("id", "class"):
        table[name] = table[name].map(cell)
    with artifacts.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g")


def summary(context: Context, packed: "Bundle", labelled: Labelled) -> str:
    """Return the numbers of images: all, left out, flagged, of unknown scale, without yellow."""
    parts = [f"{len(labelled.predictions.ids):,} images"]
    bad = context.path("bad_images.csv")
    if bad.is_file():
        parts.append(f"{csv_tables.read(bad)['id'].nunique()} left out ({bad})")
    if labelled.predictions.unlike.any():
        parts.append(f"{int(labelled.predictions.unlike.sum())} unlike the training images")
    scale_unknown = labelled.predictions.scale_unknown
    if scale_unknown is not None and (unknown := int(scale_unknown.sum())):
        parts.append(f"{unknown:,} of unknown scale")
    reads_yellow = any("yellow" in member.config.channels for member in packed.members)
    if reads_yellow and (without := int(labelled.catalog["yellow"].isna().sum())):
        parts.append(f"{without:,} without a yellow channel (0 in its place)")
    return ", ".join(parts) if packed.class_names else f"{', '.join(parts)}, features only"


def label(context: Context, packed: "Bundle") -> Labelled:
    """Read and label all images of the config's sources while others are still converted.

    Raises:
        InputError: no folder of images, or unusable images.
    """
    settings, directory = context.config.predict, context.path("predict_parts")
    answers = Answers(
        packed,
        directory,
        batch_size=settings.batch_size,
        tile=settings.tile,
        tile_aggregate=settings.tile_aggregate,
    )
    table = _catalog(context, packed, answers.add)
    predictions = answers.of(table)
    if settings.tile:  # calibration applies to scores of whole images
        predictions = replace(predictions, validated=None)
    if packed.training_images.get("field_um"):
        # Images of a competition have the scale of the training images.
        unknown = (table["source"] == "own") & table["pixel_size"].isna()
        predictions = replace(predictions, scale_unknown=unknown.to_numpy(bool))
    return Labelled(predictions, table)


def _catalog(
    context: Context, packed: "Bundle", ready: Callable[[Mapping[str, Any]], None]
) -> "pd.DataFrame":
    """Return the catalog of the config's sources; a root alone is a folder of images.

    ready: called with each image of a folder as soon as it can be read.
    """
    from hpa_jax.data import catalog

    config = context.config.data
    if not config.sources and not config.root:
        raise InputError("config.data.root: the folder of images to label is missing")
    entries = sources(context)
    if config.source == "synthetic" and not config.sources:  # no source was named
        entries = [{**config.folder.to_dict(), "source": "folder", "root": config.root}]
    for source in entries:
        if source["source"] != "folder":
            continue
        rules = dict(source.get("missing", {}))
        for channel, rule in packed.training_images.get("missing", {}).items():
            if rules.get(channel, "error") == "error":
                rules[channel] = rule
        source["missing"] = rules
        # Images of known scale are resized to that of training.
        source["field_um"] = source.get("field_um") or packed.training_images.get("field_um") or 0.0
    try:
        return catalog.build(
            entries,
            packed.class_names,
            on_bad_image=config.on_bad_image,
            bad_images=context.path("bad_images.csv"),
            imported=context.path("imported"),
            hashed=False,
            workers=context.config.train.workers or None,
            content=context.contents.file,
            ready=ready,
        )
    except InputError as error:
        absent = re.search("no (red|blue|yellow) channel", str(error))
        if absent is None:
            raise
        names = ", ".join(published.without(absent[1]))
        raise InputError(f"{error}; published models without {absent[1]}: {names}") from None


def notes(context: Context, packed: "Bundle") -> list[str]:
    """Return notes on the labels: origin of the thresholds, omissions of a bundle."""
    lines = []
    if packed.class_names:
        origin = packed.training_images.get("thresholds")
        origin = origin or f"those of the bundle ({packed.training_images.get('method')})"
        lines.append(f"thresholds: {origin}")
        if packed.validated is not None and context.config.predict.tile:
            lines.append("no probabilities: scores of tiles are not calibrated")
    if packed.training_images.get("cells"):
        lines.append("this model was trained on images of single cells, not on whole fields")
    if left_out := packed.training_images.get("left_out"):
        lines.append(f"not in the bundle: {left_out}")
    return lines


def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Run the verb `predict`: the recipe's networks on its rows, or --model on a folder."""
    from hpa_jax.pipeline import runner

    model = flags.get("model")
    if not model:
        return runner.run(config, flags, ["predict"])
    if not flags.get("workdir"):
        flags = {**flags, "workdir": _workdir(config, model)}
        print(f"workdir: {flags['workdir']} (change with --workdir)", flush=True)
    context = opened(config, flags)
    if context.path("catalog.parquet").is_file():
        raise InputError(
            f"{context.workdir}: belongs to `run` or `decide`, whose predictions.csv and imported "
            "images this would replace; name another --workdir"
        )
    print(f"[predict] loading {model}", flush=True)
    packed = bundles.named(model, bool(flags.get("code")))
    context.workdir.mkdir(parents=True, exist_ok=True)
    with runner.locked(context.path(".lock"), waits=False):
        print(f"[predict] {predict(context, packed, model)}")
    return 0


def _workdir(config: ConfigDict, model: str) -> str:
    """Return the default output folder, determined by model and images."""
    roots = [config.data.root, *(source.get("root", "") for source in config.data.sources)]
    places = [str(Path(root).expanduser().resolve()) for root in roots if root]
    if not places:
        raise InputError("config.data.root: the folder of images to label is missing")
    last = [Path(text).name for text in (places[0], model.split(",")[0])]
    return str(Path("runs") / "-".join([*last, digest(places, model)[:6]]))
