"""Checkpoints: Orbax's CheckpointManager, verified before use, with the config inside.

In: `TrainState` and a `meta` dictionary (model config, class names, stage, epoch, scores).  Out:
directory/checkpoints/STEP/{weights, training, meta, checksums.json}.  `weights` (parameters and
BatchNorm statistics) is all that `load` reads; `training` is the rest of an exact restart.

Orbax writes asynchronously and renames when whole, so a kill leaves no half checkpoint.  The
checksums (CRC-32 of every file, written after that) find one that the disk cut short or changed
later.
"""

import contextlib
import json
import math
import time
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
from hpa_jax.config import settings
from hpa_jax.core.errors import InputError, tells_of_a_full_disk
from hpa_jax.training import checksums, network
from hpa_jax.training.step import TrainState

LOWER_IS_BETTER = ("loss", "focal")


class Checkpoints:
    """The checkpoints of one run; every process of a run makes one and calls it alike."""

    def __init__(
        self, directory: str | Path, *, keep: int = 2, monitor: str = "loss", averaged: int = 0
    ) -> None:
        """Opens or makes directory/checkpoints.

        Args:
            directory: the model's folder.
            keep: newest checkpoints kept; beside them the best by `monitor`, the ends of stages and
                cycles, and the newest `averaged` ends of epochs.
            monitor: a score of validation.
            averaged: how many ends of epochs an average over checkpoints needs.
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

    def save(self, state: TrainState, meta: Mapping[str, Any]) -> None:
        """Saves in the background; `state` may be donated as soon as this returns.

        Raises:
            InputError: the disk is full (this save's, or the last one's).
        """
        step = int(meta["step"])
        if step in self.metas:  # an epoch's end that a save by the clock has hit already
            self.wait()
            self.manager.delete(step)
        self.wait()
        rest = {
            "step": state.step,
            "optimizer": state.optimizer,
            "average": state.average,
            "totals": state.totals,
        }
        arguments = ocp.args.Composite(
            weights=ocp.args.StandardSave({"params": state.params, "stats": state.stats}),
            training=ocp.args.StandardSave(rest),
            meta=ocp.args.JsonSave(dict(meta)),
        )
        self.metas[step] = dict(meta)
        with self._naming_a_full_disk():
            self.manager.save(step, args=arguments, force=True)
        if jax.process_index() == 0:
            self._sealer = Thread(target=self._seal, args=(step,), daemon=True)
            self._sealer.start()

    def wait(self) -> None:
        """Returns when the last save is on disk.

        Raises:
            InputError: the disk is full.
        """
        with self._naming_a_full_disk():
            self.manager.wait_until_finished()
        if self._sealer is not None:
            self._sealer.join()
            self._sealer = None

    def steps(self, kind: str | None = None) -> list[int]:
        """Steps of the checkpoints, rising; of one kind (epoch, middle, average) or all."""
        there = sorted(self.manager.all_steps())
        return [step for step in there if kind in (None, self.metas[step].get("kind"))]

    def newest(self) -> int | None:
        """The newest whole checkpoint of the run; damaged newer ones are deleted and named."""
        for step in reversed(self.steps()):
            problem = checksums.damage(self.folder, step) or ("" if self.metas[step] else "no meta")
            problem = problem or self._unreadable(step)
            if not problem:
                return step
            logging.warning("checkpoint %d is damaged (%s): using the one before", step, problem)
            self.manager.delete(step)
            self.metas.pop(step, None)
        return None

    def restore(self, step: int, template: TrainState) -> TrainState:
        """The state saved at `step`; `template` gives shapes, dtypes and shardings."""
        return restore(self.manager, step, template)

    def weights(self, step: int, template: TrainState) -> tuple[network.Arrays, network.Arrays]:
        """(parameters, statistics) saved at `step`."""
        return restore_weights(self.manager, step, template.params, template.stats)

    def close(self) -> None:
        """Waits for the last save and ends Orbax's threads."""
        self.wait()
        self.manager.close()

    @contextlib.contextmanager
    def _naming_a_full_disk(self) -> Iterator[None]:
        """Orbax and TensorStore tell it as ValueError or OSError, over many lines."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            if not tells_of_a_full_disk(error):
                raise
            raise InputError(
                f"{self.folder / str(max(self.metas, default=0))}: not saved, the disk is full; "
                "make room and call again: training goes on from the checkpoint before"
            ) from error

    def _seal(self, step: int) -> None:
        # Orbax's own callback comes before its rename; the folder's final name says it is whole
        path = self.folder / str(step)
        while not path.exists():
            if self.manager.is_saving_in_progress():
                time.sleep(0.05)
            elif not path.exists():
                return  # the save failed; Orbax raises that in the loop
        checksums.write(path)

    def _unreadable(self, step: int) -> str:
        """For a checkpoint that a kill left without checksums: what reading it says, "" if fine."""
        if (self.folder / str(step) / checksums.FILE).exists() or jax.process_count() > 1:
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
    """Newest, best, ends of stages and cycles, and what an average needs."""

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
    """The step whose validation `monitor` is best (first of equals), None without scores.

    A score that is no number is none.
    """
    sign = 1.0 if monitor in LOWER_IS_BETTER else -1.0
    found = {
        step: (meta.get("metrics") or {}).get(monitor)
        for step, meta in sorted(metas.items())
        if meta.get("kind") == "epoch"
    }
    scores = {s: sign * x for s, x in found.items() if x is not None and math.isfinite(x)}
    return min(scores, key=scores.get) if scores else None


def load(
    directory: str | Path, which: str | int = "best"
) -> tuple[nnx.Module, ConfigDict, tuple[str, ...]]:
    """(network in evaluation mode, model config, class names) of a trained model's folder.

    Args:
        directory: the folder that `loop.train` wrote (or its `checkpoints`).
        which: "best" (by the run's monitor), "last", "average" (what config.average made),
            "stage:K" (the end of stages[K]), "epoch:N" (from 1), a step, or "final": the one of
            these that the config's own `checkpoint` names; where that says "final" or "snapshots",
            the average if the config asked for one, else the best.

    Raises:
        InputError: no checkpoint there, none of that kind, or all of them damaged.
    """
    folder = Path(directory).resolve()
    folder = folder if folder.name == "checkpoints" else folder / "checkpoints"
    step = find(folder, which)
    problem = checksums.damage(folder, step)
    if problem:
        raise InputError(f"{folder / str(step)}: damaged ({problem}); choose another checkpoint")
    meta = read_meta(folder, step)
    config = config_of(meta)
    names = tuple(meta["class_names"])
    model = network.from_config(config, len(names), arrays=False)
    params, stats = network.shapes(model)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), (params, stats)
    )
    own = jax.process_index()  # opening waits for no other host: one alone may predict
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"load_{own}"
    )
    options = ocp.CheckpointManagerOptions(read_only=True, multiprocessing_options=alone)
    manager = ocp.CheckpointManager(folder, options=options)
    network.assign(model, *restore_weights(manager, step, *placed))
    manager.close()
    model.eval()
    return model, config, names


def find(folder: Path, which: str | int) -> int:
    """The step that `which` means in a folder of checkpoints.

    Raises:
        InputError: nothing there or nothing of that kind; the message lists the steps.
    """
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit()) if folder else []
    metas = {step: read_meta(folder, step) for step in steps}
    if not steps:
        raise InputError(f"{folder}: no checkpoint there; train the model first")
    if isinstance(which, int) or str(which).isdigit():
        if int(which) not in steps:
            raise InputError(f"{folder}: no checkpoint of step {which}; there are {steps}")
        return int(which)
    monitor = next((meta["monitor"] for meta in metas.values() if "monitor" in meta), "loss")
    average = [step for step in steps if metas[step].get("kind") == "average"]
    plain = [step for step in steps if metas[step] and step not in average]
    found = {
        "last": plain[-1] if plain else None,
        "best": best_step(metas, monitor) or (plain[-1] if plain else None),
        "average": average[-1] if average else None,
    }
    asked = next((meta["model"]["checkpoint"] for meta in metas.values() if "model" in meta), "")
    named = found.get(asked) or end_of(metas, asked)
    found["final"] = named or found["average"] or found["best"]
    found[str(which)] = found.get(str(which)) or end_of(metas, str(which))
    if found.get(str(which)) is None:
        raise InputError(
            f"{folder}: no checkpoint {which!r}; there are best, last, final"
            f"{', average' if average else ''} and steps {steps}"
        )
    return found[str(which)]


def end_of(metas: Mapping[int, Mapping[str, Any]], which: str) -> int | None:
    """The step of "stage:K" or "epoch:N", None where that end was not kept or `which` is another.

    A stage's end is that of its last epoch, which is always kept.
    """
    key, _, number = which.partition(":")
    if key not in ("stage", "epoch") or not number.isdecimal():
        return None
    ends = [
        step
        for step, meta in sorted(metas.items())
        if meta.get("kind") == "epoch" and meta.get(key) == int(number)
    ]
    return ends[-1] if ends else None


def chosen(directory: str | Path, which: str) -> list[int]:
    """Steps that a model predicts with: all of its snapshots, or the one that `load` would take.

    Raises:
        InputError: no checkpoint there or none of that kind.
    """
    if which == "snapshots":
        return snapshots(directory)
    return [find(Path(directory).resolve() / "checkpoints", which)]


def snapshots(directory: str | Path) -> list[int]:
    """Steps of the ends of stages and cycles, rising: what a snapshot ensemble predicts with."""
    folder = Path(directory).resolve() / "checkpoints"
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    metas = {step: read_meta(folder, step) for step in steps}
    ends = [s for s in steps if metas[s].get("keep") and metas[s].get("kind") == "epoch"]
    return [s for s in ends if metas[s].get("snapshot", True)]


def read_meta(folder: Path, step: int) -> dict[str, Any]:
    """The meta dictionary of a checkpoint; {} where it cannot be read."""
    try:
        return json.loads((folder / str(step) / "meta" / "metadata").read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def config_of(meta: Mapping[str, Any]) -> ConfigDict:
    """The model config inside a meta dictionary; an option newer than it has its default."""
    return configs.model(**_tuples(meta["model"]))


def restore(manager: ocp.CheckpointManager, step: int, template: TrainState) -> TrainState:
    """The whole state at `step`."""
    rest = {
        "step": template.step,
        "optimizer": template.optimizer,
        "average": template.average,
        "totals": template.totals,
    }
    weights = {"params": template.params, "stats": template.stats}
    found = manager.restore(
        step,
        args=ocp.args.Composite(
            weights=ocp.args.StandardRestore(_abstract(weights)),
            training=ocp.args.StandardRestore(_abstract(rest)),
        ),
    )
    return TrainState(**found["training"], **found["weights"])


def restore_weights(
    manager: ocp.CheckpointManager, step: int, params: Any, stats: Any
) -> tuple[network.Arrays, network.Arrays]:
    """(parameters, statistics) at `step`; the arguments give shapes, dtypes and shardings."""
    args = ocp.args.StandardRestore(_abstract({"params": params, "stats": stats}))
    found = manager.restore(step, args=ocp.args.Composite(weights=args))["weights"]
    return found["params"], found["stats"]


def check_same_run(meta: Mapping[str, Any], identity: Mapping[str, Any], where: Path) -> None:
    """Refuses to go on with another training in the same folder.

    An option that a checkpoint does not name has its default there.

    Raises:
        InputError: naming the first thing that differs, with both values.
    """
    before, now = (settings.flat({"models.one": run}) for run in (meta["run"], identity))
    changed, _ = settings.differences(before, now)
    if changed:
        raise InputError(
            f"{where} holds a training with other {changed[0].removeprefix('models.one.')}; move "
            "the folder away or use another one"
        )


def check_architecture(meta: Mapping[str, Any], own: Mapping[str, Any], where: Path) -> None:
    """Refuses to restore another architecture into arrays `own`, naming the first difference.

    Raises:
        InputError: a parameter that is missing, extra, or of another shape.
    """
    given = {
        name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in meta["shapes"].items()
    }
    network.check_same(given, own, f"restoring {where}")


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
