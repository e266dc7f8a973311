"""Networks trained side by side: places, order, failures, and the same result as one by one."""

import os
import signal

import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core.errors import InputError
from hpa_jax.pipeline import parallel
from tests.small_run import call


def config_of(**started):
    config = configs.default()
    config.models = {name: configs.model(init_from=given) for name, given in started.items()}
    return config


class Process:
    """Ends when it has been asked `polls` times."""

    def __init__(self, code=0, polls=2):
        self.code, self.left, self.returncode = code, polls, None

    def poll(self):
        self.left -= 1
        if self.left <= 0:
            self.returncode = self.code
        return self.returncode

    def terminate(self):
        self.returncode = -15

    def wait(self):
        return self.returncode


@pytest.fixture
def begun(monkeypatch):
    """Names in the order in which they were started; what each returns may be set by name."""
    names, codes = [], {}

    def start(name, arguments, place):
        names.append((name, place.get("CUDA_VISIBLE_DEVICES")))
        return Process(codes.get(name, 0))

    monkeypatch.setattr(parallel, "_start", start)
    monkeypatch.setattr(parallel, "POLL_SECONDS", 0.0)
    return names, codes


def flags(tmp_path, **others):
    return {"workdir": str(tmp_path), "arguments": [], "parallel": "2", **others}


def test_a_network_begins_after_the_one_it_starts_from(begun, tmp_path):
    names, _ = begun
    parallel.train(config_of(a="", b="model:a", c="", d=""), flags(tmp_path), list)
    order = [name for name, _ in names]
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order[:2] == ["a", "c"] and order.index("b") > order.index("a")


def test_each_process_sees_one_gpu_of_those_that_are_visible(begun, tmp_path, monkeypatch):
    names, _ = begun
    monkeypatch.setattr(parallel, "gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    parallel.train(config_of(a="", b=""), flags(tmp_path, parallel="gpus"), list)
    assert names == [("a", "3"), ("b", "5")]
    assert {place["XLA_CLIENT_MEM_FRACTION"] for place in parallel._places("4")} == {"0.38"}


def test_a_failed_network_is_named_and_no_other_begins(begun, tmp_path):
    names, codes = begun
    codes["a"] = 3
    with pytest.raises(InputError, match=r"a \(exit code 3\) failed"):
        parallel.train(config_of(a="", b="model:a"), flags(tmp_path), list)
    assert [name for name, _ in names] == ["a"]


def test_sigterm_reaches_every_network(begun, tmp_path, monkeypatch):
    """Each saves and says so by its own 75; the whole asks to be called again, too."""
    ended = []

    class Training(Process):
        def poll(self):
            os.kill(os.getpid(), signal.SIGTERM)

        def terminate(self):
            ended.append(self)

    monkeypatch.setattr(parallel, "_start", lambda *given: Training())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        parallel.train(config_of(a="", b=""), flags(tmp_path), list)
    assert stopped.value.code == 75 and len(ended) == 2
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(parallel="gpus"), "shows no GPU"),
        (dict(parallel="0"), "number of networks"),
        (dict(parallel="x"), "number of networks"),
        (dict(only="a"), "excludes --only"),
        (dict(force="all"), "excludes --force"),
    ],
)
def test_what_does_not_fit_is_refused(begun, tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(parallel, "gpus", lambda: 0)
    with pytest.raises(InputError, match=message):
        parallel.train(config_of(a=""), flags(tmp_path, **changes), list)


@pytest.mark.slow
def test_side_by_side_gives_what_one_by_one_gives(done, tmp_path):
    workdir, _ = done
    out = call("run", tmp_path, "--parallel=2")
    assert "tiny | [train-tiny]" in out and "tiny_wide | [train-tiny_wide]" in out
    assert "[train-tiny] done before" in out
    for name in ("models/tiny/predictions/test.parquet", "stack/test.parquet", "submission.csv"):
        assert (tmp_path / name).read_bytes() == (workdir / name).read_bytes(), name
    again = call("run", tmp_path, "--parallel=2")  # nothing to do: no process begins
    assert "tiny | " not in again and "[train-tiny] done before" in again
