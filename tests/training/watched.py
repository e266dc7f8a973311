"""A process that trains the tiny network and prints, as JSON, what crossed between host and device.

To the device: JAX's transfer guard logs every transfer with its thread (on standard error, which
goes to a file here).  To the host: on the CPU no guard sees it, so the loop's reads of arrays'
values are counted (threads that write checkpoints read when they like; the check for a non-finite
step, a number every five seconds by the clock, is switched off).  Compilations: JAX's own events.
"""

import json
import math
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from unittest import mock

import jax
import jax.monitoring
import jax.numpy as jnp

from hpa_jax.config.defaults import phase
from hpa_jax.training import loop
from hpa_jax.training.setup import Setup
from tests.training import tiny

COMPILED = "/jax/core/compile/backend_compile_duration"


class Watch:
    """Counts from one call of the training step to the next, a number a step in each list."""

    def __init__(self, log: Path) -> None:
        self.log, self.read, self.fetched, self.compiled = log, 0, 0, Counter()
        self.sent, self.fetches, self.programs = [], [], []
        self.loop = threading.get_native_id()

    def step(self) -> None:
        new = self.log.read_text()[self.read :]
        self.read += len(new)
        lines = [line for line in new.splitlines() if "host-to-device transfer" in line]
        self.sent.append(sum(f" {self.loop} " in line for line in lines))
        self.fetches.append(self.fetched)
        self.programs.append(self.compiled.total())
        self.fetched = 0

    def event(self, name, seconds, **about) -> None:
        if name == COMPILED:
            self.compiled[about.get("fun_name")] += 1


def main(folder: Path) -> None:
    """Trains for 1, 1 and 3 epochs of 4 steps of 16 images; 32 images are for validation."""
    log = folder / "stderr"
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    watch = Watch(log)
    array = type(jnp.zeros(()))
    value, made = array._value, Setup.train_step

    def counted(self):
        watch.fetched += threading.get_native_id() == watch.loop
        return value.fget(self)

    def train_step(self, *arguments):
        compiled = made(self, *arguments)

        def step(*arguments):
            answer = compiled(*arguments)
            watch.step()
            return answer

        return step

    jax.monitoring.register_event_duration_secs_listener(watch.event)
    jax.config.update("jax_transfer_guard", "log_explicit")
    with (
        mock.patch.object(array, "_value", property(counted)),
        mock.patch.object(Setup, "train_step", train_step),
        mock.patch.object(loop, "CHECK_SECONDS", math.inf),
    ):
        compiled = []
        for number, epochs in enumerate((1, 1, 3)):  # the first fills the cache of small programs
            watch.compiled.clear()
            before = len(log.read_text())
            config = tiny.model(phases=(phase(epochs=epochs, lr=1e-2),))
            tiny.train(folder / str(number), config)
            compiled.append(dict(watch.compiled))
    shapes = ("uint8[16,8,8,4]", "uint8[16,5]", "bool[16]")  # images, labels, mask
    text = log.read_text()[before:]
    batches = [text.count(f"aval=ShapedArray({shape})") for shape in shapes]
    last = {name: getattr(watch, name)[-12:] for name in ("sent", "fetches", "programs")}
    Path(folder, "seen.json").write_text(
        json.dumps({**last, "compiled": compiled, "batches": batches})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
