"""The solutions' smoke forms from images to a scored submission: ten minutes each at most."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hpa_jax.core import artifacts

ROOT = Path(__file__).parent.parent.parent
SOLUTIONS = ("one_more_layer/solution", "bestfitting", "pudae", "foundation")


@pytest.mark.slow
@pytest.mark.parametrize("solution", SOLUTIONS)
def test_a_smoke_solution_ends_in_a_scored_submission(solution, tmp_path):
    command = [sys.executable, "-m", "hpa_jax", "run"]
    command += [f"--config={ROOT}/configs/{solution}.py:smoke", f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    score = float(re.search(r"submission (0\.\d+)", done.stdout)[1])
    assert score == pytest.approx(
        artifacts.read_json(tmp_path / "evaluation.json")["submission"]["macro_f1"], abs=5e-4
    )
    for name in artifacts.read_json(tmp_path / "run.json")["config"]["models"]:
        assert list((tmp_path / "models" / name).glob("predictions*")), name
    sample = pd.read_csv(tmp_path / "data" / "sample_submission.csv")
    assert pd.read_csv(tmp_path / "submission.csv")["Id"].tolist() == sample["Id"].tolist()
    assert (tmp_path / "report" / "index.html").is_file()
