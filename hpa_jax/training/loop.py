"""The training loop: build -> restore -> for each step ... -> evaluate -> save.

In: a model config and packed pictures.  Out: DIRECTORY/checkpoints (opens without the config),
DIRECTORY/metrics.jsonl and TensorBoard events.  A run that was stopped at any instant goes on from
its newest whole checkpoint and ends with the same bits (on the same kind and number of devices).
"""

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hpa_jax import artifacts
from hpa_jax import config as configs
from hpa_jax.training import averaging, checkpoint, distributed, network, stages
from hpa_jax.training import setup as setups
from hpa_jax.training import step as steps
from hpa_jax.training.checkpoint import Checkpoints
from hpa_jax.training.logs import Log, Speed, duration, memory_mib
from hpa_jax.training.preemption import TRY_AGAIN, Preemption
from hpa_jax.training.setup import Setup
from hpa_jax.training.stages import Stage
from hpa_jax.training.validation import Held, evaluate

AHEAD = 2  # steps sent to the device before the host waits
LOOK_SECONDS = 5.0  # between looks for a non-finite step
PROFILED = (10, 15)  # steps of a process that `profile` traces


def train(
    config: ConfigDict,
    *,
    name: str,
    directory: str | Path,
    records: Any,
    train_ids: Sequence[str],
    train_labels: np.ndarray,
    valid_ids: Sequence[str],
    valid_labels: np.ndarray,
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
        directory: gets checkpoints/, metrics.jsonl and TensorBoard events.
        records: `hpa_jax.data.input.Records`.
        train_ids: N ids.
        train_labels: uint8 [N, C].
        valid_ids: M ids.
        valid_labels: uint8 [M, C].
        class_names: C names, kept in every checkpoint.
        settings: `config.train`.
        seed: of everything random; the model config's own seed is mixed in.
        train_weights: [N] how often a picture is shown, relative to others (its source's weight).
        init_folder: the trained model that config.init_from names, where that is no path.

    Returns:
        `directory`.

    Raises:
        InputError: bad options or data, or `directory` holds another training.
        SystemExit: 75 after SIGTERM; the state is saved, call again to go on.
        FloatingPointError: a loss or gradient was not finite and on_nonfinite is "stop".
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    distributed.compilation_cache(settings.compilation_cache or directory / "compilation_cache")
    data = setups.Data(
        records,
        np.asarray(train_ids),
        np.asarray(train_labels, np.uint8),
        np.asarray(valid_ids),
        np.asarray(valid_labels, np.uint8),
        train_weights,
    )
    layout = distributed.layout()
    setup = setups.build(config, settings, layout, data, class_names, seed, init_folder)
    averaged = setup.average["count"] if setup.average["kind"] == "last" else 0
    checkpoints = Checkpoints(
        directory, keep=settings.keep, monitor=settings.monitor, averaged=averaged
    )
    with Preemption() as preemption:
        run = _Run(setup, checkpoints, preemption, directory, name)
        try:
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
        self.identity = _identity(setup)
        self.history: list[list[float]] = []
        self.speed = Speed()
        self.saved_at = time.monotonic()
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
        with Log(
            self.directory,
            self.name,
            restored_step=step if self.checkpoints.metas else -1,
            total_steps=last.end,
            tensorboard=self.setup.settings.tensorboard,
        ) as self.log:
            self.introduce(step, stage)
            left = [] if done else self.setup.stages[stage.index :]
            for stage in left:
                if stage.index > 0 and step == stage.start:
                    state = self.enter(stage, state)
                state, step, stopped = self.run_stage(stage, state, step)
                if stopped:
                    break
            if self.setup.average["kind"] != "none" and not self.checkpoints.steps("average"):
                self.finish_average(stage, state, step)

    def restore(self) -> tuple[steps.TrainState, Stage, bool]:
        """(state, its stage, whether training is over): from the newest checkpoint, or fresh."""
        newest = self.checkpoints.newest()
        if newest is None:
            first = self.setup.stages[0]
            state = self.setup.state(first, *setups.initial(self.setup), 0)
            return self.setup.layout.put_whole(state), first, False
        meta = self.checkpoints.metas[newest]
        checkpoint.check_same_run(meta, artifacts.plain(self.identity), self.directory)
        own = {**self.setup.params, **self.setup.stats}
        checkpoint.check_architecture(meta, own, self.checkpoints.folder)
        stage = self.setup.stages[meta["stage"]]
        self.history = meta["history"]
        state = self.checkpoints.restore(newest, self.setup.template(stage))
        over = meta["kind"] == "average" or self.stalled()
        if newest == stage.end and stage is not self.setup.stages[-1]:
            stage = self.setup.stages[stage.index + 1]
        return state, stage, over or newest >= self.setup.stages[-1].end

    def enter(self, stage: Stage, state: steps.TrainState) -> steps.TrainState:
        """The state at the start of a later stage: its weights, a new optimizer."""
        params, stats = state.params, state.stats
        source = str(stage.options.start_from)
        if source:
            self.checkpoints.wait()
            found = (
                checkpoint.best_step(self.checkpoints.metas, self.setup.settings.monitor)
                if source == "best"
                else self.setup.stages[int(source)].end
            )
            params, stats = self.checkpoints.weights(found, state)
            self.log.say(f"stage {stage.index + 1} starts from the weights of step {found:,}")
        fresh = self.setup.state(stage, params, stats, stage.start)
        if self.setup.average["kind"] in ("ema", "swa"):
            fresh = fresh._replace(average=state.average)
        return self.setup.layout.put_whole(fresh)

    def run_stage(
        self, stage: Stage, state: steps.TrainState, first: int
    ) -> tuple[steps.TrainState, int, bool]:
        """The steps of a stage from `first` on; the last value tells if training is over."""
        train_step = self.setup.train_step(stage, self.preemption, self.log.say)
        seed = np.uint32(self.setup.seed)
        batches = self.setup.train_batches(stage, first - stage.start)
        in_flight: deque[Any] = deque()
        looked = time.monotonic()
        self.speed.restart()
        with distributed.Feeder(batches, self.setup.layout.put_batch) as feeder:
            for step in range(first, stage.end):
                asked = time.perf_counter()
                batch = next(feeder)
                waited = time.perf_counter() - asked
                state, loss = train_step(state, batch, seed, steps.Rates(*stage.rates(step)))
                in_flight.append(loss)
                if len(in_flight) > AHEAD:
                    in_flight.popleft().block_until_ready()
                self.profile(step - stage.start, state)
                self.speed.add(stage.batch_size, waited)
                self.log.tick(step + 1, self.speed)
                if time.monotonic() - looked > LOOK_SECONDS:
                    self.check_finite(stage, state)
                    looked = time.monotonic()
                if step + 1 in stage.epoch_ends:
                    state = self.finish_epoch(stage, state, step + 1)
                    if self.stalled():
                        self.log.say(
                            f"no better {self.setup.settings.monitor}: training ends early"
                        )
                        return state, step + 1, True
                self.save_in_between(stage, state, step + 1)
        return state, stage.end, False

    def finish_epoch(self, stage: Stage, state: steps.TrainState, step: int) -> steps.TrainState:
        """Logs the epoch, validates, saves; the totals of the next epoch start at zero."""
        self.check_finite(stage, state)
        start = time.perf_counter()
        epoch = stage.first_epoch + stage.epoch_ends.index(step) + 1
        row = self.train_row(stage, state, step, epoch)
        scores = self.validate(state.params, state.stats)
        self.log.write(row)
        self.log.write({"step": step, "epoch": epoch, "split": "valid", **scores})
        self.history.append([step, scores[self.setup.settings.monitor]])
        state = state._replace(
            totals=self.setup.layout.put_whole(steps.zero_totals()),
            average=self.swa(state, epoch),
        )
        chosen = self.setup.average["kind"] == "chosen" and epoch in self.setup.average["epochs"]
        self.save(stage, state, step, "epoch", scores, keep=chosen or step in stage.kept_ends)
        self.speed.pause(time.perf_counter() - start)
        self.log.say(
            f"epoch {epoch} of {self.epochs} | loss {row['loss']:.4f} | valid loss "
            f"{scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}, mAP {scores['map']:.3f} | "
            f"{row['images_per_second']:.1f} images/s, {row['data_wait']:.0%} waiting for data | "
            f"{duration(self.speed.seconds_left(self.setup.stages[-1].end - step))} left"
        )
        self.speed.restart()
        return state

    def train_row(
        self, stage: Stage, state: steps.TrainState, step: int, epoch: int
    ) -> dict[str, Any]:
        """The line of metrics.jsonl of an epoch's training."""
        totals = jax.device_get(state.totals)
        lr, _ = stage.rates(step - 1)
        count = max(int(totals.steps), 1)
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
        return evaluate(eval_step, params, stats, self.held, self.setup.layout.put_batch)

    def swa(self, state: steps.TrainState, epoch: int) -> network.Arrays:
        """The running mean over the last epochs' ends, where the config asks for it."""
        before = epoch - 1 - max(self.epochs - self.setup.average["count"], 0)
        if self.setup.average["kind"] != "swa" or before < 0:
            return state.average
        return averaging.running_mean(state.average, state.params, before)

    def save_in_between(self, stage: Stage, state: steps.TrainState, step: int) -> None:
        """Saves by the clock inside an epoch, and on SIGTERM, which ends the program."""
        leave = self.preemption.requested(step)
        minutes = (time.monotonic() - self.saved_at) / 60
        due = minutes > self.setup.settings.checkpoint_minutes
        if jax.process_count() > 1:  # hosts' clocks differ; asking every step would cost time
            due = step % 100 == 0 and distributed.agree(due)
        if (due or leave) and step not in self.checkpoints.metas:
            self.save(stage, state, step, "middle", None, keep=False)
        if leave:
            self.checkpoints.wait()
            self.log.say(f"told to stop: saved at step {step:,}; run again to go on")
            raise SystemExit(TRY_AGAIN)

    def save(
        self,
        stage: Stage,
        state: steps.TrainState,
        step: int,
        kind: str,
        scores: dict[str, Any] | None,
        *,
        keep: bool,
    ) -> None:
        """A checkpoint with all that a restart and `checkpoint.load` need."""
        meta = {
            "step": step,
            "epoch": len(self.history),  # finished ones
            "kind": kind,
            "stage": stage.index,
            "keep": keep,
            "metrics": scores,
            "monitor": self.setup.settings.monitor,
            "history": self.history,
            "model": stages.plain(self.setup.config),
            "class_names": list(self.setup.class_names),
            "run": self.identity,
            "shapes": {
                name: list(x.shape) for name, x in {**self.setup.params, **self.setup.stats}.items()
            },
        }
        self.checkpoints.save(state, artifacts.plain(meta))
        self.saved_at = time.monotonic()

    def finish_average(self, stage: Stage, state: steps.TrainState, step: int) -> None:
        """The averaged network: validated, and saved one step after the last."""
        kind = self.setup.average["kind"]
        params, stats = averaging.averaged(self.setup, self.checkpoints, state)
        scores = self.validate(params, stats)
        row = {"step": step, "epoch": len(self.history), "split": "valid", "weights": kind}
        self.log.write({**row, **scores})
        self.log.say(
            f"average ({kind}) | valid loss {scores['loss']:.4f}, macro-F1 {scores['macro_f1']:.3f}"
        )
        state = state._replace(params=params, stats=stats, step=state.step + 1)
        self.save(stage, state, step + 1, "average", scores, keep=True)

    def check_finite(self, stage: Stage, state: steps.TrainState) -> None:
        """Stops at a non-finite step, with the batch's ids on disk.

        Raises:
            FloatingPointError: naming the step and the file.
        """
        bad = int(state.totals.bad_step)
        if bad < 0 or self.setup.settings.on_nonfinite == "skip":
            return
        ids = [str(id) for id in self.setup.data.train_ids[self.setup.rows_of(stage, bad)]]
        lr, beta1 = stage.rates(bad)
        path = self.directory / "nonfinite.json"
        if jax.process_index() == 0:
            artifacts.write_json(path, {"step": bad, "ids": ids, "lr": lr, "beta1": beta1})
        raise FloatingPointError(
            f"{self.name}: loss or gradient is not finite at step {bad}; the batch's ids are in "
            f"{path}. Lower the rate, clip gradients, or train.on_nonfinite='skip'"
        )

    def stalled(self) -> bool:
        """Whether the monitor has not got better for `patience` epochs."""
        patience = self.setup.settings.patience
        if not patience or len(self.history) <= patience:
            return False
        sign = 1.0 if self.setup.settings.monitor in checkpoint.LOWER_IS_BETTER else -1.0
        values = [sign * value for _, value in self.history]
        return int(np.argmin(values)) < len(values) - patience

    def introduce(self, step: int, stage: Stage) -> None:
        """Tells what is about to happen."""
        setup = self.setup
        parameters = sum(int(np.prod(x.shape)) for x in setup.params.values())
        device = jax.devices()[0]
        self.log.say(
            f"{setup.config.backbone}, {parameters / 1e6:.2f} M parameters, "
            f"{len(setup.data.train_ids):,} pictures, {setup.stages[-1].end:,} steps of "
            f"{stage.batch_size}, {self.epochs} epochs on {jax.device_count()} "
            f"{device.device_kind} device(s)"
        )
        if step:
            ended = step >= setup.stages[-1].end
            where = f"the checkpoint of step {step:,}"
            self.log.say(f"{'ended before, with' if ended else 'goes on from'} {where}")

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return sum(len(stage.epoch_ends) for stage in self.setup.stages)

    def profile(self, local_step: int, state: steps.TrainState) -> None:
        """Traces a few steps where the settings ask for it."""
        if not self.setup.settings.profile or self.speed._steps > PROFILED[1]:
            return
        if self.speed._steps == PROFILED[0]:
            jax.profiler.start_trace(str(self.directory / "profile"))
        elif self.speed._steps == PROFILED[1]:
            jnp.asarray(state.step).block_until_ready()
            jax.profiler.stop_trace()
            self.log.say(f"profile of steps {PROFILED}: {self.directory / 'profile'}")


def _identity(setup: Setup) -> dict[str, Any]:
    """What makes a run the same run: a restart with any of it changed is refused."""
    config = stages.plain(setup.config)
    return {
        "classes": list(setup.class_names),
        "data": setup.data.fingerprint(),
        "seeds": setup.seed,  # the run's and the model's, mixed
        **{key: value for key, value in config.items() if key not in configs.OF_PREDICTION},
    }
