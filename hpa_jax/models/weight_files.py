"""Weight files as plain arrays: safetensors, torch files, Orbax folders, Hugging Face.

Out: {tensor name: array} in the file's names and layout.  All are read as data, torch files without
torch (`torch_files`).
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError
from hpa_jax.models import store

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
HUB = "hf:"
PUBLISHED = "published:"  # a model of the catalogue, fetched
INDEX, TENSORS = "weights.json", "tensors"  # of a folder that import_weights wrote


def read(path: str | Path) -> tuple[dict[str, np.ndarray], bool]:
    """Return (all tensors of a weight file, whether they have our names and layout).

    Raises:
        InputError: missing, truncated, of an unknown kind, or with anything but tensors.
    """
    if str(path).startswith(PUBLISHED):
        files = store.files(str(path).removeprefix(PUBLISHED)).items()
        tensors: dict[str, np.ndarray] = {}
        for file, prefix in files:
            tensors |= {prefix + name: value for name, value in read(file)[0].items()}
        return tensors, False
    path = download(str(path)) if str(path).startswith(HUB) else Path(path).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        return _safetensors(path), False
    if path.is_file() and path.suffix in TORCH_SUFFIXES:
        from hpa_jax.models import torch_files  # imports JAX for bfloat16; `decide` must not

        return torch_files.read(path), False
    if (path / INDEX).is_file():
        return _orbax(path), True
    if not path.exists():
        raise InputError(f"{path}: not there")
    raise InputError(
        f"{path}: unknown kind of weight file; .safetensors, torch's {', '.join(TORCH_SUFFIXES)}, "
        "or a folder that import_weights wrote"
    )


def writable(folder: str | Path) -> Path:
    """Return the folder if `write` may create or replace it.

    Raises:
        InputError: it exists, is not empty and was not made by `write`.
    """
    folder = Path(folder).expanduser()
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; name a new folder")
    content = {child.name for child in folder.iterdir()}
    if content and (INDEX not in content or content - {INDEX, TENSORS}):
        raise InputError(
            f"{folder}: contains something other than imported weights; name a new or empty folder"
        )
    return folder


def write(folder: str | Path, values: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write tensors with our names as an Orbax checkpoint with checksums, atomically.

    Raises:
        InputError: as `writable`.
    """
    import orbax.checkpoint as ocp

    with artifacts.atomic(writable(folder)) as temporary:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary.resolve() / TENSORS, dict(values))
        checksums = {name: zlib.crc32(value.tobytes()) for name, value in values.items()}
        artifacts.write_json(temporary / INDEX, {**about, "checksums": checksums})


def _orbax(folder: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    index = artifacts.read_json(folder / INDEX)
    checksums = index.get("checksums") if isinstance(index, dict) else None
    if not isinstance(checksums, dict) or not checksums:
        raise InputError(f"{folder / INDEX}: has no checksums; call import_weights again")
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in checksums}
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            values = checkpointer.restore(
                (folder / TENSORS).resolve(),
                args=ocp.args.PyTreeRestore(
                    item=dict.fromkeys(checksums, 0), restore_args=as_numpy
                ),
            )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{folder}: unreadable ({reason}); call import_weights again") from None
    for name, value in values.items():
        if zlib.crc32(np.ascontiguousarray(value).tobytes()) != checksums[name]:
            raise InputError(f"{folder}: {name} has changed; call import_weights again")
    return values


def download(name: str) -> Path:
    """Return the local copy of "hf:OWNER/REPO/FILE", downloaded if missing.

    Raises:
        InputError: an invalid name, no huggingface_hub, or a failed download.
    """
    parts = name.removeprefix(HUB).split("/")
    if len(parts) < 3 or not all(parts):
        raise InputError(f"{name}: must have the form hf:OWNER/REPO/FILE")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise InputError(
            f"{name}: needs huggingface_hub (pip install huggingface_hub), or download the file "
            "and give its path"
        ) from None
    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except Exception as error:  # the hub raises errors of several libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: not downloaded ({reason})") from None


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        # "flax" and not "numpy", since numpy alone has no bfloat16.
        with safe_open(path, framework="flax") as file:
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged safetensors file ({error}); download it again") from None
