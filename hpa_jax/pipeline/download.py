"""The verb `download`: fetch the images of the config's atlas sources."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.sources import sources

OPTIONS = ("table", "url", "not_only")


def download(config: ConfigDict, flags: dict[str, Any]) -> int:
    """Fetch missing images and return 0; failures are listed beside the table.

    Raises:
        InputError: the config has no atlas source, or every download failed.
    """
    from hpa_jax.data.sources import atlas

    context = Context(config, Path(flags.get("workdir") or "."), flags)
    atlases = [source for source in sources(context) if source["source"] == "atlas"]
    if not atlases:
        raise InputError('config.data: no source="atlas"; only the atlas is downloaded')
    for source in atlases:
        root = Path(source["root"]).expanduser()
        options = {name: source[name] for name in OPTIONS if name in source}
        client = config.data.download.to_dict()
        total, failed = atlas.fetch(root, config.classes, **options, **client)
        print(f"{root}: {total - len(failed):,} of {total:,} files are there")
        if failed:
            reason = next(iter(failed.values()))
            print(f"{len(failed):,} failed (download_failed.csv), e.g. {reason}")
        if failed and len(failed) == total:
            raise InputError(f"{root}: all {total:,} downloads failed: {reason}")
    return 0
