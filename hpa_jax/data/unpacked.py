"""Unpacked images behind the interface of `input.Records`: the four files of an image are read
for each batch.

For a handful of images (a prediction, a first look); training reads packed records, which are
several times faster (`scripts/bench input`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpa_jax.core.errors import InputError
from hpa_jax.data.reader import CHANNELS, read, resize

if TYPE_CHECKING:
    import pandas as pd


class Files:
    """The rows of a catalog: ids in catalog order, and random access to them.

    ids: str[R].  image_size: side to which every image is brought.
    """

    channels = CHANNELS

    def __init__(self, catalog: "pd.DataFrame", image_size: int) -> None:
        self.ids = catalog["id"].to_numpy(dtype=str)
        self.image_size = image_size
        self._paths = catalog[list(CHANNELS)].to_dict("records")
        self._rows = {id: row for row, id in enumerate(self.ids.tolist())}

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """Catalog rows int64[N] of ids.

        Raises:
            InputError: an id is not in the catalog.
        """
        for id in ids:
            if str(id) not in self._rows:
                raise InputError(f"id {id!r} is not in the catalog")
        return np.array([self._rows[str(id)] for id in ids], np.int64)

    def planes(self, channels: Sequence[str]) -> list[int]:
        """Numbers of channels by name.

        Raises:
            InputError: an unknown name.
        """
        for channel in channels:
            if channel not in CHANNELS:
                raise InputError(f"channel {channel!r}: one of {', '.join(CHANNELS)}")
        return [CHANNELS.index(channel) for channel in channels]

    def images(self, rows: np.ndarray, channels: Sequence[str], image_size: int) -> np.ndarray:
        """uint8[N, image_size, image_size, K] of catalog rows int[N]; only these channels are read.

        Raises:
            BadPicture: a file became unusable since the catalog was made.
        """
        out = np.empty((len(rows), image_size, image_size, len(channels)), np.uint8)
        for i, row in enumerate(rows):
            out[i] = resize(read(self._paths[int(row)], tuple(channels)), image_size)
        return out
