"""The 28 cell compartments of the competition, and the codec between label text and multi-hot rows.

In: "16 0" (space-separated class numbers, any order).  Out: bool[C].  No other module hard-codes C:
functions take the class names of the config and default to these 28. Source: competition "Human
Protein Atlas Image Classification" (2018), data page.
"""

from collections.abc import Iterable, Sequence

import numpy as np

NAMES: tuple[str, ...] = (
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Peroxisomes",
    "Endosomes",
    "Lysosomes",
    "Intermediate filaments",
    "Actin filaments",
    "Focal adhesion sites",
    "Microtubules",
    "Microtubule ends",
    "Cytokinetic bridge",
    "Mitotic spindle",
    "Microtubule organizing center",
    "Centrosome",
    "Lipid droplets",
    "Plasma membrane",
    "Cell junctions",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Cytoplasmic bodies",
    "Rods & rings",
)


def encode(text: str, num_classes: int = len(NAMES)) -> np.ndarray:
    """Multi-hot bool[C] of space-separated class numbers; "" means no label.

    Raises:
        ValueError: a token is not an integer in 0..C-1.
    """
    return encode_numbers(parse(text, num_classes), num_classes)


def parse(text: str, num_classes: int = len(NAMES)) -> list[int]:
    """Class numbers of a label text, ascending and without repeats.

    Raises:
        ValueError: a token is not an integer in 0..C-1.
    """
    numbers = set()
    for token in text.split():
        if not token.isascii() or not token.isdigit() or int(token) >= num_classes:
            raise ValueError(f"label {token!r} is not a class number 0..{num_classes - 1}")
        numbers.add(int(token))
    return sorted(numbers)


def encode_numbers(numbers: Iterable[int], num_classes: int = len(NAMES)) -> np.ndarray:
    """Multi-hot bool[C] of class numbers (range-checked)."""
    mask = np.zeros(num_classes, bool)
    for number in numbers:
        if not 0 <= number < num_classes:
            raise ValueError(f"label {number} is not a class number 0..{num_classes - 1}")
        mask[number] = True
    return mask


def decode(mask: Sequence[bool] | np.ndarray) -> str:
    """Space-separated ascending class numbers of a multi-hot row: the inverse of `encode`."""
    return " ".join(str(number) for number in np.flatnonzero(np.asarray(mask)))


def frequencies(labels: np.ndarray) -> np.ndarray:
    """Share of rows that carry each class. labels: [N, C] in {0, 1}; returns float[C] in [0, 1]."""
    return np.asarray(labels, float).mean(axis=0) if len(labels) else np.zeros(np.shape(labels)[1])
