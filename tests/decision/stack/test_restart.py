"""A stack that is killed for real resumes; a damaged file is named."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import files, stacking

FIT = """
import sys, numpy as np
from hpa_jax.decision.stack import runner, stacking
from scripts import simulation
count = int(sys.argv[3])
if count:  # without a GPU XGBoost takes the CPU for it
    runner.pick_devices = lambda *wanted: tuple(f"cuda:{k}" for k in range(count))
data = simulation.simulate(300, 2, seed=5)
try:
    stack = stacking.fit(data.features, data.labels, names=data.names, workers=int(sys.argv[4]),
                         directory=sys.argv[1] or None)
except KeyboardInterrupt:
    sys.exit("stopped")
np.save(sys.argv[2], stack.oof)
"""


def start(directory, votes, devices=0, workers=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", FIT, str(directory), str(votes), str(devices), str(workers)]
    return subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def wait_for_units(folder, count):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("c*.zip"))) < count and time.monotonic() < deadline:
        time.sleep(0.01)


def gone(process):
    """Whether all processes of its group end soon."""
    for _ in range(300):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(("devices", "workers"), [(0, 1), (0, 2), (2, 1)])
def test_killed_and_started_again(tmp_path, devices, workers):
    units = tmp_path / "stack" / "units"
    process = start(tmp_path / "stack", tmp_path / "never.npy", devices, workers)
    wait_for_units(units, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # its stderr ends when all that hold it do
    assert gone(process)
    before = {file: file.stat().st_mtime_ns for file in units.glob("c*.zip")}
    assert len(before) >= 3 and not (tmp_path / "never.npy").exists()
    again = start(tmp_path / "stack", tmp_path / "a.npy", devices)
    whole = start("", tmp_path / "b.npy", min(devices, 1))
    assert again.communicate() and whole.communicate()
    assert again.returncode == 0 and whole.returncode == 0
    after = {file: file.stat().st_mtime_ns for file in units.glob("c*.zip")}
    assert all(after[file] == stamp for file, stamp in before.items())  # read, not fitted again
    assert len(after) > len(before)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_ctrl_c_ends_all_processes_of_the_gpus_without_a_word(tmp_path):
    process = start(tmp_path / "stack", tmp_path / "never.npy", 2)
    wait_for_units(tmp_path / "stack" / "units", 1)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does
    _, said = process.communicate(timeout=60)
    if (tmp_path / "never.npy").exists():
        pytest.skip("the fit was done before the interrupt came")
    assert said.strip() == "stopped"
    assert gone(process)


def test_a_damaged_unit_is_named(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random((120, 2)) < 0.4
    probs = np.clip(0.5 * labels + 0.5 * rng.random(labels.shape), 0, 1)
    names = ["m/p00", "m/p01"]
    stack = stacking.fit(probs, labels, names=names, workers=1)
    stack.save(tmp_path)
    file = files.path(tmp_path, 1, 0)
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
    there, here = (files.path(tmp_path / name, 1, 0) for name in ("two", "one"))
    here.write_bytes(there.read_bytes())
    with pytest.raises(InputError, match=r"c01_r0\.zip: belongs to another stack"):
        stacking.load(tmp_path / "one")
