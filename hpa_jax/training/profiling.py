"""A jax.profiler trace of a few steps of a training: `train.profile`."""

from pathlib import Path

import jax

FIRST = 10  # steps of a process before the traced ones, where it has so many
TRACED = 5


class Profile:
    """Traces up to five steps of a process, its last ones where it has fewer than fifteen."""

    def __init__(self, folder: Path, steps: int) -> None:
        """folder: gets the trace.  steps: that this process will do; 0: traces nothing."""
        self.folder = folder
        self.first = min(FIRST, max(steps - TRACED, 0))
        self.last = min(self.first + TRACED, steps)
        self.running = False
        self._step = 0

    def before_step(self) -> None:
        """Starts the trace where it is time."""
        if self._step == self.first < self.last:
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        self._step += 1

    def after_step(self, result: jax.Array) -> bool:
        """Ends the trace after its last step, whose `result` it waits for; True if it did."""
        if not self.running or self._step < self.last:
            return False
        result.block_until_ready()
        self.stop()
        return True

    def stop(self) -> None:
        """Ends a trace that runs, as one must before the next training of the process."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()
