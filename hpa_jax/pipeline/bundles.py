"""Trained networks as members of a bundle: those of a run, and those that --model names.

--model is a bundle, or one or more folders separated by commas: WORKDIR/models/NAME, one fold of
it, or one that contains folds.  Folds of a model are averaged first, then models.  The run's
run.json sets views, checkpoints and classes; the thresholds are those that the run fitted for
these models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts, own_code
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import refit, scores, tables
from hpa_jax.pipeline.context import Context
from hpa_jax.pipeline.sources import sources

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle, Member
    from hpa_jax.decision.unlike import Reference

COMPETITION_FIELD = 163.84  # µm: 2048 pixels of 0.08


def fits(context: Context) -> "Iterator[tuple[str, ConfigDict, int | None, Path]]":
    """Yield the networks of the submission: as Context.fits, or the refitted ones."""
    if not context.config.refit:
        yield from context.fits()
        return
    for name in context.models():
        yield name, refit.planned(context, name), None, tables.refitted(context, name)


def of_fit(
    context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path
) -> "Iterator[Member]":
    """Yield a fit's networks: one, or one per snapshot; a bundle averages them."""
    reference = _reference(context, folder)
    title = name if fold is None else f"{name}-fold_{fold}"
    yield from _networks(folder, title, name, model, list(context.config.classes), reference)


def training_images(context: Context, method: str) -> dict:
    """Return properties of the training images (sides in pixels, field in µm) and the method."""
    return {
        "image_size": context.config.records.image_size,
        "sides": context.stored_sides(),
        "field_um": _field(context),
        "method": method,
        "macro_f1": _macro_f1(context),
    }


def _macro_f1(context: Context) -> dict[str, float]:
    """Return the models' nested macro-F1 on validation; {} before the step thresholds."""
    path = context.path("metrics.json")
    stored = artifacts.read_json(path)["scores"] if path.is_file() else {}
    return {name: stored[name]["macro_f1"] for name in context.config.models if name in stored}


def strongest(packed: "Bundle") -> "Member":
    """Return the network for maps and neighbours: the first of the best model on validation."""
    macro_f1 = packed.training_images.get("macro_f1") or {}
    return max(packed.members, key=lambda member: macro_f1.get(member.model, -1.0))


def run_of(folder: str) -> Context | None:
    """Return the run that trained the model in a folder, WORKDIR/models/NAME; None if unknown."""
    return _trained(Path(folder).expanduser().resolve(), folder).run


def named(text: str, code: bool = False) -> "Bundle":
    """Return the bundle that --model names: a published model, a bundle, or trained models.

    code: whether Python files named by trained models (their backbone) may be run.

    Raises:
        InputError: no such model.
    """
    from hpa_jax.decision import bundle
    from hpa_jax.models import published, store

    folder = Path(text).expanduser()
    if text in published.PUBLISHED:
        return of_published(text)
    if name := store.record(folder).get("model"):
        return of_published(name, folder)
    if (folder / "bundle.json").is_file():
        return bundle.read(folder)
    if not folder.exists() and "/" not in text and "," not in text:
        published.find(text)  # raises, with near names
    return of_folders(text, code)


def of_published(name: str, folder: Path | None = None) -> "Bundle":
    """Return a published model as a bundle, with its tool's rule: > .5, and always the best class.

    folder: of its files, if not the one it is fetched to.

    Raises:
        InputError: unknown, not fetched, or its files have changed.
    """
    from hpa_jax.decision import bundle
    from hpa_jax.models import pretrained, published

    entry = published.find(name)
    config = configs.model(
        channels=entry.channels,
        image_size=entry.image_size,
        normalize=entry.normalize,
        views="identity",
        **entry.network,
    )
    count = len(entry.class_names)
    member = bundle.Member(
        name=name,
        model=name,
        config=config,
        network=pretrained.published_network(name, folder),
        class_numbers=tuple(range(count)),
        views="identity",
    )
    facts = {
        "image_size": entry.image_size,
        "sides": [entry.image_size],
        "field_um": entry.pixel_size * entry.image_size or None,
        "thresholds": "0.5 for every class, and always the most probable class",
        "missing": {
            channel: "zeros"
            for channel in published.RGBY
            if channel not in entry.channels or (channel, entry.yellow) == ("yellow", "zeros")
        },
        "cells": entry.field == "cell",
    }
    return bundle.Bundle(
        entry.class_names, [member], np.full(count, 0.5), argmax="always", training_images=facts
    )


def of_folders(text: str, code: bool = False) -> "Bundle":
    """Return a bundle of trained models from their folders, separated by commas.

    `training_images["thresholds"]` names the origin of its thresholds.

    Raises:
        InputError: a folder without a trained model or named twice, or models of different classes.
    """
    from hpa_jax.decision import bundle

    paths = [Path(part).expanduser().resolve() for part in text.split(",") if part]
    models = [_trained(path, text) for path in paths]
    if not models or len(set(paths)) != len(paths):
        raise InputError(f"--model={text}: names no model, or one model twice")
    if not code:
        for model in models:
            remedy = "--code (in Python: load(..., code=True)) runs it, if you trust it"
            own_code.refuse(_stored_config(model.folders[0]), f"--model={text}", remedy)
    class_lists = {model.run.config.classes for model in models if model.run is not None}
    if len(class_lists) > 1:
        raise InputError(f"--model={text}: these models were trained with different classes")
    classes = list(class_lists.pop()) if class_lists else []
    one_run = len({model.workdir for model in models}) == 1
    members = [member for model in models for member in model.members(classes, not one_run)]
    if len({member.name for member in members}) != len(members):
        raise InputError(f"--model={text}: two networks of the same name and folder name")
    numbers = sorted({number for member in members for number in member.class_numbers})
    for member in members:
        member.class_numbers = tuple(numbers.index(number) for number in member.class_numbers)
    thresholds, method, origin = _class_thresholds(models, len(classes))
    run = models[0].run
    facts = {"sides": sorted({member.config.image_size for member in members})}
    if run is not None:
        facts = training_images(run, ", ".join(model.name for model in models))
    validated = scores.validated(run, method) if run is not None and method else None
    return bundle.Bundle(
        tuple(classes[number] for number in numbers),
        members,
        thresholds[numbers],
        argmax="empty" if run is None else run.config.submission.argmax,
        training_images={**facts, "thresholds": origin},
        validated=None if validated is None else validated.of_classes(numbers),
    )


@dataclass(frozen=True)
class _Trained:
    """One model that --model names.

    workdir: of its run; run: None without run.json; folders: of its networks; model: its
    config, None: use that of the checkpoints.
    """

    name: str
    workdir: Path
    run: Context | None
    model: ConfigDict | None
    folders: tuple[Path, ...]

    def members(self, classes: list[str], long: bool) -> "Iterator[Member]":
        """Yield its networks; new class names are appended to `classes`, which numbers them.

        long: prefix their names with that of the run's folder.
        """
        name = f"{self.workdir.name}-{self.name}" if long else self.name
        for folder in self.folders:
            title = name if folder.name == self.name else f"{name}-{folder.name}"
            reference = None if self.run is None else _reference(self.run, folder, optional=True)
            yield from _networks(folder, title, name, self.model, classes, reference)

    def thresholds(self, name: str, count: int) -> np.ndarray | None:
        """Return the run's thresholds float[C] of a method, None if there are none."""
        path = None if self.run is None else self.run.path("thresholds.json")
        if path is None or not path.is_file():
            return None
        if artifacts.read_json(path).get("classes") != list(self.run.config.classes):
            return None
        thresholds = scores.class_thresholds(self.run).get(name)
        return None if thresholds is None else thresholds[:count]


def _trained(path: Path, text: str) -> _Trained:
    folders = [path] if (path / "checkpoints").is_dir() else []
    if not folders:
        folds = path.glob("fold_*/checkpoints")
        folders = sorted((f.parent for f in folds), key=lambda f: int(f.name.removeprefix("fold_")))
    if not folders:
        found = [p for p in (path / "bundle", *sorted(path.glob("models/*"))) if p.is_dir()]
        hint = f"; did you mean {' or '.join(map(str, found))}?" if found else ""
        raise InputError(
            f"--model={text}: {path} is neither a bundle (of the verb export) nor a trained model "
            f"(WORKDIR/models/NAME){hint}"
        )
    model_folder = next((p for p in (path, *path.parents) if p.parent.name == "models"), path)
    workdir = (
        model_folder.parent.parent if model_folder.parent.name == "models" else model_folder.parent
    )
    run = _run(workdir)
    model = None if run is None else run.config.models.get(model_folder.name)
    if model is not None and path.name == "refit":
        model = refit.planned(run, model_folder.name)
    return _Trained(model_folder.name, workdir, run, model, tuple(folders))


def _run(workdir: Path) -> Context | None:
    """Return the run of a work directory, from its run.json; None without one."""
    if not (workdir / "run.json").is_file():
        return None
    stored = artifacts.read_json(workdir / "run.json")["config"]
    models = stored.pop("models", {})
    config = configs.default().unlock()
    with config.ignore_type():
        config.update({key: value for key, value in stored.items() if key in config})
        config.classes = tuple(config.classes)
        for name, model in models.items():
            options = {key: value for key, value in model.items() if key in configs.model()}
            config.models[name] = configs.model(**options)
    return Context(config.lock(), workdir)


def _networks(
    folder: Path,
    title: str,
    name: str,
    model: ConfigDict | None,
    classes: list[str],
    reference: "Reference | None",
) -> "Iterator[Member]":
    from hpa_jax.decision import bundle
    from hpa_jax.training import checkpoint, frozen

    which = model.checkpoint if model is not None else _stored_config(folder).checkpoint
    steps = checkpoint.chosen(folder, which)
    for step in steps:
        network, trained, names = checkpoint.load(folder, step)
        if trained.frozen.head:
            network = frozen.whole(trained, network)
        classes += [class_name for class_name in names if class_name not in classes]
        yield bundle.Member(
            name=title if len(steps) == 1 else f"{title}-{step}",
            model=name,
            config=trained,
            network=network,
            class_numbers=tuple(classes.index(class_name) for class_name in names),
            views=trained.views if model is None else model.views,
            # The stored embeddings are the last network's.
            reference=reference if step == steps[-1] else None,
        )


def _stored_config(folder: Path) -> ConfigDict:
    """Return the model's config from its last checkpoint."""
    from hpa_jax.training import checkpoint

    step = checkpoint.find(folder / "checkpoints", "last")
    return checkpoint.config_of(checkpoint.read_meta(folder / "checkpoints", step))


def _reference(context: Context, folder: Path, optional: bool = False) -> "Reference | None":
    """Return the reference of a folder's last network; optional: None if its tables are missing."""
    from hpa_jax.decision import unlike
    from hpa_jax.inference.tables import read_embeddings

    # A refitted network was trained on the validation images: the test images take their place.
    part = "test" if folder.name == "refit" else "valid"
    embedded = folder / "predictions" / f"{part}_embeddings.parquet"
    measured = context.path("features", f"{part}.parquet")
    if optional and not (embedded.is_file() and measured.is_file()):
        return None
    ids, embeddings = read_embeddings(embedded)
    features = artifacts.read_table(measured).set_index("id")
    features = features.loc[ids].select_dtypes("number").dropna(axis=1)
    return unlike.fit(embeddings, features.to_numpy(float), list(features.columns))


def _class_thresholds(models: list[_Trained], count: int) -> tuple[np.ndarray, str, str]:
    """Return thresholds float[C] for the average of these models, the run's method that they were
    fitted for ("" if none) and a description of their origin."""
    run, names = models[0].run, [model.name for model in models]
    per_model = [model.thresholds(model.name, count) for model in models]
    if any(thresholds is None for thresholds in per_model):
        origin = "0.5 for every class (no thresholds.json of the run has them)"
        return np.full(count, 0.5), "", origin
    where = run.path("thresholds.json")
    one_run = len({model.workdir for model in models}) == 1
    if one_run and len(set(names)) == 1:
        return per_model[0], names[0], f"those of {names[0]} in {where}"
    of_mean = models[0].thresholds(scores.MEAN, count)
    if one_run and of_mean is not None and set(names) == set(run.config.models):
        return of_mean, scores.MEAN, f"those of the {scores.MEAN} in {where}"
    stacked = np.ma.masked_invalid(np.stack(per_model))
    means = stacked.mean(axis=0).filled(np.inf)
    origin = f"the mean of the thresholds of {', '.join(names)} (none were fitted on their average)"
    return means, "", origin


def _field(context: Context) -> float | None:
    """Return the side of a training image in µm, None if unknown."""
    kinds = {source["source"] for source in sources(context)}
    if not context.draws and kinds & {"kaggle", "atlas"}:
        return COMPETITION_FIELD
    return context.config.data.folder.field_um or None
