"""Checkpoints: Orbax's CheckpointManager, verified before use, with the config inside.

In: `TrainState` and a `meta` dictionary (model config, class names, phase, epoch, scores).  Out:
directory/checkpoints/STEP/{weights, training, meta, checksums.json}.  `weights` (parameters and
BatchNorm statistics) is all that `load` reads; `training` is the rest of an exact restart.

Orbax writes asynchronously and renames when finished, so a kill leaves no partial checkpoint.  The
checksums (CRC-32 of every file, written afterwards) detect truncated or changed files.
"""

import contextlib
import json
import math
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import nnx
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from hpa_jax.config import defaults as configs
from hpa_jax.config import renamed, settings
from hpa_jax.core import artifacts, own_code
from hpa_jax.core.errors import InputError, is_disk_full
from hpa_jax.training import network
from hpa_jax.training.phases import LOWER_IS_BETTER
from hpa_jax.training.step import TrainState

CHECKSUMS = "checksums.json"


class Checkpoints:
    """The checkpoints of one run; all processes of a run must make the same calls."""

    def __init__(
        self, directory: str | Path, *, keep: int = 2, monitor: str = "loss", averaged: int = 0
    ) -> None:
        """Open or create directory/checkpoints.

        Args:
            directory: the model's folder.
            keep: number of newest checkpoints to keep, besides the best by `monitor`, the ends of
                phases and cycles, and the newest `averaged` epochs.
            monitor: a validation score.
            averaged: number of epochs that an average over checkpoints needs.
        """
        self.folder = Path(directory).resolve() / "checkpoints"
        self.metas: dict[int, dict[str, Any]] = {}
        self._sealer: Thread | None = None
        policy = _Policy(self.metas, keep, monitor, averaged)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options)
        self.metas.update({step: read_meta(self.folder, step) for step in self.manager.all_steps()})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        self.manager.close()

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Save in the background; `state` may be donated as soon as this returns.

        Raises:
            InputError: the disk is full, for this save or the previous one.
        """
        step = int(meta["step"])
        if step in self.metas:  # a timed save has already saved this epoch's end
            self.wait()
            self.manager.delete(step)
        self.wait()
        weights, rest = _parts(state)
        arguments = ocp.args.Composite(
            weights=ocp.args.StandardSave(weights),
            training=ocp.args.StandardSave(rest),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        self.metas[step] = dict(meta)
        with self._reporting_full_disk():
            self.manager.save(step, args=arguments, force=True)
        if jax.process_index() == 0:
            self._sealer = Thread(target=self._seal, args=(step,), daemon=True)
            self._sealer.start()

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            InputError: the disk is full.
        """
        with self._reporting_full_disk():
            self.manager.wait_until_finished()
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None

    def steps(self, kind: str | None = None) -> list[int]:
        """Return the steps of checkpoints, ascending; of a kind (epoch, middle, average) or all."""
        steps = sorted(self.manager.all_steps())
        return [step for step in steps if kind in (None, self.metas[step].get("kind"))]

    def newest(self) -> int | None:
        """Return the step of the newest intact checkpoint; deletes newer damaged ones."""
        for step in reversed(self.steps()):
            problem = damage(self.folder, step) or ("" if self.metas[step] else "no meta")
            problem = problem or self._unreadable(step)
            if not problem:
                return step
            logging.warning("checkpoint %d is damaged (%s): using the previous one", step, problem)
            self.manager.delete(step)
            self.metas.pop(step, None)
        return None

    def restore(self, step: int, template: TrainState) -> TrainState:
        """Return the state saved at `step`; `template` gives shapes, dtypes and shardings."""
        weights, rest = _parts(template)
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardRestore(_abstract(weights)),
                training=ocp.args.StandardRestore(_abstract(rest)),
            ),
        )
        return TrainState(**restored["training"], **restored["weights"])

    def weights(self, step: int, template: TrainState) -> tuple[network.Arrays, network.Arrays]:
        """Return (parameters, statistics) saved at `step`."""
        return _restore_weights(self.manager, step, template.params, template.stats)

    @contextlib.contextmanager
    def _reporting_full_disk(self) -> Iterator[None]:
        """Report a full disk in one line, instead of Orbax's and TensorStore's many."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            raise InputError(
                f"{self.folder / str(max(self.metas, default=0))}: not saved, the disk is full; "
                "free some space and run again: training resumes from the previous checkpoint"
            ) from error

    def _seal(self, step: int) -> None:
        # Orbax's callback runs before its rename; a folder with the final name is complete
        path = self.folder / str(step)
        while not path.exists():
            if self.manager.is_saving_in_progress():
                time.sleep(0.05)
            elif not path.exists():
                return  # the save failed; Orbax raises that in the loop
        with contextlib.suppress(InputError):  # the disk is full; `_unreadable` reads it instead
            write_checksums(path)

    def _unreadable(self, step: int) -> str:
        """The error of reading a checkpoint that has no checksums; "" if it is intact."""
        if (self.folder / str(step) / CHECKSUMS).exists() or jax.process_count() > 1:
            return ""
        everything = ocp.args.StandardRestore()
        try:
            self.manager.restore(
                step, args=ocp.args.Composite(weights=everything, training=everything)
            )
        except (ValueError, OSError, KeyError, TypeError) as error:
            return str(error).splitlines()[0][:200]
        return ""


class _Policy(preservation_policy.PreservationPolicy):
    """Keeps the newest, the best, the ends of phases and cycles, and those for an average."""

    def __init__(
        self, metas: dict[int, dict[str, Any]], keep: int, monitor: str, averaged: int
    ) -> None:
        self.metas, self.keep, self.monitor, self.averaged = metas, keep, monitor, averaged

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        del context
        steps = [info.step for info in checkpoints]
        epochs = [s for s in steps if self.metas.get(s, {}).get("kind") == "epoch"]
        kept = set(steps[-max(self.keep, 1) :])
        kept |= set(epochs[-self.averaged :] if self.averaged else [])
        kept |= {s for s in steps if self.metas.get(s, {}).get("keep")}
        best = best_step({s: self.metas.get(s, {}) for s in steps}, self.monitor)
        return [s in kept or s == best for s in steps]


def best_step(metas: Mapping[int, Mapping[str, Any]], monitor: str) -> int | None:
    """Return the step whose `monitor` is best (first of equals); None without a finite score."""
    sign = 1.0 if monitor in LOWER_IS_BETTER else -1.0
    values = {
        step: (meta.get("metrics") or {}).get(monitor)
        for step, meta in sorted(metas.items())
        if meta.get("kind") == "epoch"
    }
    scores = {s: sign * x for s, x in values.items() if x is not None and math.isfinite(x)}
    return min(scores, key=scores.__getitem__) if scores else None


def load(
    directory: str | Path, which: str | int = "best"
) -> tuple[nnx.Module, ConfigDict, tuple[str, ...]]:
    """Return (network in evaluation mode, model config, class names) of a trained model's folder.

    Args:
        directory: the folder that `loop.train` wrote (or its `checkpoints`).  For a model with
            `frozen.head`, the network is that head on stored embeddings.
        which: "best" (by the run's monitor), "last", "average" (of config.average),
            "phase:K" (the end of phase K, from 0), "epoch:N" (from 1), a step, or "final": the one
            in the config's `checkpoint`; if that is "final" or "snapshots", the average if there is
            one, else the best.

    Raises:
        InputError: no checkpoint, none of that kind, or a damaged one.
    """
    folder = Path(directory).resolve()
    folder = folder if folder.name == "checkpoints" else folder / "checkpoints"
    step = find(folder, which)
    problem = damage(folder, step)
    if problem:
        raise InputError(f"{folder / str(step)}: damaged ({problem}); choose another checkpoint")
    meta = read_meta(folder, step)
    own_code.check_unchanged(meta.get("own_code", {}), f"{folder / str(step)}/meta")
    config = config_of(meta)
    names = tuple(meta["class_names"])
    model = network.trained_from_config(config, len(names), arrays=False)
    params, stats = network.shapes(model)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), (params, stats)
    )
    host = jax.process_index()  # opening must not wait for other hosts: a single one may predict
    alone = ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"load_{host}"
    )
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    manager = ocp.CheckpointManager(folder, options=options)
    network.assign(model, *_restore_weights(manager, step, *placed))
    manager.close()
    model.eval()
    return model, config, names


def find(folder: Path, which: str | int) -> int:
    """Return the step of `which` (as in `load`) in a folder of checkpoints.

    Raises:
        InputError: no checkpoint, or none of that kind; the message lists the steps.
    """
    metas = _metas(folder)
    steps, which = list(metas), str(which)
    if not steps:
        raise InputError(f"{folder}: no checkpoint; train the model first")
    if which.isdigit():
        if int(which) not in steps:
            raise InputError(f"{folder}: no checkpoint of step {which}; there are {steps}")
        return int(which)
    monitor = next((meta["monitor"] for meta in metas.values() if "monitor" in meta), "loss")
    average = [step for step in steps if metas[step].get("kind") == "average"]
    plain = [step for step in steps if metas[step] and step not in average]
    last = plain[-1] if plain else None
    by_name = {
        "last": last,
        "best": best_step(metas, monitor) or last,
        "average": average[-1] if average else None,
    }
    preferred = next(
        (meta["model"]["checkpoint"] for meta in metas.values() if "model" in meta), ""
    )
    named = by_name.get(preferred) or end_of(metas, preferred)
    by_name["final"] = named or by_name["average"] or by_name["best"]
    step = by_name.get(which) or end_of(metas, which)
    if step is None:
        raise InputError(
            f"{folder}: no checkpoint {which!r}; there are best, last, final"
            f"{', average' if average else ''} and steps {steps}"
        )
    return step


def end_of(metas: Mapping[int, Mapping[str, Any]], which: str) -> int | None:
    """Return the step of "phase:K" or "epoch:N"; None if not kept, or for other text.

    A phase's end is that of its last epoch, which is always kept.
    """
    key, _, number = which.partition(":")
    if key not in ("phase", "epoch") or not number.isdecimal():
        return None
    ends = [
        step
        for step, meta in sorted(metas.items())
        if meta.get("kind") == "epoch" and meta.get(key) == int(number)
    ]
    return ends[-1] if ends else None


def chosen(directory: str | Path, which: str) -> list[int]:
    """Return the steps used for prediction: all snapshots, or the one of `load`.

    Raises:
        InputError: no checkpoint, or none of that kind.
    """
    if which == "snapshots":
        return snapshots(directory)
    return [find(Path(directory).resolve() / "checkpoints", which)]


def snapshots(directory: str | Path) -> list[int]:
    """Return the ends of phases and cycles, ascending, which form a snapshot ensemble."""
    metas = _metas(Path(directory).resolve() / "checkpoints")
    ends = [s for s, meta in metas.items() if meta.get("keep") and meta.get("kind") == "epoch"]
    return [s for s in ends if metas[s].get("snapshot", True)]


def read_meta(folder: Path, step: int) -> dict[str, Any]:
    """Return the meta dictionary of a checkpoint; {} if unreadable."""
    try:
        return json.loads((folder / str(step) / "meta" / "metadata").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def config_of(meta: Mapping[str, Any]) -> ConfigDict:
    """Return the model config of a meta dictionary; missing newer options get their defaults."""
    return configs.model(**_tuples(renamed.current_model(meta["model"])))


def write_checksums(folder: Path) -> None:
    """Write the CRC-32 of all files of one finished checkpoint."""
    sums = {
        str(path.relative_to(folder)): _crc(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }
    artifacts.write_json(folder / CHECKSUMS, sums)


def damage(folder: Path, step: int) -> str:
    """Describe the damage to a checkpoint's files; "" if nothing, or without checksums."""
    path = folder / str(step)
    if not (path / CHECKSUMS).exists():
        return "" if path.is_dir() else "missing"
    for name, crc in artifacts.read_json(path / CHECKSUMS).items():
        if not (path / name).exists():
            return f"{name} is missing"
        if _crc(path / name) != crc:
            return f"{name} has changed or is truncated"
    return ""


def check_same_run(meta: Mapping[str, Any], identity: Mapping[str, Any], where: Path) -> None:
    """Check that a checkpoint is of the same training as the present config.

    Options missing in the checkpoint count as their defaults.

    Raises:
        InputError: names the first difference.
    """
    before, now = (settings.flat({"models.one": run}) for run in (meta["run"], identity))
    changed, _ = settings.differences(before, now)
    if changed:
        raise InputError(
            f"{where} holds a training with different {changed[0].removeprefix('models.one.')}; "
            "move the folder away or use another"
        )


def check_architecture(meta: Mapping[str, Any], shapes: Mapping[str, Any], where: Path) -> None:
    """Check that a checkpoint has arrays of these `shapes`.

    Raises:
        InputError: a parameter that is missing, extra, or of another shape.
    """
    saved = {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in meta["shapes"].items()
    }
    network.check_same(saved, shapes, f"restoring {where}")


def _parts(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """({params, stats}, the rest) of a state, as stored on disk."""
    rest = state._asdict()
    return {name: rest.pop(name) for name in ("params", "stats")}, rest


def _restore_weights(
    manager: ocp.CheckpointManager, step: int, params: Any, stats: Any
) -> tuple[network.Arrays, network.Arrays]:
    """(parameters, statistics) at `step`; the arguments give shapes, dtypes and shardings."""
    args = ocp.args.StandardRestore(_abstract({"params": params, "stats": stats}))
    weights = manager.restore(step, args=ocp.args.Composite(weights=args))["weights"]
    return weights["params"], weights["stats"]


def _metas(folder: Path) -> dict[int, dict[str, Any]]:
    """{step: meta} of a folder of checkpoints, ascending."""
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    return {step: read_meta(folder, step) for step in steps}


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
