"""What an installation needs: pyproject.toml and the requirements files hold the same."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lines(name: str) -> set[str]:
    text = (ROOT / name).read_text().splitlines()
    return {line for line in text if line and not line.startswith("#")}


@pytest.mark.parametrize(
    ("file", "extra"),
    [("requirements.txt", "cpu"), ("requirements-gpu.txt", "gpu"), ("requirements-tpu.txt", "tpu")],
)
def test_requirements_are_those_of_the_project_and_an_extra(file, extra):
    expected = {*PROJECT["dependencies"], *EXTRAS[extra], *EXTRAS["cluster"]}
    if extra != "cpu":  # jax[cuda13] or jax[tpu] in place of jax
        expected = {line for line in expected if not line.startswith("jax>")}
    assert lines(file) == expected


def test_development_tools_are_apart():
    assert lines("requirements-dev.txt") == set(EXTRAS["dev"])
    assert not lines("requirements.txt") & set(EXTRAS["dev"])
