"""The sources of images that a config names, and their folders."""

from pathlib import Path

from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.context import Context, local


def sources(context: Context) -> list[dict]:
    """Return the sources: config.data.sources, or the single one of the short form.

    config.data.root is the default root, config.data.folder and config.data.atlas hold the default
    options of these kinds of source.
    """
    config = context.config.data
    root = {"root": config.root} if config.root else {}
    entries = [{**root, **source} for source in config.sources]
    if not entries:
        kind = "kaggle" if config.source == "synthetic" else config.source
        entries = [{"source": kind, "root": str(context.data_root)}]
    for source in entries:
        if "root" in source:
            local(source["root"], "config.data.root")
        if "source" not in source or "root" not in source:
            raise InputError(
                "config.data.sources: every source needs the keys source and root (or "
                "config.data.root, for those without)"
            )
    kinds = ("folder", "atlas")
    options = {kind: config[kind].to_dict() for kind in kinds if kind in config}
    return [{**options.get(source["source"], {}), **source} for source in entries]


def roots(context: Context) -> list[Path]:
    """Return the folders of the sources, in order."""
    return [Path(source["root"]).expanduser() for source in sources(context)]
