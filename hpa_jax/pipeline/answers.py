"""Predictions of a bundle for images on disk, a few at a time while others are still converted.

In: catalog rows, as the folder's images become ready and then all of them.  Out: probabilities,
embeddings and metafeatures of each.  They are kept in DIRECTORY/part-00000.npz, ... (from which a
killed call resumes) and, for early reading, as labels and scores in part-00000.csv beside it.
Memory holds a few images and all numbers.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.core.progress import Progress
from hpa_jax.core.tables import cell
from hpa_jax.data import reader
from hpa_jax.data.reader import CHANNELS
from hpa_jax.pipeline import arrays, tables
from hpa_jax.pipeline.context import side_for

if TYPE_CHECKING:
    import pandas as pd

    from hpa_jax.decision.bundle import Bundle
    from hpa_jax.report.predictions import Predictions

AT_ONCE = 64  # images in memory
TEXTS = ("id", "labels", "why")
SAVE_SECONDS = 30.0  # between part files; the first one is written at once


class Answers:
    """Outputs of a bundle's networks by image (id, digest of the pixels).

    tile: side of the squares that images are split into, in their pixels; 0: whole images.
    """

    def __init__(
        self,
        packed: "Bundle",
        directory: Path,
        *,
        batch_size: int,
        tile: int = 0,
        tile_aggregate: str = "max",
    ) -> None:
        self.packed, self.directory = packed, directory
        self.batch_size, self.tile, self.tile_aggregate = batch_size, tile, tile_aggregate
        self.sides = arrays.sides(packed)
        self.with_features = arrays.needs_features(packed)
        self._programs: arrays.Programs = {}
        self._fingerprint = self._digest()
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self._parts: list[dict[str, np.ndarray]] = []
        self._waiting: list[Mapping[str, Any]] = []
        self._unsaved: list[dict[str, np.ndarray]] = []
        self._saved = 0.0
        self._number = 0
        for path in sorted(directory.glob("part-*.npz")):
            self._number = int(path.stem.removeprefix("part-")) + 1
            self._take(path)

    def add(self, row: Mapping[str, Any]) -> None:
        """Queue an image that has no outputs yet; a full queue is processed.

        row: id, path of each channel, original_size, and `files`, the digest of its pixels.
        """
        if (row["id"], row["files"]) not in self._places:
            self._waiting.append(row)
        if len(self._waiting) == max(AT_ONCE, self.batch_size):
            self._answer()

    def of(self, catalog: "pd.DataFrame", title: str = "predict") -> "Predictions":
        """Return the predictions of all images of a catalog, in its order.

        Raises:
            InputError: an image can't be read, or a probability is not finite.
        """
        self._waiting.clear()  # the catalog may have left some of them out
        rows = catalog.to_dict("records")
        keys = [(row["id"], row["files"]) for row in rows]
        with Progress(title, len(rows), sum(key in self._places for key in keys)) as progress:
            for row, key in zip(rows, keys, strict=True):
                if key not in self._places:
                    self.add(row)
                    progress.add()
            self._answer()
        self._save()
        where = [self._places[key] for key in keys]
        values = {
            name: np.stack([self._parts[part][name][row] for part, row in where])
            for name in self._parts[0]
            if name not in ("ids", "files", "names")
        }
        return self._decided(catalog["id"].to_numpy(str), values)

    def _decided(self, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> "Predictions":
        import pandas as pd

        names = [member.name for member in self.packed.members]
        probs = {name: values[f"probs_{k}"] for k, name in enumerate(names)}
        embeddings = {name: values[f"embeddings_{k}"] for k, name in enumerate(names)}

        def features() -> "pd.DataFrame":  # called only if they were computed
            table = pd.DataFrame(values["features"], columns=self._parts[0]["names"])
            table.insert(0, "id", ids)
            return table

        return arrays.decide(self.packed, ids, probs, embeddings, features)

    def _answer(self) -> None:
        """Process the queued images."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return
        sized: list[dict[int, np.ndarray]] = []
        if not self.tile:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                sized = list(pool.map(self._sized, rows))
        answers = {
            "ids": np.array([row["id"] for row in rows]),
            "files": np.array([row["files"] for row in rows]),
        }
        # Seeded by id: an image's random views do not depend on the rest of the batch.
        seeds = np.array([zlib.crc32(row["id"].encode()) & 0x7FFFFFFF for row in rows], np.int32)
        for k, member in enumerate(self.packed.members):
            answers[f"probs_{k}"], answers[f"embeddings_{k}"] = self._outputs(
                member, rows, sized, seeds
            )
        if self.with_features:
            side = self.sides[0]
            images = (by_side[side] for by_side in sized) if sized else map(reader.read, rows)
            table = arrays.metafeatures(self.packed, images, answers["ids"], *self._sizes(rows))
            numbers = table.drop(columns="id")
            answers |= {"features": numbers.to_numpy(float), "names": numbers.columns.to_numpy(str)}
        self._store(answers)
        self._unsaved.append(answers)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _outputs(
        self,
        member: Any,
        rows: Sequence[Mapping[str, Any]],
        sized: Sequence[Mapping[int, np.ndarray]],
        seeds: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        from hpa_jax.inference import sweep
        from hpa_jax.inference.tables import check_finite

        size = arrays.batch_size(self.batch_size, member)
        if not self.tile:
            # A first batch that is not full is not padded.
            size = size if self._parts else min(size, len(rows))
            side = side_for(self.sides, member.config.image_size)
            images = [by_side[side] for by_side in sized]
            outputs = arrays.run_network(member, images, self.sides, size, self._programs, seeds)
            check_finite(outputs[0], [row["id"] for row in rows])
            return outputs
        planes = [CHANNELS.index(name) for name in member.config.channels]
        return sweep.predict_images(
            arrays.seeded(arrays.program(member, self._programs), seeds),
            lambda row: reader.read(rows[row])[..., planes],  # of any size: one at a time
            [row["id"] for row in rows],
            tile=self.tile,
            image_size=member.config.image_size,
            batch_size=size,
            aggregate=self.tile_aggregate,
        )

    def _sized(self, row: Mapping[str, Any]) -> dict[int, np.ndarray]:
        """Return an image as uint8[S, S, 4] at each side S that networks or metafeatures need."""
        image = reader.read(row)
        return {side: reader.resize(image, side) for side in self.sides}

    def _sizes(self, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray | None]:
        import pandas as pd

        return tables.sizes(pd.DataFrame(rows), self.packed.features.get("extra", False))

    def _store(self, answers: dict[str, np.ndarray]) -> None:
        number = len(self._parts)
        self._parts.append(answers)
        keys = zip(answers["ids"].tolist(), answers["files"].tolist(), strict=True)
        self._places |= {key: (number, row) for row, key in enumerate(keys)}

    def _save(self) -> None:
        """Write a part file of the outputs since the last one."""
        if not self._unsaved:
            return
        first = self._unsaved[0]
        whole = {name: np.concatenate([part[name] for part in self._unsaved]) for name in first}
        whole |= {name: first[name] for name in ("names",) if name in first}
        name = f"part-{self._number:05d}"
        if self.packed.class_names:
            result = arrays.table(self.packed, self._decided(whole["ids"], whole))
            write_csv(self.directory / f"{name}.csv", result)
        with artifacts.atomic(self.directory / f"{name}.npz") as temporary:
            np.savez(temporary, fingerprint=self._fingerprint, **whole)
        self._unsaved, self._saved, self._number = [], time.monotonic(), self._number + 1

    def _take(self, path: Path) -> None:
        """Read a part of an earlier call; ignore a damaged one or one of other networks."""
        try:
            with np.load(path, allow_pickle=False) as part:
                if str(part["fingerprint"]) == self._fingerprint:
                    self._store({name: part[name] for name in part.files if name != "fingerprint"})
        except artifacts.DAMAGE_ERRORS:
            return

    def _digest(self) -> str:
        """Digest of everything but the image that the outputs depend on."""
        from hpa_jax.inference import sweep, views

        options = (self.tile, self.tile_aggregate, self.sides, sorted(self.packed.features.items()))
        whole = hashlib.sha256(repr((options, self.with_features)).encode())
        for member in self.packed.members:
            member_views = views.make(member.views)
            text = sweep.fingerprint(member.network, member.config, member_views, (), ())
            whole.update(text.encode())
        return whole.hexdigest()


def write_csv(path: Path, rows: "pd.DataFrame") -> None:
    """Write a table of predictions as CSV; cells that look like formulas become text."""
    rows = rows.assign(**{name: rows[name].map(cell) for name in TEXTS if name in rows})
    with artifacts.atomic(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.5f")
