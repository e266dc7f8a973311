"""The verb `clean`: the only one that removes trained or fitted results, after confirmation."""

import sys
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import replaced, runner
from hpa_jax.pipeline.context import opened


def clean(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Remove the results set aside in WORKDIR/replaced, after confirmation (--yes: without).

    Raises:
        InputError: missing workdir, another run is using it, or no terminal to confirm on.
    """
    workdir = opened(config, flags).workdir

    def agreed(question: str) -> bool:
        if flags.get("yes"):
            return True
        if not sys.stdin.isatty():
            raise InputError(f"{question} Nothing was removed: add --yes")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    if not workdir.is_dir():
        raise InputError(f"--workdir={workdir}: no such folder")
    with runner.locked(workdir / ".lock", waits=False):
        print(replaced.clean(workdir, agreed))
