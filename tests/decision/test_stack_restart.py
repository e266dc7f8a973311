"""A stack that is killed for real goes on where it was; a damaged file is named."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpa_jax.decision import stack_files, stacking
from hpa_jax.errors import InputError

FIT = """
import sys, numpy as np
from hpa_jax.decision import simulation, stacking
data = simulation.simulate(300, 2, seed=5)
stack = stacking.fit(data.features, data.labels, names=data.names, workers=1,
                     directory=sys.argv[1] or None)
np.save(sys.argv[2], stack.oof)
print(sum(len(unit.models) for unit in stack.units))
"""


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", FIT, *map(str, arguments)], env=environment)


def test_killed_and_started_again(tmp_path):
    units = tmp_path / "stack" / "units"
    process = start(tmp_path / "stack", tmp_path / "never.npy")
    deadline = time.monotonic() + 120
    while len(list(units.glob("c*.zip"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in units.glob("c*.zip")}
    assert len(before) >= 3 and not (tmp_path / "never.npy").exists()
    again, whole = start(tmp_path / "stack", tmp_path / "a.npy"), start("", tmp_path / "b.npy")
    assert again.wait() == 0 and whole.wait() == 0
    after = {file: file.stat().st_mtime_ns for file in units.glob("c*.zip")}
    assert all(after[file] == stamp for file, stamp in before.items())  # read, not fitted again
    assert len(after) > len(before)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_a_damaged_unit_is_named(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random((120, 2)) < 0.4
    probs = np.clip(0.5 * labels + 0.5 * rng.random(labels.shape), 0, 1)
    names = ["m/p00", "m/p01"]
    stack = stacking.fit(probs, labels, names=names, workers=1)
    stack.save(tmp_path)
    file = stack_files.path(tmp_path, 1, 0)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"c01_r0\.zip: damaged"):
        stacking.load(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"c01_r0\.zip: missing"):
        stacking.load(tmp_path)


def test_a_unit_of_another_feature_set_is_named(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random((120, 2)) < 0.4
    probs = np.clip(0.5 * labels + 0.5 * rng.random(labels.shape), 0, 1)
    both = np.concatenate([probs, probs[::-1]], axis=1)
    for name, table in (("one", probs), ("two", both)):  # one model, two models
        stacking.fit(table, labels, workers=1).save(tmp_path / name)
    there, here = (stack_files.path(tmp_path / name, 1, 0) for name in ("two", "one"))
    here.write_bytes(there.read_bytes())
    with pytest.raises(InputError, match=r"c01_r0\.zip: of another stack"):
        stacking.load(tmp_path / "one")
