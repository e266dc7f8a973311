"""Lines of the log, the bar, TensorBoard's events, and the profile of a training."""

import errno
import os
import re
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.training import logs, loop
from tests.training import tiny

phase = configs.phase


def test_metrics_are_cut_back_and_half_lines_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 12}\n{"st')
    logs.cut_back(path, 8)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n'
    logs.cut_back(path, -1)
    assert path.read_text() == ""


def test_durations_read_well():
    texts = [logs.duration(s) for s in (5.2, 75, 7300, float("nan"))]
    assert texts == ["5 s", "1 min 15 s", "2 h 1 min", "unknown time"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(tmp_path, terminal, capsys):
    speed = logs.Speed()
    with (
        mock.patch.object(sys.stderr, "isatty", lambda: terminal),
        mock.patch.object(logs, "EVERY_SECONDS", -1.0),
        logs.Log(tmp_path, "m", restored_step=-1, total_steps=40, tensorboard=False) as log,
    ):
        for step in range(1, 4):
            speed.add(16, 0.0)
            log.tick(step, speed)
        log.say("epoch 1")
    out, err = capsys.readouterr()
    bar = re.search(r"m: .* 3/40 \[", err)
    assert bool(bar) == terminal and "-1/40" not in err
    assert ("[m] step 3 of 40 | " in out) != terminal
    assert "[m] epoch 1" in out + err


def test_tensorboard_gets_every_number_of_a_list(tmp_path):
    """Rates of the depth groups, and the average precision of each class."""
    row = {"step": 3, "epoch": 1, "split": "valid", "loss": 0.5, "ap": [0.25, None, 1.0]}
    with logs.Log(tmp_path, "m", restored_step=-1, total_steps=4) as log:
        log.write(row)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    found = {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {"valid/loss": [0.5], "valid/ap/0": [0.25], "valid/ap/2": [1.0]}


def test_a_full_disk_is_reported_and_waits_for_nothing(tmp_path, monkeypatch):
    """metrics.jsonl may still have room in its last block when TensorBoard's file has none."""
    row = {"step": 3, "epoch": 1, "split": "valid", "ap": [0.5] * 28, "class_f1": [0.5] * 28}
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(InputError, match=r"metrics.jsonl: .* \(No space left on device\)"),
        logs.Log(tmp_path, "m", restored_step=-1, total_steps=4) as log,
    ):
        log.write(row)
        monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=full))
        log.write(row)
    assert len(logs.read(tmp_path / "metrics.jsonl")) == 2


@pytest.mark.parametrize(("steps", "traced"), [(4, (0, 4)), (12, (7, 12)), (40, (10, 15))])
def test_profile_traces_five_steps_or_all(tmp_path, steps, traced):
    calls, done, said = [], [], []
    with (
        mock.patch.object(jax.profiler, "start_trace", lambda folder: calls.append(len(done))),
        mock.patch.object(jax.profiler, "stop_trace", lambda: calls.append(len(done))),
        logs.Profile(tmp_path, steps, said.append) as profile,
    ):
        for step in range(steps):
            profile.before_step()
            done.append(step)
            profile.after_step(jnp.zeros(()))
    assert tuple(calls) == traced and len(said) == 1


def test_profile_ends_with_a_training_that_fails(tmp_path):
    """A trace that goes on would make the next training of the process fail."""
    short = tiny.model(phases=(phase(epochs=1, lr=1e-2),))
    with (
        pytest.raises(RuntimeError, match="disk"),
        mock.patch.object(loop._Run, "save_or_exit", side_effect=RuntimeError("disk")),
    ):
        tiny.train(tmp_path / "fails", short, profile=True)
    tiny.train(tmp_path / "next", short, profile=True)
    for name in ("fails", "next"):
        assert list((tmp_path / name / "profile").rglob("*.xplane.pb"))
