"""A training's plan, checked: what is wrong with its options is said before anything is computed.

In: the model config and `config.train`.  Out: the stages in steps, and the `Outline` of the network
they train.  Data is not needed, so that a run can check all its networks before it trains the
first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError, near
from hpa_jax.training import augment, averaging, losses, network, phases, sampling
from hpa_jax.training.phases import Stage

MONITORS = ("loss", "focal", "macro_f1", "micro_f1", "map")
# Options that other networks may differ in and still have the same outline.
_OF_OUTLINE = (
    *("backbone", "channels", "head", "dropout", "width", "depth", "large_stem", "as_run", "remat"),
    *("dtype", "head_options", "depth_groups"),
)


@dataclass(frozen=True)
class Outline:
    """A network without arrays: shapes by name, depth groups, rates of its dropout layers."""

    model: nnx.Module
    params: dict[str, Any]
    stats: dict[str, Any]
    groups: list[list[str]]
    dropout: list[float]


def outline(config: ConfigDict, classes: int, seed: int = 0) -> Outline:
    """The outline of the network that a model config describes, with so many classes."""
    model = network.from_config(config, classes, seed=seed, arrays=False)
    params, stats = network.shapes(model)
    groups = network.depth_groups(model, config.depth_groups)
    return Outline(model, params, stats, groups, network.dropout_rates(model))


def key(config: ConfigDict, classes: int) -> str:
    """Equal for configs of the same outline."""
    return repr([classes, *(phases.plain(config[name]) for name in _OF_OUTLINE)])


def lay(
    config: ConfigDict,
    settings: ConfigDict,
    drawn: Outline,
    *,
    classes: int | None,
    count: int,
    seed: int,
    devices: int,
) -> list[Stage]:
    """The stages of a training of `count` images, with every option checked.

    Args:
        config: `hpa_jax.config.model(...)`.
        settings: `config.train`.
        drawn: its outline.
        classes: C, or None where it is not known yet.
        count: N images of an epoch.
        seed: of the lr noise.
        devices: that share a batch.

    Raises:
        InputError: naming the key and the value.
    """
    from hpa_jax.models.normalization import normalizer

    _check(config, settings)
    laid = phases.resolve(
        config,
        params=list(drawn.params),
        stats=list(drawn.stats),
        depth_groups=drawn.groups,
        count=count,
        seed=seed,
        devices=devices,
    )
    for stage in laid:
        augmentation(stage.augment, config.channels)
        losses.from_config(stage.loss, classes)
        if stage.options.dropout is not None:
            network.rates_for(stage.options.dropout, len(drawn.dropout))
    losses.from_config(phases.plain(config.loss), classes)  # evaluation's
    augmentation(phases.plain(config.augment), config.channels)
    sampling.build(config.sampling, np.ones((1, 1)), seed=seed)
    normalizer(config.normalize, tuple(config.channels))
    return laid


def average_options(config: ConfigDict) -> dict[str, Any]:
    """config.average with what a recipe leaves out."""
    defaults = {"kind": "none", "count": 10, "epochs": (), "decay": 0.999}
    return {**defaults, **config.average.to_dict()}


def augmentation(given: Any, channels: Sequence[str]) -> Any:
    """The augmentation of a stage; None for "none"."""
    return None if given in ("", "none") else augment.preset(given, channels=tuple(channels))


def _check(config: ConfigDict, settings: ConfigDict) -> None:
    """Refuses options that could only fail at the end of an epoch, or of the training."""
    average = average_options(config)
    for name, value, known in (
        ("train.monitor", settings.monitor, MONITORS),
        ("train.on_nonfinite", settings.on_nonfinite, ("stop", "skip")),
        ("average.kind", average["kind"], averaging.KINDS),
    ):
        if value not in known:
            raise InputError(f"{name}: unknown {value!r}{near(str(value), known)}; known: {known}")
    if average["count"] < 1 or not 0 < average["decay"] < 1:
        raise InputError(
            f"average: count must be >= 1 and decay in (0, 1), not {average['count']} and "
            f"{average['decay']}"
        )
    epochs = sum(phases.epochs_of(stage) for stage in config.stages)
    chosen = average["epochs"]
    if average["kind"] == "chosen" and not (chosen and 1 <= min(chosen) <= max(chosen) <= epochs):
        raise InputError(f"average.epochs={chosen}: name some of the epochs 1 to {epochs}")
    if average["kind"] == "chosen" and settings.patience:
        raise InputError(
            f"train.patience={settings.patience}: may end a stage before the epochs {chosen} that "
            "average.epochs names; take average.kind='last', or patience=0"
        )
