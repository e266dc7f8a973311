"""One device, four simulated devices, two processes: the same losses, one set of checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.errors import InputError
from hpa_jax.training import distributed, logs

ROOT = Path(__file__).resolve().parents[2]


def start(folder, devices=1, **options):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.trainee", str(folder), json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    for process in processes:
        out, _ = process.communicate(timeout=400)
        assert process.returncode == 0, out[-3000:]


def losses(folder):
    return [row["loss"] for row in logs.read(Path(folder) / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-5), ("adam", 1e-3)])
def test_four_devices_give_the_losses_of_one(tmp_path, optimizer, tolerance):
    """12 steps in float32, with accumulation, BatchNorm over the global batch, augmentation."""
    options = dict(optimizer=optimizer, accumulate=2, lr=1e-3)
    one, four = tmp_path / "one", tmp_path / "four"
    finish(start(one, **options))
    finish(start(four, devices=4, **options))
    np.testing.assert_allclose(losses(four), losses(one), rtol=tolerance)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    """jax.distributed on localhost: each process reads its own rows; one set of checkpoints."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = dict(optimizer="sgd", lr=1e-3)
    finish(start(one, **options))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = dict(coordinator=f"localhost:{port}", processes=2, **options)
    finish(*[start(two, process=number, **hosts) for number in (0, 1)])
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    steps = [{p.name for p in (f / "checkpoints").iterdir()} for f in (one, two)]
    assert steps[0] == steps[1]


def test_batches_that_devices_cannot_share_are_refused():
    distributed.check_divisible(16, 2, 4)
    with pytest.raises(InputError, match=r"batch_size=12: not divisible by accumulate=2 .* 4 dev"):
        distributed.check_divisible(12, 2, 4)
    with pytest.raises(InputError, match="at least 1"):
        distributed.check_divisible(0, 1, 1)


def test_feeder_keeps_order_passes_errors_and_ends():
    def numbers():
        yield from ({"x": np.full(1, n)} for n in range(5))
        raise ValueError("broken shard")

    seen = []
    with (
        distributed.Feeder(numbers(), lambda b: int(b["x"][0])) as feeder,
        pytest.raises(ValueError, match="broken shard"),
    ):
        seen.extend(feeder)
    assert seen == list(range(5)) or seen == []
    endless = ({"x": np.zeros(1)} for _ in iter(int, 1))
    with distributed.Feeder(endless, lambda b: b) as feeder:
        next(feeder)
    assert not feeder._thread.is_alive()
