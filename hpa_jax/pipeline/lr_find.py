"""The verb `lr_find`: a learning-rate sweep of each model on its training rows."""

from typing import Any

from ml_collections import ConfigDict

from hpa_jax.core.errors import InputError
from hpa_jax.pipeline.context import opened
from hpa_jax.pipeline.train import rows_to_fit, share_compiled


def lr_find(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Sweep the learning rate of each model -> models/NAME/lr_find.{json,png}."""
    from hpa_jax.training import lr_finder

    options = {
        key: _number(flags[key], kind, key)
        for key, kind in (("iterations", int), ("low", float), ("high", float))
    }
    context = opened(config, flags)
    share_compiled(context)
    for name, model, fold, folder in context.fits():
        result = lr_finder.find(
            model,
            name=name,
            directory=folder,
            **rows_to_fit(context, model, fold),
            settings=config.train,
            seed=config.seed,
            phase=_number(flags["phase"], int, "phase"),
            which=flags["checkpoint"],
            **options,
        )
        print(
            f"{name}: steepest {result['steepest']:.2g}, a tenth of the lowest's "
            f"{result['minimum_tenth']:.2g} -> {folder / 'lr_find.png'}"
        )


def _number(text: str, kind: type, flag: str) -> Any:
    """Parse the number of a flag.

    Raises:
        InputError: not a number.
    """
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"--{flag}={text}: must be a number") from None
