"""The training loop: build -> restore -> for each step ... -> evaluate -> save.

In: a model config and packed images.  Out: DIRECTORY/checkpoints (opens without the config),
DIRECTORY/metrics.jsonl and TensorBoard events.  A run that was stopped at any instant goes on from
its newest whole checkpoint and ends with the same bits (on the same kind and number of devices; on
GPUs with train.deterministic).
"""

import functools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hpa_jax.core import artifacts
from hpa_jax.training import (
    averaging,
    checkpoint,
    device_memory,
    distributed,
    network,
    stopping,
)
from hpa_jax.training import setup as setups
from hpa_jax.training import step as steps
from hpa_jax.training.checkpoint import Checkpoints
from hpa_jax.training.labels import Labels, as_labels
from hpa_jax.training.logs import Log, Speed, duration, memory_mib
from hpa_jax.training.phases import Stage
from hpa_jax.training.preemption import Preemption
from hpa_jax.training.profiling import Profile
from hpa_jax.training.saving import Saving
from hpa_jax.training.setup import Setup
from hpa_jax.training.validation import Held, evaluate

LOADED = "init_from.json"  # what was taken from init_from, by name
REPORTED = ("missing", "unused")
AHEAD = 2  # steps sent to the device before the host waits


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
    """Trains one network, or goes on where an earlier call was stopped.

    Args:
        config: `hpa_jax.config.model(...)`.
        name: for the log.
        directory: gets checkpoints/, metrics.jsonl, TensorBoard events, and init_from.json (what
            was taken from `config.init_from`).
        records: `hpa_jax.data.input.Records`.
        train_ids: N ids.
        train_labels: uint8 [N, C], or labels.OneClass.
        valid_ids: M ids.
        valid_labels: uint8 [M, C].
        class_names: C names, kept in every checkpoint.
        settings: `config.train`.
        seed: of everything random; the model config's own seed is mixed in.
        train_weights: [N] how often an image is shown, relative to others (its source's weight).
        init_folder: the trained model that config.init_from names, where that is no path.

    Returns:
        `directory`.

    Raises:
        InputError: bad options or data, `directory` holds another training, or a batch is too large
            for the device.
        SystemExit: 75 after SIGTERM; the state is saved, call again to go on.
        FloatingPointError: a loss or gradient was not finite and on_nonfinite is "stop"; no state
            is saved from then on.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    distributed.compilation_cache(settings.compilation_cache or directory / "compilation_cache")
    data = setups.Data(
        records,
        np.asarray(train_ids),
        as_labels(train_labels),
        np.asarray(valid_ids),
        as_labels(valid_labels),
        train_weights,
    )
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, data, class_names, seed, init_folder)
    checkpoints = Checkpoints(
        directory,
        keep=settings.keep,
        monitor=settings.monitor,
        averaged=averaging.needed(setup),
    )
    with Preemption() as preemption:
        run = _Run(setup, checkpoints, preemption, directory, name)
        try:
            with device_memory.explained():
                run.go()
        finally:
            checkpoints.close()
    return directory


class _Run:
    """What the loop carries from step to step beside the state."""

    def __init__(
        self,
        setup: Setup,
        checkpoints: Checkpoints,
        preemption: Preemption,
        directory: Path,
        name: str,
    ) -> None:
        self.setup, self.checkpoints, self.preemption = setup, checkpoints, preemption
        self.directory, self.name = directory, name
        self.saving = Saving(
            setup, checkpoints, preemption, directory, lambda text: self.log.say(text)
        )
        self.speed = Speed()
        held_size = len(setup.data.valid_ids) * setup.config.image_size**2
        self.held = Held(
            lambda: setup.eval_batches(setup.data.valid_ids, setup.data.valid_labels),
            held_size * len(setup.config.channels),
        )

    def go(self) -> None:
        """All stages that are left, then the average."""
        state, stage, done = self.restore()
        step = int(state.step)
        last = self.setup.stages[-1]
        left = [] if done else self.setup.stages[stage.index :]
        traced = last.end - step if left and self.setup.settings.profile else 0
        profile = Profile(self.directory / "profile", traced)
        # rows of an epoch whose validation was cut short are written again
        written = step - (self.saving.unsaved is not None) if self.checkpoints.metas else -1
        with Log(
            self.directory,
            self.name,
            restored_step=written,
            total_steps=last.end,
            tensorboard=self.setup.settings.tensorboard,
        ) as self.log:
            self.introduce(step, stage)
            try:
                for stage in left:
                    step = max(step, stage.start)
                    if stage.index > 0 and step == stage.start:
                        state = self.enter(stage, state)
                    state, step = self.run_stage(stage, state, step, profile)
            finally:
                profile.stop()
            if self.setup.average["kind"] != "none" and not self.checkpoints.steps("average"):
                self.finish_average(stage, state, step)

    def restore(self) -> tuple[steps.TrainState, Stage, bool]:
        """(state, stage to go on with, whether training is over): of the newest checkpoint, or
        fresh."""
        newest = self.checkpoints.newest()
        if newest is None:
            first = self.setup.stages[0]
            state = self.setup.state(first, *setups.initial(self.setup), 0)
            if self.setup.loaded and jax.process_index() == 0:
                artifacts.write_json(self.directory / LOADED, self.setup.loaded)
            return self.setup.layout.put_whole(state), first, False
        meta = self.checkpoints.metas[newest]
        checkpoint.check_same_run(meta, artifacts.plain(self.saving.identity), self.directory)
        own = {**self.setup.params, **self.setup.stats}
        checkpoint.check_architecture(meta, own, self.checkpoints.folder)
        stage = self.setup.stages[meta["stage"]]
        self.saving.history = meta["history"]
        state = self.checkpoints.restore(newest, self.setup.template(stage))
        if meta["kind"] == "middle":
            if newest in stage.epoch_ends:
                self.saving.unsaved = stage, state, newest
            return state, stage, False
        over = meta["kind"] == "average" or self.ended(stage, newest)
        if over and stage is not self.setup.stages[-1]:
            return state, self.setup.stages[stage.index + 1], False
        return state, stage, over

    def enter(self, stage: Stage, state: steps.TrainState) -> steps.TrainState:
        """The state at the start of a later stage: its weights, a new optimizer."""
        params, stats = state.params, state.stats
        source = str(stage.options.start_from)
        if source:
            self.checkpoints.wait()
            if source == "best":
                found = checkpoint.best_step(self.checkpoints.metas, self.setup.settings.monitor)
            elif source.isdigit():
                found = stopping.last_step(self.saving.history, self.setup.stages[int(source)])
            else:
                found = checkpoint.end_of(self.checkpoints.metas, source)
            params, stats = self.checkpoints.weights(found, state)
            self.log.say(f"stage {stage.index + 1} starts from the weights of step {found:,}")
        fresh = self.setup.state(stage, params, stats, stage.start)
        if self.setup.average["kind"] in ("ema", "swa"):
            fresh = fresh._replace(average=state.average)
        return self.setup.layout.put_whole(fresh)

    def run_stage(
        self, stage: Stage, state: steps.TrainState, first: int, profile: Profile
    ) -> tuple[steps.TrainState, int]:
        """The steps of a stage from `first` on: (state, last step)."""
        if self.saving.unsaved:  # the epoch before was told to stop while it was validated
            state = self.finish_epoch(stage, state, first)
            if self.ended(stage, first):
                return state, first
        train_step = self.setup.train_step(stage, self.preemption, self.log.say)
        seed = np.uint32(self.setup.seed)
        batches = self.setup.train_batches(stage, first - stage.start)
        in_flight: deque[Any] = deque()
        self.speed.restart()
        with distributed.Feeder(batches, self.setup.layout.put_batch) as feeder:
            for step in range(first, stage.end):
                asked = time.perf_counter()
                batch = next(feeder)
                waited = time.perf_counter() - asked
                profile.before_step()
                state, loss = train_step(state, batch, seed, steps.Rates(*stage.rates(step)))
                in_flight.append(loss)
                if len(in_flight) > AHEAD:
                    in_flight.popleft().block_until_ready()
                if profile.after_step(loss):
                    self.log.say(
                        f"profile of {profile.last - profile.first} steps: {profile.folder}"
                    )
                self.speed.add(stage.batch_size, waited)
                self.log.tick(step + 1, self.speed)
                if step + 1 in stage.epoch_ends:
                    state = self.finish_epoch(stage, state, step + 1)
                self.saving.between(stage, state, step + 1)
                if self.ended(stage, step + 1):
                    return state, step + 1
        raise AssertionError("a stage ends at the end of its last epoch")

    def ended(self, stage: Stage, step: int) -> bool:
        """Whether a stage is over after a step: it was its last, or the monitor got no better."""
        if step == stage.end:
            return True
        settings = self.setup.settings
        at_end = step in stage.epoch_ends
        return at_end and stopping.stalled(
            self.saving.history, stage, settings.patience, settings.monitor
        )

    def finish_epoch(self, stage: Stage, state: steps.TrainState, step: int) -> steps.TrainState:
        """Logs the epoch, validates, saves; the totals of the next epoch start at zero."""
        self.saving.check_finite(stage, state)
        start = time.perf_counter()
        epoch = stage.epochs_until(step)
        row = self.train_row(stage, state, step, epoch)
        self.saving.unsaved = stage, state, step
        scores = self.validate(state.params, state.stats)
        self.saving.unsaved = None
        self.log.write(row)
        self.log.write({"step": step, "epoch": epoch, "split": "valid", **scores})
        self.saving.history.append([step, scores[self.setup.settings.monitor]])
        state = state._replace(
            totals=self.setup.layout.put_whole(steps.zero_totals()),
            average=self.swa(state, epoch),
        )
        chosen = self.setup.average["kind"] == "chosen" and epoch in self.setup.average["epochs"]
        chosen |= epoch in self.setup.config.keep_epochs
        early = self.ended(stage, step) and step != stage.end
        snapshot = early or step in stage.kept_ends
        self.saving.save(
            stage, state, step, "epoch", scores, keep=chosen or snapshot, snapshot=snapshot
        )
        self.speed.pause(time.perf_counter() - start)
        self.log.say(
            f"epoch {epoch} of {self.epochs} | loss {row['loss']:.4f} | valid loss "
            f"{scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}, mAP {scores['map']:.3f} | "
            f"{row['images_per_second']:.1f} images/s, {row['data_wait']:.0%} waiting for data | "
            f"{duration(self.speed.seconds_left(self.setup.stages[-1].end - step))} left"
        )
        if early:
            what = f"stage {stage.index + 1} of {len(self.setup.stages)}"
            self.log.say(f"no better {self.setup.settings.monitor}: {what} ends early")
        self.speed.restart()
        return state

    def train_row(
        self, stage: Stage, state: steps.TrainState, step: int, epoch: int
    ) -> dict[str, Any]:
        """The line of metrics.jsonl of an epoch's training."""
        totals = jax.device_get(state.totals)
        lr, _ = stage.rates(step - 1)
        count = int(totals.steps) or float("nan")  # every step skipped: there is no loss
        return {
            "step": step,
            "epoch": epoch,
            "split": "train",
            "stage": stage.index,
            "loss": float(totals.loss) / count,
            "grad_norm": float(totals.grad_norm) / count,
            "skipped": int(totals.skipped),
            "lr": float(lr[-1]),
            "lr_groups": [float(x) for x in lr],
            "images_per_second": self.speed.images_per_second(),
            "data_wait": self.speed.data_wait(),
            "seconds_left": self.speed.seconds_left(self.setup.stages[-1].end - step),
            "memory_mib": memory_mib(),
        }

    def validate(self, params: network.Arrays, stats: network.Arrays) -> dict[str, Any]:
        """Scores on the validation part."""
        eval_step = self.setup.eval_step(self.preemption, self.log.say)

        def batches() -> Iterator[Any]:
            for batch in self.held:
                self.saving.leave_if_asked()
                yield batch

        return evaluate(eval_step, params, stats, batches(), self.setup.layout.put_batch)

    def swa(self, state: steps.TrainState, epoch: int) -> network.Arrays:
        """The running mean over the last epochs' ends, where the config asks for it."""
        before = epoch - 1 - max(self.epochs - self.setup.average["count"], 0)
        in_state = self.setup.average["kind"] == "swa" and not averaging.of_checkpoints(self.setup)
        if not in_state or before < 0:
            return state.average
        return averaging.running_mean(state.average, state.params, before)

    def finish_average(self, stage: Stage, state: steps.TrainState, step: int) -> None:
        """The averaged network: validated, and saved one step after the last."""
        kind = self.setup.average["kind"]
        compiled = functools.partial(
            setups.compiled,
            preemption=self.preemption,
            say=self.log.say,
            deterministic=self.setup.settings.deterministic,
        )
        params, stats = averaging.averaged(
            self.setup, self.checkpoints, state, stage, compiled, self.saving.leave_if_asked
        )
        scores = self.validate(params, stats)
        epoch = stage.epochs_until(step)
        # the step of its checkpoint: without that, a restart cuts the row off and writes it again
        row = {"step": step + 1, "epoch": epoch, "split": "valid", "weights": kind}
        self.log.write({**row, **scores})
        self.log.say(
            f"average ({kind}) | valid loss {scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}"
        )
        state = state._replace(params=params, stats=stats, step=state.step + 1)
        self.saving.save(stage, state, step + 1, "average", scores, keep=True)

    def introduce(self, step: int, stage: Stage) -> None:
        """Tells what is about to happen."""
        setup = self.setup
        parameters = sum(int(np.prod(x.shape)) for x in setup.params.values())
        device = jax.devices()[0]
        self.log.say(
            f"{setup.config.backbone}, {parameters / 1e6:.2f} M parameters, "
            f"{len(setup.data.train_ids):,} images, {setup.stages[-1].end:,} steps of "
            f"{stage.batch_size}, {self.epochs} epochs on {jax.device_count()} "
            f"{device.device_kind} device(s)"
        )
        if loaded := setup.loaded:
            kept, unused = (", ".join(loaded.get(part, ())) or "none" for part in REPORTED)
            self.log.say(f"starts from {loaded['from']}; not in it: {kept}; not used: {unused}")
        if step:
            ended = step >= setup.stages[-1].end
            where = f"the checkpoint of step {step:,}"
            self.log.say(f"{'ended before, with' if ended else 'goes on from'} {where}")

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return sum(len(stage.epoch_ends) for stage in self.setup.stages)
