"""Preemption: after SIGTERM, save after the current step and exit with 75.

Python runs signal handlers only between bytecodes of the main thread, and a compilation is one long
call; `interruptible` therefore runs it in another thread, so that the main thread can exit at once.
"""

import os
import signal
import sys
from collections.abc import Callable
from threading import Thread, current_thread, main_thread
from typing import Any

import jax

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


class Preemption:
    """Context manager that handles SIGTERM; `requested()`: whether to save and exit."""

    def __init__(self) -> None:
        # called before `interruptible` exits, to save unsaved progress
        self.save: Callable[[], None] = lambda: None
        self._requested = False
        self._calls = 0
        self._before: Any = None
        self._several = jax.process_count() > 1

    def __enter__(self) -> "Preemption":
        # with several hosts, JAX's service handles the signal and agrees on a step
        if current_thread() is main_thread() and not self._several:
            self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self) -> bool:
        """Return whether to save now and exit; the same on every host.

        All hosts call it equally often (after each step, before each batch of a validation), so
        that the number of calls is a common clock.
        """
        if not self._several:
            return self._requested
        from jax.experimental import multihost_utils

        self._calls += 1
        return multihost_utils.reached_preemption_sync_point(self._calls)

    def interruptible(self, call: Callable[[], Any]) -> Any:
        """Return `call()`, a compilation; SIGTERM during it calls `save` and exits with 75."""
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(call())
            except BaseException as error:  # raised again in the main thread
                result.append(error)

        thread = Thread(target=run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            if self._requested:
                self.save()
                print("stopped while compiling; nothing is lost", flush=True)
                sys.stderr.flush()
                os._exit(TRY_AGAIN)  # a normal exit would wait for the compiler
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def _handle(self, number: int, frame: Any) -> None:
        del number, frame
        self._requested = True
