"""Files of a work directory: whole or absent, never half.

Every writer goes through `atomic`: it writes beside the target and renames, so a kill leaves the
old file or the new one.
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

# What taking damaged bytes apart raises: a key is missing, a header is no Python, an archive asks
# for a password or for more memory than there is.
_OF_DAMAGE = (
    *(LookupError, TypeError, AttributeError, ValueError, ArithmeticError, SyntaxError),
    *(OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path (same folder, same suffixes); on success it becomes `path`.

    The body may write a file or make a folder there; a folder replaces the one at `path`.

    Raises:
        InputError: it can't be written: the disk is full, the folder is not ours.
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
        if isinstance(error, OSError) and _is_of(error, path, temporary):
            why = error.strerror or _line(error)
            raise InputError(f"{path}: can't be written ({why})") from error
        raise


def _is_of(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error is of what was to be written, and not of a file that was read for it."""
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
        InputError: the file is missing or no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it first") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, or no JSON
        raise InputError(f"{path}: no valid JSON ({error})") from None


@contextlib.contextmanager
def parsing(path: str | Path, remedy: str) -> Iterator[None]:
    """Around the code that takes apart what a file holds: what damage can raise there, in one line.

    Raises:
        InputError: naming the file and what to do.
    """
    try:
        yield
    except InputError as error:
        if str(Path(path).parent) in str(error):
            raise
        raise InputError(f"{path}: {error}; {remedy}") from error  # of a check that knows no file
    except _OF_DAMAGE as error:
        reason = f"{type(error).__name__}: {_line(error)[:200]}"
        raise InputError(f"{path}: damaged ({reason}); {remedy}") from error


def write_table(path: str | Path, table: "pd.DataFrame") -> None:
    """Writes a Parquet table without its index."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: str | Path) -> "pd.DataFrame":
    """Reads a Parquet table.

    Raises:
        InputError: the file is missing, no Parquet table, or holds text that is none.
    """
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        table.validate(full=True)  # damaged text would otherwise fail later, where it is first read
        return table.to_pandas()
    except FileNotFoundError:
        raise InputError(f"{path}: not there; run the step that writes it first") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable Parquet table ({_line(error)})") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numpy numbers as numbers, arrays as lists, NaN as None.

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
