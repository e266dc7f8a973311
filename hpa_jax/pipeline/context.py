"""The context of every step: config, work directory and the paths of its files (design §3)."""

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.core.contents import Contents, digest
from hpa_jax.core.errors import InputError, near

RETRIEVAL = "retrieval"  # the name of metric learning's network for --only, and its folder


@dataclass(frozen=True)
class Context:
    """One run: config, workdir and the flags of the command line."""

    config: ConfigDict
    workdir: Path
    flags: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def contents(self) -> Contents:
        """Digests of files, remembered in the workdir."""
        return Contents(self.workdir / ".stamps" / "contents.txt")

    @property
    def num_classes(self) -> int:
        """C of all labels, probabilities and logits."""
        return len(self.config.classes)

    @property
    def data_root(self) -> Path:
        """Folder of the competition layout; for synthetic data, one in the workdir.

        With a list of sources: that of the first competition among them.

        Raises:
            InputError: the source needs a folder and none is configured.
        """
        for kind in ("kaggle", None):
            for source in self.config.data.sources:
                root = source.get("root", self.config.data.root)
                if kind in (None, source.get("source")) and root:
                    return Path(root).expanduser()
        if self.config.data.root:
            return Path(self.config.data.root).expanduser()
        if self.config.data.source == "synthetic":
            return self.workdir / "data"
        raise InputError(f"config.data.root: source {self.config.data.source!r} needs a folder")

    @property
    def sample_submission(self) -> Path | None:
        """The competition's sample_submission.csv, None if no source is a competition."""
        data = self.config.data
        kinds = [source.get("source") for source in data.sources] or [data.source]
        if not {"kaggle", "synthetic"} & set(kinds):
            return None
        return self.data_root / "sample_submission.csv"

    @property
    def draws(self) -> bool:
        """Whether the run makes synthetic images."""
        data = self.config.data
        return data.source == "synthetic" and not data.root and not data.sources

    @property
    def truth(self) -> Path | None:
        """Table of the test labels (used only by evaluate and report), None if unknown."""
        if self.config.data.truth:
            return Path(self.config.data.truth).expanduser()
        data = self.config.data
        synthetic = data.source == "synthetic" and not data.sources
        return self.workdir / "data_truth.csv" if synthetic else None

    @property
    def records(self) -> Path:
        """The packed data set of the main side, used by everything but the networks."""
        return self.records_at(self.config.records.image_size)

    def stored_sides(self) -> list[int]:
        """Sides in pixels at which images are packed, the main one first."""
        settings = self.config.records
        return list(dict.fromkeys([settings.image_size, *settings.also]))

    def records_at(self, side: int) -> Path:
        """The packed data set of a stored side."""
        return self.workdir / "records" / f"{side}-{self.config.records.encoding}"

    def records_of(self, model: ConfigDict) -> Path:
        """The packed data set that a model reads: the smallest that holds its images."""
        return self.records_at(side_for(self.stored_sides(), model.image_size))

    def embeddings_of(self, model: ConfigDict) -> Path:
        """The stored embeddings of a model's frozen network, shared by models that differ only in
        their heads."""
        options = artifacts.plain(frozen_options(model))
        backbone = re.sub(r"\W+", "_", model.backbone)
        return self.path("embeddings", f"{backbone}-{digest(sorted(options.items()))[:8]}")

    def path(self, *parts: str) -> Path:
        """A file of the workdir."""
        return self.workdir.joinpath(*parts)

    def paths(self, *names: str) -> tuple[Path, ...]:
        """Files of the workdir, each by its path in it."""
        return tuple(self.path(name) for name in names)

    def models(self) -> dict[str, ConfigDict]:
        """The recipe's models by name, in the order of training; with --only just the named one
        (none if it is metric learning's).

        Raises:
            InputError: no models, or --only names an unknown one.
        """
        order = configs.in_training_order(self.config.models)
        models = {name: self.config.models[name] for name in order}
        if not models:
            raise InputError("config.models: the recipe has no model; take one from configs/")
        only = self.flags.get("only")
        if not only:
            return models
        if only == RETRIEVAL and self.trains_retrieval:
            return {}
        if only not in models:
            raise InputError(f"--only={only}: the recipe has no such model{near(only, models)}")
        return {only: models[only]}

    @property
    def trains_retrieval(self) -> bool:
        """Whether metric learning trains a network: it is on, does not use stored embeddings, and
        --only names no other network."""
        only = self.flags.get("only")
        settings = self.config.retrieval
        trains = settings.mode != "off" and not settings.embeddings_of
        return trains and only in (None, RETRIEVAL)

    def folds(self) -> list[int | None]:
        """Folds to train, or [None] for the one hold-out."""
        split = self.config.split
        if split.scheme != "folds":
            return [None]
        return sorted(split.trained_folds) or list(range(split.folds))

    def fits(self) -> Iterator[tuple[str, ConfigDict, int | None, Path]]:
        """Every network to fit: (model name, its config, fold or None, its folder)."""
        for name, model in self.models().items():
            for fold in self.folds():
                yield name, model, fold, self.fit_folder(name, fold)

    def fit_folder(self, name: str, fold: int | None) -> Path:
        """The folder of one network of a model."""
        folder = self.path("models", name)
        return folder if fold is None else folder / f"fold_{fold}"

    def class_numbers(self, model: ConfigDict) -> list[int]:
        """Numbers of a model's classes, in its order."""
        names = list(self.config.classes)
        return [names.index(name) for name in model.classes or names]


# Model options that a frozen network's embeddings depend on.
_OF_FROZEN = (
    *("backbone", "width", "depth", "backbone_options", "head", "head_options", "large_stem"),
    *("as_run", "dtype", "channels", "image_size", "normalize", "init_from", "extra_channels"),
    "views",
)


def frozen_options(model: ConfigDict) -> dict[str, Any]:
    """The options of a model that the stored embeddings of its network depend on."""
    return {key: value for key, value in model.to_dict().items() if key in _OF_FROZEN}


def workdir_of(flags: dict[str, Any]) -> Path:
    """The folder of --workdir.

    Raises:
        InputError: no --workdir, or a remote one.
    """
    if not flags.get("workdir"):
        raise InputError("--workdir=DIR is missing: the folder for all outputs")
    return local(flags["workdir"], "--workdir").resolve()


def local(path: str, option: str) -> Path:
    """Return a local folder with ~ expanded.

    Raises:
        InputError: an address such as gs://... or s3://...; `option` is named.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        raise InputError(
            f"{option}={path}: must be a local folder; mount a bucket (gcsfuse, "
            "mountpoint-s3) or copy it first"
        )
    return Path(path).expanduser()


def opened(config: ConfigDict, flags: dict[str, Any]) -> Context:
    """Return the context of a verb that is not a step of `run`.

    Raises:
        InputError: no --workdir.
    """
    return Context(config, workdir_of(flags), flags)


def side_for(stored: Iterable[int], needed: int) -> int:
    """Return the smallest stored side of at least `needed` pixels, else the largest.

    A network never reads an image smaller than its input if there is a larger one.
    """
    sides = sorted(stored)
    return next((side for side in sides if side >= needed), sides[-1])
