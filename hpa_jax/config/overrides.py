"""What a command line says about the config: `--config=FILE[:VARIANT]` and `--config.PATH=VALUE`.

In: arguments.  Out: the config of the recipe with these values, locked and not yet validated, and
the arguments that are left.  A value is read by the type that its option is stated with; one that
is no Python value is text.

A path is split by ml_collections' `config_path`; the rest is done here, because its flags set no
item of a tuple, add no name to a mapping, and pin the type of a leaf to that of its default:

    models.tiny.phases[0].lr=3e-4                 an item of a tuple, by its number
    stack.of_class["Nucleoli & fibrillar"].eta=1  any name that is no identifier, in quotes
    models.tiny.loss.bce=0.5                      a new name, where names are free
    models.third=resnet18                         a new model: by its backbone, or by a mapping
    models.tiny.optimizer="dict(name='sgd')"      a mapping for a section changes what it names

docs/recipes.md describes all of it.
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

Part = str | int  # of a path: a name, or the number of an item
Stated = Option | Statement | None  # how a place is stated; None: it is free in form
# Everything up to the "=" that ends a path: one inside quotes belongs to a name.
_KEY = re.compile(r"""(?:"[^"]*"|'[^']*'|[^="'])*(?==)""")
_LONGEST = 60  # letters of a value in a message
# Of one of data.sources: validation knows which of them its kind has.
_ANY_SOURCE: Statement = functools.reduce(
    operator.or_, (defaults.SOURCE, *defaults.OF_SOURCE.values())
)


def configured(arguments: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """(the config, the other arguments); without --config the defaults.

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
    """Return a copy of a config with another value at a path, as of the command line.

    Args:
        config: a whole config; it stays as it is.
        path: as "models.tiny.phases[0].lr".
        value: of any type; validation refuses one that does not fit.

    Raises:
        InputError: the path leads nowhere; the message names the nearest name.
    """
    try:
        return _changed(config, path, functools.partial(_completed, value))
    except InputError as error:
        raise InputError(f"config.{_printable(path)}: {error}") from None


def load(recipe: str) -> ConfigDict:
    """The config of a recipe: a file, or the name of one of the package's ("demo").

    `RECIPE:VARIANT` passes the variant to its get_config.

    Raises:
        InputError: no such file or variant, or the file is no recipe; names its line.
    """
    path, _, variant = recipe.partition(":")
    if not Path(path).is_file():
        known = recipes()
        if path not in known:
            files = [str(p) for p in sorted(Path("configs").glob("**/*.py"))]
            hint = near(path, [*known, *files]) or f"; the package's recipes: {', '.join(known)}"
            raise InputError(f"--config: no file {path!r}{hint}")
        path = str(known[path])
    for folder in Path(path).resolve().parents:  # recipes import each other: from configs.x import
        if folder.name == "configs" and str(folder.parent) not in sys.path:
            sys.path.insert(0, str(folder.parent))
    try:
        make = runpy.run_path(path).get("get_config")
        if make is None:
            raise InputError(f"{path}: has no function get_config")
        if variant and not inspect.signature(make).parameters:
            raise InputError(f"{path}: has no variants, so none called {variant!r}")
        config = make(variant) if variant else make()
    except InputError:
        raise
    except SyntaxError as error:
        raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # whatever a recipe raises is the recipe's fault: its line is named
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f":{f.lineno}" for f in reversed(frames) if f.filename == path), "")
        text = " ".join(str(error).strip("'\"").split())
        raise InputError(f"{path}{line}: {type(error).__name__}: {text}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config returns no ConfigDict; begin with defaults.default()")
    return config


def recipes() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package: "pudae" for pudae.py.

    They lie inside an installed package, and beside it in a checkout.
    """
    package = Path(__file__).parent.parent
    folders = (package / "shipped" / "configs", package.parent / "configs")
    folder = next((folder for folder in folders if (folder / "demo.py").is_file()), folders[0])
    found = [f for f in sorted(folder.rglob("*.py")) if "def get_config" in f.read_text("utf-8")]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def _changed(config: ConfigDict, path: str, read: Callable[[Stated, Any], Any]) -> ConfigDict:
    """A copy of a config in which `read(how it is stated, the value before)` stands at a path."""
    return _replaced(config, defaults.OPTIONS, _parts(path), "", read)


def _parts(path: str) -> tuple[Part, ...]:
    """The names and numbers of a path.

    Raises:
        InputError: it can't be read.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's own, on what stands in quotes
            parts = config_path.split(path)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        parts = ()
    if not parts or type(parts[0]) is not str or not {type(part) for part in parts} <= {str, int}:
        raise InputError(
            "the path can't be read: names are joined by dots, an item of a tuple is [0], and a "
            'name that is no identifier stands in quotes, stack.of_class["Rods & rings"].eta'
        )
    return parts


def _replaced(
    node: Any,
    stated: Stated,
    parts: Sequence[Part],
    done: str,
    read: Callable[[Stated, Any], Any],
) -> Any:
    """A copy of a node in which what a path leads to is read anew.

    It copies because a recipe's models may share a mapping.

    Args:
        node: a section, a tuple or a value, and how it is stated.
        parts: the path from there; `done` is the path so far.
        read: (how a place is stated, the value before) -> the new value.
    """
    if not parts:
        return read(stated, node)
    part, rest = parts[0], parts[1:]
    path = options.joined(done, part)
    if isinstance(part, int):
        _check_number(node, part, done)
        items = list(node)
        items[part] = _replaced(items[part], _below(stated, part), rest, path, read)
        return tuple(items)
    mapping = _as_mapping(node, stated, part, done)
    _check_name(mapping, stated, part, bool(rest), done)
    below = _below(stated, part)
    value = _replaced(dict(mapping.items()).get(part), below, rest, path, read)
    return _with(mapping, {part: value}, _is_free(stated))


def _below(stated: Stated, part: Part) -> Stated:
    """How what has a name or a number in a place is stated."""
    if stated is defaults.SOURCES:
        return _ANY_SOURCE
    if (statement := _statement(stated)) is not None:
        return statement.get(str(part))
    if not isinstance(stated, Option):
        return None
    if stated.each:
        return stated.each
    items = stated.items or ((str,) if stated.choices and tuple in stated.kinds else ())
    return dataclasses.replace(stated, kinds=items, items=()) if items else None


def _statement(stated: Stated) -> Statement | None:
    """The options of a place that has fixed names."""
    return stated.form if isinstance(stated, Option) else stated


def _is_free(stated: Stated) -> bool:
    """Whether any name can stand in a place, one with dots included."""
    return _statement(stated) is None and not (isinstance(stated, Option) and stated.each)


def _check_number(node: Any, number: int, done: str) -> None:
    """Refuses a number in what has no items, or fewer."""
    if not isinstance(node, tuple | list):
        names = f"; names: {', '.join(map(str, node))}" if _is_mapping(node) else ""
        raise InputError(f"{done} has no numbered items{names}")
    if not 0 <= number < len(node):
        count = f"{len(node)} items, [0] to [{len(node) - 1}]" if node else "no items"
        raise InputError(f"{done} has {count}; to add one, give the whole tuple, {done}=(...)")


def _as_mapping(node: Any, stated: Stated, name: str, done: str) -> Mapping | ConfigDict:
    """The mapping in which a name is set: the node, or one that stands for it."""
    if _is_mapping(node):
        return node
    if isinstance(node, tuple | list):
        count = f"[0] to [{len(node) - 1}]" if node else "none so far"
        raise InputError(f"{done} has numbered items ({count}) and no {name!r}")
    option = stated if isinstance(stated, Option) else None
    if option is not None and dict not in option.kinds:
        raise InputError(f"{done} is {kinds_in_words(option.kinds)}; it has no {name!r}")
    text_key = option.text_key if option else ""
    if isinstance(node, str) and text_key:
        return {text_key: node}
    if node in (None, "") and text_key in ("", name):
        return {}
    first = f"{text_key}=..., " if text_key else ""
    raise InputError(
        f"{done} is {_short(node)}, no mapping: give it whole, {done}=dict({first}{name}=...)"
    )


def _check_name(
    node: Mapping | ConfigDict, stated: Stated, name: str, goes_on: bool, done: str
) -> None:
    """Refuses a name that a place can't have; `goes_on`: the path leads further down."""
    statement = _statement(stated)
    if statement is not None and name not in statement:
        hint = renamed.hint(options.joined(done, name), statement)
        phases = node.get("phases", ()) if "phases" in statement else ()
        place = f"; {done}.phases[0].{name}, a phase's" if phases and name in phases[0] else ""
        raise InputError(f"{done or 'the config'} has no {name!r}{hint}{place}")
    if isinstance(stated, Option) and stated.each is defaults.MODEL and name not in list(node):
        if not name.isidentifier():
            raise InputError(f"{name!r}: a model's name is letters, digits and _")
        if goes_on:
            hint = f"{near(name, node)}; a new one: --config.{done}.{name}=BACKBONE"
            raise InputError(f"{done} has no {name!r}{hint}")
    if hasattr(ConfigDict, name):
        raise InputError(f"{name!r} is a method of ml_collections' ConfigDict, and can't be a name")


def _with(
    node: Mapping | ConfigDict, values: Mapping[str, Any], free: bool
) -> dict[str, Any] | ConfigDict:
    """A copy of a mapping with other values; a FieldReference in it is set for all who share it."""
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


def _read(text: str, stated: Stated, before: Any) -> Any:
    """The value of a text; its type is left to validation where it fits none."""
    if isinstance(stated, Option):
        kinds = stated.kinds
    elif stated is not None or _is_mapping(before):
        kinds = (dict,)
    else:
        kinds = (tuple if isinstance(before, list) else type(before),)
    return _completed(_of_kinds(text, kinds), stated, before)


def _of_kinds(text: str, kinds: tuple[type, ...]) -> Any:
    """The value of a text, as one of these types where it can be."""
    value = _literal(text)
    if bool in kinds or kinds == (type(None),):  # what is new and free in form can be anything
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


def _completed(value: Any, stated: Stated, before: Any) -> Any:
    """A value with what it leaves out: a mapping for a section changes what it names.

    A model that is new begins with the defaults; a text in its place is its backbone.
    """
    if stated is defaults.MODEL and isinstance(value, str):
        value = {"backbone": value}
    statement = _statement(stated)
    if not _is_mapping(value):
        return value
    if statement is not None:
        start = before if _is_mapping(before) else options.defaults(statement)
        known = dict(start.items())
        items = {
            name: _completed(item, statement.get(name), known.get(name))
            for name, item in value.items()
        }
        return _with(start, items, free=False)
    if isinstance(stated, Option) and stated.each:
        return {name: _completed(item, stated.each, None) for name, item in value.items()}
    return value


def _literal(text: str) -> Any:
    """The Python value of a text, in which dict(a=1) may stand for {"a": 1}; else the text."""

    class Dicts(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            named = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
            if not named or not all(word.arg for word in node.keywords):
                return node
            keys: list[ast.expr | None] = [ast.Constant(word.arg) for word in node.keywords]
            return ast.Dict(keys, [word.value for word in node.keywords])

    try:
        with warnings.catch_warnings(action="ignore"):  # Python's own, on what stands in quotes
            value = ast.literal_eval(Dicts().visit(ast.parse(text.strip(), mode="eval")))
        repr(value)  # a number of thousands of digits can't be shown
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    """Whether a config can hold a value: JSON's kinds, with tuples for lists."""
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(_is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict)


def _short(value: Any) -> str:
    """A value as Python writes it, on one line; a long one is shortened."""
    text = repr(value.to_dict() if isinstance(value, ConfigDict) else value)
    text = _one_line(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _printable(text: str) -> str:
    """A text on one line: what can't be printed as Python escapes it."""
    return text if text.isprintable() else repr(text)[1:-1]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
