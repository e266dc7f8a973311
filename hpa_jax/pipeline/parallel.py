"""`run --parallel`: networks that are small enough for one device, trained side by side.

Each is a process of its own (`run --only=NAME`) that sees one GPU; its lines begin with its name.
What follows, the decision, is a plain run, which finds all networks done.
"""

import os
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
from hpa_jax.pipeline.context import RETRIEVAL, opened

EXCLUDED = ("only", "collect", "force")
POLL_SECONDS = 0.2
SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")  # JAX refuses both


def train(config: ConfigDict, flags: Mapping[str, Any], prepare: Callable[[], object]) -> None:
    """Trains all networks of a recipe and predicts by them, several at a time.

    flags: of `run`; parallel: "gpus", or how many processes (of which several may share a GPU).
    prepare: makes what all networks read.

    Raises:
        InputError: a flag that does not go with it, no GPU and no number, or a network failed; the
            others that had begun are done then.
    """
    for name in EXCLUDED:
        if flags.get(name):
            raise InputError(f"--parallel trains all networks, --{name} does not go with it")
    places = _places(str(flags["parallel"]))
    prepare()
    context = opened(config, dict(flags))
    waiting = [*context.models(), *([RETRIEVAL] if context.trains_retrieval else [])]
    print(f"{len(waiting)} networks, {len(places)} at a time", flush=True)
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    failed: dict[str, int] = {}
    try:
        while running or (waiting and not failed):
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
        for process, _ in running.values():  # stopped: each saves where it is
            process.terminate()
        for process, _ in running.values():
            process.wait()
    if failed:
        said = ", ".join(f"{name} (exit code {code})" for name, code in failed.items())
        raise InputError(f"--parallel: {said} failed, see its lines; the same command goes on")


def _places(text: str) -> list[dict[str, str]]:
    """The environment of each process that runs at a time."""
    count = gpus()
    if text == "gpus" and not count:
        raise InputError(
            "--parallel: the NVIDIA driver shows no GPU; --parallel=N trains N networks at a time"
        )
    if text != "gpus" and not (text.isdecimal() and int(text) > 0):
        raise InputError(f"--parallel={text}: gpus, or how many networks are trained at a time")
    wanted = count if text == "gpus" else int(text)
    if not count:
        return [{}] * wanted
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = given.split(",") if given else [str(number) for number in range(count)]
    share = f"{0.75 / -(-wanted // count):.2f}"  # of a card's memory, as _leave_room_on_gpus
    return [{"CUDA_VISIBLE_DEVICES": names[k % count], SHARES[0]: share} for k in range(wanted)]


def _used(running: Mapping[str, tuple[subprocess.Popen, int]]) -> set[int]:
    return {place for _, place in running.values()}


def _start(name: str, arguments: Sequence[str], place: Mapping[str, str]) -> subprocess.Popen:
    """`run --only=NAME` in a process of its own; its lines are printed behind its name."""
    rest = [text for text in arguments if text.partition("=")[0] != "--parallel"]
    given = {key: value for key, value in os.environ.items() if not place or key not in SHARES}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpa_jax", "run", *rest, f"--only={name}"],
        env={**given, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def tell() -> None:
        for line in process.stdout or ():
            print(f"{name} | {line.rstrip()}", flush=True)

    threading.Thread(target=tell, daemon=True).start()
    return process
