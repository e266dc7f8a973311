"""A batch too large for the device is one line with what helps; train.deterministic on a GPU."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.training import compilation, distributed, loop
from tests.training import tiny

OF_TPU = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 17.04G of 15.75G hbm. Exceeded hbm capacity by 1.29G."
)
OF_GPU = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate\n 21474836480 bytes."


def train(folder, average="none", **settings):
    records = tiny.Records()
    with tiny.in_place():
        return loop.train(
            tiny.model(dtype="float32", average=dict(kind=average, count=2)),
            name="tiny",
            directory=folder,
            records=records,
            train_ids=records.ids[:64],
            train_labels=records.labels[:64],
            valid_ids=records.ids[64:],
            valid_labels=records.labels[64:],
            class_names=tiny.CLASSES,
            settings=tiny.settings(**settings),
            seed=0,
        )


def test_a_program_is_compared_with_the_device(monkeypatch):
    mib = 2**20
    double = jax.jit(lambda x: 2 * x).lower(jnp.zeros(2 * mib)).compile()  # 8 MiB in, 8 out
    shared = jax.jit(lambda x: 2 * x, donate_argnums=0).lower(jnp.zeros(2 * mib)).compile()
    monkeypatch.setattr(compilation, "memory_limit", lambda: 12 * mib)
    compilation.check_memory(shared, "step")  # its output takes its input's place
    with pytest.raises(InputError, match=r"needs 0\.02 GiB .* 0\.00 GiB more .* accumulate.*remat"):
        compilation.check_memory(double, "step")
    for most in (16 * mib, None):
        monkeypatch.setattr(compilation, "memory_limit", lambda most=most: most)
        compilation.check_memory(double, "step")


def test_the_limit_is_the_smallest_device_s(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    for stats, most in (
        ([{"bytes_limit": 5}, {"bytes_limit": 3}], 3),
        ([None, None], None),
        ([{"bytes_in_use": 1}], None),
    ):
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: list(map(Device, stats)))
        assert compilation.memory_limit() == most


def test_a_training_too_large_stops_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation, "memory_limit", lambda: 1000)
    with pytest.raises(InputError, match=r"training step of phase 1 of 1: needs .* on each device"):
        train(tmp_path)


@pytest.mark.parametrize("text", [OF_TPU, OF_GPU])
@pytest.mark.parametrize("when", ["compiling", "running"])
def test_out_of_memory_is_one_line(tmp_path, monkeypatch, text, when):
    def fails(*arguments):
        raise jax.errors.JaxRuntimeError(text)

    if when == "compiling":
        monkeypatch.setattr(jax.stages.Lowered, "compile", fails)
    else:
        monkeypatch.setattr(compilation.Compiler, "__call__", lambda *arguments: fails)
    with pytest.raises(InputError, match=r"accumulate.*remat") as error:
        train(tmp_path)
    words = " ".join(text.split())
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_errors_of_the_runtime_stay(tmp_path, monkeypatch):
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        compilation.explaining_out_of_memory(),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: ptxas")


@pytest.mark.parametrize(
    ("wanted", "backend", "options"),
    [
        (True, "gpu", {"xla_gpu_deterministic_ops": True}),
        (True, "cpu", None),
        (True, "tpu", None),
        (False, "gpu", None),
    ],
)
def test_deterministic_reaches_every_program_of_a_training(
    tmp_path, monkeypatch, wanted, backend, options
):
    seen, real = [], jax.stages.Lowered.compile

    def compiled(self, options):
        seen.append(options)
        return real(self, options)  # XLA on CPU takes the option, and does nothing with it

    monkeypatch.setattr(jax.stages.Lowered, "compile", compiled)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    train(tmp_path, average="last", deterministic=wanted)
    assert len(seen) > 2 and all(given == options for given in seen)


def test_xla_knows_the_option():
    lowered = jax.jit(jnp.sin).lower(1.0)
    lowered.compile({"xla_gpu_deterministic_ops": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        lowered.compile({"xla_gpu_deterministic_opps": True})


def test_workers_are_the_cores_unless_set(tmp_path, monkeypatch):
    seen, real = [], tiny.train_batches

    def batches(*arguments, workers, **options):
        seen.append(workers)
        return real(*arguments, **options)

    monkeypatch.setattr(tiny, "train_batches", batches)
    monkeypatch.setattr(distributed, "cores", lambda: 7)
    train(tmp_path / "a")
    train(tmp_path / "b", workers=3)
    assert seen == [7, 3]


SECOND = """
import collections, sys, jax
from pathlib import Path
from tests.training import test_compilation as here
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **rest: counts.update([event]))
here.train(Path(sys.argv[1]), compilation_cache=sys.argv[2])
print(*(counts[f"/jax/compilation_cache/cache_{what}"] for what in ("hits", "misses")))
"""


@pytest.mark.slow
def test_another_start_takes_the_programs_from_the_cache(tmp_path):
    """The steps of training and evaluation are compiled once, for the configured batch alone."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": ""}

    def start(folder):
        command = [sys.executable, "-c", SECOND, str(tmp_path / folder), str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.count("compiled in") == 2
        return [int(word) for word in done.stdout.split()[-2:]]

    hits, misses = start("a")
    assert hits == 0 and misses >= 2
    assert start("b") == [misses, 0]
