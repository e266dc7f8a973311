"""The code and libraries that produced a result; a difference is reported but redoes nothing.

In: the files and folders of the package that a step computes with.  Out: hashes of these and of
everything they import, without comments and docstrings, and the versions of the libraries used.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
# Imports are not followed from pipeline steps (each names the code that it computes with), nor into
# modules that compute nothing.
NOT_FOLLOWED = ("pipeline",)
NOT_COUNTED = (
    *("config", "core.errors", "core.artifacts", "core.contents", "core.provenance"),
    *("pipeline.cache", "pipeline.context", "pipeline.replaced"),
)


def of(code: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Return {"code": file -> hash, "libraries": name -> version} of files and their imports.

    code: files and folders, relative to the package.
    """
    files = closure(code)
    modules = {name for file in files for name in _modules(PACKAGE / file)}
    versions = {name: version(name) for name in sorted(modules)}
    return {
        "code": {name: _read(PACKAGE / name)[1] for name in files},
        "libraries": {name: version for name, version in versions.items() if version},
    }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how the code and libraries of a result differ from the present ones; "" if equal.

    A file or library that only one side lists is ignored: the other never used it.
    """
    old = [name for name, mark in before["code"].items() if now["code"].get(name, mark) != mark]
    parts = [f"an older {Path(name).name}" for name in old[:2]]
    if len(old) > 2:
        parts.append(f"{len(old) - 2} more older files")
    for name, version in before["libraries"].items():
        if (version_now := now["libraries"].get(name, version)) != version:
            parts.append(f"{name} {version} (now {version_now})")
    return ", ".join(parts)


@functools.cache
def closure(code: tuple[str, ...]) -> tuple[str, ...]:
    """Return these files of the package and all that they import, directly or not, sorted."""
    files: set[str] = set()
    queue = [file for name in code for file in _files(PACKAGE / name)]
    while queue:
        file = queue.pop()
        name = str(file.relative_to(PACKAGE))
        if name in files:
            continue
        files.add(name)
        if file.suffix == ".py" and not name.startswith(NOT_FOLLOWED):
            queue += _imported(file)
    return tuple(sorted(files))


@functools.cache
def version(module: str) -> str:
    """Return the version of the library that provides a module; "" if it is not installed."""
    names = _distributions().get(module)
    return importlib.metadata.version(names[0]) if names else ""


def installed() -> dict[str, str]:
    """Return name -> version of every installed library; of two versions, that which is imported.

    A second one comes from a folder later on the path, or is the rest of a broken upgrade.
    """
    versions = {}
    for item in reversed([*importlib.metadata.distributions()]):
        # without metadata; importlib_metadata, if a library has imported it, raises
        with contextlib.suppress(FileNotFoundError, TypeError, KeyError):
            if item.name:
                versions[item.name] = item.version
    return versions


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _files(path: Path) -> list[Path]:
    return [*path.rglob("*.py"), *path.rglob("*.csv")] if path.is_dir() else [path]


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    """Files of the package that a file imports, also inside functions."""
    paths = []
    for name in _read(file)[0]:
        package, _, module = name.partition(".")
        left_out = any(
            f"{module}.".startswith(f"{prefix}.") for prefix in NOT_FOLLOWED + NOT_COUNTED
        )
        if package == PACKAGE.name and module and not left_out:
            path = PACKAGE.joinpath(*module.split("."))
            paths += [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return tuple(paths)


def _modules(file: Path) -> set[str]:
    """Top-level names of the third-party modules that a file imports."""
    names = {name.split(".")[0] for name in _read(file)[0]}
    return names - sys.stdlib_module_names - {PACKAGE.name}


@functools.cache
def _read(file: Path) -> tuple[tuple[str, ...], str]:
    """The names that a file imports, and the hash of its code without comments and docstrings.

    Its tree isn't kept: a million objects that Python's garbage collector would visit again.
    """
    if file.suffix != ".py":
        return (), _mark(file.read_bytes())
    names = []
    tree = ast.parse(file.read_bytes())
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    # unparsed: ast.dump differs between versions of Python
    return tuple(names), _mark(ast.unparse(tree).encode())


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """A tree and the statements in it, without their expressions, which are most of it."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _statements(node)


def _mark(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
