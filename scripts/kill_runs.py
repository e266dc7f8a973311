"""Kills `run` at random moments, lets it go on, and compares its files with an undisturbed run's.

PYTHONPATH=. .venv/bin/python scripts/kill_runs.py --kills=20 [options of `run`]
Without options a small version of the demo is run.  A kill costs, on average, half an undisturbed
run or less, so 20 kills take about ten times the seconds that the first line prints.  SIGKILL goes
to the main process alone: its workers have to notice by themselves.  Compared are submission,
scores, thresholds, splits, features, decisions and all predictions; exit code 1 if any differs.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL = [
    "--config=configs/demo.py",
    *(f"--config.data.synthetic.{size}" for size in ("train=90", "test=30", "external=12")),
    "--config.data.synthetic.min_per_class=2",
    "--config.split.fraction=0.35",
    *(
        f"--config.models.{model}.{setting}"
        for model in ("tiny", "tiny_wide")
        for setting in ("width=0.25", "batch_size=16", "phases[0].epochs=2")
    ),
]
SAME = (
    *(
        "catalog.parquet",
        "leak.parquet",
        "submission.csv",
        "metrics.json",
        "thresholds.json",
        "evaluation.json",
    ),
    *("duplicates.parquet", "groups.parquet", "splits.parquet", "leak_overlay.parquet"),
    *("decisions.parquet", "features/*.parquet"),
    *("models/*/predictions/*.parquet", "ensemble/*/*.parquet", "stack/*.parquet"),
)


def digests(workdir: Path) -> dict[str, str]:
    """SHA-256 of every file that must not differ."""
    files = sorted(path for pattern in SAME for path in workdir.glob(pattern))
    return {
        str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def run(options: list[str], workdir: Path, seconds: float | None) -> tuple[bool, str]:
    """Runs until the end or until SIGKILL after `seconds`: whether it ended, its last line."""
    workdir.mkdir(parents=True, exist_ok=True)
    log = workdir / "kill.log"
    command = [sys.executable, "-m", "hpa_jax", "run", *options, f"--workdir={workdir}"]
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    lines = [line for line in log.read_text().splitlines() if line.startswith("[")] or ["starts"]
    if code:
        sys.exit(f"exit code {code}: {log.read_text()[-2000:]}")
    return code == 0, lines[-1]


def main() -> None:
    """Prints a row a kill and a verdict a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    settings, options = parser.parse_known_args()
    moments = random.Random(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        run(options or SMALL, Path(folder, "undisturbed"), None)
        length = time.monotonic() - start
        expected = digests(Path(folder, "undisturbed"))
        print(f"undisturbed: {length:.0f} s, {len(expected)} files to compare", flush=True)
        kills, runs, differing = 0, 0, 0
        while kills < settings.kills:
            runs += 1
            workdir = Path(folder, f"run{runs}")
            ended = False
            while not ended:
                after = moments.uniform(0, length) if kills < settings.kills else None
                ended, line = run(options or SMALL, workdir, after)
                if not ended:
                    kills += 1
                    print(
                        f"run {runs}, kill {kills}: after {after:.1f} s, in: {line[:70]}",
                        flush=True,
                    )
            wrong = [
                name for name, digest in expected.items() if digests(workdir).get(name) != digest
            ]
            differing += bool(wrong)
            print(f"run {runs}: {'identical' if not wrong else f'DIFFERS in {wrong}'}", flush=True)
    print(f"{kills} kills in {runs} runs, {differing} runs differ")
    sys.exit(differing > 0)


if __name__ == "__main__":
    main()
