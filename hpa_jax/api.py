"""The Python API: from images to labels in three lines.

    model = hpa_jax.load("runs/demo/bundle")   # or WORKDIR/models/NAME, or a published model
    result = model.predict("my_images")        # a folder, a list of files, or an array
    result.table                               # a pandas table; a notebook shows the images

The command `predict --model` uses the same objects: pipeline/predict_images.py, pipeline/arrays.py.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.config import defaults
from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import CHANNELS
from hpa_jax.pipeline import arrays, bundles, predict_images
from hpa_jax.pipeline.context import Context
from hpa_jax.report import predictions
from hpa_jax.report.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle

SHOWN = 60  # images in a notebook
SIDE = 256  # px of their longer side


@dataclass(frozen=True)
class Result:
    """A model's predictions for N images.

    ids [N]; scores: float[N, C]; probabilities: float[N, C], the scores calibrated on the run's
    validation images, None if the model has no calibration; labels: bool[N, C]; unlike:
    bool[N], images that are unlike the training images, with the reasons in why; classes: the
    C names; thresholds: float[C]; embeddings: float[N, E] of the strongest network; table: one row
    per image, as predictions.csv.
    """

    predictions: Predictions
    table: "pd.DataFrame"
    shown: Sequence[np.ndarray] = field(repr=False, default=())

    ids = property(lambda self: list(self.predictions.ids))
    scores = property(lambda self: self.predictions.scores)
    probabilities = property(lambda self: self.predictions.probabilities)
    labels = property(lambda self: self.predictions.labels)
    unlike = property(lambda self: self.predictions.unlike)
    why = property(lambda self: list(self.predictions.why))
    classes = property(lambda self: list(self.predictions.classes))
    thresholds = property(lambda self: self.predictions.thresholds)
    embeddings = property(lambda self: self.predictions.embeddings[self.predictions.strongest])

    def __len__(self) -> int:
        return len(self.predictions.ids)

    def __repr__(self) -> str:
        flagged = int(self.predictions.unlike.sum())
        more = f", {flagged} unlike the training images" if flagged else ""
        return f"Result of {len(self)} images{more}; .table, .labels, .scores, .embeddings"

    def _repr_html_(self) -> str:
        """The predictions page of the first images, in an iframe."""
        import html

        first = self.predictions.first(len(self.shown))
        note = [f"{len(first.ids)} of {len(self)} images"] if len(first.ids) < len(self) else []
        with tempfile.TemporaryDirectory() as folder:
            path = predictions.write(
                Path(folder) / "page",
                first,
                lambda: iter(self.shown),
                title=f"Predictions: {len(self):,} images",
                lines=note,
            )
            page = path.read_text("utf-8")
        return (
            f'<iframe srcdoc="{html.escape(page)}" title="Predictions" '
            'style="width: 100%; height: 720px; border: 1px solid #ccc"></iframe>'
        )


class Model:
    """Networks and their decision rule; created by `load`."""

    def __init__(self, bundle: "Bundle", name: str) -> None:
        self.bundle, self.name = bundle, name
        self._programs: arrays.Programs = {}

    def __repr__(self) -> str:
        count = len(self.bundle.members)
        return f"Model {self.name}: {count} network{'s' * (count > 1)}, {len(self.classes)} classes"

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.bundle.class_names)

    def predict(
        self,
        images: Any,
        *,
        ids: Sequence[str] | None = None,
        channels: Sequence[str] = CHANNELS,
        value_range: tuple[float, float] | None = None,
        missing_yellow: str = "error",
        batch_size: int = 64,
        **folder: Any,
    ) -> Result:
        """Return the labels, scores and embeddings of images.

        Args:
          images: a folder, a file, a list of files, or an array [N, H, W, K] (or [H, W, K]) of
            integers or floats.
          ids: N names of the images of an array, default "0", "1", ...
          channels, value_range: of an array: the names of its K channels, and the values of black
            and white (None: uint8, 0 to 255).
          missing_yellow: "zeros" for images without a yellow channel.
          batch_size: images per batch; on a CPU capped at four megapixels in all.
          folder: options of a folder of images, as config.data.folder (docs/data.md).

        Raises:
            InputError: images that can't be read or scaled; the message names them.
        """
        if isinstance(images, str | Path) or _are_paths(images):
            if missing_yellow != "error":
                folder["missing"] = {"yellow": missing_yellow}
            return self._of_files(images, batch_size, folder)
        if folder:
            raise InputError(f"{next(iter(folder))}: only for files, but the images are arrays")
        rules = {**self.bundle.training_images.get("missing", {})}
        if missing_yellow != "error":
            rules["yellow"] = missing_yellow
        absent = [name for name, rule in rules.items() if rule == "zeros"]
        grey = arrays.eight_bits(images, channels, value_range, absent)
        names = [str(n) for n in range(len(grey))] if ids is None else [str(id) for id in ids]
        if len(names) != len(grey) or len(set(names)) != len(names):
            raise InputError(f"{len(names)} ids for {len(grey)} images; each needs a unique one")
        labelled = arrays.label(
            self.bundle, list(grey), names, at_once=batch_size, programs=self._programs
        )
        return self._result(labelled, [_small(image) for image in grey[:SHOWN]])

    def embed(self, images: Any, **options: Any) -> np.ndarray:
        """Return the embeddings float32[N, E] of the strongest network; options as `predict`."""
        return self.predict(images, **options).embeddings

    def _of_files(self, images: Any, batch_size: int, options: dict[str, Any]) -> Result:
        """Predict the images of a folder, or a list of files, read by the folder source."""
        from hpa_jax.data import reader

        with tempfile.TemporaryDirectory(prefix="hpa_jax_") as scratch:
            root = Path(images).expanduser() if isinstance(images, str | Path) else None
            if root is not None and root.is_file():
                root, images = None, [root]
            if root is None:
                root = Path(scratch) / "files"
                _gather(images, root)
            config = defaults.default()
            config.data.source, config.data.root = "folder", str(root)
            for name, value in options.items():
                if name not in config.data.folder:
                    raise InputError(
                        f"{name}: not an option of config.data.folder (docs/options.md)"
                    )
                config.data.folder[name] = value
            config.predict.batch_size = batch_size
            context = Context(config, Path(scratch) / "work")
            labelled = predict_images.label(context, self.bundle)
            rows = labelled.catalog.head(SHOWN).to_dict("records")
            return self._result(labelled.predictions, [_small(reader.read(row)) for row in rows])

    def _result(self, labelled: Predictions, shown: Sequence[np.ndarray]) -> Result:
        return Result(labelled, arrays.table(self.bundle, labelled), shown)


def load(name: str | Path, *, code: bool = False) -> Model:
    """Return the model of a bundle, of WORKDIR/models/NAME, or a published one by its name.

    code: whether to run the Python files that it names (custom backbones).

    Raises:
        InputError: there is no such model.
    """
    return Model(bundles.named(str(name), code), str(name))


def _are_paths(images: Any) -> bool:
    listed = isinstance(images, list | tuple) and len(images) > 0
    return listed and all(isinstance(image, str | Path) for image in images)


def _gather(files: Sequence[str | Path], folder: Path) -> None:
    """Link files into a folder, or copy them across disks."""
    folder.mkdir()
    for file in map(Path, files):
        target = folder / file.name
        if target.exists():
            raise InputError(f"{file}: two files of the list have this name; use an array")
        try:
            target.hardlink_to(file.expanduser().resolve())
        except FileNotFoundError:
            raise InputError(f"{file}: no such file") from None
        except OSError:
            shutil.copyfile(file.expanduser(), target)


def _small(image: np.ndarray) -> np.ndarray:
    """Downscale an image for a notebook to at most SIDE pixels, by block means."""
    step = -(-max(image.shape[:2]) // SIDE)
    if step == 1:
        return image
    height, width = (size // step for size in image.shape[:2])
    blocks = image[: height * step, : width * step].reshape(height, step, width, step, -1)
    return blocks.mean(axis=(1, 3)).astype(np.uint8)
