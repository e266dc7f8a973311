"""The profile of a training: which steps are traced, and that it ends with the training."""

from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.training import profiling, saving
from tests.training import tiny

stage = configs.stage


@pytest.mark.parametrize(("steps", "traced"), [(4, (0, 4)), (12, (7, 12)), (40, (10, 15))])
def test_profile_traces_five_steps_or_all(tmp_path, steps, traced):
    calls, done = [], []
    with (
        mock.patch.object(jax.profiler, "start_trace", lambda folder: calls.append(len(done))),
        mock.patch.object(jax.profiler, "stop_trace", lambda: calls.append(len(done))),
    ):
        profile = profiling.Profile(tmp_path, steps)
        for step in range(steps):
            profile.before_step()
            done.append(step)
            profile.after_step(jnp.zeros(()))
        profile.stop()
    assert tuple(calls) == traced


def test_profile_ends_with_a_training_that_fails(tmp_path):
    """A trace that goes on would make the next training of the process fail."""
    short = tiny.model(stages=(stage(epochs=1, lr=1e-2),))
    with (
        pytest.raises(RuntimeError, match="disk"),
        mock.patch.object(saving.Saving, "between", side_effect=RuntimeError("disk")),
    ):
        tiny.train(tmp_path / "fails", short, profile=True)
    tiny.train(tmp_path / "next", short, profile=True)
    for name in ("fails", "next"):
        assert list((tmp_path / name / "profile").rglob("*.xplane.pb"))
