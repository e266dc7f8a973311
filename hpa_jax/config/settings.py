"""Comparison of stored settings with the current ones.

In: settings by config path ("models.tiny.phases[0].lr"), as stored in a step's stamp or a
checkpoint, and the current ones.  Out: the changes by the user.  A missing option counts as its
default, so that adding, moving or renaming an option is not a change.

When moving or renaming an option, add a line to RENAMED (renamed.py); when changing its default or
removing it, add a line to FORMER.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import renamed
from hpa_jax.core import artifacts

# Path -> the former default of an option whose default changed or that was removed.
FORMER: dict[str, Any] = {
    "data.folder.pattern": "{id}_{channel}",
    "data.folder.percentiles": [0.1, 99.9],
}
# Options of `train` that change speed, log or disk space, but not the result.
WITHOUT_RESULT = (
    *("workers", "prefetch", "keep", "checkpoint_minutes", "compilation_cache"),
    *("tensorboard", "profile"),
)
# Of free form: names of models, or options that another package defines and checks.
FREE = (
    *("models", "weights", "head_options", "loss", "augment", "views", "of_class", "pca"),
    "trained_on",
)
_UNKNOWN = object()


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten settings (config path -> value or section) to JSON values by option path.

    Sections of free form (FREE) and lists other than the phases are single values.
    """
    return dict(_leaves("", settings))


def without_places(config: ConfigDict) -> dict[str, Any]:
    """Return the config as a dict without paths and options of downloading or packing."""
    sections = config.to_dict()
    for section, keys in {
        "data": ("root", "truth", "sources", "download"),
        "split": ("exclude", "force_valid", "force_train"),
        "submission": ("leak_tables",),
        "records": ("beam",),
        "train": WITHOUT_RESULT,
    }.items():
        sections[section] = {key: v for key, v in sections[section].items() if key not in keys}
    del sections["ablate"]
    for name, model in sections.pop("models").items():
        sections[f"models.{name}"] = {key: v for key, v in model.items() if key != "init_from"}
    return sections


def differences(
    stored: Mapping[str, Any], current: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Describe (changed options, options that no longer exist); arguments as returned by `flat`.

    The latter are stored options that no config has, if their value differs from FORMER's.
    """
    stored = dict(renamed.current(path, value) for path, value in stored.items())
    changed, gone = [], []
    for path, after in current.items():
        before = stored[path] if path in stored else _default(path)
        if before is _UNKNOWN:
            changed.append(f"{path}: new")
        elif before != after:
            changed.append(f"{path}: {_short(before)} -> {_short(after)}")
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
    """Return the value of an option missing in a stamp: its first default."""
    former = _lookup(FORMER, path)
    return _of_config(path) if former is _UNKNOWN else former


def _of_config(path: str) -> Any:
    """Return the current default of an option, _UNKNOWN if no config has it."""
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
