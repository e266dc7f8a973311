"""Renamed options and values: refused in a config with the new name, converted when stored.

A developer who moves or renames an option adds a line to RENAMED; docs/options.md lists them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpa_jax.core.errors import near


def in_every_model(table: Mapping[str, Any]) -> dict[str, Any]:
    """Expand a table of a model's paths to the paths of all models in a config.

    Values that are text are paths, too.
    """
    places = ("models.*", "retrieval.model", "adversarial.model")
    return {
        f"{place}.{path}": f"{place}.{new}" if isinstance(new, str) else new
        for path, new in table.items()
        for place in places
    }


# Renamed options: old path -> new path, of an option or a section; * matches a name or a number.
# Later lines use the names introduced by earlier ones.  An old name in a config is refused with the
# new one as hint; in stored settings it is converted.
RENAMED: dict[str, str] = {
    "data.folder.missing_yellow": "data.folder.missing.yellow",
    "retrieval.pictures": "retrieval.min_images",
    "stack.cut": "stack.threshold",
    "stack.cut_repeats": "stack.threshold_repeats",
    **in_every_model({"stages": "phases"}),
}
# Renamed values: path -> regular expression of the whole value -> replacement.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    **in_every_model({"checkpoint": {r"stage:(\d+)": r"phase:\1"}}),
    **in_every_model({"phases[*].lr_noise_every": {"stage": "phase"}}),
}


def renamed(path: str) -> str:
    """Return the current path of an option that was once at `path`."""
    for old, new in RENAMED.items():
        if match := path_pattern(old).match(path):
            for name in match.groups():
                new = new.replace("*", name, 1)
            path = new + path[match.end() :]
    return path


def current(path: str, value: Any) -> tuple[str, Any]:
    """Convert a stored path and value to the current ones."""
    path = renamed(path)
    for place, table in RENAMED_VALUES.items():
        if isinstance(value, str) and path_pattern(place).fullmatch(path):
            for old, new in table.items():
                value = re.sub(rf"\A(?:{old})\Z", new, value)
    return path, value


def current_model(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the stored options of a model to the current ones."""
    prefix = "models.one."
    model = {}
    for name, value in stored.items():
        path, value = current(prefix + name, value)
        model[path.removeprefix(prefix)] = value
    for number, phase in enumerate(model.get("phases", ())):
        phase_prefix = f"{prefix}phases[{number}]."
        phase = dict(current(phase_prefix + name, value) for name, value in phase.items())
        model["phases"][number] = {
            path.removeprefix(phase_prefix): value for path, value in phase.items()
        }
    return model


def path_pattern(path: str) -> re.Pattern[str]:
    """Return a pattern of paths that begin with a path of RENAMED."""
    return re.compile(re.escape(path).replace(r"\*", r"([^.\[\]]+)") + r"(?![^.\[])")


def hint(path: str, names: Iterable[str]) -> str:
    """Return a hint for the last name of a path: its new name, or a near one."""
    name, new_path = path.rpartition(".")[2], renamed(path)
    return f": it is now {new_path.rpartition('.')[2]!r}" if new_path != path else near(name, names)
