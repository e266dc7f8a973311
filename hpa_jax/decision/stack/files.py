"""The stack on disk: one archive per unit (class and repeat), so that a killed fit resumes.

`units/c07_r0.zip` holds `meta.json` (stamp, kinds, rounds, thresholds, gains), `arrays.npz` (votes,
folds, weights, scale) and `000.ubj`, `001.ubj`, ... (XGBoost's own format); boosters shared by
several classes are beside it as `joint_HASH.ubj`.  Nothing is pickled.
"""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.decision.stack.learners import StackModel
from hpa_jax.decision.stack.units import StackUnit


def path(directory: str | Path, c: int, repeat: int) -> Path:
    """Return the path of the unit of a class and repeat."""
    return Path(directory) / "units" / f"c{c:02d}_r{repeat}.zip"


def _name(number: int, model: StackModel) -> str:
    """Name of a model's booster: a member of the archive, or a separate file if shared."""
    if model.booster is None:
        return ""
    if model.kind == "joint":
        return f"joint_{hashlib.sha256(model.booster).hexdigest()[:16]}.ubj"
    return f"{number:03d}.ubj"


def holds(directory: str | Path, unit: StackUnit) -> bool:
    """Whether the folder already holds this unit (same class, repeat and stamp)."""
    try:
        with zipfile.ZipFile(path(directory, unit.c, unit.repeat)) as archive:
            stored = json.loads(archive.read("meta.json"))["stamp"]
    except artifacts.DAMAGE_ERRORS:
        return False
    return stored == unit.stamp


def write(directory: str | Path, unit: StackUnit) -> None:
    """Write one unit atomically."""
    arrays = {"votes": unit.votes, "fold": unit.fold}
    if unit.models:
        arrays["weights"] = np.array([model.weights for model in unit.models])
    arrays.update({f"scale{i}": part for i, part in enumerate(unit.scale)})
    if unit.test_votes is not None:
        arrays["test_votes"] = unit.test_votes
    meta = {
        "stamp": unit.stamp,
        "class": unit.c,
        "repeat": unit.repeat,
        "gains": unit.gains,
        "models": [
            {
                "kind": m.kind,
                "rounds": m.rounds,
                "threshold": m.threshold,
                "output": m.output,
                "booster": _name(number, m),
            }
            for number, m in enumerate(unit.models)
        ],
    }
    for number, model in enumerate(
        unit.models
    ):  # shared boosters first: the archive refers to them
        file = Path(directory) / "units" / _name(number, model)
        if model.kind == "joint" and model.booster is not None and not file.exists():
            with artifacts.atomic(file) as temporary:
                temporary.write_bytes(model.booster)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    members = {"meta.json": json.dumps(meta), "arrays.npz": packed.getvalue()}
    for number, model in enumerate(unit.models):
        if model.booster is not None and model.kind != "joint":
            members[_name(number, model)] = model.booster
    with (
        artifacts.atomic(path(directory, unit.c, unit.repeat)) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        for name, content in members.items():  # by ZipInfo: without the time, the same bytes
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)


def read(directory: str | Path, c: int, repeat: int, stamp: str | None = None) -> StackUnit | None:
    """Read the unit of a class and repeat; None if missing or of another stamp.

    Raises:
        InputError: the archive is damaged.
    """
    file = path(directory, c, repeat)
    if not file.exists():
        return None
    with artifacts.parsing(file, "delete it and fit again"):
        with zipfile.ZipFile(file) as archive:
            meta = json.loads(archive.read("meta.json"))
            if stamp is not None and meta["stamp"] != stamp:
                return None
            arrays = dict(np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False))
            models = [
                StackModel(
                    stored["kind"],
                    arrays["weights"][number],
                    None,
                    stored["rounds"],
                    stored["threshold"],
                    stored["output"],
                )
                for number, stored in enumerate(meta["models"])
            ]
            for model, stored in zip(models, meta["models"]):
                if stored["booster"] and model.kind == "joint":
                    model.booster = (file.parent / stored["booster"]).read_bytes()
                elif stored["booster"]:
                    model.booster = archive.read(stored["booster"])
        scale = tuple(arrays[f"scale{i}"] for i in range(3) if f"scale{i}" in arrays)
        return StackUnit(
            c,
            repeat,
            arrays["votes"],
            arrays["fold"],
            models,
            scale,
            meta["gains"],
            arrays.get("test_votes"),
            meta["stamp"],
        )
