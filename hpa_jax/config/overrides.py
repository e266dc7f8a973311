"""What a command line says about the config: `--config=FILE[:VARIANT]` and `--config.a.b=VALUE`.

In: arguments.  Out: the config of the recipe with these values, locked and not yet validated, and
the arguments that are left.  A value is read by the type that its option is stated with; one that
is no Python value is text.
"""

import ast
import inspect
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults, validation
from hpa_jax.config.options import Option, of_kind
from hpa_jax.core.errors import InputError, near


def configured(arguments: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """(the config, the other arguments); without --config the defaults.

    Raises:
        InputError: a missing or broken file, an unknown variant or key, or a key without a value.
    """
    recipe, changes, rest = "", [], []
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name != "--config" and not name.startswith("--config."):
            rest.append(name + equals + value)
            continue
        if not equals:
            if not left or left[0].startswith("--"):
                raise InputError(f"{name}: needs a value, {name}=...")
            value = left.pop(0)
        if name == "--config":
            recipe = value
        else:
            changes.append((name.removeprefix("--config."), value))
    config = load(recipe) if recipe else defaults.default()
    for key, value in changes:
        validation.check_key(config, key)
        _change(config, key, value)
    return config, rest


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


def _change(config: ConfigDict, key: str, text: str) -> None:
    """Sets one key, which is there, to what a text says."""
    *path, leaf = key.replace("[", ".[").split(".")
    node: Any = config
    for part in path:
        node = node[int(part[1:-1])] if part.startswith("[") else node[part]
    if leaf.startswith("["):
        raise InputError(f"--config.{key}={text}: give the whole tuple, not one item")
    value = _read(text, stated(key), node[leaf])
    if isinstance(node, ConfigDict):
        with node.ignore_type(), node.unlocked():
            node[leaf] = value
    else:
        node[leaf] = value


def stated(key: str) -> Option | None:
    """The option of a key as "models.tiny.phases[0].lr"; None inside of what is free in form."""
    statement: Any = defaults.OPTIONS
    for part in key.replace("[", ".[").split("."):
        if isinstance(statement, Option):
            if statement.form:
                statement = statement.form.get(part)
            elif statement.each:
                statement = statement.each  # the part is a name or a number
            else:
                return None
        elif statement is not None:
            statement = statement.get(part)
    return statement if isinstance(statement, Option) else None


def _read(text: str, option: Option | None, before: Any) -> Any:
    """The value of a text; its type is left to validation where it fits none."""
    is_mapping = isinstance(before, Mapping | ConfigDict)
    kinds = option.kinds if option else (dict if is_mapping else type(before),)
    value = _literal(text)
    if bool in kinds:
        value = {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), value)
    if isinstance(value, list):
        value = tuple(value)
    if float in kinds and type(value) is int:
        value = float(value)
    if not isinstance(value, str) and of_kind(value, kinds):
        return value
    if str in kinds:
        return text
    bare = not isinstance(value, str) or not set(value) & set("()[]{},")
    return (value,) if tuple in kinds and bare else value  # --config.models.m.channels=red


def _literal(text: str) -> Any:
    """The Python value of a text, in which dict(a=1) may stand for {"a": 1}; else the text."""

    class Dicts(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.AST:
            self.generic_visit(node)
            named = isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args
            if not named or not all(word.arg for word in node.keywords):
                return node
            keys = [ast.Constant(word.arg) for word in node.keywords]
            return ast.Dict(keys, [word.value for word in node.keywords])

    try:
        return ast.literal_eval(Dicts().visit(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return text
