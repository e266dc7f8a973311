"""Options and values that got another name: refused by their new one, read where they are stored.

A developer who moves or renames an option adds a line to RENAMED; docs/options.md lists them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hpa_jax.core.errors import near


def in_every_model(table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of a model's paths as one of the whole config's, wherever a model stands there.

    Values that are text are paths, too.
    """
    places = ("models.*", "retrieval.model", "adversarial.model")
    return {
        f"{place}.{path}": f"{place}.{new}" if isinstance(new, str) else new
        for path, new in table.items()
        for place in places
    }


# Options that got another name: old path -> new path, of an option or of all below it; * stands for
# a name or a number.  Later lines are in the names that earlier ones gave.  An old name is refused,
# by the new one; stored settings that hold it are read as if they held the new one.
RENAMED: dict[str, str] = {
    "data.folder.missing_yellow": "data.folder.missing.yellow",
    "retrieval.pictures": "retrieval.min_images",
    "stack.cut": "stack.threshold",
    "stack.cut_repeats": "stack.threshold_repeats",
    **in_every_model({"stages": "phases"}),
}
# Values that got another name: path -> regular expression of the whole value -> what stands for it.
RENAMED_VALUES: dict[str, dict[str, str]] = {
    **in_every_model({"checkpoint": {r"stage:(\d+)": r"phase:\1"}}),
    **in_every_model({"phases[*].lr_noise_every": {"stage": "phase"}}),
}


def renamed(path: str) -> str:
    """Where an option stands today that once stood at `path`."""
    for old, new in RENAMED.items():
        if match := path_pattern(old).match(path):
            for name in match.groups():
                new = new.replace("*", name, 1)
            path = new + path[match.end() :]
    return path


def current(path: str, value: Any) -> tuple[str, Any]:
    """(path, value) of today for those that were stored."""
    path = renamed(path)
    for place, table in RENAMED_VALUES.items():
        if isinstance(value, str) and path_pattern(place).fullmatch(path):
            for old, new in table.items():
                value = re.sub(rf"\A(?:{old})\Z", new, value)
    return path, value


def current_model(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options of today for those that were stored with it."""
    here = "models.one."
    model = {}
    for name, value in stored.items():
        path, value = current(here + name, value)
        model[path.removeprefix(here)] = value
    for number, given in enumerate(model.get("phases", ())):
        place = f"{here}phases[{number}]."
        given = dict(current(place + name, value) for name, value in given.items())
        model["phases"][number] = {path.removeprefix(place): value for path, value in given.items()}
    return model


def path_pattern(path: str) -> re.Pattern[str]:
    """What matches the beginning of a path in the form of RENAMED, up to the end of a name."""
    return re.compile(re.escape(path).replace(r"\*", r"([^.\[\]]+)") + r"(?![^.\[])")


def hint(path: str, known: Iterable[str]) -> str:
    """What to write in place of the name that a path ends in: its new one, or one of the near."""
    name, now = path.rpartition(".")[2], renamed(path)
    return f": it is now {now.rpartition('.')[2]!r}" if now != path else near(name, known)
