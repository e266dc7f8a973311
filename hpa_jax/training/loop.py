"""The training loop: build -> restore -> for each step ... -> evaluate -> save.

In: a model config and packed images.  Out: DIRECTORY/checkpoints (opens without the config),
DIRECTORY/metrics.jsonl and TensorBoard events.  A stopped run resumes from its newest intact
checkpoint and ends with the same bits (on the same kind and number of devices; on GPUs with
train.deterministic).
"""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts, own_code
from hpa_jax.core.errors import InputError
from hpa_jax.training import averaging, checkpoint, compilation, distributed, network, validation
from hpa_jax.training import phases as planning
from hpa_jax.training import setup as setups
from hpa_jax.training.checkpoint import Checkpoints
from hpa_jax.training.compilation import Compiler
from hpa_jax.training.examples import Examples, Labels
from hpa_jax.training.logs import Log, Profile, Speed, duration, memory_mib
from hpa_jax.training.phases import Phase
from hpa_jax.training.preemption import TRY_AGAIN, Preemption
from hpa_jax.training.setup import Setup
from hpa_jax.training.step import TrainState, zero_totals

LOADED = "init_from.json"  # names of the weights taken from init_from
AHEAD = 2  # steps dispatched to the device before the host waits
CHECK_SECONDS = 5.0  # between checks for a non-finite step
CHECK_STEPS = 100  # the same for several hosts, which also agree on timed saves then


def train(
    config: ConfigDict,
    *,
    name: str,
    directory: str | Path,
    records: Any,
    train_ids: Sequence[str],
    train_labels: Labels,
    valid_ids: Sequence[str],
    valid_labels: Labels,
    class_names: Sequence[str],
    settings: ConfigDict,
    seed: int,
    train_weights: np.ndarray | None = None,
    init_folder: Path | None = None,
) -> Path:
    """Train one network, or resume an earlier call.

    Args:
        config: `hpa_jax.config.model(...)`.
        name: for the log.
        directory: for checkpoints/, metrics.jsonl, TensorBoard events, and init_from.json (weights
            taken from `config.init_from`).
        records: `hpa_jax.data.batches.Records`.
        train_ids: N ids.
        train_labels: uint8 [N, C], or examples.OneClass.
        valid_ids: M ids.
        valid_labels: uint8 [M, C], or examples.OneClass.
        class_names: C names, stored in every checkpoint.
        settings: `config.train`.
        seed: of everything random, combined with the model config's seed.
        train_weights: [N] relative sampling frequency of an image (its source's weight).
        init_folder: folder of the trained model in config.init_from, if that is not a path.

    Returns:
        `directory`.

    Raises:
        InputError: invalid options or data, `directory` holds another training, or a batch is too
            large for the device.
        SystemExit: 75 after SIGTERM; the state is saved, call again to resume.
        FloatingPointError: a loss or gradient was not finite and on_nonfinite is "stop"; no state
            is saved from then on.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    compilation.keep_programs(settings.compilation_cache or directory / "compilation_cache")
    ids = np.asarray(train_ids), np.asarray(valid_ids)
    examples = Examples(records, ids[0], train_labels, ids[1], valid_labels, train_weights)
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, examples, class_names, seed, init_folder)
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(Preemption())
        checkpoints = stack.enter_context(
            Checkpoints(
                directory,
                keep=settings.keep,
                monitor=settings.monitor,
                averaged=averaging.needed(setup),
            )
        )
        stack.enter_context(compilation.explaining_out_of_memory())
        start = restore(setup, checkpoints, directory)
        state, phase, step = start.state, start.phase, int(start.state.step)
        end = setup.phases[-1].end
        phases_left = [] if start.over else setup.phases[phase.index :]
        log = stack.enter_context(
            Log(
                directory,
                name,
                # the rows of an epoch with interrupted validation are written again
                restored_step=step - start.unvalidated if checkpoints.metas else -1,
                total_steps=end,
                tensorboard=settings.tensorboard,
            )
        )
        traced = end - step if phases_left and settings.profile else 0
        profile = stack.enter_context(Profile(directory / "profile", traced, log.say))
        run = _Run(setup, checkpoints, preemption, log, directory, start)
        run.introduce(start)
        for phase in phases_left:
            step = max(step, phase.start)
            if phase.index > 0 and step == phase.start:
                state = run.enter(phase, state)
            if run.unsaved:  # an earlier run was stopped during the validation of this epoch
                state = run.finish_epoch(phase, state, step)
                if run.ended(phase, step):
                    continue
            train_step = setup.train_step(phase, run.compile)
            in_flight: deque[jax.Array] = deque()
            run.speed.restart()
            with contextlib.closing(setup.train_batches(phase, step)) as batches:
                while not run.ended(phase, step):
                    wait_start = time.perf_counter()
                    batch = layout.put_batch(next(batches))
                    waited = time.perf_counter() - wait_start
                    profile.before_step()
                    state, loss = train_step(state, batch, np.uint32(setup.seed), phase.rates(step))
                    step += 1
                    in_flight.append(loss)
                    if len(in_flight) > AHEAD:
                        in_flight.popleft().block_until_ready()
                    profile.after_step(loss)
                    run.speed.add(phase.batch_size, waited)
                    log.tick(step, run.speed)
                    if step in phase.epoch_ends:
                        state = run.finish_epoch(phase, state, step)
                    run.save_or_exit(phase, state, step)
        profile.stop()
        if setup.average["kind"] != "none" and not checkpoints.steps("average"):
            run.finish_average(phase, state, step)
    return directory


class Start(NamedTuple):
    """Where a training starts or resumes."""

    state: TrainState
    phase: Phase
    over: bool = False  # all phases are done
    history: Sequence[list[Any]] = ()  # [step, monitor] of the finished epochs
    unvalidated: bool = False  # the state ends an epoch that is not validated yet
    loaded: Mapping[str, Any] = MappingProxyType({})  # weights taken from init_from


def restore(setup: Setup, checkpoints: Checkpoints, directory: Path) -> Start:
    """Return the newest checkpoint's state and the remaining phases, or a fresh start.

    Raises:
        InputError: the checkpoints are of another training.
    """
    newest = checkpoints.newest()
    if newest is None:
        params, stats, loaded = setups.initial(setup)
        if loaded and jax.process_index() == 0:
            artifacts.write_json(directory / LOADED, loaded)
        state = setup.state(setup.phases[0], params, stats, 0)
        return Start(setup.layout.replicate(state), setup.phases[0], loaded=loaded)
    meta = checkpoints.metas[newest]
    checkpoint.check_same_run(meta, artifacts.plain(setup.identity), directory)
    checkpoint.check_architecture(meta, setup.shapes, checkpoints.folder)
    phase, history = (
        setup.phases[meta["phase"] if "phase" in meta else meta["stage"]],
        meta["history"],
    )
    state = checkpoints.restore(newest, setup.template(phase))
    if meta["kind"] == "middle":
        return Start(state, phase, False, history, newest in phase.epoch_ends)
    over = meta["kind"] == "average" or ended(setup, phase, newest, history)
    if over and phase is not setup.phases[-1]:
        return Start(state, setup.phases[phase.index + 1], False, history)
    return Start(state, phase, over, history)


def ended(setup: Setup, phase: Phase, step: int, history: planning.History) -> bool:
    """Return whether a phase is over after a step, by its plan or by `train.patience`."""
    return phase.ended(step, history, setup.settings.patience, setup.settings.monitor)


class _Run:
    """Loop variables besides the state, and the work between steps."""

    def __init__(
        self,
        setup: Setup,
        checkpoints: Checkpoints,
        preemption: Preemption,
        log: Log,
        directory: Path,
        start: Start,
    ) -> None:
        self.setup, self.checkpoints, self.preemption = setup, checkpoints, preemption
        self.log, self.directory = log, directory
        self.compile = Compiler(preemption, log.say, setup.settings.deterministic)
        self.speed = Speed()
        self.history = list(start.history)
        self.own_code = own_code.texts(setup.config.backbone)  # now: it may be edited meanwhile
        self.saved_at = self.checked_at = time.monotonic()
        # (phase, state, step) to save before a stop, if not on disk; also during the validation of
        # a finished epoch.
        self.unsaved: tuple[Phase, TrainState, int] | None = None
        if start.unvalidated:
            self.unsaved = start.phase, start.state, int(start.state.step)
        preemption.save = self.save_unsaved
        examples = setup.examples
        self.valid_batches = validation.KeptBatches(
            lambda: setup.eval_batches(examples.valid_ids, examples.valid_labels),
            len(examples.valid_ids) * _bytes(setup.batch_shapes(1)["image"]),
        )

    def introduce(self, start: Start) -> None:
        """Log a summary of the training."""
        setup, step, end = self.setup, int(start.state.step), self.setup.phases[-1].end
        parameters = sum(int(np.prod(x.shape)) for x in setup.outline.params.values())
        self.log.say(
            f"{setup.config.backbone}, {parameters / 1e6:.2f} M parameters, "
            f"{len(setup.examples.train_ids):,} images, {end:,} steps of "
            f"{start.phase.batch_size}, {setup.epochs} epochs on {jax.device_count()} "
            f"{jax.devices()[0].device_kind} device(s)"
        )
        if loaded := start.loaded:
            missing, unused = (
                ", ".join(loaded.get(part, ())) or "none" for part in ("missing", "unused")
            )
            self.log.say(
                f"starts from {loaded['from']}; missing there: {missing}; unused: {unused}"
            )
        if step:
            how = "already finished, with" if step >= end else "resumes from"
            self.log.say(f"{how} the checkpoint of step {step:,}")

    def enter(self, phase: Phase, state: TrainState) -> TrainState:
        """Return the state at the start of a later phase: its weights, a new optimizer."""
        params, stats = state.params, state.stats
        source, metas = str(phase.options.start_from), self.checkpoints.metas
        if source:
            self.checkpoints.wait()
            if source == "best":
                step = checkpoint.best_step(metas, self.setup.settings.monitor)
            elif source.isdigit():
                step = self.setup.phases[int(source)].last_step(self.history)
            else:
                step = checkpoint.end_of(metas, source)
            if step is None:  # Orbax would take the newest
                raise InputError(
                    f"phases[{phase.index}].start_from={source!r}: no such checkpoint; "
                    f"available steps: {list(metas)}"
                )
            params, stats = self.checkpoints.weights(step, state)
            self.log.say(f"phase {phase.index + 1} starts from the weights of step {step:,}")
        fresh = self.setup.state(phase, params, stats, phase.start)
        if self.setup.average["kind"] in ("ema", "swa"):
            fresh = fresh._replace(average=state.average)
        return self.setup.layout.replicate(fresh)

    def ended(self, phase: Phase, step: int) -> bool:
        """Return whether a phase is over after a step."""
        return ended(self.setup, phase, step, self.history)

    def finish_epoch(self, phase: Phase, state: TrainState, step: int) -> TrainState:
        """Validate, log and save; returns the state with totals reset."""
        self.check_finite(phase, state)
        setup, start = self.setup, time.perf_counter()
        epoch, monitor = phase.epochs_until(step), setup.settings.monitor
        row = self.train_row(phase, state, step)
        self.unsaved = phase, state, step
        scores = self.validate(state.params, state.stats)
        self.unsaved = None
        self.log.write(row)
        self.log.write({"step": step, "epoch": epoch, "split": "valid", **scores})
        self.history.append([step, scores[monitor]])
        state = state._replace(
            totals=setup.layout.replicate(zero_totals()),
            average=averaging.after_epoch(setup, state, epoch),
        )
        chosen = setup.average["epochs"] if setup.average["kind"] == "chosen" else ()
        early = self.ended(phase, step) and step != phase.end
        snapshot = early or step in phase.kept_ends
        keep = snapshot or epoch in chosen or epoch in setup.config.keep_epochs
        self.save(phase, state, step, "epoch", scores, keep=keep, snapshot=snapshot)
        self.speed.pause(time.perf_counter() - start)
        seconds_left = self.speed.seconds_left(setup.phases[-1].end - step)
        self.log.say(
            f"epoch {epoch} of {setup.epochs} | loss {row['loss']:.4f} | valid loss "
            f"{scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}, mAP {scores['map']:.3f} | "
            f"{row['images_per_second']:.1f} images/s, {row['data_wait']:.0%} waiting for data | "
            f"{duration(seconds_left)} left"
        )
        if early:
            which = f"phase {phase.index + 1} of {len(setup.phases)}"
            self.log.say(f"{monitor} did not improve: {which} ends early")
        self.speed.restart()
        return state

    def train_row(self, phase: Phase, state: TrainState, step: int) -> dict[str, Any]:
        """Return the training row of metrics.jsonl of an epoch."""
        totals = jax.device_get(state.totals)
        lr = phase.rates(step - 1).lr
        count = int(totals.steps) or float("nan")  # all steps skipped: no loss
        return {
            "step": step,
            "epoch": phase.epochs_until(step),
            "split": "train",
            "phase": phase.index,
            "loss": float(totals.loss) / count,
            "grad_norm": float(totals.grad_norm) / count,
            "skipped": int(totals.skipped),
            "lr": float(lr[-1]),
            "lr_groups": [float(x) for x in lr],
            "images_per_second": self.speed.images_per_second(),
            "data_wait": self.speed.data_wait(),
            "seconds_left": self.speed.seconds_left(self.setup.phases[-1].end - step),
            "memory_mib": memory_mib(),
        }

    def validate(self, params: network.Arrays, stats: network.Arrays) -> dict[str, Any]:
        """Return the scores on the validation part."""
        step = self.setup.eval_step(self.compile)
        put = self.setup.layout.put_batch
        return validation.evaluate(
            step, params, stats, self.valid_batches, put, before_batch=self.exit_if_requested
        )

    def finish_average(self, phase: Phase, state: TrainState, step: int) -> None:
        """Validate the averaged network, and save it one step after the last."""
        kind = self.setup.average["kind"]
        params, stats = averaging.averaged(
            self.setup, self.checkpoints, state, phase, self.compile, self.exit_if_requested
        )
        scores = self.validate(params, stats)
        epoch = phase.epochs_until(step)
        # step of its checkpoint; with the last step, a restart would truncate and rewrite the row
        row = {"step": step + 1, "epoch": epoch, "split": "valid", "weights": kind}
        self.log.write({**row, **scores})
        self.log.say(
            f"average ({kind}) | valid loss {scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}"
        )
        state = state._replace(params=params, stats=stats, step=state.step + 1)
        self.save(phase, state, step + 1, "average", scores, keep=True)

    # --- checkpoints -------------------------------------------------------------------------

    def save(
        self,
        phase: Phase,
        state: TrainState,
        step: int,
        kind: str,
        scores: dict[str, Any] | None = None,
        *,
        keep: bool = False,
        snapshot: bool = False,
    ) -> None:
        """Save a checkpoint; kind: epoch | middle (of an epoch) | average.

        keep: whether it is kept until the end.  snapshot: whether it ends a phase or cycle.
        """
        self.check_finite(phase, state)
        setup = self.setup
        meta = {
            "step": step,
            "epoch": phase.epochs_until(step),
            "kind": kind,
            "phase": phase.index,
            "keep": keep,
            "snapshot": snapshot,
            "metrics": scores,
            "monitor": setup.settings.monitor,
            "history": self.history,
            "model": planning.plain(setup.config),
            "class_names": list(setup.class_names),
            "run": setup.identity,
            "own_code": self.own_code,
            "shapes": {name: list(x.shape) for name, x in setup.shapes.items()},
        }
        self.checkpoints.save(state, artifacts.plain(meta))
        self.saved_at = time.monotonic()

    def save_or_exit(self, phase: Phase, state: TrainState, step: int) -> None:
        """After every step: check for non-finite values, save if due, exit on SIGTERM."""
        if self.check_is_due(step):
            self.check_finite(phase, state)
        minutes = (time.monotonic() - self.saved_at) / 60
        due = minutes > self.setup.settings.checkpoint_minutes
        if jax.process_count() > 1:  # hosts' clocks differ; agreeing at every step would be slow
            due = step % CHECK_STEPS == 0 and distributed.agree(due)
        if due and step not in self.checkpoints.metas:
            self.save(phase, state, step, "middle")
        self.unsaved = phase, state, step
        self.exit_if_requested()
        self.unsaved = None

    def exit_if_requested(self) -> None:
        """After SIGTERM: save the state if it is not on disk, and exit."""
        if self.preemption.requested():
            self.save_unsaved()
            at = f"saved at step {self.unsaved[2]:,}; " if self.unsaved else ""
            self.log.say(f"stopped: {at}run again to resume")
            raise SystemExit(TRY_AGAIN)

    def save_unsaved(self) -> None:
        """Save unsaved progress, and wait until it is on disk."""
        if self.unsaved and self.unsaved[2] not in self.checkpoints.metas:
            self.save(*self.unsaved, "middle")
        self.checkpoints.wait()

    def check_is_due(self, step: int) -> bool:
        """Whether to check for a non-finite step; all hosts do so after the same step, as a single
        host that stops would leave the others waiting."""
        if jax.process_count() > 1:
            return step % CHECK_STEPS == 0
        if time.monotonic() - self.checked_at <= CHECK_SECONDS:
            return False
        self.checked_at = time.monotonic()
        return True

    def check_finite(self, phase: Phase, state: TrainState) -> None:
        """Check for non-finite steps; the batch's ids are written to disk.

        Raises:
            FloatingPointError: names the step and the file.
        """
        bad = int(state.totals.bad_step)
        if bad < 0 or self.setup.settings.on_nonfinite == "skip":
            return
        lr, beta1 = phase.rates(bad)
        path, ids = self.directory / "nonfinite.json", self.setup.train_ids(phase, bad)
        if jax.process_index() == 0:
            artifacts.write_json(path, {"step": bad, "ids": ids, "lr": lr, "beta1": beta1})
        raise FloatingPointError(
            f"{self.directory}: loss or gradient is not finite at step {bad}; the batch's ids are "
            f"in {path.name}. Lower the rate, clip gradients, or set train.on_nonfinite='skip'"
        )


def _bytes(image: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(image.shape)) * image.dtype.itemsize
