"""`run --collect`: decide with the networks that are there, whoever trained them; name the rest.

Networks of one recipe can be trained anywhere: each `run --only=NAME` writes in models/NAME alone,
on a shared file system or in a copy of the workdir whose models/NAME is brought back.
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
    """(the config of the networks whose predictions are there, the others' names with their state).

    Metric learning counts as one of them: without its embeddings the decision is made without.

    Raises:
        InputError: none is there, or one that the config names elsewhere is missing.
    """
    missing = dict(_missing(context))
    config = context.config.copy_and_resolve_references().unlock()
    origins = {name: seen.origin(config, name) for name in config.models}
    for name in missing:
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
            model.init_from = origins[name]  # of what it came from only that is still needed
    settings = config.retrieval
    embedded = settings.embeddings_of or context.path(RETRIEVAL, "embeddings").is_dir()
    if settings.mode != "off" and not embedded:
        folder = context.path(RETRIEVAL, "network")
        missing[RETRIEVAL] = _progress(folder, config.retrieval.model)
        config.retrieval.mode = "off"
    validation.validate(config)
    return config.lock(), missing


def described(missing: dict[str, str]) -> str:
    """One line: "v5 (not begun), v6 (epoch 3 of 36)"."""
    return ", ".join(f"{name} ({state})" for name, state in missing.items())


def _missing(context: Context) -> Iterator[tuple[str, str]]:
    for name, model in context.config.models.items():
        splits = ("valid", *tables.unseen_parts(context), tables.FINAL)
        if all(tables.predictions(context, name, split).is_file() for split in splits):
            continue
        states = [_state(context, name, model, fold) for fold in context.folds()]
        yield name, ", ".join(states)


def _state(context: Context, name: str, model: ConfigDict, fold: int | None) -> str:
    """How far one network of a model is."""
    folder = context.fit_folder(name, fold)
    of_fold = "" if fold is None else f"fold {fold}: "
    if (folder / "predictions").is_dir():
        return of_fold + "predicted, not joined" if of_fold else "predicted, not refitted"
    return of_fold + _progress(folder, model)


def _progress(folder: Path, model: ConfigDict) -> str:
    """How far a network is whose predictions are not there."""
    log = folder / "metrics.jsonl"
    if not log.is_file():
        return "not begun"
    epochs = sum(phases.epochs_of(phase) for phase in model.phases)
    done = max((row.get("epoch", 0) for row in logs.read(log)), default=0)
    return f"epoch {done} of {epochs}" if done < epochs else "trained, not predicted"
