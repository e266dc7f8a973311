"""The verb `import_weights`: convert a weight file of another library to an Orbax folder."""

from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError


def import_weights(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Convert a published weight file to an Orbax folder for a model's `init_from`.

    Raises:
        InputError: a flag is missing, or the file does not fit the model.
    """
    from hpa_jax.models import pretrained

    for name in ("backbone", "weights", "out"):
        if not flags.get(name):
            raise InputError(f"import_weights: --{name} is missing")
    report = pretrained.import_weights(flags["backbone"], flags["weights"], flags["out"])
    print(f"{report.text()} -> {flags['out']}")
