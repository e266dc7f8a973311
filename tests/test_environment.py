"""scripts/environment.sh: what it installs and when, with a Python that only notes its calls."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "environment.sh"
PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; rm -f .venv/.[ir]*; cp "$0" .venv/bin/python; echo venv >>calls ;;
"-m pip") echo "pip ${{@: -1}}" >>calls ;;
*) exec {sys.executable} -c "import platform, sys
sys.version_info = tuple(map(int, '$VERSION'.split('.')))
platform.python_version = lambda: '$VERSION'
$2" ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    """A folder with the script, two requirements files and the false Python."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("a\n")
    (tmp_path / "requirements-gpu.txt").write_text("b\n")
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def call(project: Path, version="3.12.1", **variables) -> tuple[int, str, list[str]]:
    """(exit code, what it says, what it has Python do)."""
    (project / "calls").write_text("")
    environment = {**os.environ, "PYTHON": f"{project}/python", "VERSION": version, **variables}
    environment = {key: value for key, value in environment.items() if value}
    command = ["bash", "-euo", "pipefail", "-c", "source scripts/environment.sh"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    said = result.stdout + result.stderr
    return result.returncode, said, (project / "calls").read_text().splitlines()


def test_installs_once_and_again_when_the_file_changed(project):
    assert call(project)[2] == ["venv", "pip requirements.txt"]
    assert call(project)[2] == []
    (project / "requirements.txt").write_text("a\nc\n")
    assert call(project)[2] == ["pip requirements.txt"]


def test_the_file_that_was_installed_is_remembered(project):
    gpu = {"REQUIREMENTS": "requirements-gpu.txt"}
    assert call(project, **gpu)[2] == ["venv", "pip requirements-gpu.txt"]
    assert call(project)[2] == []  # and not the CPU's in its place
    (project / "requirements-gpu.txt").write_text("b\nc\n")
    assert call(project)[2] == ["pip requirements-gpu.txt"]
    assert call(project, REQUIREMENTS="requirements.txt")[2] == ["venv", "pip requirements.txt"]


@pytest.mark.parametrize("version", ["3.10.9", "3.14.0"])
def test_a_python_that_does_not_fit_is_named(project, version):
    code, said, calls = call(project, version, PATH="/usr/bin:/bin")
    if shutil.which("uv", path="/usr/bin:/bin"):
        pytest.skip("uv brings its own Python")
    assert code != 0 and calls == []
    assert "3.11, 3.12 or 3.13 is needed" in said and f"{project}/python: {version}" in said


def test_says_that_it_waits_for_another_set_up(project):
    if shutil.which("flock") is None:
        pytest.skip("no flock")
    (project / ".venv.lock").mkdir()
    holder = subprocess.Popen(["flock", project / ".venv.lock" / "lock", "sleep", "2"])
    while subprocess.run(["flock", "-n", project / ".venv.lock" / "lock", "true"]).returncode == 0:
        pass
    assert "Waiting for another script" in call(project)[1]
    assert holder.wait() == 0
