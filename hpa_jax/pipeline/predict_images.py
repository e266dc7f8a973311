"""`predict --model` on one's own images.

A folder of images -> predictions.csv, predictions_by_class.csv, predictions.parquet,
embeddings/NAME.parquet, predictions/index.html; on the way, the answers so far in
predict_parts/part-00000.csv, ...
"""

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
from hpa_jax.pipeline import arrays, bundles, formats, prepare, tables
from hpa_jax.pipeline.answers import Answers, write_csv
from hpa_jax.pipeline.context import Context, opened
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle


@dataclass(frozen=True)
class Labelled:
    """Images, and what a bundle says of them."""

    found: Predictions
    catalog: "pd.DataFrame"


def predict(context: Context, packed: "Bundle", given: str = "") -> str:
    """Write labels, scores, embeddings and the page of every image of the config's sources.

    given: what --model names, where a gallery of labelled images may lie.

    Raises:
        InputError: no folder of images, or unusable images.
    """
    from hpa_jax.inference.tables import write_embeddings
    from hpa_jax.pipeline import predictions_page

    wanted = formats.named(context.flags.get("format"))
    table_of_names = context.flags.get("names")
    names = formats.gene_names(table_of_names) if table_of_names else None
    labelled = label(context, packed)
    found = labelled.found
    if packed.class_names and "csv" in wanted:
        write_csv(context.path("predictions.csv"), arrays.table(packed, found))
    _write_by_class(context.path("predictions_by_class.csv"), found if "csv" in wanted else None)
    if packed.class_names and "parquet" in wanted:
        scored = found.scores.astype(np.float32)
        tables.write_probabilities(context.path("predictions.parquet"), found.ids, scored)
    for name in formats.WRITERS.keys() & {*wanted}:
        formats.WRITERS[name](context.workdir, found, names)
    for name, values in found.embeddings.items():
        write_embeddings(context.path("embeddings", f"{name}.parquet"), found.ids, values)
    about = [summary(context, packed, labelled), *notes(context, packed)]
    page = predictions_page.write(*(context, packed, found, labelled.catalog, given, about))
    artifacts.remove(context.path("predict_parts"))
    in_table = packed.class_names and "csv" in wanted
    answers = context.path("predictions.csv" if in_table else "embeddings")
    about[0] += f" -> {answers}, {page}"
    return "\n".join(about)


def _write_by_class(path: Path, found: Predictions | None) -> None:
    """predictions_by_class.csv, as the predictions.csv of a run; none where no calibration is
    known, not even that of an earlier call."""
    from hpa_jax.decision import validated

    if found is None or found.validated is None:
        artifacts.remove(path)
        return
    listed = validated.by_class(
        *(found.validated, found.ids, found.classes, found.scores, found.labels, found.thresholds)
    )
    for name in ("id", "class"):
        listed[name] = listed[name].map(cell)
    with artifacts.atomic(path) as temporary:
        listed.to_csv(temporary, index=False, float_format="%.4g")


def summary(context: Context, packed: "Bundle", labelled: Labelled) -> str:
    """Return how many images there are, how many are left out, flagged or without yellow."""
    parts = [f"{len(labelled.found.ids):,} images"]
    bad = context.path("bad_images.csv")
    if bad.is_file():
        parts.append(f"{csv_tables.read(bad)['id'].nunique()} left out ({bad})")
    if labelled.found.unlike.any():
        parts.append(f"{int(labelled.found.unlike.sum())} unlike the training images")
    scale_unknown = labelled.found.scale_unknown
    if scale_unknown is not None and (unknown := int(scale_unknown.sum())):
        parts.append(f"{unknown:,} of unknown scale")
    reads_yellow = any("yellow" in member.config.channels for member in packed.members)
    if reads_yellow and (without := int(labelled.catalog["yellow"].isna().sum())):
        parts.append(f"{without:,} without a yellow channel (0 in its place)")
    return ", ".join(parts) if packed.class_names else f"{', '.join(parts)}, features only"


def label(context: Context, packed: "Bundle") -> Labelled:
    """Read and label every image of the config's sources; the first ones while later ones are
    still converted.

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
    found = answers.of(table)
    if settings.tile:  # what was calibrated are scores of whole images
        found = replace(found, validated=None)
    if packed.training_images.get("field_um"):
        # The user's own images; those of a competition are the training's kind.
        unknown = (table["source"] == "own") & table["pixel_size"].isna()
        found = replace(found, scale_unknown=unknown.to_numpy(bool))
    return Labelled(found, table)


def _catalog(
    context: Context, packed: "Bundle", ready: Callable[[Mapping[str, Any]], None]
) -> "pd.DataFrame":
    """The images of the config's sources; a root alone is a folder of the user's images.

    ready: called with each image of a folder as soon as it can be read.
    """
    from hpa_jax.data import catalog

    config = context.config.data
    if not config.sources and not config.root:
        raise InputError("config.data.root: the folder of images to label is missing")
    sources = prepare.sources(context)
    if config.source == "synthetic" and not config.sources:  # no source was named
        sources = [{**config.folder.to_dict(), "source": "folder", "root": config.root}]
    for source in sources:
        if source["source"] != "folder":
            continue
        rules = source.get("missing", {})
        if rules.get("yellow", "error") == "error" and "missing_yellow" in packed.training_images:
            source["missing"] = {**rules, "yellow": packed.training_images["missing_yellow"]}
        # Model and file both know their scale: the image gets the training's.
        source["field_um"] = source.get("field_um") or packed.training_images.get("field_um") or 0.0
    try:
        return catalog.build(
            sources,
            packed.class_names,
            on_bad_image=config.on_bad_image,
            bad_images=context.path("bad_images.csv"),
            imported=context.path("imported"),
            workers=context.config.train.workers or None,
            content=context.contents.file,
            ready=ready,
        )
    except InputError as error:
        other = packed.training_images.get("without_yellow")
        if other and "no yellow channel" in str(error):
            raise InputError(f"{error}; or --model={other}, which reads no yellow") from None
        raise


def notes(context: Context, packed: "Bundle") -> list[str]:
    """Return what a reader of the labels must know: whose thresholds, what a bundle lacks."""
    lines = []
    if packed.class_names:
        whose = packed.training_images.get("thresholds")
        whose = whose or f"those of the bundle ({packed.training_images.get('method')})"
        lines.append(f"thresholds: {whose}")
        if packed.validated is not None and context.config.predict.tile:
            lines.append("no probabilities: scores of tiles were never calibrated")
    if packed.training_images.get("cells"):
        lines.append(
            "this model was trained on images of single cells; whole fields are unlike them"
        )
    if left_out := packed.training_images.get("left_out"):
        lines.append(f"not in the bundle: {left_out}")
    return lines


def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The verb `predict`: the recipe's networks on its rows, or --model on a folder of images."""
    from hpa_jax.pipeline import runner

    given = flags.get("model")
    if not given:
        return runner.run(config, flags, ["predict"])
    if not flags.get("workdir"):
        flags = {**flags, "workdir": _workdir(config, given)}
        print(f"workdir: {flags['workdir']} (another one: --workdir)", flush=True)
    print(f"[predict] loading {given}", flush=True)
    packed = bundles.named(given, bool(flags.get("code")))
    print(f"[predict] {predict(opened(config, flags), packed, given)}")
    return 0


def _workdir(config: ConfigDict, model: str) -> str:
    """A folder for the answers where none is named: the same for the same model and images."""
    roots = [config.data.root, *(source.get("root", "") for source in config.data.sources)]
    places = [str(Path(root).expanduser().resolve()) for root in roots if root]
    if not places:
        raise InputError("config.data.root: the folder of images to label is missing")
    last = [Path(text).name for text in (places[0], model.split(",")[0])]
    return str(Path("runs") / "-".join([*last, digest(places, model)[:6]]))
