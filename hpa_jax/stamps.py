"""Which tasks of a work directory are done, and whether they still hold.

A stamp under WORKDIR/.stamps records, for one task, a key (its config section, its inputs, its code
and library versions) and a fingerprint of what it wrote.  The task is done while both are
unchanged.  Files count by content, so a result that comes out the same re-runs nothing below.

Code: the files that a task names, and all of the package that those import, and so on.  Comments
and docstrings don't count: a better explanation trains nothing again.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpa_jax import artifacts

PACKAGE = Path(__file__).parent
LIBRARIES = (
    *("jax", "jaxlib", "flax", "optax", "dm-pix", "numpy", "scipy", "scikit-learn", "pandas"),
    *("tensorflow-datasets", "tensorflow", "tensorflow-cpu", "pillow", "tifffile", "imagehash"),
    *("iterative-stratification", "networkx", "xgboost", "xgboost-cpu"),
)
# Imports are not followed from a stage (they lead everywhere; it names the rooms that compute), nor
# into what computes nothing: settings and inputs count themselves.
NOT_FOLLOWED = ("stages",)
NOT_COUNTED = ("config", "config_check", "context", "errors", "stamps", "artifacts")
SMALL_FILE = 1 << 16  # bytes; in folders, larger files count by name and size


@dataclass(frozen=True)
class Task:
    """One restartable unit of work; a stage has one, or one for each model and fold."""

    stage: str
    name: str  # unique, also the stamp's file name
    work: Callable[[], str]  # returns a summary for the log
    settings: Any  # what of the config it depends on (JSON-able)
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    code: tuple[str, ...]  # rooms and files of the package it depends on
    resume: str = "never"  # its own partial output is kept: never | same (key) | always
    listing: tuple[Path, ...] = ()  # big picture folders: counted by names, sizes and times


def key(task: Task) -> str:
    """Hash of everything the task's result depends on."""
    parts = {
        "settings": task.settings,
        "inputs": [content(path) for path in task.inputs],
        "listing": [listing(path) for path in task.listing],
        "code": [[name, _code(name)] for name in closure(task.code)],
        "libraries": _libraries(),
    }
    return _sha(json.dumps(artifacts.plain(parts), sort_keys=True, default=str).encode())


def is_done(workdir: Path, task: Task, task_key: str) -> bool:
    """Whether the task finished with this key and its outputs are as it left them."""
    stamp = _read(workdir, task)
    return stamp.get("key") == task_key and stamp.get("outputs") == _outputs(task)


def begin(workdir: Path, task: Task, task_key: str) -> None:
    """Removes what an earlier run left, unless the task can go on from it."""
    stamp = _read(workdir, task)
    unfinished = stamp.get("key") == task_key and "outputs" not in stamp
    if not (task.resume == "always" or (task.resume == "same" and unfinished)):
        for path in task.outputs:
            artifacts.remove(path)
    artifacts.write_json(_path(workdir, task), {"key": task_key})


def finish(workdir: Path, task: Task, task_key: str, seconds: float) -> None:
    """Marks the task as done."""
    stamp = {"key": task_key, "outputs": _outputs(task), "seconds": round(seconds, 2)}
    artifacts.write_json(_path(workdir, task), stamp)


def seconds(workdir: Path, beyond: Path | None = None) -> dict[str, float]:
    """Measured time of each finished task, by name.

    beyond: another workdir; tasks that depend on the same there are its own, and left out here.
    """
    found = {}
    for path in sorted((workdir / ".stamps").glob("*.json")):
        stamp = artifacts.read_json(path)
        there = beyond / ".stamps" / path.name if beyond else None
        theirs = artifacts.read_json(there) if there and there.is_file() else {}
        if "seconds" in stamp and stamp["key"] != theirs.get("key"):
            found[path.stem] = stamp["seconds"]
    return found


def content(path: Path) -> str:
    """Fingerprint of a file (content) or a folder (names, sizes, content of small files)."""
    if path.is_file():
        return _file(path)
    if not path.is_dir():
        return "absent"
    entries = []
    for file in sorted(_files(path)):
        size = file.stat().st_size
        entries.append(
            (str(file.relative_to(path)), size, _file(file) if size < SMALL_FILE else "")
        )
    return _sha(json.dumps(entries).encode())


def listing(path: Path) -> str:
    """Fingerprint of a folder of pictures by names, sizes and times: nothing is read."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            status = os.stat(os.path.join(folder, name))
            digest.update(f"{folder}/{name}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _outputs(task: Task) -> list[str]:
    return [content(path) for path in task.outputs]


def _read(workdir: Path, task: Task) -> dict[str, Any]:
    path = _path(workdir, task)
    return artifacts.read_json(path) if path.is_file() else {}


def _path(workdir: Path, task: Task) -> Path:
    return workdir / ".stamps" / f"{task.name}.json"


def _files(path: Path) -> Iterable[Path]:
    return (file for file in path.rglob("*") if file.is_file())


def _file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def closure(rooms: tuple[str, ...]) -> tuple[str, ...]:
    """The files that a task depends on, sorted: those of its rooms and what they import.

    rooms: files and folders, relative to the package; so is the answer.
    """
    found: set[str] = set()
    left = [file for room in rooms for file in _of_room(PACKAGE / room)]
    while left:
        file = left.pop()
        name = str(file.relative_to(PACKAGE))
        if name in found:
            continue
        found.add(name)
        if file.suffix == ".py" and not name.startswith(NOT_FOLLOWED):
            left += _imported(file)
    return tuple(sorted(found))


def _of_room(path: Path) -> list[Path]:
    return [*path.rglob("*.py"), *path.rglob("*.csv")] if path.is_dir() else [path]


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    """Files of the package that a file imports, at any depth of its code."""
    found = []
    for node in ast.walk(_parsed(file)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            package, *parts = name.split(".")
            if package == PACKAGE.name and parts and parts[0] not in (*NOT_FOLLOWED, *NOT_COUNTED):
                path = PACKAGE.joinpath(*parts)
                found += [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()]
    return tuple(found)


@functools.cache
def _parsed(file: Path) -> ast.Module:
    """The code of a file, without comments and docstrings."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    return tree


@functools.cache
def _code(name: str) -> str:
    """Hash of a file of the package."""
    file = PACKAGE / name
    return _sha(ast.dump(_parsed(file)).encode()) if file.suffix == ".py" else _file(file)


@functools.cache
def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
