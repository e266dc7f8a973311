"""Processes for work that holds Python's lock; they end with the process that started them.

A worker of `concurrent.futures` (or joblib's loky) waits for its next job on a pipe whose other
end it holds itself, so it would outlive a parent that was killed, and keep its memory.
"""

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

WORTHWHILE = 400  # images from which reading them repays the start of processes, .5 s
POLL_SECONDS = 0.5


def pool(workers: int) -> ProcessPoolExecutor:
    """Return an executor of fresh interpreters: a fork of one that runs JAX or TensorFlow hangs."""
    return ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=follow, initargs=(os.getpid(),)
    )


def follow(parent: int) -> None:
    """Let this process end when `parent` does, which alone handles Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)
