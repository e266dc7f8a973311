"""Reading and writing the files of a work directory, atomically.

Every writer goes through `atomic`, which writes beside the target and renames, so that a kill
leaves the old file or the new one.
"""

import contextlib
import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# What parsing a damaged file can raise: a missing key, an invalid header, an archive that asks for
# a password or for too much memory.
DAMAGE_ERRORS = (
    *(LookupError, TypeError, AttributeError, ValueError, ArithmeticError, SyntaxError),
    *(OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path (same folder, same suffixes); on success it becomes `path`.

    The body may write a file or make a folder there; a folder replaces the one at `path`.

    Raises:
        InputError: `path` can't be written, e.g. a full disk or missing permission.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove(temporary)
        if isinstance(error, OSError) and _concerns(error, path, temporary):
            why = error.strerror or _line(error)
            raise InputError(f"{path}: can't be written ({why})") from error
        raise


def _concerns(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error comes from writing `path`, not from a file read by the body."""
    name = error.filename
    return name is None or str(name).startswith((str(temporary), str(path), str(path.parent)))


def remove(path: Path) -> None:
    """Removes a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON with sorted keys; numpy scalars and arrays as numbers and lists, NaN as null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, sort_keys=True) + "\n")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        InputError: the file is missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run the step that writes it first") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise InputError(f"{path}: not valid JSON ({error})") from None


@contextlib.contextmanager
def parsing(path: str | Path, remedy: str) -> Iterator[None]:
    """Context for code that parses a file: errors of a damaged file become one InputError.

    Raises:
        InputError: the file is damaged; names the file and what to do.
    """
    try:
        yield
    except InputError as error:
        if str(Path(path).parent) in str(error):
            raise
        raise InputError(
            f"{path}: {error}; {remedy}"
        ) from error  # a check that doesn't know the file
    except DAMAGE_ERRORS as error:
        reason = f"{type(error).__name__}: {_line(error)[:200]}"
        raise InputError(f"{path}: damaged ({reason}); {remedy}") from error


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Writes a Parquet table without its index."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: str | Path) -> "pd.DataFrame":
    """Reads a Parquet table.

    Raises:
        InputError: the file is missing, not a Parquet table, or contains invalid text.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        table.validate(full=True)  # invalid text would otherwise fail later, at its first use
        return table.to_pandas()
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run the step that writes it first") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet table ({_line(error)})") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def plain(value: Any) -> Any:
    """Convert a value for JSON: numpy numbers to numbers, arrays to lists, NaN to None.

    ConfigDicts at any depth become dicts.
    """
    if isinstance(value, dict | ConfigDict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
