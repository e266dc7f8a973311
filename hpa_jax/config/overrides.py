"""The config options of the command line: `--config=FILE[:VARIANT]` and `--config.PATH=VALUE`.

In: arguments.  Out: the config of the recipe with these values, locked and not yet validated, and
the remaining arguments.  A value is parsed by the type of its option; text if it is not a Python
literal.

A path is split by ml_collections' `config_path`; the rest is implemented here, because its flags
cannot set items of a tuple or add names to a mapping, and fix the type of a leaf to that of its
default:

    models.tiny.phases[0].lr=3e-4                 an item of a tuple, by its number
    stack.of_class["Nucleoli & fibrillar"].eta=1  a name that is not an identifier, in quotes
    models.tiny.loss.bce=0.5                      a new name, where names are free
    models.third=resnet18                         a new model: by its backbone, or by a mapping
    models.tiny.optimizer="dict(name='sgd')"      a mapping for a section changes its keys only

See docs/recipes.md.
"""

import ast
import dataclasses
import functools
import inspect
import operator
import re
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from hpa_jax.config import defaults, options, renamed
from hpa_jax.config.options import Option, Statement, kinds_in_words, of_kind
from hpa_jax.core.errors import InputError, near

Part = str | int  # of a path: a name, or the index of an item
Definition = Option | Statement | None  # None: any value is allowed
# Everything up to the "=" that ends a path, ignoring "=" inside quotes.
_KEY = re.compile(r"""(?:"[^"]*"|'[^']*'|[^="'])*(?==)""")
_LONGEST = 60  # letters of a value in a message
# Of one of data.sources; validation checks the options of its kind.
_ANY_SOURCE: Statement = functools.reduce(
    operator.or_, (defaults.SOURCE, *defaults.OF_SOURCE.values())
)


def configured(arguments: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Return (the config, the other arguments); without --config the defaults.

    Raises:
        InputError: a missing or broken file, an unknown variant or key, or a key without a value.
    """
    recipe, changes, rest = "", [], []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        key = _KEY.match(argument) if argument.startswith("--config.") else None
        name, equals, value = argument.partition("=")
        if key:
            name, value = key[0], argument[key.end() + 1 :]
        if name != "--config" and not name.startswith("--config."):
            rest.append(argument)
            continue
        if not equals:
            if not left or left[0].startswith("--"):
                raise InputError(f"{_printable(name)}: needs a value, {_printable(name)}=...")
            value = left.pop(0)
        if name == "--config":
            recipe = value
        else:
            changes.append((name.removeprefix("--config."), value))
    config = load(recipe) if recipe else defaults.default()
    for path, text in changes:
        try:
            config = _changed(config, path, functools.partial(_read, text))
        except InputError as error:
            raise InputError(f"--config.{_printable(path)}={_short(text)}: {error}") from None
    return config, rest


def changed(config: ConfigDict, path: str, value: Any) -> ConfigDict:
    """Return a copy of a config with another value at a path, as on the command line.

    Args:
        config: a whole config, left unchanged.
        path: such as "models.tiny.phases[0].lr".
        value: of any type; validation refuses one of the wrong type.

    Raises:
        InputError: an unknown path; the message suggests the nearest name.
    """
    try:
        return _changed(config, path, functools.partial(_completed, value))
    except InputError as error:
        raise InputError(f"config.{_printable(path)}: {error}") from None


def load(recipe: str) -> ConfigDict:
    """Load the config of a recipe: a file, or the name of one in the package ("demo").

    `RECIPE:VARIANT` passes the variant to its get_config.

    Raises:
        InputError: an unknown file or variant, or the file is not a valid recipe; names its line.
    """
    path, _, variant = recipe.partition(":")
    if not Path(path).is_file():
        shipped = recipes()
        if path not in shipped:
            files = [str(p) for p in sorted(Path("configs").glob("**/*.py"))]
            hint = (
                near(path, [*shipped, *files]) or f"; the package's recipes: {', '.join(shipped)}"
            )
            raise InputError(f"--config: no file {path!r}{hint}")
        path = str(shipped[path])
    for folder in Path(path).resolve().parents:  # recipes import each other from configs.x
        if folder.name == "configs" and str(folder.parent) not in sys.path:
            sys.path.insert(0, str(folder.parent))
    try:
        make = runpy.run_path(path).get("get_config")
        if make is None:
            raise InputError(f"{path}: has no function get_config")
        if variant and not inspect.signature(make).parameters:
            raise InputError(f"{path}: has no variants, got {variant!r}")
        config = make(variant) if variant else make()
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # any error of a recipe is reported with its line
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == path), "")
        text = " ".join(str(error).strip("'\"").split())
        raise InputError(f"{path}{line}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"{path}: get_config must return a ConfigDict; start from defaults.default()"
        )
    return config


def recipes() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package: "pudae" for pudae.py.

    They are inside an installed package, and beside it in a checkout.
    """
    package = Path(__file__).parent.parent
    folders = (package / "shipped" / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if (folder / "demo.py").is_file()), folders[0])
    files = [f for f in sorted(folder.rglob("*.py")) if "def get_config" in f.read_text("utf-8")]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def _changed(config: ConfigDict, path: str, read: Callable[[Definition, Any], Any]) -> ConfigDict:
    """Return a copy of a config with `read(definition, old value)` as the value at a path."""
    return _replaced(config, defaults.OPTIONS, _parts(path), "", read)


def _parts(path: str) -> tuple[Part, ...]:
    """Split a path into names and indices.

    Raises:
        InputError: the path can't be parsed.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes in quoted text
            parts = config_path.split(path)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        parts = ()
    if not parts or type(parts[0]) is not str or not {type(part) for part in parts} <= {str, int}:
        raise InputError(
            "the path can't be read: names are joined by dots, an item of a tuple is [0], and a "
            'name that is not an identifier is in quotes, stack.of_class["Rods & rings"].eta'
        )
    return parts


def _replaced(
    node: Any,
    definition: Definition,
    parts: Sequence[Part],
    done: str,
    read: Callable[[Definition, Any], Any],
) -> Any:
    """Return a copy of a node with a new value at a path.

    Copied because a recipe's models may share a mapping.

    Args:
        node: a section, a tuple or a value, defined by `definition`.
        parts: the path from there; `done` is the path so far.
        read: (definition, old value) -> the new value.
    """
    if not parts:
        return read(definition, node)
    part, rest = parts[0], parts[1:]
    path = options.joined(done, part)
    if isinstance(part, int):
        _check_number(node, part, done)
        items = list(node)
        items[part] = _replaced(items[part], _below(definition, part), rest, path, read)
        return tuple(items)
    mapping = _as_mapping(node, definition, part, done)
    _check_name(mapping, definition, part, bool(rest), done)
    below = _below(definition, part)
    value = _replaced(dict(mapping.items()).get(part), below, rest, path, read)
    return _with(mapping, {part: value}, _is_free(definition))


def _below(definition: Definition, part: Part) -> Definition:
    """Return the definition of an item or a key."""
    if definition is defaults.SOURCES:
        return _ANY_SOURCE
    if (statement := _statement(definition)) is not None:
        return statement.get(str(part))
    if not isinstance(definition, Option):
        return None
    if definition.each:
        return definition.each
    items = definition.items or ((str,) if definition.choices and tuple in definition.kinds else ())
    return dataclasses.replace(definition, kinds=items, items=()) if items else None


def _statement(definition: Definition) -> Statement | None:
    """Return the options of a section, None if names are not fixed."""
    return definition.form if isinstance(definition, Option) else definition


def _is_free(definition: Definition) -> bool:
    """Whether any name is allowed, including one with dots."""
    return _statement(definition) is None and not (
        isinstance(definition, Option) and definition.each
    )


def _check_number(node: Any, number: int, done: str) -> None:
    """Refuse an index of a node without items or out of range."""
    if not isinstance(node, tuple | list):
        names = f"; names: {', '.join(map(str, node))}" if _is_mapping(node) else ""
        raise InputError(f"{done} has no numbered items{names}")
    if not 0 <= number < len(node):
        count = f"{len(node)} items, [0] to [{len(node) - 1}]" if node else "no items"
        raise InputError(f"{done} has {count}; to add one, give the whole tuple, {done}=(...)")


def _as_mapping(node: Any, definition: Definition, name: str, done: str) -> Mapping | ConfigDict:
    """Return the mapping in which a name is set: the node, or the one that a text stands for."""
    if _is_mapping(node):
        return node
    if isinstance(node, tuple | list):
        count = f"[0] to [{len(node) - 1}]" if node else "none so far"
        raise InputError(f"{done} has numbered items ({count}) and no {name!r}")
    option = definition if isinstance(definition, Option) else None
    if option is not None and dict not in option.kinds:
        raise InputError(f"{done} is {kinds_in_words(option.kinds)}; it has no {name!r}")
    text_key = option.text_key if option else ""
    if isinstance(node, str) and text_key:
        return {text_key: node}
    if node in (None, "") and text_key in ("", name):
        return {}
    first = f"{text_key}=..., " if text_key else ""
    raise InputError(
        f"{done} is {_short(node)}, not a mapping: give it whole, {done}=dict({first}{name}=...)"
    )


def _check_name(
    node: Mapping | ConfigDict, definition: Definition, name: str, has_more: bool, done: str
) -> None:
    """Refuse an invalid name; `has_more`: the path continues below it."""
    statement = _statement(definition)
    if statement is not None and name not in statement:
        hint = renamed.hint(options.joined(done, name), statement)
        phases = node.get("phases", ()) if "phases" in statement else ()
        place = f"; {done}.phases[0].{name}, a phase's" if phases and name in phases[0] else ""
        raise InputError(f"{done or 'the config'} has no {name!r}{hint}{place}")
    if (
        isinstance(definition, Option)
        and definition.each is defaults.MODEL
        and name not in list(node)
    ):
        if not name.isidentifier():
            raise InputError(f"{name!r}: a model's name is letters, digits and _")
        if has_more:
            hint = f"{near(name, node)}; a new one: --config.{done}.{name}=BACKBONE"
            raise InputError(f"{done} has no {name!r}{hint}")
    if hasattr(ConfigDict, name):
        raise InputError(f"{name!r} is a method of ml_collections' ConfigDict and can't be a name")


def _with(
    node: Mapping | ConfigDict, values: Mapping[str, Any], free: bool
) -> dict[str, Any] | ConfigDict:
    """Return a copy of a mapping with other values; FieldReferences are set for all users."""
    if not isinstance(node, ConfigDict):
        return {**node, **values}
    copy = ConfigDict(node, allow_dotted_keys=free)
    try:
        with copy.ignore_type(), copy.unlocked():
            for name, value in values.items():
                if isinstance(value, dict):
                    value = ConfigDict(value, allow_dotted_keys=free)
                copy[name] = value
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"a name that a config can't have: {_one_line(error)}") from None
    return copy


def _read(text: str, definition: Definition, before: Any) -> Any:
    """Parse a text; validation refuses a value of the wrong type."""
    if isinstance(definition, Option):
        kinds = definition.kinds
    elif definition is not None or _is_mapping(before):
        kinds = (dict,)
    else:
        kinds = (tuple if isinstance(before, list) else type(before),)
    return _completed(_of_kinds(text, kinds), definition, before)


def _of_kinds(text: str, kinds: tuple[type, ...]) -> Any:
    """Parse a text as one of these types if possible."""
    value = _literal(text)
    if bool in kinds or kinds == (type(None),):  # new keys of free form take any value
        value = {"true": True, "false": False}.get(text.lower(), value)
    if bool in kinds:
        value = {"1": True, "0": False}.get(text, value)
    if isinstance(value, list):
        value = tuple(value)
    if float in kinds and type(value) is int and abs(value) < 2**63:
        value = float(value)
    if not isinstance(value, str) and of_kind(value, kinds):
        return value
    if str in kinds:
        return text
    bare = not isinstance(value, str) or not set(value) & set("()[]{},")
    return (value,) if tuple in kinds and bare else value  # --config.models.m.channels=red


def _completed(value: Any, definition: Definition, before: Any) -> Any:
    """Complete a mapping for a section with the old values of the keys it leaves out.

    A new model is completed with the defaults; a text in its place is its backbone.
    """
    if definition is defaults.MODEL and isinstance(value, str):
        value = {"backbone": value}
    statement = _statement(definition)
    if not _is_mapping(value):
        return value
    if statement is not None:
        start = before if _is_mapping(before) else options.defaults(statement)
        values = dict(start.items())
        items = {
            name: _completed(item, statement.get(name), values.get(name))
            for name, item in value.items()
        }
        return _with(start, items, free=False)
    if isinstance(definition, Option) and definition.each:
        return {name: _completed(item, definition.each, None) for name, item in value.items()}
    return value


def _literal(text: str) -> Any:
    """Return the Python literal of a text, with dict(a=1) allowed for {"a": 1}, else the text."""

    class Dicts(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            named = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
            if not named or not all(word.arg for word in node.keywords):
                return node
            keys: list[ast.expr | None] = [ast.Constant(word.arg) for word in node.keywords]
            return ast.Dict(keys, [word.value for word in node.keywords])

    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes in quoted text
            value = ast.literal_eval(Dicts().visit(ast.parse(text.strip(), mode="eval")))
        repr(value)  # fails for a number of thousands of digits
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    """Whether a config can hold a value: JSON types, with tuples for lists, no endless numbers."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, int):  # where a float was before, a ConfigDict converts it
        return abs(value) <= sys.float_info.max
    return value is None or isinstance(value, float | str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict)


def _short(value: Any) -> str:
    """Return repr of a value on one line, shortened if long."""
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    text = _one_line(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _printable(text: str) -> str:
    """Escape unprintable characters of a text."""
    return text if text.isprintable() else repr(text)[1:-1]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
