"""Code of the user's own that a config names: "my_file.py:function".

A loss, an augmentation, a backbone or a way to choose thresholds can be a function of a Python
file, so that whoever installed the package adds one without changing it.  The file counts by its
content in the keys of the steps that use it (pipeline/cache.py), and run.json holds its text.

Only what the user's own config names is run; a model from elsewhere is data (`refuse`).
"""

import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpa_jax.core.errors import InputError, near

PATTERN = r"[^:]*\.py:[A-Za-z_]\w*"


def is_reference(value: object) -> bool:
    """Whether a value of the config names a function of a file."""
    return isinstance(value, str) and re.fullmatch(PATTERN, value) is not None


def load(reference: str) -> Callable[..., Any]:
    """Return the function that "my_file.py:function" names; a relative path is of the working
    directory.

    Raises:
        InputError: no such file or function, or a file that can't be run.
    """
    path, name = _split(reference)
    module = _module(path, _digest(path))
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{reference}: {path} has no function {name!r}{near(name, known)}")
    return getattr(module, name)


def references(value: Any) -> list[str]:
    """Return the references anywhere in a config, each once, in order."""
    return list(dict.fromkeys(_found(value)))


def by_content(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with each reference as the file's name, function and digest of its content.

    Raises:
        InputError: no such file.
    """
    return _replaced(settings) if references(settings) else settings


def texts(config: Any) -> dict[str, dict[str, str]]:
    """Return reference -> {sha256, text} of the files that a config names."""
    found = {}
    for reference in references(config):
        path, _ = _split(reference)
        found[reference] = {"sha256": _digest(path), "text": path.read_text("utf-8")}
    return found


def refuse(config: Any, what: str, remedy: str) -> None:
    """Refuses a config that was not written by the user and names code.

    Raises:
        InputError: it names code; `remedy` says what to do.
    """
    if named := references(config):
        raise InputError(f"{what} names code to run, {named[0]}; {remedy}")


def _split(reference: str) -> tuple[Path, str]:
    path, _, name = reference.rpartition(":")
    return Path(path).expanduser(), name


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason} (paths are of the working directory)") from None


@functools.cache
def _module(path: Path, digest: str) -> Any:
    """The module of a file's content; the same content is run once."""
    name = f"hpa_jax_own_{path.stem}_{digest[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:  # no file that Python can run
        raise InputError(f"{path}: no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _found(value: Any) -> Iterator[str]:
    if is_reference(value):
        yield value
    elif hasattr(value, "items"):
        for item in value.values():
            yield from _found(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _found(item)


def _replaced(value: Any) -> Any:
    if is_reference(value):
        path, name = _split(value)
        return f"{path.name}:{name} {_digest(path)[:16]}"
    if hasattr(value, "items"):
        return {key: _replaced(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_replaced(item) for item in value)
    return value
