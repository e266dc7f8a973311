"""`scripts/bench all`: the project's table, each figure beside an alternative of the same run.

    scripts/bench all [--parts models,input,…] [--torch-python PYTHON] [--out TABLE.md] [--work DIR]

Alternatives that need PyTorch are measured where --torch-python names an interpreter with
requirements-parity.txt (models) and requirements-input-torch.txt (input); else their cells stay
empty.  Parts run one after the other; a part that fails is named at the end, and the exit code is
1.  Half an hour or more on 2 CPU cores; with LightGBM (requirements-bench.txt) the part `decision`
also compares votes with its own (180 of its fits, seconds each; --work keeps them, with their
processor time, for the next call).
"""

import argparse
import datetime
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_table

HERE = Path(__file__).parent
# Options of each part; {torch}: the interpreter with PyTorch, {images}: a folder of synthetic ones,
# {votes}: ",votes" where LightGBM is; {work}: where the part keeps its fits.
PARTS = {
    "models": ["--models=se_resnext50,densenet121", "--rounds=1"],
    "input": ["--folder={images}", "--images=48", "--rounds=2"],
    "import": ["--images=8"],
    "augment": [],
    "training": [],
    "inference": ["--views=d4,crops"],
    "encodings": [],
    "duplicates": ["--sizes", "10000", "110000"],
    "decision": ["--parts=views,thresholds,features,stack,protocols{votes}", "--work={work}"],
    "retrieval": [],
}
WITH_TORCH = {
    "models": ["--against=torch", "--torch-python={torch}"],
    "input": ["--torch-python={torch}"],
}
NO_VOTES = "decision: no votes beside LightGBM's; it isn't here (scripts/requirements-bench.txt)"
HEAD = "| part | what | ours | alternative | ours / alternative |\n|---|---|---|---|---|"


def main() -> int:
    """Runs the parts and prints the table; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    has_torch = importlib.util.find_spec("torch") is not None
    parser.add_argument("--torch-python", default=sys.executable if has_torch else "")
    parser.add_argument("--out", default="", help="Markdown file that the table goes to, too")
    parser.add_argument("--work", type=Path, help="folder that keeps the fits of `decision`")
    options = parser.parse_args()
    chosen = options.parts.split(",")
    for part in chosen:
        if part not in PARTS:
            parser.error(f"no part {part!r}; there are {', '.join(PARTS)}")
    lines, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        if "input" in chosen:
            _draw(Path(folder))
        for part in chosen:
            work = options.work or Path(folder) / "decision"
            found = _run(part, torch=options.torch_python, images=folder, work=str(work))
            lines += [bench_table.markdown(part, row) for row in found or []]
            failed += [] if found else [part]
    if "decision" in chosen and not _has_lightgbm():
        lines += ["", NO_VOTES]
    table = "\n".join([f"{datetime.date.today()}, {os.cpu_count()} CPU cores", "", HEAD, *lines])
    print(f"\n{table}")
    if options.out:
        Path(options.out).write_text(table + "\n", encoding="utf-8")
    for part in failed:
        print(f"failed: scripts/bench {part}", file=sys.stderr)
    return int(bool(failed))


def _run(part: str, **named: str) -> list[dict] | None:
    """The rows of one part, whose output is shown as it comes; None if it failed."""
    options = PARTS[part] + (WITH_TORCH.get(part, []) if named["torch"] else [])
    votes = ",votes" if _has_lightgbm() else ""
    options = [option.format(votes=votes, **named) for option in options]
    print(f"\n== scripts/bench {part} {' '.join(options)}", flush=True)
    command = [sys.executable, str(HERE / f"bench_{part}.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return bench_table.rows(lines) if process.returncode == 0 else None


def _has_lightgbm() -> bool:
    return importlib.util.find_spec("lightgbm") is not None


def _draw(folder: Path) -> None:
    """Images for the part `input`: 512 px, as the competition's."""
    from hpa_jax.data.synthetic import dataset

    dataset.write(
        folder / "competition", train=48, test=1, external=0, image_size=512, min_per_class=0,
        truth_path=folder / "truth.csv",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
