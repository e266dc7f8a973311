"""Tests run on the CPU; compiled programs are kept between runs; --slow, --browser add the rest.

Most of the suite's time was the compiler's: by default it optimizes nothing; with --slow, as for
users.
"""

import gc
import os
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


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(workdir, what it printed) of one whole small run; tests leave it as they found it."""
    from tests.small_run import call

    workdir = tmp_path_factory.mktemp("run")
    return workdir, call("run", workdir)


def pytest_collection_finish() -> None:
    """Have Python look seldom for garbage among the millions of objects that jax keeps."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
