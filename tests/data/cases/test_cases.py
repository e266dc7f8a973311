"""The programs of ../shared/cases end without a traceback.

Each kind of input has a test with its right value in sources/test_users_files.py; here the
programs themselves run, by a copy of their common.py for the present names.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CASES = sorted((ROOT.parent / "shared" / "cases").glob("c[0-9]*.py"))
WITH_MODEL = ("c14_stale",)  # compares predictions
FORMER = ("c56_kaggle_png16",)  # imports former modules itself

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES, reason="../shared/cases is not there"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_case_ends_without_a_traceback(case, tmp_path):
    if case.stem in WITH_MODEL + FORMER:
        pytest.skip("needs a model, or former modules")
    shutil.copy(case, tmp_path)
    shutil.copy(Path(__file__).with_name("common.py"), tmp_path)
    environment = {"CASES_WORK": str(tmp_path / "work"), "LIGHT": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, tmp_path / case.name],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "TRACEBACK" not in done.stdout
