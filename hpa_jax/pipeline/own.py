"""`export` and `predict` on one's own images: what a user takes away, and its use.

export: workdir -> bundle/.  predict --bundle=DIR (or --checkpoint=models/NAME): a folder of
images -> predictions.csv, predictions.parquet, embeddings/NAME.parquet.  Images are packed once
for each side that a network or the metafeatures look at, as a run does (config.records.also).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.data.sources import csv_tables
from hpa_jax.pipeline import members, prepare, scores, tables
from hpa_jax.pipeline.context import Context, opened, side_for

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.data.batches import Records
    from hpa_jax.decision.bundle import Bundle, Member


def export(context: Context) -> Path:
    """Networks, thresholds and (if it was chosen) the stack in one folder -> bundle/.

    With config.refit the networks are those of the submission, trained on all labelled images.

    Raises:
        InputError: a stage before it has not run.
    """
    from hpa_jax.decision import blends, bundle
    from hpa_jax.decision.stack import stacking

    method = scores.chosen_method(context)
    single, stored = method in context.config.models, context.path("ensemble", "blends.json")
    blend = blends.Formula()
    if method in scores.blends(context):
        blend = blends.from_json(artifacts.read_json(stored)[method], list(context.config.models))
    fits = [fit for fit in members.fits(context) if not single or fit[0] == method]
    packed = bundle.Bundle(
        class_names=tuple(context.config.classes),
        members=[member for fit in fits for member in members.of_fit(context, *fit)],
        cuts=scores.cuts(context)[method],
        rule=bundle.STACK if method == scores.STACK else bundle.BLEND,
        blend=blend,
        argmax=context.config.submission.argmax,
        stack=stacking.load(context.path("stack")) if method == scores.STACK else None,
        features=context.config.features.to_dict(),
        picture=members.picture(context, method) | {"left_out": left_out(context)},
    )
    return bundle.write(context.path("bundle"), packed)


def left_out(context: Context) -> str:
    """What of the run's decision a bundle does not hold, and what follows; "" if it holds all."""
    mode = context.config.retrieval.mode
    if mode == "off":
        return ""
    said = f"retrieval ({mode}): neighbours lend labels from the run's own labelled images"
    if mode == "boost":
        said += "; the cuts were fitted with it, so labels may differ from the submission's"
    return said


def predict(context: Context) -> str:
    """Labels, scores and embeddings of every image of the config's sources.

    Raises:
        InputError: no bundle or checkpoint there, or unusable images.
    """
    from hpa_jax.data import records as packing
    from hpa_jax.data.batches import Records
    from hpa_jax.decision import bundle
    from hpa_jax.inference.tables import write_embeddings

    packed = _packed(context)
    table = _catalog(context, packed)
    ids = table["id"].to_numpy(str)
    sets = {
        side: Records(
            packing.write(
                table,
                context.path("records"),
                image_size=side,
                encoding="raw",
            )
        )
        for side in _sides(packed)
    }
    probs, embeddings = {}, {}
    for member in packed.members:
        probs[member.name], embeddings[member.name] = _look(context, member, table, sets)
    features = _metafeatures(next(iter(sets.values())), ids, table, packed)
    found, labels = packed.decide(probs, features)
    odd, why = packed.judge(embeddings, features)
    result = bundle.table(packed, ids, found, labels, odd, why)
    with artifacts.atomic(context.path("predictions.csv")) as temporary:
        result.to_csv(temporary, index=False, float_format="%.5f")
    tables.write_probabilities(context.path("predictions.parquet"), ids, found.astype(np.float32))
    for name, values in embeddings.items():
        write_embeddings(context.path("embeddings", f"{name}.parquet"), ids, values)
    artifacts.remove(context.path("predict_parts"))
    return _said(context, packed, ids, odd)


def _sides(packed: "Bundle") -> list[int]:
    """Sides to pack, the metafeatures' first: of those that the run stored, what networks need."""
    wanted = [member.config.image_size for member in packed.members]
    base = packed.picture.get("image_size") or max(wanted)
    stored = packed.picture.get("sides") or [base]
    return list(dict.fromkeys([base, *(side_for(stored, size) for size in wanted)]))


def _packed(context: Context) -> "Bundle":
    """What --bundle or --checkpoint names."""
    from hpa_jax.decision import bundle

    given, trained = context.flags.get("bundle"), context.flags.get("checkpoint")
    if given and trained:
        raise InputError("--bundle and --checkpoint: give one of them")
    if trained:
        return members.of_folders(trained)
    if not (Path(given).expanduser() / "bundle.json").is_file():
        raise InputError(f"--bundle={given}: no bundle (a folder that the verb export wrote)")
    return bundle.read(Path(given).expanduser())


def _catalog(context: Context, packed: "Bundle") -> "pd.DataFrame":
    """The images of the config's sources; a root alone is a folder of own images."""
    from hpa_jax.data import catalog

    config = context.config.data
    if not config.sources and not config.root:
        raise InputError("config.data.root: the folder of images to label is missing")
    sources = prepare.sources(context)
    if config.source == "synthetic" and not config.sources:  # no source was named
        sources = [{**config.folder.to_dict(), "source": "folder", "root": config.root}]
    return catalog.build(
        sources,
        packed.class_names,
        on_bad_image=config.on_bad_image,
        bad_images=context.path("bad_images.csv"),
        imported=context.path("imported"),
        content=context.contents.file,
    )


def _look(
    context: Context, member: "Member", table: "pd.DataFrame", sets: "Mapping[int, Records]"
) -> tuple[np.ndarray, np.ndarray]:
    """A network's probabilities and embeddings: of whole packed images, or tile by tile."""
    from hpa_jax.data import reader
    from hpa_jax.inference import sweep

    settings, ids = context.config.predict, table["id"].to_numpy(str)
    records = sets[side_for(sets, member.config.image_size)]
    parts = context.path("predict_parts", member.name)
    if settings.tile:
        channels = tuple(member.config.channels)
        rows = table.to_dict("records")
        return sweep.predict_images(
            member.network,
            member.config,
            lambda row: reader.read(rows[row], channels),
            ids,
            tile=settings.tile,
            image_size=member.config.image_size,
            batch_size=settings.batch_size,
            views=member.views,
            aggregate=settings.tile_aggregate,
            directory=parts,
            shown=sweep.content(records),
            title=member.name,
        )
    seen = sweep.predict_records(
        member.network,
        member.config,
        records,
        ids,
        batch_size=settings.batch_size,
        views=member.views,
        directory=parts,
        title=member.name,
    )
    return seen.probs, seen.embeddings


def _said(context: Context, packed: "Bundle", ids: np.ndarray, odd: np.ndarray) -> str:
    """The summary: how many, which are odd, where it lies."""
    parts = [f"{len(ids):,} images"]
    bad = context.path("bad_images.csv")
    if bad.is_file():
        parts.append(f"{csv_tables.read(bad)['id'].nunique()} left out ({bad})")
    if odd.any():
        parts.append(f"{int(odd.sum())} unlike the training images")
    text = f"{', '.join(parts)} -> {context.path('predictions.csv')}"
    whose = packed.picture.get("cuts") or f"those of the bundle ({packed.picture.get('method')})"
    text += f"\ncuts: {whose}"
    if left_out := packed.picture.get("left_out"):
        text += f"\nnot in the bundle: {left_out}"
    field = packed.picture.get("field_um")
    if field and not context.config.data.folder.field_um:
        text += (
            f"\nthe training images show {field:g} µm a side; if yours show another field and "
            f"their files know the pixel size, add --config.data.folder.field_um={field:g}"
        )
    return text


def _metafeatures(
    records: "Records", ids: np.ndarray, table: "pd.DataFrame", packed: "Bundle"
) -> "pd.DataFrame":
    from hpa_jax.data.batches import eval_batches
    from hpa_jax.decision.features import metafeature_table

    batches = eval_batches(
        records,
        ids,
        None,
        batch_size=64,
        channels=records.channels,
        image_size=records.image_size,
    )
    images = (image for batch in batches for image in batch["image"][batch["mask"]])
    sizes = tables.sizes(table, packed.features.get("extra", False))
    return metafeature_table(images, ids, *sizes, **packed.features)


def run_export(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The verb `export`."""
    context = opened(config, flags)
    print(f"bundle -> {export(context)}")
    if said := left_out(context):
        print(f"not in the bundle: {said}")
    return 0


def verb(config: ConfigDict, flags: dict[str, Any]) -> int:
    """The verb `predict`: the recipe's networks on its rows, or those of --bundle or --checkpoint
    on a folder of images.
    """
    from hpa_jax.pipeline import runner

    if not flags.get("bundle") and not flags.get("checkpoint"):
        return runner.run(config, flags, ["predict"])
    print(f"[predict] {predict(opened(config, flags))}")
    return 0
