"""Input data of the report: `pipeline/report.py` reads it from the workdir, the sections are
functions of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

Images = Callable[[np.ndarray], Iterator[np.ndarray]]  # ids [n] -> n times uint8[H, W, 4]


@dataclass(frozen=True)
class ScoredRows:
    """Rows whose labels are known, with the scores and decisions of every method.

    labels: bool[N, C]; probs: method -> float[N, C], NaN for classes that it lacks;
    decided: method -> bool[N, C], by thresholds that were fitted without the row; weights:
    int[B, N], bootstrap resamples shared by all methods; scores: method -> published numbers.
    """

    name: str
    note: str  # description of the rows, and what was fitted or chosen on them
    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    probs: Mapping[str, np.ndarray]
    decided: Mapping[str, np.ndarray]
    weights: np.ndarray
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def support(self) -> np.ndarray:
        """Number of images of each class: int[C]."""
        return self.labels.sum(axis=0)

    @property
    def caption(self) -> str:
        """Name and size: "validation, 773 images"."""
        return f"{self.name}, {len(self.ids):,} images"


@dataclass(frozen=True)
class ChainStep:
    """One step from a single network to the submission.

    decided: name of the scored rows -> bool[N, C] after this step (absent: not applicable); fitted:
    the same with thresholds fitted for this step.
    """

    name: str
    decided: Mapping[str, np.ndarray]
    fitted: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Results:
    """Scores of all methods.

    valid: every row decided by thresholds (and a stack) fitted without its fold; test: None if the
    truth is unknown; chosen, stack: names of the submitted method and of the stack; thresholds:
    method -> float[C], above 1 for a class that is never predicted; intervals: [C, 2], the 95 %
    interval of the submitted method's thresholds; automatic: nested score of the automatic choice;
    evaluation, audit: evaluation.json and audit.json, if they exist; blend_weights: blend -> model
    -> weight; chain: the steps to the submission.
    """

    classes: Sequence[str]
    chosen: str
    stack: str
    valid: ScoredRows
    test: ScoredRows | None
    thresholds: Mapping[str, np.ndarray]
    intervals: np.ndarray
    automatic: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None = None
    audit: Mapping[str, Any] | None = None
    blend_weights: Mapping[str, Mapping[str, float]] | None = None
    chain: Sequence[ChainStep] = ()
    chain_note: str = ""

    @property
    def parts(self) -> list[ScoredRows]:
        """The scored rows: validation, and test if its truth is known."""
        return [part for part in (self.valid, self.test) if part is not None]

    @property
    def truth(self) -> dict[str, np.ndarray] | None:
        """Test id -> bool[C], None if the truth is unknown."""
        return dict(zip(self.test.ids, self.test.labels)) if self.test else None


@dataclass(frozen=True)
class Examples:
    """Test images with decisions bool[N, C], and labels bool[N, C] if they are known.

    by_class: rows of `validated.by_class`, None without calibration.
    """

    ids: np.ndarray
    decided: np.ndarray
    labels: np.ndarray | None
    by_class: "pd.DataFrame | None" = None


@dataclass(frozen=True)
class LabelErrors:
    """Likely label errors: `label_noise.table`, and the number of rows it was computed on."""

    table: "pd.DataFrame"
    rows: int


@dataclass(frozen=True)
class Neighbours:
    """The nearest labelled image of each test image.

    pairs: id, neighbour, similarity; labels: bool[N, C] of the neighbours; scores:
    retrieval/scores.json.
    """

    pairs: "pd.DataFrame"
    labels: np.ndarray
    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Leak:
    """Known labels of test images: overlay and conflicts of `leak.combine` (lists of class
    numbers); tests: ids of the test images; used: whether the overlay replaces predictions."""

    overlay: "pd.DataFrame"
    conflicts: "pd.DataFrame"
    tests: Sequence[str]
    used: bool


@dataclass(frozen=True)
class Adversarial:
    """adversarial.json and adversarial.parquet, the least test-like image first."""

    summary: Mapping[str, Any]
    table: "pd.DataFrame"


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    train_support: int[C], training images of each class; gains: class number -> column -> share of
    the gain of its trees; logs: network -> lines of its metrics.jsonl; schedules: model -> planned
    rates (`phases.learning_rates`); labels: part -> bool[N, C], of the test part as submitted;
    duplicates: pairs with source_a, labels_a, ..., group, conflict; seconds: of each task, in
    order; images: reads stored images; shown: number of images in a full section.
    """

    results: Results
    train_support: np.ndarray
    gains: Mapping[int, Mapping[str, float]]
    logs: Mapping[str, Sequence[Mapping[str, Any]]]
    schedules: Mapping[str, Mapping[str, np.ndarray]]
    examples: Examples
    labels: Mapping[str, np.ndarray]
    label_errors: LabelErrors
    duplicates: "pd.DataFrame"
    neighbours: Neighbours | None
    leak: Leak
    adversarial: Adversarial | None
    seconds: Mapping[str, float]
    images: Images
    shown: int

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""
        return self.results.classes


def class_names(labels: np.ndarray | Sequence[int], classes: Sequence[str]) -> str:
    """Return the names of a multi-hot row bool[C], or of class numbers, joined by commas."""
    labels = np.asarray(labels)
    numbers = np.flatnonzero(labels) if labels.dtype == bool else labels.astype(int)
    return ", ".join(classes[int(c)] for c in numbers) or "none"


def read_images(images: Images, ids: Sequence[str]) -> Iterator[np.ndarray]:
    """Return the stored images uint8[H, W, 4] of `ids`, which may be empty."""
    return images(np.asarray(ids, str)) if len(ids) else iter(())
