"""The arguments `width` and `depth` of networks: factors on channels and blocks."""

from collections.abc import Sequence

from hpa_jax.core.errors import InputError

Depth = float | Sequence[int] | None


def scaled(features: int, width: float) -> int:
    """Return a channel count times `width`, at least 1.

    Raises:
        InputError: width is not positive.
    """
    if width <= 0:
        raise InputError(f"width={width}: must be above 0")
    return max(1, round(features * width))


def counts(published: tuple[int, ...], depth: Depth) -> tuple[int, ...]:
    """Return blocks per stage: as published, scaled by `depth` (at least 1), or `depth` itself.

    Raises:
        InputError: a factor that is not positive, or not one number of at least 1 per stage.
    """
    if depth is None:
        return published
    if isinstance(depth, int | float):
        if depth <= 0:
            raise InputError(f"depth={depth}: must be above 0")
        return tuple(max(1, round(count * depth)) for count in published)
    if len(depth) != len(published) or min(depth) < 1:
        raise InputError(f"depth={tuple(depth)}: {len(published)} numbers of at least 1")
    return tuple(depth)
