"""Tests run on the CPU; compiled programs are kept between runs; --slow, --browser add the rest.

Most of the suite's time was the compiler's: by default it optimizes nothing; with --slow, as for
users.
"""

import fcntl
import gc
import os
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # as the program does
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".jax_cache" / "tests")
)
# Networks called without jit are hundreds of small programs, the same in many tests and workers.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests over 20 s, too")
    parser.addoption("--browser", action="store_true", help="run the tests that need chromium, too")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--slow"):
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark in ("slow", "browser"):
        if not config.getoption(f"--{mark}"):
            skip = pytest.mark.skip(reason=f"needs --{mark}")
            for item in items:
                if mark in item.keywords:
                    item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Have Python look seldom for garbage among the millions of objects that jax keeps."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(workdir, what it printed) of one whole small run; tests leave it as they found it.

    Its truth can't be read before `evaluate`: what is written until then does without it.  The
    workers of one pytest share the run, each in a copy.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / "done.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done.txt").exists():
            printed = _whole_run(folder / "done")
            (folder / "done.txt").write_text(printed)
    workdir = tmp_path_factory.mktemp("run") / "copy"
    shutil.copytree(folder / "done", workdir)
    return workdir, (folder / "done.txt").read_text()


def _whole_run(workdir: Path) -> str:
    from tests.small_run import call

    printed = call("catalog", workdir)  # draws the images
    truth = workdir / "data_truth.csv"
    content, stat = truth.read_bytes(), truth.stat()
    truth.write_bytes(b"\0")
    printed += call("run", workdir, code=2)
    assert truth.read_bytes() == b"\0"
    truth.write_bytes(content)
    os.utime(truth, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return printed + call("run", workdir)
