"""User code that a config names: "my_file.py:function".

A loss, an augmentation, a backbone or a threshold method can be a function in a Python file, so
that users of the installed package can add one without changing it.  The content of the file enters
the keys of the steps that use it (pipeline/cache.py), and run.json stores its text.

Only code that the user's config names is run; a model from elsewhere is data (`refuse`).
"""

import functools
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpa_jax.core.errors import InputError, near

PATTERN = r"[^:]*\.py:[A-Za-z_]\w*"


def is_reference(value: object) -> bool:
    """Whether a value of the config names a function of a file."""
    return isinstance(value, str) and re.fullmatch(PATTERN, value) is not None


def load(reference: str) -> Callable[..., Any]:
    """Return the function that "my_file.py:function" names, relative to the working directory.

    What it raises becomes an InputError that names its line (`raising`).

    Raises:
        InputError: the file or function is missing, or running the file fails.
    """
    path, name = _split(reference)
    module = _module(path, _digest(path))
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{reference}: {path} has no function {name!r}{near(name, known)}")
    return raising(reference)(getattr(module, name))


@contextmanager
def raising(reference: str) -> Iterator[None]:
    """Context or decorator for user code: what it raises becomes one InputError with its line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        path = _split(reference)[0].resolve()
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path]
        where = f"{reference}, line {lines[-1]}" if lines else reference
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{where}: {reason} (--debug shows the traceback)") from error


def references(value: Any) -> list[str]:
    """Return the references anywhere in a config, each once, in order."""
    return list(dict.fromkeys(_references(value)))


def by_content(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with each reference as file name, function name and content digest.

    Raises:
        InputError: no such file.
    """
    return _replaced(settings) if references(settings) else settings


def texts(config: Any) -> dict[str, dict[str, str]]:
    """Return reference -> {sha256, text} of the files that a config names."""
    sources = {}
    for reference in references(config):
        path, _ = _split(reference)
        sources[reference] = {"sha256": _digest(path), "text": path.read_text("utf-8")}
    return sources


def check_unchanged(recorded: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Check that the files of `texts` are as they were recorded.

    Raises:
        InputError: one has changed or is missing; `what` belongs to the former one.
    """
    for reference, file in recorded.items():
        path, _ = _split(reference)
        if _digest(path) != file["sha256"]:
            raise InputError(
                f"{what}: was made with another {path}; restore that file (its text is there "
                "under own_code), or train again with this one"
            )


def refuse(config: Any, what: str, remedy: str) -> None:
    """Refuse a config from elsewhere that names code.

    Raises:
        InputError: the config names code; `remedy` says what to do.
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
        raise InputError(
            f"{path}: {reason} (relative paths start at the working directory)"
        ) from None


@functools.cache
def _module(path: Path, digest: str) -> Any:
    """Run a file and return its module; the same content is run once."""
    name = f"hpa_jax_own_{path.stem}_{digest[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _references(value: Any) -> Iterator[str]:
    if is_reference(value):
        yield value
    elif hasattr(value, "items"):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _references(item)


def _replaced(value: Any) -> Any:
    if is_reference(value):
        path, name = _split(value)
        return f"{path.name}:{name} {_digest(path)[:16]}"
    if hasattr(value, "items"):
        return {key: _replaced(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_replaced(item) for item in value)
    return value
