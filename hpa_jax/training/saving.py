"""When a training's state goes to disk: at epochs' ends, by the clock, and when told to stop.

In: `TrainState` and where it stands (stage, step).  Out: checkpoints with all that a restart and
`checkpoint.load` need, or the end of the program: exit code 75 on SIGTERM, FloatingPointError at a
step that was not finite, of which nothing is saved.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.training import distributed, phases
from hpa_jax.training.checkpoint import Checkpoints
from hpa_jax.training.phases import Stage
from hpa_jax.training.preemption import TRY_AGAIN, Preemption
from hpa_jax.training.setup import Setup
from hpa_jax.training.step import TrainState

LOOK_SECONDS = 5.0  # between looks for a non-finite step
LOOK_STEPS = 100  # the same, and between looks at the first's clock, of several hosts


class Saving:
    """The states of one run on their way to its checkpoints."""

    def __init__(
        self,
        setup: Setup,
        checkpoints: Checkpoints,
        preemption: Preemption,
        directory: Path,
        say: Callable[[str], None],
    ) -> None:
        self.setup, self.checkpoints, self.preemption = setup, checkpoints, preemption
        self.directory, self.say = directory, say
        self.identity = identity(setup)
        self.history: list[list[Any]] = []  # [step, monitor] of the finished epochs
        self.saved_at = self.looked_at = time.monotonic()
        # what a stop must save first: (stage, state, step); of an epoch whose steps are done, but
        # not its validation, too
        self.unsaved: tuple[Stage, TrainState, int] | None = None
        preemption.flush = self.save_unsaved

    def save(
        self,
        stage: Stage,
        state: TrainState,
        step: int,
        kind: str,
        scores: dict[str, Any] | None,
        *,
        keep: bool,
        snapshot: bool = False,
    ) -> None:
        """A checkpoint; kind: epoch | middle (of an epoch) | average.

        keep: whether it stays until the end.  snapshot: whether it ends a stage or cycle.
        """
        self.check_finite(stage, state)
        setup = self.setup
        meta = {
            "step": step,
            "epoch": stage.epochs_until(step),
            "kind": kind,
            "stage": stage.index,
            "keep": keep,
            "snapshot": snapshot,
            "metrics": scores,
            "monitor": setup.settings.monitor,
            "history": self.history,
            "model": phases.plain(setup.config),
            "class_names": list(setup.class_names),
            "run": self.identity,
            "shapes": {name: list(x.shape) for name, x in {**setup.params, **setup.stats}.items()},
        }
        self.checkpoints.save(state, artifacts.plain(meta))
        self.saved_at = time.monotonic()

    def between(self, stage: Stage, state: TrainState, step: int) -> None:
        """After every step: looks, saves by the clock, and leaves on SIGTERM."""
        if self._looks(step):
            self.check_finite(stage, state)
        minutes = (time.monotonic() - self.saved_at) / 60
        due = minutes > self.setup.settings.checkpoint_minutes
        if jax.process_count() > 1:  # hosts' clocks differ; asking every step would cost time
            due = step % LOOK_STEPS == 0 and distributed.agree(due)
        if due and step not in self.checkpoints.metas:
            self.save(stage, state, step, "middle", None, keep=False)
        self.unsaved = stage, state, step
        self.leave_if_asked()
        self.unsaved = None

    def leave_if_asked(self) -> None:
        """On SIGTERM: saves what is not saved yet, and ends the program."""
        if self.preemption.requested():
            self.save_unsaved()
            at = f"saved at step {self.unsaved[2]:,}; " if self.unsaved else ""
            self.say(f"told to stop: {at}run again to go on")
            raise SystemExit(TRY_AGAIN)

    def save_unsaved(self) -> None:
        """Returns when all that was computed is on disk."""
        if self.unsaved and self.unsaved[2] not in self.checkpoints.metas:
            self.save(*self.unsaved, "middle", None, keep=False)
        self.checkpoints.wait()

    def check_finite(self, stage: Stage, state: TrainState) -> None:
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
            f"{self.directory}: loss or gradient is not finite at step {bad}; the batch's ids are "
            f"in {path.name} there. Lower the rate, clip gradients, or train.on_nonfinite='skip'"
        )

    def _looks(self, step: int) -> bool:
        """Whether it is time to look for a non-finite step; every host looks after the same step,
        for one that stopped alone would leave the others waiting."""
        if jax.process_count() > 1:
            return step % LOOK_STEPS == 0
        if time.monotonic() - self.looked_at <= LOOK_SECONDS:
            return False
        self.looked_at = time.monotonic()
        return True


def identity(setup: Setup) -> dict[str, Any]:
    """What makes a run the same run: a restart with any of it changed is refused."""
    config = phases.plain(setup.config)
    return {
        "classes": list(setup.class_names),
        "data": setup.data.fingerprint(),
        "seeds": setup.seed,  # the run's and the model's, mixed
        # the weights that it started from are in every checkpoint: their place does not matter
        **{
            key: value
            for key, value in config.items()
            if key not in (*configs.OF_PREDICTION, "init_from")
        },
    }
