"""One device, four simulated devices, two processes: the same losses, one set of checkpoints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.data import records
from hpa_jax.training import distributed, logs
from tests.data.layouts import CHANNELS, save
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]
STEPS = (4, 8)  # of the trainee's phases of 1 and 2 epochs: 64 rows, 16 a batch


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


def pack(folder, images):
    """The images in memory as packed records."""
    raw = folder.parent / "images"
    rows = []
    for id, image in zip(images.ids, images.images, strict=True):
        save(raw, id, image)
        paths = {channel: str(raw / f"{id}_{channel}.png") for channel in CHANNELS}
        size = dict(height=tiny.SIDE, width=tiny.SIDE, original_size=2048, files="")
        rows.append(dict(id=id, source="train", labels=[0], **paths, **size))
    table = pd.DataFrame(rows)
    return records.write(table, folder, image_size=tiny.SIDE, encoding="zstd", shard_images=20)


def steps_of(file):
    """(loss of each training step, [rows that the process read for each step])."""
    report = json.loads(Path(file).read_text())
    phases = zip(report["rows"], STEPS, strict=True)
    return report["losses"], [row for rows, count in phases for row in rows[:count]]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "tolerance"), [("sgd", 1e-5), ("adam", 1e-3)])
def test_four_devices_give_the_losses_of_one(tmp_path, optimizer, tolerance):
    """Step by step in float32: accumulation, BatchNorm over the global batch, augmentation."""
    options = dict(optimizer=optimizer, accumulate=2, lr=1e-3)
    one, four = tmp_path / "one", tmp_path / "four"
    finish(start(one, watch=f"{one}.json", **options))
    finish(start(four, devices=4, watch=f"{four}.json", **options))
    single, _ = steps_of(f"{one}.json")
    several, _ = steps_of(f"{four}.json")
    assert len(single) == sum(STEPS) >= 10
    np.testing.assert_allclose(several, single, rtol=tolerance)
    np.testing.assert_allclose(losses(four), losses(one), rtol=tolerance)  # validation, too


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    """jax.distributed on localhost: each reads its own part of packed records; one checkpoint."""
    one, two, packed = tmp_path / "one", tmp_path / "two", tmp_path / "records"
    options = dict(optimizer="sgd", lr=1e-3, packed=str(pack(packed, tiny.Records())))
    finish(start(one, watch=f"{one}.json", **options))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = dict(coordinator=f"localhost:{port}", processes=2, **options)
    files = [f"{two}-{number}.json" for number in (0, 1)]
    finish(*[start(two, process=n, watch=file, **hosts) for n, file in enumerate(files)])
    alone, all_rows = steps_of(f"{one}.json")
    (first, left), (second, right) = [steps_of(file) for file in files]
    assert [a + b for a, b in zip(left, right, strict=True)] == all_rows
    assert all(set(a).isdisjoint(b) for a, b in zip(left, right, strict=True))
    assert first == second and len(first) == sum(STEPS)
    np.testing.assert_allclose(first, alone, rtol=1e-5)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    steps = [{p.name for p in (f / "checkpoints").iterdir()} for f in (one, two)]
    assert steps[0] == steps[1]


def test_batches_that_devices_cannot_share_are_refused():
    distributed.check_divisible(16, 2, 4)
    with pytest.raises(InputError, match=r"batch_size=12: not divisible by accumulate=2 .* 4 dev"):
        distributed.check_divisible(12, 2, 4)
    with pytest.raises(InputError, match="at least 1"):
        distributed.check_divisible(0, 1, 1)


@pytest.mark.parametrize("number", ["", "x", "-1", "2"])
def test_an_index_that_no_host_has_is_refused(monkeypatch, number):
    for name, value in (("COORDINATOR", "localhost:1"), ("PROCESSES", "2"), ("PROCESS", number)):
        monkeypatch.setenv(f"HPA_{name}", value)
    with pytest.raises(InputError, match="from 0 to HPA_PROCESSES - 1"):
        distributed.initialize()
