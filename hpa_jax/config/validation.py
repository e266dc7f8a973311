"""What a config may hold: its keys and choices are checked before any work is done."""

import math
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import settings
from hpa_jax.core.errors import InputError, near
from hpa_jax.decision.stack import protocols
from hpa_jax.pipeline.context import RETRIEVAL


def check_key(config: ConfigDict, key: str) -> None:
    """Checks that a dotted key ("models.a.stages[0].lr") names something in the config.

    Raises:
        InputError: it does not; the message names the nearest key.
    """
    node: Any = config
    done = ""
    for part in key.split("."):
        name, _, index = part.partition("[")
        if not isinstance(node, ConfigDict) or name not in node:
            known = list(node) if isinstance(node, ConfigDict) else []
            stages = node["stages"] if "stages" in known else ()
            place = f"; {done}.stages[0].{name}, a stage's" if stages and name in stages[0] else ""
            raise InputError(
                f"--config.{key}: {done or 'the config'} has no {name!r}{near(name, known)}{place}"
            )
        node = node[name]
        done = f"{done}.{name}" if done else name
        if index:
            position = index.rstrip("]")
            if not position.isdecimal() or int(position) >= len(node):
                raise InputError(
                    f"--config.{key}: {done} has {len(node)} items, [0] to [{len(node) - 1}]"
                )
            node = node[int(position)]


def validate(config: ConfigDict) -> None:
    """Checks names and ranges that no later stage should trip over.

    Raises:
        InputError: names the key, its value, and what it can be.
    """
    _known(config, configs.default(), "")
    if len(config.classes) < 1 or len(set(config.classes)) != len(config.classes):
        raise InputError("config.classes: needs at least one name, each once")
    _choice(config, "data.source", ("synthetic", "kaggle", "atlas", "folder"))
    _choice(config, "data.on_bad_image", ("error", "skip"))
    _choice(config, "data.check", ("decode", "header"))
    _choice(config, "split.scheme", ("holdout", "folds", "listed"))
    _choice(config, "split.matches_test", ("valid", "excluded"))
    _choice(config, "leak", ("on", "off"))
    _choice(config, "train.batch_norm", ("global", "per_device"))
    _choice(config, "predict.tile_aggregate", ("max", "mean"))
    _choice(config, "retrieval.mode", ("off", "replace", "boost"))
    _choice(config, "retrieval.backend", ("exact", "faiss"))
    _validate_decision(config)
    if not 0 < config.split.fraction < 1:
        raise InputError(f"config.split.fraction={config.split.fraction}: must lie between 0 and 1")
    if config.split.scheme == "folds" and config.split.folds < 2:
        raise InputError(f"config.split.folds={config.split.folds}: at least 2")
    for name in config.models:
        if name == RETRIEVAL:
            raise InputError(f"config.models.{name}: this name is metric learning's (--only)")
        if not name.isidentifier():
            raise InputError(f"config.models.{name}: a model's name is letters, digits and _")
        _validate_model(config, f"models.{name}")
    configs.in_training_order(config.models)
    _validate_adversarial(config)
    _validate_model(config, "retrieval.model")
    _choice(config, "retrieval.model.head", ("embedding",))


def _validate_adversarial(config: ConfigDict) -> None:
    settings = config.adversarial
    _choice(config, "adversarial.variant", ("features", "network"))
    _validate_model(config, "adversarial.model")
    known = ("train", "external", "own")
    if not settings.sources or not set(settings.sources) <= set(known):
        raise InputError(
            f"config.adversarial.sources={settings.sources}: some of {', '.join(known)}"
        )
    if settings.folds < 2 or not 0 < settings.fraction <= 0.5:
        raise InputError("config.adversarial: folds at least 2, fraction above 0 and at most 0.5")


def _known(node: ConfigDict, expected: ConfigDict, where: str) -> None:
    """Looks for keys, at any depth, that no option has; those of FREE are checked elsewhere.

    Raises:
        InputError: one is there; the message names the nearest option.
    """
    for key, value in node.items():
        path = f"{where}.{key}" if where else key
        if key not in expected:
            raise InputError(f"config.{path}: no such option{near(key, expected)}")
        if key in settings.FREE or not isinstance(expected[key], ConfigDict):
            continue
        if not isinstance(value, ConfigDict):
            raise InputError(f"config.{path}={value!r}: needs options: {', '.join(expected[key])}")
        _known(value, expected[key], path)


def _validate_model(config: ConfigDict, where: str) -> None:
    settings: Any = config
    for part in where.split("."):
        settings = settings[part]
    _known(settings, configs.model(), where)
    for number, stage in enumerate(settings.stages):
        _known(stage, configs.stage(), f"{where}.stages[{number}]")
    _choice(config, f"{where}.head_init", ("kaiming", "prior"))
    ends = [f"stage:{number}" for number in range(len(settings.stages))]
    ends += [f"epoch:{epoch}" for epoch in settings.keep_epochs]
    _choice(config, f"{where}.checkpoint", ("final", "best", "last", "snapshots", *ends))
    if settings.left_out and not 0 <= settings.left_out[0] < settings.left_out[-1]:
        raise InputError(f"config.{where}.left_out={settings.left_out}: (k, n) with 0 <= k < n")
    for name in settings.classes:
        if name not in config.classes:
            hint = near(name, config.classes)
            raise InputError(f"config.{where}.classes: no class {name!r}{hint}")


def _validate_decision(config: ConfigDict) -> None:
    """What would else fail after the networks are trained."""
    means = ("mean", "geometric", "max", "rank_mean")
    _choice(config, "ensemble.method", (*means, "likelihood", "greedy"))
    matching = ("match_proportions", "match_proportions_pudae")
    _choice(config, "thresholds.method", ("cross_validated", "exact", *matching, "fixed"))
    _choice(config, "thresholds.match_on", ("valid", "test"))
    _choice(config, "thresholds.search", ("grid", "exact"))
    _choice(config, "thresholds.combine", ("mean", "median"))
    _choice(config, "thresholds.shrink_towards", ("pooled", "proportions"))
    _choice(config, "submission.argmax", ("off", "empty", "always"))
    _validate_numbers(config)
    try:
        protocols.of_config(config.stack.to_dict(), config.classes)
    except InputError as error:
        raise InputError(f"config.{error}") from None
    methods = ("auto", *configs.METHODS, *config.models)
    _choice(config, "submission.method", methods)
    if config.submission.method == "ensemble" and not configs.has_ensemble(config):
        raise InputError('config.submission.method="ensemble": config.ensemble names none')
    weights, cuts = config.ensemble.weights, config.thresholds
    for name in weights:
        if name not in config.models:
            raise InputError(f"config.ensemble.weights.{name}: no model{near(name, config.models)}")
    if weights and config.ensemble.method not in means:
        raise InputError(f"config.ensemble.weights: method {config.ensemble.method} finds its own")
    for key, counts in (("proportions", (0,)), ("scale", (1,))):
        if len(cuts[key]) not in (*counts, len(config.classes)):
            raise InputError(
                f"config.thresholds.{key}: {len(cuts[key])} numbers, {len(config.classes)} classes"
            )
    if cuts.match_on == "test" and (cuts.method not in matching or cuts.shrink):
        raise InputError("config.thresholds.match_on=test: for match_proportions without shrink")
    trained = config.split.trained_folds
    if not set(trained) <= set(range(config.split.folds)):
        raise InputError(f"config.split.trained_folds={trained}: of 0 to {config.split.folds - 1}")


def _validate_numbers(config: ConfigDict) -> None:
    """Ranges of the numbers that the steps after training read."""
    cuts, predict = config.thresholds, config.predict
    for key, value, low, high in (
        ("train.workers", config.train.workers, 0, math.inf),
        ("predict.batch_size", predict.batch_size, 1, math.inf),
        ("predict.tile", predict.tile, 0, math.inf),
        ("thresholds.folds", cuts.folds, 2, 127),
        ("thresholds.repeats", cuts.repeats, 1, math.inf),
        ("thresholds.grid", cuts.grid, 2, math.inf),
        ("thresholds.shrink", cuts.shrink, 0, math.inf),
        ("thresholds.value", cuts.value, 0, 1),
        *(("thresholds.proportions", share, 0, 1) for share in cuts.proportions),
        *((f"ensemble.weights.{n}", w, 0, math.inf) for n, w in config.ensemble.weights.items()),
    ):
        if not low <= value <= high:
            limit = f"at least {low}" if high == math.inf else f"{low} to {high}"
            raise InputError(f"config.{key}={value}: {limit}")
    for factor in cuts.scale:
        if not factor > 0:
            raise InputError(f"config.thresholds.scale={factor}: above 0")


def _choice(config: ConfigDict, key: str, choices: tuple[str, ...]) -> None:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    if value not in choices:
        raise InputError(
            f"config.{key}={value!r}: one of {', '.join(choices)}{near(str(value), choices)}"
        )
