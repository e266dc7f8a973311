"""Labels of rows that have one class each, for classes in their thousands.

12,815 antibodies of 74,606 images are 956 MB as a matrix of bytes, and 7.6 GB as one of float64;
here they are one number a row, and a batch's matrix is made when the batch is.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OneClass:
    """Stands in for uint8 [N, C] with one 1 in each row; numbers: int[N], 0 to count - 1."""

    numbers: np.ndarray
    count: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, C), as of the matrix that is never made."""
        return len(self.numbers), self.count

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """uint8[B, C] of some rows."""
        numbers = self.numbers[rows]
        labels = np.zeros((len(numbers), self.count), np.uint8)
        labels[np.arange(len(numbers)), numbers] = 1
        return labels

    def frequencies(self) -> np.ndarray:
        """float64[C]: each class's share of the rows."""
        return np.bincount(self.numbers, minlength=self.count) / max(len(self), 1)


Labels = np.ndarray | OneClass


def as_labels(labels: Labels) -> Labels:
    """uint8 [N, C], or as it is where each row has one class."""
    return labels if isinstance(labels, OneClass) else np.asarray(labels, np.uint8)


def frequencies(labels: Labels) -> np.ndarray:
    """float64[C]: each class's share of the rows of [N, C]."""
    return labels.frequencies() if isinstance(labels, OneClass) else labels.mean(axis=0)


def content(labels: Labels) -> bytes:
    """What a fingerprint of the labels is made of."""
    if isinstance(labels, OneClass):
        return np.ascontiguousarray(labels.numbers, np.int64).tobytes()
    return np.ascontiguousarray(labels, np.uint8).tobytes()
