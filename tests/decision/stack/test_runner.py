"""Where the units run makes no difference: here, in processes, on Dask; joint boosters too."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hpa_jax.core import metrics
from hpa_jax.core.errors import InputError
from hpa_jax.decision.stack import inputs, protocols, runner, stacking
from scripts import simulation

FAST = {"protocol": "quick", "outer": 3, "inner": 2, "rounds": 15, "strengths": (20.0,)}


@pytest.fixture(scope="module")
def data():
    """Three classes, two models: 260 rows to fit, 1,000 new ones."""
    whole = simulation.simulate(1260, 2, seed=3)
    classes = {0: 0, 7: 1, 25: 2}
    columns, names = list(range(15)), list(whole.names[:15])
    for position, name in enumerate(whole.names[15:], start=15):
        model, _, number = name.partition("/p")
        if int(number) in classes:
            columns.append(position)
            names.append(f"{model}/p{classes[int(number)]:02d}")
    return whole.features[:, columns], whole.labels[:, list(classes)], names


@pytest.fixture(scope="module")
def here(data):
    features, labels, names = data
    return stacking.fit(features[:260], labels[:260], config=FAST, names=names, workers=1)


def test_processes_give_the_same(data, here):
    features, labels, names = data
    found = stacking.fit(features[:260], labels[:260], config=FAST, names=names, workers=2)
    np.testing.assert_array_equal(found.oof, here.oof)


def test_a_dask_cluster_gives_the_same(data, here):
    pytest.importorskip("distributed")
    features, labels, names = data
    found = stacking.fit(
        features[:260], labels[:260], config=FAST, names=names, workers=2, distributed="local"
    )
    np.testing.assert_array_equal(found.oof, here.oof)


def test_a_scheduler_that_runs_already_is_used_and_left_running(data, here):
    distributed = pytest.importorskip("distributed")
    features, labels, names = data
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster:
        found = stacking.fit(
            features[:260],
            labels[:260],
            config=FAST,
            names=names,
            distributed=cluster.scheduler_address,
        )
        with distributed.Client(cluster.scheduler_address) as client:
            log = client.run_on_scheduler(
                lambda dask_scheduler: list(dask_scheduler.transition_log)
            )
    np.testing.assert_array_equal(found.oof, here.oof)
    fitted = {key for key, *_ in log if str(key).startswith("do-")}
    assert len(fitted) == len(found.units) > 0  # there, one task a unit


def test_no_scheduler_there_is_an_error(data):
    pytest.importorskip("distributed")
    import dask

    features, labels, names = data
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(InputError, match="can't be reached"),
    ):
        stacking.fit(
            features[:260], labels[:260], config=FAST, names=names, distributed="tcp://127.0.0.1:9"
        )


def test_a_cluster_lost_in_the_middle_is_told_from_one_never_there(data, monkeypatch):
    distributed = pytest.importorskip("distributed")
    features, labels, names = data

    def lost(futures):
        raise OSError("comm closed")
        yield

    monkeypatch.setattr(distributed, "as_completed", lost)
    with pytest.raises(InputError, match=r"lost after 0 of \d+ units \(comm closed\); finished"):
        stacking.fit(
            features[:260], labels[:260], config=FAST, names=names, workers=1, distributed="local"
        )


def test_joint_trees_learn_predict_and_are_kept(data, tmp_path):
    features, labels, names = data
    settings = FAST | {"learner": "multi_output_tree", "repeats": 2}
    options = dict(config=settings, names=names, workers=1, directory=tmp_path)
    found = stacking.fit(features[:260], labels[:260], test=features[260:400], **options)
    assert [(unit.c, unit.repeat) for unit in found.units] == [
        (c, k) for c in range(3) for k in (0, 1)
    ]
    assert any(model.booster for unit in found.units for model in unit.models)
    np.testing.assert_allclose(found.test_votes, found.predict(features[260:400]), atol=1e-6)
    found.save(tmp_path)
    again = stacking.load(tmp_path)
    np.testing.assert_array_equal(again.predict(features[260:]), found.predict(features[260:]))
    # as good as its parts: not below the models' mean on rows that it never saw
    mean = np.stack([features[260:, [15 + c, 18 + c]].mean(axis=1) for c in range(3)], axis=1)
    ours = metrics.macro_average_precision(labels[260:], again.predict(features[260:]))
    assert ours > metrics.macro_average_precision(labels[260:], mean) - 0.01
    shared = list((tmp_path / "units").glob("joint_*.ubj"))
    assert 0 < len(shared) <= 2 * 6  # a booster is stored once, not once a class


def test_joint_trees_of_a_single_fitted_class(data, tmp_path):
    """Only one class has positives enough: XGBoost's margins then lose an axis."""
    features, labels, names = data
    few = labels[:260].copy()
    few[5:, :2] = False
    options = dict(names=names, workers=1, directory=tmp_path)
    found = stacking.fit(
        features[:260], few, config=FAST | {"learner": "multi_output_tree"}, **options
    )
    assert {unit.c for unit in found.units} == {2}
    assert any(model.booster for unit in found.units for model in unit.models)
    found.save(tmp_path)
    votes = stacking.load(tmp_path).predict(features[260:])
    assert votes.shape == labels[260:].shape
    score = metrics.macro_average_precision(labels[260:, [2]], votes[:, [2]])
    assert score > 1.2 * labels[260:, 2].mean()


def test_gains_are_shares_by_class(here):
    assert here.gains
    for gains in here.gains.values():
        assert sum(gains.values()) == pytest.approx(1)
        assert list(gains.values()) == sorted(gains.values(), reverse=True)


def test_stamps_tell_what_matters(data):
    features, labels, names = data

    def stamps(config, labels=labels[:260], features=features[:260]):
        protocol = protocols.resolve(config)
        table = inputs.named(names, 3).split(features)
        shared = inputs.StackData(table, labels, None, None, None, protocol)
        return runner.stamps_of(shared, runner.jobs(labels, protocol))

    job = runner.StackJob((1,), 0)
    assert stamps(FAST)[job] == stamps(FAST | {"shrink": 3.0, "repeats": 4})[job]
    assert stamps(FAST)[job] != stamps(FAST | {"eta": 0.3})[job]
    other = labels[:260].copy()
    other[0, 1] ^= True
    assert stamps(FAST)[job] != stamps(FAST, labels=other)[job]
    assert (
        stamps(FAST)[runner.StackJob((0,), 0)]
        == stamps(FAST, labels=other)[runner.StackJob((0,), 0)]
    )


@pytest.mark.parametrize(
    ("positives", "models"), [(9, 6000), (50, 2500), (249, 1715), (300, 1225), (1000, 441)]
)
def test_by_frequency_follows_the_table(positives, models):
    assert protocols.resolve("by_frequency").models(positives) == models


def test_named_protocols():
    assert protocols.resolve("talk").models(500) == 375
    assert protocols.resolve("main").models(500) == 225
    assert protocols.resolve("quick").models(500) == 15
    mixed = protocols.resolve({"protocol": "talk", "eta": None, "depth": 5})
    assert mixed.depth == 5 and mixed.eta == protocols.PROTOCOLS["talk"].eta
    for wrong in ({"learner": "lightgbm"}, {"inner": 1}, {"rounds": 0}, {"strengths": ()}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            protocols.resolve(wrong)


class Driver:
    """libcuda.so.1 with so many GPUs."""

    def __init__(self, count, error=0):
        self.count, self.error = count, error

    def cuInit(self, flags):
        return self.error

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.count
        return 0


NO_DRIVER = OSError("libcuda.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    ("wanted", "built", "driver", "devices"),
    [
        ("auto", True, Driver(2), ("cuda:0", "cuda:1")),
        ("cuda", True, Driver(1), ("cuda:0",)),
        ("auto", True, NO_DRIVER, ("cpu",)),
        ("auto", True, Driver(0), ("cpu",)),
        ("auto", True, Driver(8, error=100), ("cpu",)),  # CUDA_ERROR_NO_DEVICE
        ("auto", False, Driver(2), ("cpu",)),  # the wheel xgboost-cpu beside a GPU
        ("cpu", True, Driver(2), ("cpu",)),
        ("cuda", True, Driver(0), "no GPU"),  # XGBoost itself would take the CPU, with a warning
        ("cuda", False, Driver(2), "built without CUDA"),
    ],
)
def test_auto_takes_the_gpus_that_xgboost_can_use(monkeypatch, wanted, built, driver, devices):
    import ctypes

    import xgboost

    def library(name):
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": built})
    monkeypatch.setattr(ctypes, "CDLL", library)
    if isinstance(devices, tuple):
        assert runner.pick_devices(wanted) == devices
    else:
        with pytest.raises(InputError, match=devices):
            runner.pick_devices(wanted)
        assert runner.pick_devices(wanted, "tcp://host:8786") == ("cuda",)


def test_looking_for_gpus_starts_no_jax():
    """Its first use would take three quarters of all cards."""
    look = "import sys; from hpa_jax.decision.stack import stacking, runner as s; "
    look += "s.pick_devices('auto'); s.gpus(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look]).returncode == 0


def shared_data(data, **settings):
    features, labels, names = (data[0][:260], data[1][:260], data[2])
    protocol = protocols.resolve(FAST | settings)
    return inputs.StackData(
        inputs.named(names, 3).split(features), labels, None, None, None, protocol
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_devices_gives_the_same(data, here, count, monkeypatch):
    """CPUs in the place of GPUs: the way is the same, one process a device."""
    on_cpu(monkeypatch)
    devices = [f"cuda:{number}" for number in range(count)]
    shared = shared_data(data)
    jobs = runner.jobs(shared.labels, shared.protocol)
    found = runner.run(shared, jobs, devices=devices)
    assert len(found) == len(here.units)
    for unit, same in zip(found, here.units):
        assert (unit.c, unit.repeat, unit.stamp) == (same.c, same.repeat, same.stamp)
        np.testing.assert_array_equal(unit.votes, same.votes)
        assert [m.booster for m in unit.models] == [m.booster for m in same.models]


def test_a_fit_uses_all_gpus_and_its_units_tell_none_from_another(data, monkeypatch):
    features, labels, names = data
    seen = []

    def run(data, todo, **options):
        seen.append((data.device, options["devices"]))
        return real(dataclasses.replace(data, device="cpu"), todo, workers=1)

    real = runner.run
    monkeypatch.setattr(runner, "run", run)
    for devices in (("cuda:0", "cuda:1"), ("cpu",)):
        monkeypatch.setattr(runner, "pick_devices", lambda *wanted, found=devices: found)
        stacking.fit(features[:260], labels[:260], config=FAST, names=names)
    assert seen == [("cuda", ("cuda:0", "cuda:1")), ("cpu", ("cpu",))]


def on_cpu(monkeypatch):
    """Each device gets its process; what it fits, it fits on the CPU."""
    real = runner._worker
    monkeypatch.setattr(
        runner, "_worker", lambda data: real(dataclasses.replace(data, device="cpu"))
    )


def test_the_device_that_is_free_gets_the_next_job(data, monkeypatch):
    """The longest first; a slow device does less, none waits."""
    from concurrent.futures import ThreadPoolExecutor

    did = {}

    class Slow(ThreadPoolExecutor):
        def __init__(self, data):
            super().__init__(1)
            self.device = data.device

        def submit(self, do, job):
            did.setdefault(self.device, []).append(job)
            return super().submit(time.sleep, 0.5 if self.device == "cuda:0" else 0.02)

        def shutdown(self, wait=True, kill_workers=False):
            super().shutdown(wait)

    monkeypatch.setattr(runner, "_worker", Slow)
    jobs = [runner.StackJob((c,), 0) for c in range(12)]
    list(runner._on_devices(shared_data(data), jobs, ("cuda:0", "cuda:1", "cuda:2")))
    assert sorted(job.classes for own in did.values() for job in own) == [(c,) for c in range(12)]
    assert did["cuda:0"] == jobs[:1] and did["cuda:1"][0] == jobs[1] and did["cuda:2"][0] == jobs[2]
    assert len(did["cuda:1"]) > 2 and len(did["cuda:2"]) > 2


def modules():
    return set(sys.modules)


def test_a_device_is_worked_on_by_a_process_without_jax(data):
    import jax  # noqa: F401 - as in a process that has trained

    pool = runner._worker(shared_data(data))
    try:
        pool.submit(runner._do_shared, runner.StackJob((0,), 0)).result()
        there = pool.submit(modules).result()
    finally:
        pool.shutdown(kill_workers=True)
    assert "xgboost" in there and "jax" in sys.modules
    assert not {"jax", "jaxlib", "tensorflow", "torch"} & there


@pytest.mark.parametrize(("how", "said"), [("cuda", "XGBoost failed on"), ("kill", "was killed")])
def test_what_goes_wrong_on_a_device_is_one_line(data, tmp_path, monkeypatch, how, said):
    """Finished units stay; the device is named."""
    shared = shared_data(data)
    jobs = runner.jobs(shared.labels, shared.protocol)

    class Failing:
        """A worker whose second job fails as on a full card, or whose process is killed then."""

        def __init__(self, data):
            self.pool, self.jobs = real(data), 0

        def submit(self, do, job):
            self.jobs += 1
            return self.pool.submit(*((fail, how) if self.jobs == 2 else (do, job)))

        def shutdown(self, **options):
            self.pool.shutdown(**options)

    on_cpu(monkeypatch)
    real = runner._worker
    monkeypatch.setattr(runner, "_worker", Failing)
    with pytest.raises(InputError, match=said) as error:
        runner.run(shared, jobs, devices=("cuda:0",), directory=tmp_path)
    assert "cuda:0" in str(error.value) and "\n" not in str(error.value)
    assert "1 of 3 units are finished and kept" in str(error.value)
    assert len(list(tmp_path.glob("units/c*.zip"))) == 1


def fail(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    from xgboost.core import XGBoostError

    raise XGBoostError("cudaErrorMemoryAllocation:\n out of memory")
