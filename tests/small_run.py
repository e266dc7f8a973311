"""A whole run on a hundred drawn images of 64 px, with two tiny networks: half a minute."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIG = [f"--config={ROOT}/configs/demo.py"]
CONFIG += [f"--config.data.synthetic.{key}" for key in ("train=90", "test=30", "external=12")]
CONFIG += ["--config.data.synthetic.image_size=64", "--config.data.synthetic.min_per_class=2"]
CONFIG += ["--config.records.image_size=64", "--config.split.fraction=0.35"]
for model in ("tiny", "tiny_wide"):
    CONFIG += [f"--config.models.{model}.{key}" for key in ("image_size=64", "batch_size=16")]
    CONFIG += [f"--config.models.{model}.phases[0].epochs=1", f"--config.models.{model}.width=0.25"]


def call(verb: str, workdir: Path, *extra: str, code: int = 0) -> str:
    """Output of one verb in a process of its own."""
    command = [sys.executable, "-m", "hpa_jax", verb, *CONFIG, f"--workdir={workdir}", *extra]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout + result.stderr
