"""What a step was made with, compared with the settings of today.

In: settings by their path in the config ("models.tiny.phases[0].lr"), as a step's stamp or a
checkpoint stored them, and those of today.  Out: what a user changed.  An option that one side
lacks has its default there, so that adding, moving or renaming an option changes nothing.

A developer who moves or renames an option adds a line to RENAMED (renamed.py), one who changes its
default or removes it a line to FORMER.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import renamed
from hpa_jax.core import artifacts

# Path -> the default that an option had before another one, or before it was removed.
FORMER: dict[str, Any] = {
    "data.folder.pattern": "{id}_{channel}",
    "data.folder.percentiles": [0.1, 99.9],
}
# Options of `train` that change its speed, its log or its disk space, and no result.
WITHOUT_RESULT = (
    *("workers", "prefetch", "keep", "checkpoint_minutes", "compilation_cache"),
    *("tensorboard", "profile"),
)
# Free in form: names of models, or options that the package of their subject knows and checks.
FREE = ("models", "weights", "head_options", "loss", "augment", "views", "of_class", "pca")
_UNKNOWN = object()


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings (config path -> value or section) as JSON values by the path of each option.

    What is free in form (FREE) is one value; so is a list, but for that of the phases.
    """
    return dict(_leaves("", settings))


def without_places(config: ConfigDict) -> dict[str, Any]:
    """The whole config as a dict but for where things lie and how they are fetched or packed."""
    found = config.to_dict()
    for section, keys in {
        "data": ("root", "truth", "sources", "download"),
        "split": ("exclude", "force_valid", "force_train"),
        "submission": ("leak_tables",),
        "records": ("beam",),
        "train": WITHOUT_RESULT,
    }.items():
        found[section] = {key: v for key, v in found[section].items() if key not in keys}
    del found["ablate"]
    for name, model in found.pop("models").items():
        found[f"models.{name}"] = {key: v for key, v in model.items() if key != "init_from"}
    return found


def differences(
    stored: Mapping[str, Any], current: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """(what was changed, what the program no longer has), in words; both arguments as of `flat`.

    The second: options that were stored with another value than FORMER's and that no config has.
    """
    stored = dict(renamed.current(path, value) for path, value in stored.items())
    changed, gone = [], []
    for path, now in current.items():
        before = stored[path] if path in stored else _default(path)
        if before is _UNKNOWN:
            changed.append(f"{path}: new")
        elif before != now:
            changed.append(f"{path}: {_short(before)} -> {_short(now)}")
    for path, before in stored.items():
        if path in current or before == _lookup(FORMER, path):
            continue
        default = _of_config(path)
        if default is _UNKNOWN:
            gone.append(f"{path}={_short(before)}")
        elif before != default:
            changed.append(f"{path}: {_short(before)} -> {_short(default)}")
    return changed, gone


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    name = path.rpartition(".")[2]
    if isinstance(value, Mapping | ConfigDict) and name not in FREE:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif name == "phases":
        yield f"{path}.count", len(value)
        for number, phase in enumerate(value):
            yield from _leaves(f"{path}[{number}]", dict(phase))
    else:
        yield path, artifacts.plain(value)


def _default(path: str) -> Any:
    """What an option was that a stamp does not name: its first default."""
    former = _lookup(FORMER, path)
    return _of_config(path) if former is _UNKNOWN else former


def _of_config(path: str) -> Any:
    """Today's default of an option; _UNKNOWN if no config has it."""
    phase = re.fullmatch(r".*\bphases\[\d+\]\.(.+)", path)
    model = re.fullmatch(r"models\.[^.]+\.(.+)", path)
    if phase:
        node, path = configs.phase(), phase[1]
    elif model:
        node, path = configs.model(), model[1]
    else:
        node = configs.default()
    for part in path.split("."):
        if not isinstance(node, ConfigDict) or part not in node:
            return _UNKNOWN
        node = node[part]
    return artifacts.plain(node)


def _lookup(table: Mapping[str, Any], path: str) -> Any:
    return next(
        (value for key, value in table.items() if renamed.path_pattern(key).fullmatch(path)),
        _UNKNOWN,
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
