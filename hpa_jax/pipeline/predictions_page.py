"""Content of the predictions page: images, activation maps, neighbours, scale bars."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.data import reader
from hpa_jax.pipeline import arrays, bundles, galleries
from hpa_jax.pipeline.context import Context, side_for
from hpa_jax.report import predictions
from hpa_jax.report.predictions import Maps, Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle, Member

BATCH = 16  # images whose maps are computed at a time
MOST = 5  # maps per image


def write(
    context: Context,
    packed: "Bundle",
    result: Predictions,
    table: "pd.DataFrame",
    model: str,
    lines: Sequence[str],
) -> Path:
    """Write predictions/index.html; return its path.

    Args:
      table: the catalog of the images.
      model: value of --model, used to find its gallery.
      lines: first lines of the page.

    Raises:
        InputError: --maps is not a number.
    """
    member = bundles.strongest(packed)
    rows = table.to_dict("records")

    def images() -> Iterator[np.ndarray]:
        return (reader.read(row) for row in rows)

    count = _number(context.flags.get("maps"))
    maps = None
    if count and packed.class_names and maps_of(member) and not context.config.predict.tile:
        side = side_for(arrays.sides(packed), member.config.image_size)
        maps = activation_maps(member, rows[:count], side, result)
    gallery = galleries.of_model(model, packed, member) if model else None
    neighbours = None if gallery is None else gallery.nearest(result.embeddings[member.name])
    return predictions.write(
        context.path("predictions"),
        result,
        images,
        title=f"Predictions: {len(result.ids):,} images",
        lines=[
            f"{lines[0]}. {'Labelled' if packed.class_names else 'Processed'} by {_names(packed)}.",
            "The number beside a label is its score; labels are in the order of score divided by "
            "threshold. Click an image to see all scores and the activation map of each label.",
            *lines[1:],
        ],
        micrometres=_micrometres(context, packed, table),
        maps=maps,
        neighbours=neighbours,
    )


def activation_maps(
    member: "Member", rows: Sequence[Mapping[str, Any]], side: int, result: Predictions
) -> Maps:
    """Return maps of the first images: of their labels, or of the best class if none.

    rows: of the catalog, of the images that get maps.  side: to resize to before the network's.
    """
    from hpa_jax.inference import maps

    count = len(rows)
    numbers = np.asarray(member.class_numbers)
    relative = result.scores[:count, numbers] / np.clip(result.thresholds[numbers], 1e-6, None)
    order = np.argsort(-(relative + 1e6 * result.labels[:count, numbers]), axis=1)[:, :MOST]
    mapped = maps.compiled(member.network, member.config)
    planes: list[dict[int, np.ndarray]] = []
    size = min(BATCH, count)
    for start in range(0, count, size):
        images = [reader.read(row) for row in rows[start : start + size]]
        (batch,) = arrays.batches(images, side, member.config, size)
        batch_maps = mapped(batch["image"], order[start + batch["index"]])
        for row in range(len(images)):
            n = start + row
            columns = [k for k, c in enumerate(numbers[order[n]]) if result.labels[n, c]] or [0]
            planes.append({int(numbers[order[n, k]]): batch_maps[row, k] for k in columns})
    return Maps(member.name, maps.method(member.network), planes)


def maps_of(member: "Member") -> bool:
    """Whether a network supports activation maps: it has a last feature map and a head on it."""
    return all(hasattr(member.network, name) for name in ("features", "head"))


def _micrometres(context: Context, packed: "Bundle", table: "pd.DataFrame") -> list[float | None]:
    """Return the longer side of each image in µm, None if its pixel size is unknown."""
    if "pixel_size" not in table:
        return [None] * len(table)
    field = context.config.data.folder.field_um or packed.training_images.get("field_um")
    sizes = zip(table["pixel_size"].astype(float), table["original_size"].astype(float))
    lengths = [field if field and size == size else size * side for size, side in sizes]
    return [float(length) if length == length else None for length in lengths]


def _names(packed: "Bundle") -> str:
    """Describe the networks and how they are combined."""
    names = packed.models
    text = f"the network {names[0]}" if len(names) == 1 else f"{len(names)} networks"
    if 1 < len(names) <= 4:
        text = f"the networks {', '.join(names[:-1])} and {names[-1]}"
    return f"{text}, joined by a stack of boosted trees" if packed.stack is not None else text


def _number(text: object) -> int:
    if not str(text or 0).isdecimal():
        raise InputError(f"--maps={text}: the number of images that get activation maps, 0 or more")
    return int(str(text or 0))
