"""Workers do their jobs and end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hpa_jax.core import processes

START = """
import os, sys
from hpa_jax.core import processes
with processes.pool(2) as pool:
    print(*{pool.submit(os.getpid).result() for _ in range(8)}, flush=True)
    sys.stdin.read()
"""


def test_they_do_the_work_in_order():
    with processes.pool(2) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_with_a_killed_parent(how):
    pipe = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", START], stdin=pipe, stdout=pipe, text=True)
    workers = [int(text) for text in parent.stdout.readline().split()]
    assert workers and all(runs(worker) for worker in workers)
    parent.send_signal(how)
    parent.wait()
    for _ in range(100):
        if not any(runs(worker) for worker in workers):
            return
        time.sleep(0.1)
    raise AssertionError("a worker lives on")


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
