"""A unit on disk: the same unit is the same bytes, whenever it is written."""

import time

import numpy as np

from hpa_jax.decision.stack import files
from hpa_jax.decision.stack.learners import StackModel
from hpa_jax.decision.stack.units import StackUnit


def test_the_same_unit_is_the_same_bytes_at_another_time(tmp_path, monkeypatch):
    """The steps after the stack run again where its content has changed."""
    model = StackModel("boosted", np.ones(3), b"trees" * 99, 4, 0.5, 0)
    votes, fold = np.linspace(0, 1, 50), np.arange(50) % 5
    unit = StackUnit(2, 0, votes, fold, [model], (), {"own": 1.0}, None, "stamp")
    files.write(tmp_path, unit)
    before = files.path(tmp_path, 2, 0).read_bytes()
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    files.write(tmp_path, unit)
    assert files.path(tmp_path, 2, 0).read_bytes() == before
    assert len(before) < votes.nbytes + fold.nbytes + 2000  # compressed
    found = files.read(tmp_path, 2, 0, "stamp")
    assert found.models[0].booster == model.booster and (found.votes == votes).all()
    assert files.holds(tmp_path, unit)
    files.path(tmp_path, 2, 0).write_bytes(before[:-9])
    assert not files.holds(tmp_path, unit)
