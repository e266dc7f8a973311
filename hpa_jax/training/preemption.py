"""SIGTERM: the machine is taken away soon.  Save after the current step and exit with 75.

Python runs signal handlers only between bytecodes of the main thread, and a compilation is one long
call; `interruptible` therefore runs it in a thread, while the main thread can be interrupted and
leaves at once.
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
    """Context manager that listens for SIGTERM; `requested()` tells the loop to save and leave."""

    def __init__(self) -> None:
        # called before `interruptible` gives up, to save what is not on disk yet
        self.save: Callable[[], None] = lambda: None
        self._asked = False
        self._calls = 0
        self._before: Any = None
        self._several = jax.process_count() > 1

    def __enter__(self) -> "Preemption":
        # with several hosts, JAX's own service hears the signal and agrees on a step
        if current_thread() is main_thread() and not self._several:
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def requested(self) -> bool:
        """Return whether to save now and leave; the same answer on every host.

        All hosts ask equally often (after each step, before each batch of a validation), so that
        the count of the calls is the clock on which they agree.
        """
        if not self._several:
            return self._asked
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
            if self._asked:
                self.save()
                print("told to stop while compiling; nothing is lost", flush=True)
                sys.stderr.flush()
                os._exit(TRY_AGAIN)  # a normal exit would wait for the compiler
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def _hear(self, number: int, frame: Any) -> None:
        del number, frame
        self._asked = True
