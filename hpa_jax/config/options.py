"""The definition of options: default, help, choices and range of each.

    folds=option(5, "folds of the nested fit", low=2, high=127)
    backbone=option("resnet34", "the network", choices="hpa_jax.models.registry:BACKBONES")

In: a statement, a dict of such options and of further statements (sections).  Out: defaults for a
ConfigDict, and texts for messages, `--help` and docs/options.md.  Choices stay in the dict or tuple
where they are defined; an import string refers to it and is resolved without running the module,
which may import JAX, so that `--help` and a refused config are fast.
"""

import ast
import functools
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from ml_collections import ConfigDict

Statement = dict[str, Union["Option", "Statement"]]
Kinds = tuple[type, ...]
KIND_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple",
    dict: "a mapping",
    type(None): "None",
}


@dataclass(frozen=True)
class Option:
    """One option, created by `option`.

    default: a value, or a function that creates it if it must not be shared.
    choices: names and "module:NAME" of a dict or tuple of names; for a tuple, of its items.
    pattern: a regular expression of further values.
    low, high, above, below: range of a number, or of each item of a tuple.
    kinds: types of a value; items: of a tuple's items.
    form: statement of a mapping; each: of every item of a tuple or every value of a mapping.
    check: "module:function" that raises InputError for an invalid value.
    text_key: key of a text that stands for a mapping: "d4" is {"name": "d4"}.
    """

    default: Any
    help: str
    choices: tuple[str, ...] | str
    pattern: str
    low: float | None
    high: float | None
    above: float | None
    below: float | None
    kinds: Kinds
    items: Kinds
    form: Statement | None
    each: Statement | None
    check: str
    text_key: str

    def value(self) -> Any:
        """Return the default, a new object if it is mutable."""
        return self.default() if callable(self.default) else self.default

    def range(self) -> str:
        """Describe the range; "" without one."""
        if self.above is not None and self.below is not None:
            return f"between {self.above:g} and {self.below:g}"
        low = f"at least {self.low:g}" if self.low is not None else ""
        low = f"above {self.above:g}" if self.above is not None else low
        high = f"at most {self.high:g}" if self.high is not None else ""
        high = f"below {self.below:g}" if self.below is not None else high
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        return ", ".join(filter(None, (low, high)))

    def inside(self, number: float) -> bool:
        """Whether a number is finite and in the range."""
        return (
            math.isfinite(number)
            and (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def names(self) -> tuple[str, ...]:
        """Return the choices, resolving import strings."""
        places = (self.choices,) if isinstance(self.choices, str) else self.choices
        each = (names_at(place) if ":" in place else (place,) for place in places)
        return tuple(name for names in each for name in names)

    def fits(self, name: str) -> bool:
        """Whether a text is a choice or matches the pattern; True without both."""
        if self.pattern and re.fullmatch(self.pattern, name):
            return True
        return not (self.choices or self.pattern) or name in self.names()

    def possible(self) -> str:
        """Describe the valid values: choices and range; "" if any of the type."""
        return "; ".join(filter(None, (" | ".join(self.names()), self.range())))


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | str = (),
    pattern: str = "",
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    kinds: Kinds = (),
    also: Kinds = (),
    items: Kinds = (),
    form: Statement | None = None,
    each: Statement | None = None,
    check: str = "",
    text_key: str = "",
) -> Option:
    """Create an option whose values have the type of its default; arguments as in `Option`.

    Args:
        default: of the option.
        help: description in a line.
        kinds: types instead of the default's; needed if the default is a function.
        also: types besides the default's.
    """
    if not kinds:
        kind = dict if isinstance(default, Mapping) else type(default)
        kinds = (int, float) if kind is float else (kind,)
    return Option(default, help, choices, pattern, low, high, above, below,
                  (*kinds, *also), items, form, each, check, text_key)  # fmt: skip


def of_kind(value: Any, kinds: Kinds) -> bool:
    """Whether a value has one of the types; True is not a number, lists count as tuples."""
    kind: Any = dict if isinstance(value, Mapping | ConfigDict) else type(value)
    return kind in kinds or (kind is list and tuple in kinds)


def kinds_in_words(kinds: Kinds) -> str:
    """Describe types: "a number or None"."""
    if float in kinds:
        kinds = tuple(kind for kind in kinds if kind is not int)
    return " or ".join(KIND_NAMES[kind] for kind in dict.fromkeys(kinds))


def defaults(statement: Statement) -> dict[str, Any]:
    """Return the default of every option, in sections like the statement."""
    return {
        name: stated.value() if isinstance(stated, Option) else defaults(stated)
        for name, stated in statement.items()
    }


def joined(path: str, part: str | int) -> str:
    """Append a part to a path in the syntax of `--config.PATH`: x.name, x[0], x["a name"]."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    if part.isidentifier():
        return f"{path}.{part}" if path else part
    plain = part.isprintable() and not set(part) & {'"', "\\"}
    return f'{path}["{part}"]' if plain else f"{path}[{part!r}]"


def at(place: str) -> Callable[..., Any]:
    """Import the function of "module:function"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


def names_at(place: str) -> tuple[str, ...]:
    """Return the names in the dict or tuple "module:NAME" or "module:NAME.key".

    If the module is not imported, its source is parsed: NAME must be a literal or built from other
    names of the module by `{**A, **B}`, `(*A, "b")` or `dict(a=...)`.

    Raises:
        LookupError: an unknown name, or one defined in another way.
    """
    module, _, path = place.partition(":")
    name, *keys = path.split(".")
    if module in sys.modules:
        value = getattr(sys.modules[module], name)
        for key in keys:
            value = value[key]
        return tuple(value)
    return _names_in_source(module, name, tuple(keys))


@functools.cache
def _names_in_source(module: str, name: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    assigned = _assignments(module)

    def names(node: ast.expr | None) -> list[str]:
        match node:
            case ast.Name(id) if id in assigned:
                return names(assigned[id])
            case ast.Starred(value):
                return names(value)
            case ast.Constant(str(value)):
                return [value]
            case ast.Dict():
                pairs = zip(node.keys, node.values)
                return [n for key, value in pairs for n in names(value if key is None else key)]
            case ast.Call(ast.Name("dict")):
                of_words = ([w.arg] if w.arg else names(w.value) for w in node.keywords)
                return [name for some in of_words for name in some]
            case ast.Tuple(items) | ast.List(items) | ast.Set(items):
                return [name for item in items for name in names(item)]
        raise LookupError(f"{module}: {name} can't be read without running it")

    node = assigned.get(name)
    for key in keys:
        node = _item(node, key)
    return tuple(names(node))


def _item(node: ast.expr | None, key: str) -> ast.expr | None:
    """Return the value of a key in a literal dict or a call of dict()."""
    if isinstance(node, ast.Dict):
        keys = (k.value if isinstance(k, ast.Constant) else None for k in node.keys)
        return dict(zip(keys, node.values)).get(key)
    words = node.keywords if isinstance(node, ast.Call) else []
    return next((word.value for word in words if word.arg == key), None)


def _assignments(module: str) -> dict[str, ast.expr]:
    """Return name -> expression of the top-level assignments in a module's source."""
    package, *rest = module.split(".")
    start = importlib.util.find_spec(package)  # of the top package only: imports nothing
    if start is None or start.origin is None:
        raise LookupError(f"no package {package}")
    path = Path(start.origin).parent.joinpath(*rest)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assigned: dict[str, ast.expr] = {}
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.Assign):
            assigned |= {t.id: node.value for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            assigned[node.target.id] = node.value
    return assigned
