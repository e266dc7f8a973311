"""The verb `download`: fetches the images of the config's atlas sources."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.prepare import sources

OPTIONS = ("table", "url", "not_only")


def download(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Fetches what is not there yet. Returns 0; what could not be had is listed beside the table.

    Raises:
        InputError: the config has no atlas source, or not one image could be had.
    """
    from hpa_jax.data.sources import atlas

    context = Context(config, Path(flags.get("workdir") or "."), flags)
    found = [source for source in sources(context) if source["source"] == "atlas"]
    if not found:
        raise InputError('config.data: no source="atlas"; only the atlas is downloaded')
    for source in found:
        root = Path(source["root"]).expanduser()
        options = {name: source[name] for name in OPTIONS if name in source}
        client = config.data.download.to_dict()
        wanted, failed = atlas.fetch(root, config.classes, **options, **client)
        print(f"{root}: {wanted - len(failed):,} of {wanted:,} files are there")
        if failed:
            reason = next(iter(failed.values()))
            print(f"{len(failed):,} could not be had (download_failed.csv), e.g. {reason}")
        if failed and len(failed) == wanted:
            raise InputError(f"{root}: not one of {wanted:,} files could be had: {reason}")
    return 0
