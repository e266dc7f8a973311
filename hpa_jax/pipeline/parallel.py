"""`run --parallel`: train networks that fit on one device side by side.

Each runs in a separate process (`run --only=NAME`) that sees one GPU; its output lines begin with
its name.  The decision follows in a plain run, which reuses all networks.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack.runner import gpus
from hpa_jax.pipeline import cache
from hpa_jax.pipeline.context import RETRIEVAL, Context, opened
from hpa_jax.pipeline.steps import STEPS

EXCLUDED = ("only", "collect", "force")
POLL_SECONDS = 0.2
SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # JAX accepts only one


def train(config: ConfigDict, flags: Mapping[str, Any], prepare: Callable[[], object]) -> None:
    """Train all networks of a recipe and predict with them, several at a time.

    flags: of `run`; parallel: "gpus", or a number of processes (several may share a GPU).
    prepare: runs the steps before training.

    Raises:
        InputError: an incompatible flag, no GPU and no number, or a network failed; the running
            ones are finished first.
        SystemExit: 75 after SIGTERM; every running network is saved, call again to resume.
    """
    for name in EXCLUDED:
        if flags.get(name):
            raise InputError(f"--parallel trains all networks and excludes --{name}")
    places = _places(str(flags["parallel"]))
    prepare()
    context = opened(config, dict(flags))
    waiting = [*context.models(), *([RETRIEVAL] if context.trains_retrieval else [])]
    waiting = [name for name in waiting if not _done(context, name)]
    if waiting:
        print(f"{len(waiting)} networks, {len(places)} at a time", flush=True)
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    failed: dict[str, int] = {}
    # not by training.preemption, whose question for the number of hosts takes a GPU's memory
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    try:
        while (running or (waiting and not failed)) and not stop.is_set():
            for name, (process, _) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        failed[name] = process.returncode
            free = [number for number in range(len(places)) if number not in _used(running)]
            for name in list(waiting if not failed else ()):
                source = configs.started_from(config.models.get(name, {}))
                if free and source not in waiting and source not in running:
                    waiting.remove(name)
                    place = free.pop(0)
                    running[name] = (_start(name, flags["arguments"], places[place]), place)
            time.sleep(POLL_SECONDS)
    finally:
        for process, _ in running.values():  # on interruption: each saves a checkpoint
            process.terminate()
        for process, _ in running.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)
    if stop.is_set():
        from hpa_jax.training.preemption import TRY_AGAIN

        raise SystemExit(TRY_AGAIN)
    if failed:
        failures = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
        raise InputError(f"--parallel: {failures} failed, see its output; the same command resumes")


def _done(context: Context, name: str) -> bool:
    """Return whether a network is trained and has its predictions."""
    one = dataclasses.replace(context, flags={**context.flags, "only": name})
    steps = [step for step in STEPS.values() if step.of_networks]
    for step in [STEPS["retrieve"]] if name == RETRIEVAL else steps:
        for task in step.tasks(one):
            if not all(path.exists() for path in (*task.files, *task.outputs)):
                return False
            key = cache.key(one.workdir, task, one.contents)
            if not cache.judge(one.workdir, task, key, one.contents).holds:
                return False
    return True


def _places(text: str) -> list[dict[str, str]]:
    """Return the extra environment of each concurrent process."""
    count = gpus()
    if text == "gpus" and not count:
        raise InputError(
            "--parallel: the NVIDIA driver shows no GPU; --parallel=N trains N networks at a time"
        )
    if text != "gpus" and not (text.isdecimal() and int(text) > 0):
        raise InputError(
            f"--parallel={text}: must be gpus or the number of networks to train at a time"
        )
    processes = count if text == "gpus" else int(text)
    if not count:
        return [{}] * processes
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    share = f"{0.75 / -(-processes // count):.2f}"  # of a card's memory, as _leave_room_on_gpus
    return [{"CUDA_VISIBLE_DEVICES": names[k % count], SHARES[0]: share} for k in range(processes)]


def _used(running: Mapping[str, tuple[subprocess.Popen, int]]) -> set[int]:
    return {place for _, place in running.values()}


def _start(name: str, arguments: Sequence[str], place: Mapping[str, str]) -> subprocess.Popen:
    """Start `run --only=NAME` as a process; prefix its output lines with its name."""
    rest = [text for text in arguments if text.partition("=")[0] != "--parallel"]
    inherited = {key: value for key, value in os.environ.items() if not place or key not in SHARES}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpa_jax", "run", *rest, f"--only={name}"],
        env={**inherited, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def forward_output() -> None:
        for line in process.stdout or ():
            print(f"{name} | {line.rstrip()}", flush=True)

    threading.Thread(target=forward_output, daemon=True).start()
    return process
