"""Images in memory -> what a bundle says of them, as `predict` says of the same images in files."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core.errors import InputError, near
from hpa_jax.data.reader import CHANNELS, resize
from hpa_jax.pipeline import predict_images
from hpa_jax.pipeline.context import side_for
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle, Member
    from hpa_jax.inference.predict import Forward

MISSING_YELLOW = ("error", "zeros")
Programs = dict[str, "Forward"]  # network -> its compiled forward pass


def eight_bits(
    images: Any,
    channels: Sequence[str] = CHANNELS,
    value_range: tuple[float, float] | None = None,
    missing_yellow: str = "error",
) -> np.ndarray:
    """Return uint8[N, H, W, 4] (red, green, blue, yellow) of images of any real dtype.

    Args:
      images: [N, H, W, K], or [H, W, K] for one image.
      channels: what each of the K planes shows.
      value_range: the values that become 0 and 255; None: uint8 as it is.  Nothing is clipped.
      missing_yellow: "zeros" puts zeros in place of a yellow channel that is not there.

    Raises:
        InputError: another shape, unknown or missing channels, no range of values that are no
            uint8, or a value outside the range.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] != len(channels) or not images.size:
        raise InputError(
            f"images of shape {images.shape}: [N, H, W, {len(channels)}] is needed, with the "
            f"channels {', '.join(channels)} (channels=... names others)"
        )
    for name in channels:
        if name not in CHANNELS:
            raise InputError(f"channels: {name!r} is unknown{near(name, CHANNELS)}")
    missing = [name for name in CHANNELS if name not in channels]
    if missing and (missing != ["yellow"] or missing_yellow != "zeros"):
        hint = '; missing_yellow="zeros" does without' if missing == ["yellow"] else ""
        raise InputError(f"images without the channel {missing[0]}{hint}")
    if images.dtype != np.uint8 or value_range is not None:
        images = _scaled(images, value_range)
    result = np.zeros((*images.shape[:3], len(CHANNELS)), np.uint8)
    result[..., [CHANNELS.index(name) for name in channels]] = images
    return result


def _scaled(images: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    if value_range is None:
        raise InputError(
            f"images of dtype {images.dtype}: say which values are black and white, "
            "value_range=(0, 65535) for all of 16 bits, (0, 1) for floats"
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
    batch_size: int = 64,
    programs: Programs | None = None,
) -> Predictions:
    """Return the labels, scores and embeddings of N images uint8[h, w, 4].

    programs: compiled forward passes, kept between calls.
    """
    from hpa_jax.decision.features import metafeature_table

    sides = predict_images.sides(packed)
    probs, embeddings = {}, {}
    for member in packed.members:
        probs[member.name], embeddings[member.name] = seen(
            member, images, sides, batch_size, {} if programs is None else programs
        )

    def features() -> Any:
        first = (resize(image, sides[0]) for image in images)
        sizes = [float(max(image.shape[:2])) for image in images]
        return metafeature_table(first, ids, sizes, None, **packed.features)

    return predict_images.decide(packed, ids, probs, embeddings, features)


def seen(
    member: "Member",
    images: Sequence[np.ndarray],
    sides: Sequence[int],
    batch_size: int,
    programs: Programs,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a network's probabilities [N, C] and embeddings [N, E] of images uint8[h, w, 4].

    sides: in pixels, to which `predict` reduces images before it packs them.
    """
    from hpa_jax.inference import predict

    if member.name not in programs:
        programs[member.name] = predict.compiled(member.network, member.config, views=member.views)
    size = predict_images.batch_size(min(batch_size, len(images)), member)
    batches = _batches(images, side_for(sides, member.config.image_size), member.config, size)
    parts = [(rows, *found[:2]) for rows, found in predict.stream(programs[member.name], batches)]
    order = np.argsort(np.concatenate([rows for rows, *_ in parts]))
    probs, embeddings = (np.concatenate([part[k] for part in parts])[order] for k in (1, 2))
    return probs, embeddings


def _batches(
    images: Sequence[np.ndarray], stored: int, config: Any, size: int
) -> Iterator[Mapping[str, np.ndarray]]:
    """Batches of one shape; the last is filled up with its last image."""
    planes = [CHANNELS.index(name) for name in config.channels]
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        read = [resize(resize(images[row], stored), config.image_size)[..., planes] for row in rows]
        yield {
            "image": np.stack(read),
            "index": rows,
            "mask": np.arange(start, start + size) < len(images),
        }
