"""The stack on disk: one archive a unit (class and repeat), so a killed fit goes on where it was.

`units/c07_r0.zip` holds `meta.json` (stamp, kinds, rounds, thresholds, gains), `arrays.npz` (votes,
folds, weights, scale) and `000.ubj`, `001.ubj`, ... (XGBoost's own format).  Nothing is pickled.
"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from hpa_jax import artifacts
from hpa_jax.decision.stack_class import Unit
from hpa_jax.decision.stack_learners import Fitted
from hpa_jax.errors import InputError


def path(directory: str | Path, c: int, repeat: int) -> Path:
    """Where the unit of a class and repeat lies."""
    return Path(directory) / "units" / f"c{c:02d}_r{repeat}.zip"


def write(directory: str | Path, unit: Unit, stamp: str) -> None:
    """Writes one unit, whole or not at all."""
    arrays = {"votes": unit.votes, "fold": unit.fold}
    if unit.models:
        arrays["weights"] = np.array([model.weights for model in unit.models])
    arrays.update({f"scale{i}": part for i, part in enumerate(unit.scale)})
    if unit.test_votes is not None:
        arrays["test_votes"] = unit.test_votes
    meta = {
        "stamp": stamp,
        "class": unit.c,
        "repeat": unit.repeat,
        "gains": unit.gains,
        "models": [[m.kind, m.rounds, m.threshold, m.booster is not None] for m in unit.models],
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    with (
        artifacts.atomic(path(directory, unit.c, unit.repeat)) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("arrays.npz", packed.getvalue())
        for number, model in enumerate(unit.models):
            if model.booster is not None:
                archive.writestr(f"{number:03d}.ubj", model.booster)


def read(directory: str | Path, c: int, repeat: int, stamp: str | None = None) -> Unit | None:
    """The unit of a class and repeat; None if it is not there or carries another stamp.

    Raises:
        InputError: the archive is damaged.
    """
    file = path(directory, c, repeat)
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            meta = json.loads(archive.read("meta.json"))
            if stamp is not None and meta["stamp"] != stamp:
                return None
            arrays = dict(np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False))
            models = [
                Fitted(kind, arrays["weights"][number], None, rounds, cut)
                for number, (kind, rounds, cut, _) in enumerate(meta["models"])
            ]
            for number, (*_, has_trees) in enumerate(meta["models"]):
                if has_trees:
                    models[number].booster = archive.read(f"{number:03d}.ubj")
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{file}: damaged ({error}); delete it and fit again") from None
    scale = tuple(arrays[f"scale{i}"] for i in range(3) if f"scale{i}" in arrays)
    return Unit(
        c,
        repeat,
        arrays["votes"],
        arrays["fold"],
        models,
        scale,
        meta["gains"],
        arrays.get("test_votes"),
    )
