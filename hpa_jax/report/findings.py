"""What the page is about: one or two sets of scored rows, and which method was submitted.

The stage `report` fills it from the workdir; the sections only read it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Scored:
    """Rows whose labels are known, and what every method says of them.

    labels: bool[N, C]; probs: method -> float[N, C], NaN in classes it does not know; decided:
    method -> bool[N, C], by cuts that were fitted without the row; weights: int[B, N], bootstrap
    resamples shared by all methods; scores: method -> published numbers.
    """

    name: str
    note: str  # which rows these are, and what was fitted or chosen on them
    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    probs: Mapping[str, np.ndarray]
    decided: Mapping[str, np.ndarray]
    weights: np.ndarray
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def support(self) -> np.ndarray:
        """Pictures that carry each class: int[C]."""
        return self.labels.sum(axis=0)

    @property
    def where(self) -> str:
        """For captions: "validation, 773 images"."""
        return f"{self.name}, {len(self.ids):,} images"


@dataclass(frozen=True)
class Findings:
    """valid: every row decided by cuts (and a stack) fitted without its fold; test: None if the
    truth is not known; chosen, stack: names of the submitted method and of the stack; cuts:
    method -> float[C], above 1 for a class that is never predicted; around: [C, 2], the 95 %
    interval of the submitted method's cuts; automatic: the score of "the best on validation" with
    that choice nested, and the methods it chose.
    """

    classes: Sequence[str]
    chosen: str
    stack: str
    valid: Scored
    test: Scored | None
    cuts: Mapping[str, np.ndarray]
    around: np.ndarray
    automatic: Mapping[str, Any]

    @property
    def parts(self) -> list[Scored]:
        """The scored rows there are."""
        return [part for part in (self.valid, self.test) if part is not None]

    def named(self, mask: np.ndarray) -> str:
        """Names of the classes of a multi-hot row."""
        return ", ".join(self.classes[c] for c in np.flatnonzero(mask)) or "nothing"
