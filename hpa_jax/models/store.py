"""Files of published models that were fetched: where they lie, and that they are still the same.

A model's folder, HOME/models/NAME or the one of --out, holds its files, LICENCE.txt and
fetched.json: where each file came from, its size and SHA-256.  HOME is the environment's
HPA_JAX_HOME, else ~/.cache/hpa_jax.  The SHA-256 of the first fetch is held to from then on.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpa_jax.core import artifacts
from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError
from hpa_jax.models import published
from hpa_jax.models.published import File

RECORD, LICENCE = "fetched.json", "LICENCE.txt"


def home() -> Path:
    """The folder for what is fetched once and used by every run."""
    return Path(os.environ.get("HPA_JAX_HOME") or "~/.cache/hpa_jax").expanduser()


def folder_of(name: str) -> Path:
    """Where the files of a published model lie, or would.

    Raises:
        InputError: no model of that name.
    """
    return home() / "models" / (published.find(name).store or name)


def record(folder: Path) -> dict[str, Any]:
    """What fetched.json of a folder says; {} if it holds no published model."""
    return artifacts.read_json(folder / RECORD) if (folder / RECORD).is_file() else {}


def files(name: str, folder: Path | None = None) -> dict[Path, str]:
    """The fetched files of a model -> prefix of their tensors' names; their bytes are checked.

    Raises:
        InputError: they have not been fetched, or one has changed since.
    """
    entry, folder = published.find(name), folder or folder_of(name)
    known = record(folder).get("files", {})
    if not known:
        raise InputError(f"{name}: not fetched yet (`models fetch {name}`; looked in {folder})")
    for file in entry.files:
        if file.name not in known:
            raise InputError(f"{folder}: holds no {file.name}; fetch {name} again")
        check(folder / file.name, file, known[file.name])
    return {folder / file.name: file.prefix for file in entry.files}


def check(path: Path, file: File, known: Mapping[str, Any] | None) -> None:
    """Size and checksum, of the catalogue and of the first fetch.

    Raises:
        InputError: the file is not there, or is another one.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; remove its folder and fetch the model again")
    size, found = path.stat().st_size, sha256(path)
    if file.size is not None and size != file.size:
        raise InputError(
            f"{file.name}: has {size:,} bytes, not {file.size:,}: cut short or another"
        )
    if not found.startswith(file.digits):
        raise InputError(
            f"{file.name}: its SHA-256 begins with {found[: len(file.digits)]}, not "
            f"{file.digits}: damaged or another file"
        )
    if known and found != known["sha256"]:
        raise InputError(
            f"{file.name}: its SHA-256 is {found}, that of the first fetch was {known['sha256']}; "
            f"if the first one was wrong, remove its folder and fetch again ({path.parent})"
        )
