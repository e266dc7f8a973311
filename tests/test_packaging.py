"""What an installation needs: pyproject.toml and the requirements files hold the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
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


def test_extras_are_named_where_they_are_needed():
    """Messages and the Dockerfile name extras that exist."""
    text = (ROOT / "Dockerfile").read_text()
    (asked,) = re.findall(r"\[\$\{EXTRA\},([a-z,]+)\]", text)
    assert set(asked.split(",")) <= set(EXTRAS)
    for path in (ROOT / "hpa_jax").rglob("*.py"):
        for extra in re.findall(r'pip install "hpa_jax\[([a-z]+)\]"', path.read_text()):
            assert extra in EXTRAS, path


def test_the_wheel_holds_recipes_and_pages(tmp_path):
    """What an installation without a checkout reads; built from a copy of the tracked files."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    if not any(names):
        pytest.skip("no git checkout")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", tmp_path, "."], cwd=tmp_path / "source", check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = set(zipfile.ZipFile(wheel).namelist())
    report = {
        f"hpa_jax/report/{p.name}" for p in (ROOT / "hpa_jax/report").iterdir() if p.is_file()
    }
    assert report <= files and "hpa_jax/data/synthetic/label_sets.csv" in files
    recipes = {p.relative_to(ROOT).as_posix() for p in (ROOT / "configs").rglob("*.py")}
    assert {f"hpa_jax/shipped/{name}" for name in recipes} <= files
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from hpa_jax.config import overrides; print(*overrides.load('demo').models)"
    code += "; print(*overrides.load('one_more_layer/xception').models)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["tiny", "tiny_wide", "xception"], done.stdout


def test_development_tools_are_apart():
    assert lines("requirements-dev.txt") == set(EXTRAS["dev"])
    assert not lines("requirements.txt") & set(EXTRAS["dev"])
