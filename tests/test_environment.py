"""scripts/environment.sh: what it installs and when, with a Python that only notes its calls."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "environment.sh"
PYTHON = f"""#!/usr/bin/env bash
case "$1 $2" in
"-m venv")
  folder="${{@: -1}}"
  mkdir -p $folder/bin $folder/lib/python3/site-packages
  rm -f $folder/.[ir]*
  cp "$0" $folder/bin/python
  echo "venv $folder" >>calls
  ;;
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


def call(project: Path, version="3.12.1", then=":", **variables) -> tuple[int, str, list[str]]:
    """(exit code, what it says, what it has Python do); `then` runs in the same shell."""
    (project / "calls").write_text("")
    environment = {
        **os.environ,
        "JAX_VERSION": "",
        "PYTHON": f"{project}/python",
        "VERSION": version,
        **variables,
    }
    environment = {key: value for key, value in environment.items() if value}
    command = ["bash", "-euo", "pipefail", "-c", f"source scripts/environment.sh; {then}"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    said = result.stdout + result.stderr
    return result.returncode, said, (project / "calls").read_text().splitlines()


def test_installs_once_and_again_when_the_file_changed(project):
    assert call(project)[2] == ["venv .venv", "pip requirements.txt"]
    assert call(project)[2] == []
    (project / "requirements.txt").write_text("a\nc\n")
    assert call(project)[2] == ["pip requirements.txt"]


def test_the_file_that_was_installed_is_remembered(project):
    gpu = {"REQUIREMENTS": "requirements-gpu.txt"}
    assert call(project, **gpu)[2] == ["venv .venv", "pip requirements-gpu.txt"]
    assert call(project)[2] == []  # and not the CPU's in its place
    (project / "requirements-gpu.txt").write_text("b\nc\n")
    assert call(project)[2] == ["pip requirements-gpu.txt"]
    assert call(project, REQUIREMENTS="requirements.txt")[2] == [
        "venv .venv",
        "pip requirements.txt",
    ]


def test_a_plugin_is_installed_beside_and_over_the_packages_of_the_environment(project):
    call(project)
    then = 'alone plugin_environment tpu; echo "python is $python"'
    _, said, calls = call(project, platform.python_version(), then)
    jax = version("jax")
    assert calls == ["venv .venv-tpu", f"pip jax[tpu]=={jax}"]
    assert "python is .venv-tpu/bin/python" in said
    packages = project / ".venv-tpu" / "lib" / "python3" / "site-packages" / "base.pth"
    assert packages.read_text().strip() == sysconfig.get_path("purelib")
    assert call(project, platform.python_version(), then)[2] == []
    assert call(project, then="alone plugin_environment cuda")[2] == [
        "venv .venv-cuda",
        f"pip jax[cuda13]=={jax}",
    ]
    (project / ".venv-tpu" / ".installed").write_text("0.1 elsewhere\n")  # of another jax
    assert call(project, then=then)[2] == ["venv .venv-tpu", f"pip jax[tpu]=={jax}"]


def test_a_plugin_for_another_jax_has_an_environment_of_that_jax_below(project):
    call(project)
    then = 'alone plugin_environment cuda; echo "python is $python"'
    _, said, calls = call(project, then=then, JAX_VERSION="9.8.7")
    assert calls[:3] == ["venv .venv-9.8.7", "pip jax==9.8.7", "venv .venv-cuda-9.8.7"]
    assert "python is .venv-cuda-9.8.7/bin/python" in said
    assert call(project, then=then, JAX_VERSION="9.8.7")[2] == []
    assert (project / ".venv" / ".installed").exists() and not (project / ".venv-cuda").exists()


def test_a_plugin_that_does_not_install_is_tried_again(project):
    call(project)
    python = project / ".venv" / "bin" / "python"
    works = python.read_text()
    python.write_text(works.replace('echo "pip', 'exit 1; echo "pip'))
    then = "alone plugin_environment tpu; echo unreached"
    code, said, _ = call(project, then=then)
    assert code == 1 and "unreached" not in said
    python.write_text(works)
    assert call(project, then=then)[2][-1].startswith("pip jax[tpu]")


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
