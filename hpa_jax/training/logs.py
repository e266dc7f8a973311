"""Training logs: metrics.jsonl, TensorBoard, progress on the terminal, and profiles.

metrics.jsonl: one JSON object per line with step, epoch, split ("train", "valid"), loss, and where
applicable lr, macro_f1, images_per_second, data_wait, ...  A restart truncates it to the restored
step. Progress is a tqdm bar on a terminal, otherwise a line every few seconds.
"""

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from hpa_jax.core import artifacts
from hpa_jax.core.errors import InputError

EVERY_SECONDS = 15.0  # between plain lines
UNTRACED = 10  # steps of a process before the traced ones, if it has enough
TRACED = 5


class Log:
    """The log of one run; only the first host writes."""

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        restored_step: int,
        total_steps: int,
        tensorboard: bool = True,
    ) -> None:
        self.name, self.total, self.directory = name, total_steps, directory
        self.primary = jax.process_index() == 0
        self.path = directory / "metrics.jsonl"
        self._writer: Any = None
        self._tensorboard = tensorboard and self.primary
        self._terminal = sys.stderr.isatty() and self.primary
        self._bar: tqdm | None = None
        self._last_line = time.monotonic()
        if self.primary:
            cut_back(self.path, restored_step)
            self._file = self.path.open("a")
            self._step = max(restored_step, 0)

    def __enter__(self) -> "Log":
        if self._terminal:
            self._bar = tqdm(
                total=self.total, initial=self._step, desc=self.name, unit="step", leave=False
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        files = (self._file, self._writer) if self.primary else ()
        for file in filter(None, files):
            with contextlib.suppress(OSError):  # a full disk: `write` has raised it
                file.close()

    def write(self, row: dict[str, Any]) -> None:
        """Write a row to metrics.jsonl, and its numbers to TensorBoard.

        Raises:
            InputError: the disk is full.
        """
        if not self.primary:
            return
        row = {key: _rounded(value) for key, value in row.items()}
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            if self._tensorboard:
                self._write_events(row)
        except OSError as error:
            raise InputError(
                f"{self.path}: the log can't be written ({error.strerror}); run again when it "
                "can: training resumes from the newest checkpoint"
            ) from error

    def say(self, text: str) -> None:
        """Print a line."""
        if self.primary:
            line = f"[{self.name}] {text}"
            if self._bar is not None:
                self._bar.write(line)
            else:
                print(line, flush=True)

    def tick(self, step: int, speed: "Speed") -> None:
        """Show progress after a step: move the bar, or print a line when due."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if self.primary and now - self._last_line > EVERY_SECONDS:
            self._last_line = now
            self.say(f"step {step:,} of {self.total:,} | {speed.text(self.total - step)}")

    def _write_events(self, row: dict[str, Any]) -> None:
        """Write a row to TensorBoard's file, without TensorFlow.

        Not by tensorboardX.SummaryWriter: on a full disk its thread dies, and the next call waits
        for it forever.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            self._writer = EventsWriter(str(self.directory / "events"))
        values = [Summary.Value(tag=t, simple_value=x) for t, x in scalars(row).items()]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        self._writer.write_event(event)
        self._writer.flush()


class Speed:
    """Images per second, share of the time spent waiting for data, and time left."""

    def __init__(self) -> None:
        self.restart()
        self.step_seconds = math.nan
        self.pause_seconds = 0.0  # evaluation and saving, per step
        self._pauses = 0.0
        self._steps = 0

    def restart(self) -> None:
        """Reset the figures for a new epoch."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._images = self._epoch_steps = 0

    def add(self, images: int, waited: float) -> None:
        """Count one step: its images and the seconds it waited for them."""
        self._images += images
        self._waited += waited
        self._epoch_steps += 1
        self._steps += 1
        self.step_seconds = (time.perf_counter() - self._start) / self._epoch_steps

    def pause(self, seconds: float) -> None:
        """Count time between epochs, for evaluation and saving."""
        self._pauses += seconds
        self.pause_seconds = self._pauses / max(self._steps, 1)

    def images_per_second(self) -> float:
        """Return the rate of this epoch."""
        return self._images / max(time.perf_counter() - self._start, 1e-9)

    def data_wait(self) -> float:
        """Return the share of this epoch's time in which the device was idle, 0..1."""
        return self._waited / max(time.perf_counter() - self._start, 1e-9)

    def seconds_left(self, steps: int) -> float:
        """Return the expected time of `steps` steps, including evaluations."""
        return steps * (self.step_seconds + self.pause_seconds)

    def text(self, steps_left: int) -> str:
        """Return the figures for a log line."""
        return (
            f"{self.images_per_second():.1f} images/s | {self.data_wait():.0%} waiting for data | "
            f"{duration(self.seconds_left(steps_left))} left"
        )


class Profile:
    """Traces up to five steps of a process, after ten others if it has enough.

    The trace is jax.profiler's, for TensorBoard; a context manager, as an unfinished trace would
    make the next training of the process fail.
    """

    def __init__(self, folder: Path, steps: int, say: Callable[[str], None]) -> None:
        """folder: of the trace.  steps: total number in this process; 0: no trace."""
        self.folder, self._say = folder, say
        self.first = min(UNTRACED, max(steps - TRACED, 0))
        self.last = min(self.first + TRACED, steps)
        self._running = False
        self._step = 0

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def before_step(self) -> None:
        """Start the trace before its first step."""
        if self._step == self.first < self.last:
            jax.profiler.start_trace(str(self.folder))
            self._running = True
        self._step += 1

    def after_step(self, result: jax.Array) -> None:
        """End the trace after its last step, whose `result` it waits for."""
        if self._running and self._step >= self.last:
            result.block_until_ready()
            self.stop()
            self._say(f"profile of {self.last - self.first} steps: {self.folder}")

    def stop(self) -> None:
        """End a running trace."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def duration(seconds: float) -> str:
    """Format seconds: 75 -> "1 min 15 s"."""
    if not math.isfinite(seconds):
        return "unknown time"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def memory_mib() -> float:
    """Return the peak memory of the first device if available, else of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def read(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl, without truncated or invalid lines."""
    rows = []
    if Path(path).exists():
        for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            numbers = (row.get("step"), row.get("epoch", 0)) if isinstance(row, dict) else ()
            if numbers and all(type(x) is int for x in numbers):
                rows.append(row)
    return rows


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """Return TensorBoard's tags and values of a row; "valid/ap/3" is item 3 of the list `ap`."""
    values = {}
    for key, value in row.items():
        several = value if isinstance(value, list) else [value]
        for place, x in enumerate(several):
            if key not in ("step", "epoch") and isinstance(x, int | float):
                name = f"{row['split']}/{key}"
                values[f"{name}/{place}" if isinstance(value, list) else name] = x
    return values


def cut_back(path: Path, step: int) -> None:
    """Remove the rows after `step` (all for -1), which a restart writes again."""
    rows = [row for row in read(path) if row["step"] <= step]
    with artifacts.atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rounded(value: Any) -> Any:
    """Floats with 9 digits (float32 keeps its bits); not finite: null."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
