"""Fetched files of published models: their paths and integrity checks.

A model's folder, HOME/models/NAME or the one of --out, holds its files, LICENCE.txt and
fetched.json: where each file came from, its size and SHA-256.  HOME is the environment's
HPA_JAX_HOME, else ~/.cache/hpa_jax.  Files must keep the SHA-256 of the first fetch.
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
    """Return the folder of fetched files, shared by all runs."""
    return Path(os.environ.get("HPA_JAX_HOME") or "~/.cache/hpa_jax").expanduser()


def folder_of(name: str) -> Path:
    """Return the folder of a published model's files, which may not exist.

    Raises:
        InputError: an unknown name.
    """
    return home() / "models" / (published.find(name).store or name)


def record(folder: Path) -> dict[str, Any]:
    """Return the content of fetched.json in a folder; {} without a published model."""
    return artifacts.read_json(folder / RECORD) if (folder / RECORD).is_file() else {}


def files(name: str, folder: Path | None = None) -> dict[Path, str]:
    """Return the fetched files of a model -> prefix of their tensors' names, after a check.

    Raises:
        InputError: not fetched, or a file has changed.
    """
    entry, folder = published.find(name), folder or folder_of(name)
    recorded = record(folder).get("files", {})
    if not recorded:
        raise InputError(f"{name}: not fetched yet (`models fetch {name}`; looked in {folder})")
    for file in entry.files:
        if file.name not in recorded:
            raise InputError(f"{folder}: {file.name} is missing; fetch {name} again")
        check(folder / file.name, file, recorded[file.name])
    return {folder / file.name: file.prefix for file in entry.files}


def check(path: Path, file: File, known: Mapping[str, Any] | None) -> None:
    """Compare size and checksum with the catalogue and with the first fetch.

    Raises:
        InputError: a missing, damaged or different file.
    """
    if not path.is_file():
        raise InputError(f"{path}: not there; remove its folder and fetch the model again")
    size, digest = path.stat().st_size, sha256(path)
    if file.size is not None and size != file.size:
        raise InputError(
            f"{file.name}: has {size:,} bytes, not {file.size:,}: truncated or another file"
        )
    if not digest.startswith(file.digits):
        raise InputError(
            f"{file.name}: its SHA-256 begins with {digest[: len(file.digits)]}, not "
            f"{file.digits}: damaged or another file"
        )
    if known and digest != known["sha256"]:
        raise InputError(
            f"{file.name}: its SHA-256 is {digest}, that of the first fetch was {known['sha256']}; "
            f"if the first one was wrong, remove its folder and fetch again ({path.parent})"
        )
