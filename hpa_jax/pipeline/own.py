"""`predict --model` on one's own images.

A folder of images -> predictions.csv, predictions.parquet, embeddings/NAME.parquet,
predictions/index.html.  Images are packed once for each side that a network or the metafeatures
read, as a run does (config.records.also).
"""

from collections.abc import Callable, Mapping, Sequence
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
from hpa_jax.pipeline import formats, members, prepare, tables
from hpa_jax.pipeline.context import Context, opened, side_for
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.data.batches import Records
    from hpa_jax.decision.bundle import Bundle, Member


@dataclass(frozen=True)
class Labelled:
    """Own images and what a bundle says of them. records: side in pixels -> the packed images."""

    found: Predictions
    catalog: "pd.DataFrame"
    records: "Mapping[int, Records]"


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
        result = table(packed, found)
        for name in {"id", "labels", "why"} & {*result}:
            result[name] = result[name].map(cell)
        with artifacts.atomic(context.path("predictions.csv")) as temporary:
            result.to_csv(temporary, index=False, float_format="%.5f")
    if packed.class_names and "parquet" in wanted:
        scored = found.scores.astype(np.float32)
        tables.write_probabilities(context.path("predictions.parquet"), found.ids, scored)
    for name in formats.WRITERS.keys() & {*wanted}:
        formats.WRITERS[name](context.workdir, found, names)
    for name, values in found.embeddings.items():
        write_embeddings(context.path("embeddings", f"{name}.parquet"), found.ids, values)
    about = [summary(context, packed, labelled), *notes(context, packed)]
    page = predictions_page.write(
        *(context, packed, found, labelled.catalog, labelled.records, given, about)
    )
    artifacts.remove(context.path("predict_parts"))
    in_table = packed.class_names and "csv" in wanted
    answers = context.path("predictions.csv" if in_table else "embeddings")
    about[0] += f" -> {answers}, {page}"
    return "\n".join(about)


def table(packed: "Bundle", found: Predictions) -> "pd.DataFrame":
    """Return one row an image: id, labels, flag and reason where they are known, scores."""
    from hpa_jax.decision import bundle

    unlike = found.unlike if judges(packed) else None
    rows = bundle.table(packed, found.ids, found.scores, found.labels, unlike, found.why)
    if found.scale_unknown is not None and found.scale_unknown.any():
        first_score = rows.columns.get_loc(packed.class_names[0])
        rows.insert(first_score, "scale_unknown", found.scale_unknown)
    return rows


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
    """Read, pack and label every image of the config's sources.

    Raises:
        InputError: no folder of images, or unusable images.
    """
    from hpa_jax.data import records as packing
    from hpa_jax.data.batches import Records

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
        for side in sides(packed)
    }
    probs, embeddings = {}, {}
    for member in packed.members:
        probs[member.name], embeddings[member.name] = _look(context, member, table, sets)
    found = decide(
        packed,
        ids,
        probs,
        embeddings,
        lambda: _metafeatures(next(iter(sets.values())), ids, table, packed),
    )
    if packed.picture.get("field_um"):
        # The user's own images; those of a competition are the training's kind.
        unknown = (table["source"] == "own") & table["pixel_size"].isna()
        found = replace(found, scale_unknown=unknown.to_numpy(bool))
    return Labelled(found, table, sets)


def decide(
    packed: "Bundle",
    ids: Sequence[str],
    probs: Mapping[str, np.ndarray],
    embeddings: Mapping[str, np.ndarray],
    metafeatures: "Callable[[], pd.DataFrame]",
) -> Predictions:
    """Return a bundle's labels from the probabilities and embeddings of each of its networks.

    metafeatures: computes them; called only if the stack or the flags need them.
    """
    strongest = members.strongest(packed).name
    if not packed.class_names:  # features only
        none = np.zeros((len(ids), 0))
        unlike, why = np.zeros(len(ids), bool), [""] * len(ids)
        values = (none, none.astype(bool), packed.cuts, unlike, why)
        return Predictions(ids, (), *values, embeddings, strongest)
    features = metafeatures() if packed.stack is not None or judges(packed) else None
    seen_by_stack = features
    if features is not None and packed.projections:
        seen_by_stack = packed.with_components(features, embeddings)
    scored, labels = packed.decide(probs, seen_by_stack)
    unlike, why = packed.judge(embeddings, features)
    values = (scored, labels, packed.cuts, unlike, why)
    return Predictions(ids, packed.class_names, *values, embeddings, strongest)


def judges(packed: "Bundle") -> bool:
    """Whether a bundle knows what ordinary images look like."""
    return any(member.reference for member in packed.members)


def sides(packed: "Bundle") -> list[int]:
    """Sides to pack, the metafeatures' first: of those that the run stored, what networks need."""
    wanted = [member.config.image_size for member in packed.members]
    base = packed.picture.get("image_size") or max(wanted)
    stored = packed.picture.get("sides") or [base]
    return list(dict.fromkeys([base, *(side_for(stored, size) for size in wanted)]))


def _catalog(context: Context, packed: "Bundle") -> "pd.DataFrame":
    """The images of the config's sources; a root alone is a folder of own images."""
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
        if rules.get("yellow", "error") == "error" and "missing_yellow" in packed.picture:
            source["missing"] = {**rules, "yellow": packed.picture["missing_yellow"]}
        # Model and file both know their scale: the image gets the training's.
        source["field_um"] = source.get("field_um") or packed.picture.get("field_um") or 0.0
    try:
        return catalog.build(
            sources,
            packed.class_names,
            on_bad_image=config.on_bad_image,
            bad_images=context.path("bad_images.csv"),
            imported=context.path("imported"),
            content=context.contents.file,
        )
    except InputError as error:
        other = packed.picture.get("without_yellow")
        if other and "no yellow channel" in str(error):
            raise InputError(f"{error}; or --model={other}, which reads no yellow") from None
        raise


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
            batch_size=batch_size(settings.batch_size, member),
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
        batch_size=batch_size(settings.batch_size, member),
        views=member.views,
        directory=parts,
        title=member.name,
    )
    return seen.probs, seen.embeddings


def batch_size(asked: int, member: "Member") -> int:
    """Return how many images to read at a time: as asked, on a CPU at most four megapixels."""
    import jax

    if jax.default_backend() != "cpu":
        return asked
    return min(asked, max(1, 4 * 1024**2 // member.config.image_size**2))


def notes(context: Context, packed: "Bundle") -> list[str]:
    """Return what a reader of the labels must know: whose thresholds, what a bundle lacks."""
    lines = []
    if packed.class_names:
        whose = packed.picture.get("cuts")
        whose = whose or f"those of the bundle ({packed.picture.get('method')})"
        lines.append(f"thresholds: {whose}")
    if packed.picture.get("cells"):
        lines.append(
            "this model was trained on images of single cells; whole fields are unlike them"
        )
    if left_out := packed.picture.get("left_out"):
        lines.append(f"not in the bundle: {left_out}")
    return lines


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
    packed = members.named(given, bool(flags.get("code")))
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
