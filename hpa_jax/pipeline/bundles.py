"""Trained networks as members of a bundle: those of a run, and those that --model names.

--model is a bundle, or one folder or several with commas between: WORKDIR/models/NAME, one fold of
it, or one that holds folds.  Folds of a model are averaged first, then models.  What run.json
beside them says (views, which weights, classes) counts as in the run itself; the thresholds are
those that the run fitted for these models.
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
from hpa_jax.pipeline import prepare, refit, scores, tables
from hpa_jax.pipeline.context import Context

if TYPE_CHECKING:
    from hpa_jax.decision.bundle import Bundle, Member
    from hpa_jax.decision.unlike import Reference

COMPETITION_FIELD = 163.84  # µm: 2048 pixels of 0.08


def fits(context: Context) -> "Iterator[tuple[str, ConfigDict, int | None, Path]]":
    """The networks of the submission: as Context.fits, or the refitted ones."""
    if not context.config.refit:
        yield from context.fits()
        return
    for name in context.models():
        yield name, refit.planned(context, name), None, tables.refitted(context, name)


def of_fit(
    context: Context, name: str, model: ConfigDict, fold: int | None, folder: Path
) -> "Iterator[Member]":
    """A fit's networks: one, or one a snapshot; the bundle averages those of one model."""
    reference = _reference(context, folder)
    title = name if fold is None else f"{name}-fold_{fold}"
    yield from _networks(folder, title, name, model, list(context.config.classes), reference)


def training_images(context: Context, method: str) -> dict:
    """What images the networks were trained on: sides in pixels, field in µm; and the method."""
    return {
        "image_size": context.config.records.image_size,
        "sides": context.stored_sides(),
        "field_um": _field(context),
        "method": method,
        "macro_f1": _macro_f1(context),
    }


def _macro_f1(context: Context) -> dict[str, float]:
    """The models' macro-F1 on validation, nested; {} before the step thresholds."""
    path = context.path("metrics.json")
    known = artifacts.read_json(path)["scores"] if path.is_file() else {}
    return {name: known[name]["macro_f1"] for name in context.config.models if name in known}


def strongest(packed: "Bundle") -> "Member":
    """The network that explains a bundle's answers: the first of its best model on validation."""
    known = packed.training_images.get("macro_f1") or {}
    return max(packed.members, key=lambda member: known.get(member.model, -1.0))


def run_of(folder: str) -> Context | None:
    """The run that trained the model of a folder (WORKDIR/models/NAME), None if it is unknown."""
    return _trained(Path(folder).expanduser().resolve(), folder).run


def named(given: str, code: bool = False) -> "Bundle":
    """What --model names: a published model, a bundle, or trained models as one.

    code: whether the Python files that trained models name may be run (their backbone).

    Raises:
        InputError: none of them is there.
    """
    from hpa_jax.decision import bundle
    from hpa_jax.models import published, store

    folder = Path(given).expanduser()
    if given in published.PUBLISHED:
        return of_published(given)
    if name := store.record(folder).get("model"):
        return of_published(name, folder)
    if (folder / "bundle.json").is_file():
        return bundle.read(folder)
    if not folder.exists() and "/" not in given and "," not in given:
        published.find(given)  # raises, with near names
    return of_folders(given, code)


def of_published(name: str, folder: Path | None = None) -> "Bundle":
    """A published model as a bundle, decided as its own tool does: > .5, and the best class.

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
    about = {
        "image_size": entry.image_size,
        "sides": [entry.image_size],
        "field_um": entry.pixel_size * entry.image_size or None,
        "thresholds": "0.5 for every class, and always the most probable class",
        "missing_yellow": "zeros" if "yellow" not in entry.channels else entry.yellow,
        "without_yellow": entry.without_yellow,
        "cells": entry.field == "cell",
    }
    return bundle.Bundle(
        entry.class_names, [member], np.full(count, 0.5), argmax="always", training_images=about
    )


def of_folders(given: str, code: bool = False) -> "Bundle":
    """Folders of trained models, with commas between, as a bundle.

    Its `training_images` say under "thresholds" whose thresholds it has.

    Raises:
        InputError: no trained model there, one named twice, models of different classes.
    """
    from hpa_jax.decision import bundle

    paths = [Path(text).expanduser().resolve() for text in given.split(",") if text]
    found = [_trained(path, given) for path in paths]
    if not found or len(set(paths)) != len(paths):
        raise InputError(f"--model={given}: names no model, or one of them twice")
    if not code:
        for one in found:
            remedy = "--code (in Python: load(..., code=True)) runs it, if you trust it"
            own_code.refuse(_own(one.folders[0]), f"--model={given}", remedy)
    lists = {one.run.config.classes for one in found if one.run is not None}
    if len(lists) > 1:
        raise InputError(f"--model={given}: these models were trained with other classes")
    classes = list(lists.pop()) if lists else []
    one_place = len({one.place for one in found}) == 1
    members = [member for one in found for member in one.members(classes, not one_place)]
    if len({member.name for member in members}) != len(members):
        raise InputError(f"--model={given}: two networks of the same name and folder name")
    known = sorted({number for member in members for number in member.class_numbers})
    for member in members:
        member.class_numbers = tuple(known.index(number) for number in member.class_numbers)
    thresholds, method, said = _class_thresholds(found, len(classes))
    run = found[0].run
    about = {"sides": sorted({member.config.image_size for member in members})}
    if run is not None:
        about = training_images(run, ", ".join(one.name for one in found))
    validated = scores.validated(run, method) if run is not None and method else None
    return bundle.Bundle(
        tuple(classes[number] for number in known),
        members,
        thresholds[known],
        argmax="empty" if run is None else run.config.submission.argmax,
        training_images={**about, "thresholds": said},
        validated=None if validated is None else validated.of_classes(known),
    )


@dataclass(frozen=True)
class _Trained:
    """One model that --model names. place: the folder of its run; run: None where there is no
    run.json; folders: of its networks; model: its config, None: what its checkpoints hold.
    """

    name: str
    place: Path
    run: Context | None
    model: ConfigDict | None
    folders: tuple[Path, ...]

    def members(self, classes: list[str], long: bool) -> "Iterator[Member]":
        """Its networks; classes: numbers are places in it, names it lacks are added.

        long: their names begin with that of their run's folder.
        """
        name = f"{self.place.name}-{self.name}" if long else self.name
        for folder in self.folders:
            title = name if folder.name == self.name else f"{name}-{folder.name}"
            reference = None if self.run is None else _reference(self.run, folder, optional=True)
            yield from _networks(folder, title, name, self.model, classes, reference)

    def thresholds(self, name: str, count: int) -> np.ndarray | None:
        """float[C] that the run fitted for a method; None where there are none."""
        path = None if self.run is None else self.run.path("thresholds.json")
        if path is None or not path.is_file():
            return None
        if artifacts.read_json(path).get("classes") != list(self.run.config.classes):
            return None
        found = scores.class_thresholds(self.run).get(name)
        return None if found is None else found[:count]


def _trained(path: Path, given: str) -> _Trained:
    folders = [path] if (path / "checkpoints").is_dir() else []
    if not folders:
        folds = path.glob("fold_*/checkpoints")
        folders = sorted((f.parent for f in folds), key=lambda f: int(f.name.removeprefix("fold_")))
    if not folders:
        raise InputError(
            f"--model={given}: {path} is no bundle (of the verb export) and holds no trained model "
            "(WORKDIR/models/NAME)"
        )
    home = next((p for p in (path, *path.parents) if p.parent.name == "models"), path)
    place = home.parent.parent if home.parent.name == "models" else home.parent
    run = _run(place)
    model = None if run is None else run.config.models.get(home.name)
    if model is not None and path.name == "refit":
        model = refit.planned(run, home.name)
    return _Trained(home.name, place, run, model, tuple(folders))


def _run(workdir: Path) -> Context | None:
    """The run of a work directory, by its run.json."""
    if not (workdir / "run.json").is_file():
        return None
    stored = artifacts.read_json(workdir / "run.json")["config"]
    models = stored.pop("models", {})
    config = configs.default().unlock()
    with config.ignore_type():
        config.update({key: value for key, value in stored.items() if key in config})
        config.classes = tuple(config.classes)
        for name, model in models.items():
            known = {key: value for key, value in model.items() if key in configs.model()}
            config.models[name] = configs.model(**known)
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

    which = model.checkpoint if model is not None else _own(folder).checkpoint
    steps = checkpoint.chosen(folder, which)
    for step in steps:
        network, trained, names = checkpoint.load(folder, step)
        if trained.frozen.head:
            network = frozen.whole(trained, network)
        classes += [own for own in names if own not in classes]
        yield bundle.Member(
            name=title if len(steps) == 1 else f"{title}-{step}",
            model=name,
            config=trained,
            network=network,
            class_numbers=tuple(classes.index(own) for own in names),
            views=trained.views if model is None else model.views,
            # The stored embeddings are the last network's.
            reference=reference if step == steps[-1] else None,
        )


def _own(folder: Path) -> ConfigDict:
    """The model's config as its checkpoints hold it."""
    from hpa_jax.training import checkpoint

    step = checkpoint.find(folder / "checkpoints", "last")
    return checkpoint.config_of(checkpoint.read_meta(folder / "checkpoints", step))


def _reference(context: Context, folder: Path, optional: bool = False) -> "Reference | None":
    """What ordinary images look like to the last network of a folder; optional: if known."""
    from hpa_jax.decision import unlike
    from hpa_jax.inference.tables import read_embeddings

    # A refitted network has learnt the validation images: the test's are ordinary to it.
    part = "test" if folder.name == "refit" else "valid"
    seen = folder / "predictions" / f"{part}_embeddings.parquet"
    measured = context.path("features", f"{part}.parquet")
    if optional and not (seen.is_file() and measured.is_file()):
        return None
    ids, embeddings = read_embeddings(seen)
    features = artifacts.read_table(measured).set_index("id")
    features = features.loc[ids].select_dtypes("number").dropna(axis=1)
    return unlike.fit(embeddings, features.to_numpy(float), list(features.columns))


def _class_thresholds(found: list[_Trained], count: int) -> tuple[np.ndarray, str, str]:
    """float[C] for the average of these models, the method of the run they were fitted for ("":
    for none), and whose they are."""
    run, names = found[0].run, [one.name for one in found]
    own = [one.thresholds(one.name, count) for one in found]
    if any(thresholds is None for thresholds in own):
        said = "0.5 for every class (no thresholds.json of the run has them)"
        return np.full(count, 0.5), "", said
    where = run.path("thresholds.json")
    same = len({one.place for one in found}) == 1
    if same and len(set(names)) == 1:
        return own[0], names[0], f"those of {names[0]} in {where}"
    joint = found[0].thresholds(scores.MEAN, count)
    if same and joint is not None and set(names) == set(run.config.models):
        return joint, scores.MEAN, f"those of the {scores.MEAN} in {where}"
    stacked = np.ma.masked_invalid(np.stack(own))
    means = stacked.mean(axis=0).filled(np.inf)
    said = f"the mean of the thresholds of {', '.join(names)} (none were fitted on their average)"
    return means, "", said


def _field(context: Context) -> float | None:
    """Side of a training image in µm, where it is known."""
    kinds = {source["source"] for source in prepare.sources(context)}
    if not context.draws and kinds & {"kaggle", "atlas"}:
        return COMPETITION_FIELD
    return context.config.data.folder.field_um or None
