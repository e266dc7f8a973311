"""Killed at any moment and started again: the same bits.  SIGTERM: saved, exit code 75."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.training import logs
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]


def start(folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.training.trainee", str(folder), json.dumps(options)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process, code=0):
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out[-3000:]
    return out


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def same(one, other):
    a, b = tiny.final_weights(one), tiny.final_weights(other)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    clock = ("images_per_second", "data_wait", "seconds_left", "memory_mib")
    rows = [
        [{k: v for k, v in row.items() if k not in clock} for row in logs.read(f / "metrics.jsonl")]
        for f in (one, other)
    ]
    assert rows[0] == rows[1]


def checkpoints(folder):
    return {int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()}


@pytest.mark.slow
def test_kill_nine_at_several_moments_changes_no_bit(tmp_path):
    cache = str(tmp_path / "cache")
    whole = tmp_path / "whole"
    finish(start(whole, cache=cache))
    folder = tmp_path / "killed"
    # after each step a save; killed in the middle of epochs, while saving, and between phases
    options = dict(cache=cache, pause=0.15, minutes=0.0)
    for steps in (2, 5, 7, 10):
        process = start(folder, **options)
        wait_for(lambda steps=steps: max(checkpoints(folder), default=0) >= steps, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert max(checkpoints(folder)) < 12
    out = finish(start(folder, cache=cache))
    assert "resumes from the checkpoint of step" in out
    same(folder, whole)


@pytest.mark.slow
def test_sigterm_saves_after_the_step_and_exits_with_75(tmp_path):
    cache = str(tmp_path / "cache")
    whole, folder = tmp_path / "whole", tmp_path / "stopped"
    finish(start(whole, cache=cache, epochs=6))
    process = start(folder, cache=cache, epochs=6, pause=0.4)
    wait_for(lambda: 8 in checkpoints(folder), process)  # of 24 steps
    process.terminate()
    out = finish(process, 75)
    step = max(checkpoints(folder))
    assert f"stopped: saved at step {step}" in out and 8 < step < 24
    finish(start(folder, cache=cache, epochs=6))
    same(folder, whole)


@pytest.mark.slow
def test_sigterm_while_compiling_leaves_at_once(tmp_path):
    process = start(tmp_path, slow_compile=100.0)
    wait_for((tmp_path / "compiling").exists, process)
    asked = time.monotonic()
    process.terminate()
    out = finish(process, 75)
    assert time.monotonic() - asked < 5
    assert "while compiling" in out
