"""`run --collect`: decide with the networks that have predicted, and list the missing ones.

Networks of one recipe can be trained anywhere: each `run --only=NAME` writes only to models/NAME,
on a shared file system or in a copy of the workdir whose models/NAME is copied back.
"""

from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import validation
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import seen, tables
from hpa_jax.pipeline.context import RETRIEVAL, Context
from hpa_jax.training import logs, phases


def present(context: Context) -> tuple[ConfigDict, dict[str, str]]:
    """Return (config of the networks that have predicted, states of the missing ones by name).

    Metric learning counts as a network: without its embeddings retrieval is switched off.

    Raises:
        InputError: no network has predicted, or one that the config refers to is missing.
    """
    missing = dict(_missing(context))
    config = context.config.copy_and_resolve_references().unlock()
    origins = {name: seen.origin(config, name) for name in config.models}
    config.duplicates.trained_on = seen.lists(config)
    for name in missing:
        if name in config.duplicates.trained_on:
            del config.duplicates.trained_on[name]
        del config.models[name]
        if name in config.embeddings.pca:
            del config.embeddings.pca[name]
        if name == config.retrieval.embeddings_of:
            config.retrieval.update(mode="off", embeddings_of="")
        if name in config.ensemble.weights:
            del config.ensemble.weights[name]
    if not config.models:
        raise InputError(f"--collect: no network has predicted yet: {described(missing)}")
    for name, model in config.models.items():
        if configs.started_from(model) in missing:
            model.init_from = origins[name]  # all that is still needed of its missing source
    settings = config.retrieval
    embedded = settings.embeddings_of or context.path(RETRIEVAL, "embeddings").is_dir()
    if settings.mode != "off" and not embedded:
        folder = context.path(RETRIEVAL, "network")
        missing[RETRIEVAL] = _progress(folder, config.retrieval.model)
        config.retrieval.mode = "off"
    validation.validate(config)
    return config.lock(), missing


def described(missing: dict[str, str]) -> str:
    """Format as "v5 (not begun), v6 (epoch 3 of 36)"."""
    return ", ".join(f"{name} ({state})" for name, state in missing.items())


def _missing(context: Context) -> Iterator[tuple[str, str]]:
    for name, model in context.config.models.items():
        splits = ("valid", *tables.unseen_parts(context), tables.FINAL)
        if all(tables.predictions(context, name, split).is_file() for split in splits):
            continue
        states = [_state(context, name, model, fold) for fold in context.folds()]
        yield name, ", ".join(states)


def _state(context: Context, name: str, model: ConfigDict, fold: int | None) -> str:
    """Return the progress of one network of a model."""
    folder = context.fit_folder(name, fold)
    of_fold = "" if fold is None else f"fold {fold}: "
    if (folder / "predictions").is_dir():
        return of_fold + "predicted, not joined" if of_fold else "predicted, not refitted"
    return of_fold + _progress(folder, model)


def _progress(folder: Path, model: ConfigDict) -> str:
    """Return the progress of a network without predictions."""
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return "not begun"
    epochs = sum(phases.epochs_of(phase) for phase in model.phases)
    done = max((row.get("epoch", 0) for row in logs.read(log)), default=0)
    return f"epoch {done} of {epochs}" if done < epochs else "trained, not predicted"
