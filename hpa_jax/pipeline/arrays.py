"""Predictions of a bundle for images in memory."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.errors import InputError, near
from hpa_jax.data.reader import CHANNELS, resize
from hpa_jax.pipeline import bundles
from hpa_jax.pipeline.context import side_for
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle, Member
    from hpa_jax.inference.predict import Forward

MISSING_YELLOW = ("error", "zeros")
Programs = dict[str, "Forward"]  # network -> its compiled forward pass


def eight_bits(
    images: Any,
    channels: Sequence[str] = CHANNELS,
    value_range: tuple[float, float] | None = None,
    absent: Collection[str] = (),
) -> np.ndarray:
    """Return uint8[N, H, W, 4] (red, green, blue, yellow) of images of any real dtype.

    Args:
      images: [N, H, W, K], or [H, W, K] for one image.
      channels: names of the K planes.
      value_range: the values that become 0 and 255; None: uint8 as it is.  Nothing is clipped.
      absent: channels that may be missing; zeros take their place.

    Raises:
        InputError: another shape, unknown or missing channels, no value_range for a dtype other
            than uint8, or a value outside the range.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] != len(channels) or not images.size:
        raise InputError(
            f"images of shape {images.shape}: must be [N, H, W, {len(channels)}], not empty, "
            f"with the channels {', '.join(channels)} (channels=... names others)"
        )
    for name in channels:
        if name not in CHANNELS:
            raise InputError(f"channels: {name!r} is unknown{near(name, CHANNELS)}")
    missing = [name for name in CHANNELS if name not in channels and name not in absent]
    if missing:
        hint = '; missing_yellow="zeros" allows that' if missing == ["yellow"] else ""
        raise InputError(f"images without the channel {missing[0]}{hint}")
    if images.dtype != np.uint8 or value_range is not None:
        images = _scaled(images, value_range)
    result = np.zeros((*images.shape[:3], len(CHANNELS)), np.uint8)
    result[..., [CHANNELS.index(name) for name in channels]] = images
    return result


def _scaled(images: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    if value_range is None:
        raise InputError(
            f"images of dtype {images.dtype}: give the values of black and white, "
            "value_range=(0, 65535) for 16 bits or (0, 1) for floats"
        )
    low, high = map(float, value_range)
    if images.dtype.kind not in "buif" or not low < high:
        raise InputError(f"images of dtype {images.dtype}, value_range={value_range}")
    least, most = float(images.min()), float(images.max())
    if not (low <= least and most <= high):  # NaN, too
        raise InputError(
            f"images hold values from {least:g} to {most:g}, outside value_range={value_range}"
        )
    scale = 255.0 / (high - low)
    return np.rint((images.astype(np.float32) - np.float32(low)) * np.float32(scale)).astype(
        np.uint8
    )


def label(
    packed: "Bundle",
    images: Sequence[np.ndarray],
    ids: Sequence[str],
    *,
    at_once: int = 64,
    programs: Programs | None = None,
) -> Predictions:
    """Return the labels, scores and embeddings of N images uint8[h, w, 4].

    programs: compiled forward passes, kept between calls.
    """
    stored = sides(packed)
    probs, embeddings = {}, {}
    for member in packed.members:
        size = min(batch_size(at_once, member), len(images))
        probs[member.name], embeddings[member.name] = run_network(
            member, images, stored, size, {} if programs is None else programs
        )

    def features() -> "pd.DataFrame":
        lengths = [float(max(image.shape[:2])) for image in images]
        return metafeatures(packed, images, ids, lengths)

    return decide(packed, ids, probs, embeddings, features)


def run_network(
    member: "Member",
    images: Sequence[np.ndarray],
    sides: Sequence[int],
    at_once: int,
    programs: Programs,
    seeds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's probabilities [N, C] and embeddings [N, E] of images uint8[h, w, 4].

    sides: in pixels; images are first resized to one of them, as in a run.
    seeds: int[N], of the random views of each image; None: row numbers.
    """
    from hpa_jax.inference import predict

    forward = seeded(program(member, programs), seeds)
    inputs = batches(images, side_for(sides, member.config.image_size), member.config, at_once)
    parts = [outputs[:2] for _, outputs in predict.stream(forward, inputs)]
    probs, embeddings = (np.concatenate(column) for column in zip(*parts, strict=True))
    return probs, embeddings


def program(member: "Member", programs: Programs) -> "Forward":
    """Return the compiled forward pass of a network, cached in `programs`."""
    from hpa_jax.inference import predict

    if member.name not in programs:
        programs[member.name] = predict.compiled(member.network, member.config, views=member.views)
    return programs[member.name]


def seeded(forward: "Forward", seeds: np.ndarray | None) -> "Forward":
    """Return a forward pass that seeds the random views of row n with seeds[n]."""
    if seeds is None:
        return forward
    return lambda images, rows: forward(images, seeds[rows])


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
    strongest = bundles.strongest(packed).name
    if not packed.class_names:  # features only
        empty = np.zeros((len(ids), 0))
        unlike, why = np.zeros(len(ids), bool), [""] * len(ids)
        values = (empty, empty.astype(bool), packed.thresholds, unlike, why)
        return Predictions(ids, (), *values, embeddings, strongest)
    features = metafeatures() if needs_features(packed) else None
    stack_features = features
    if features is not None and packed.projections:
        stack_features = packed.with_components(features, embeddings)
    scored, labels = packed.decide(probs, stack_features)
    unlike, why = packed.judge(embeddings, features)
    values = (scored, labels, packed.thresholds, unlike, why)
    validated = packed.validated
    return Predictions(ids, packed.class_names, *values, embeddings, strongest, validated=validated)


def table(packed: "Bundle", predictions: Predictions) -> "pd.DataFrame":
    """Return one row per image: id, labels, flag and reason if available, scores."""
    from hpa_jax.decision import bundle

    unlike = predictions.unlike if judges(packed) else None
    rows = bundle.table(
        packed, predictions.ids, predictions.scores, predictions.labels, unlike, predictions.why
    )
    if predictions.scale_unknown is not None and predictions.scale_unknown.any():
        first_score = rows.columns.get_loc(packed.class_names[0])
        rows.insert(first_score, "scale_unknown", predictions.scale_unknown)
    return rows


def judges(packed: "Bundle") -> bool:
    """Whether a bundle can flag images unlike the training set."""
    return any(member.reference for member in packed.members)


def needs_features(packed: "Bundle") -> bool:
    """Whether a bundle's decision uses metafeatures."""
    return bool(packed.class_names) and (packed.stack is not None or judges(packed))


def metafeatures(
    packed: "Bundle",
    images: Iterable[np.ndarray],
    ids: Sequence[str],
    original_sizes: Sequence[float],
    file_bytes: Sequence[int] | None = None,
) -> "pd.DataFrame":
    """Return `id` and the columns of `features.metafeature_table`, one row per image."""
    from hpa_jax.decision.features import metafeature_table

    side = sides(packed)[0]
    reduced = (resize(image, side) for image in images)
    return metafeature_table(reduced, ids, original_sizes, file_bytes, **packed.features)


def sides(packed: "Bundle") -> list[int]:
    """Return the sides to resize to, the metafeatures' first: stored sides that networks need."""
    needed = [member.config.image_size for member in packed.members]
    base = packed.training_images.get("image_size") or max(needed)
    stored = packed.training_images.get("sides") or [base]
    return list(dict.fromkeys([base, *(side_for(stored, size) for size in needed)]))


def batch_size(requested: int, member: "Member") -> int:
    """Return the number of images per batch: as requested, on a CPU at most four megapixels."""
    import jax

    if jax.default_backend() != "cpu":
        return requested
    return min(requested, max(1, 4 * 1024**2 // member.config.image_size**2))


def batches(
    images: Sequence[np.ndarray], stored: int, config: Any, size: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield batches of one shape; the last is padded with its last image."""
    planes = [CHANNELS.index(name) for name in config.channels]
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        read = [resize(resize(images[row], stored), config.image_size)[..., planes] for row in rows]
        yield {
            "image": np.stack(read),
            "index": rows,
            "mask": np.arange(start, start + size) < len(images),
        }
