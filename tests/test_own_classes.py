"""Another label set than the 28, as docs/own_classes.md tells it: the recipe there is what runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hpa_jax.core import classes
from hpa_jax.data.synthetic import dataset

ROOT = Path(__file__).parent.parent
NAMES = ("nucleus", "nucleoli", "cytosol", "membranes", "secretory")
# Of the drawn compartments; an image with none of them is left out.
OURS = {
    "nucleus": (0, 1, 4, 5),
    "nucleoli": (2, 3),
    "cytosol": (25, 27),
    "membranes": (21, 22),
    "secretory": (6, 7, 23),
}
SMALL = [f"--config.models.{name}.{key}" for name in ("tiny", "tiny_wide")
         for key in ("width=0.25", "batch_size=16", "phases[0].epochs=2")]  # fmt: skip


def sort_into_folders(drawn: Path, root: Path) -> Path:
    """mine/ with labels.csv and new/ without, of a drawn competition; returns new's truth."""
    tables = {"mine": drawn / "train.csv", "new": drawn.parent / "truth.csv"}
    for (folder, table), part in zip(tables.items(), ("train", "test")):
        (root / folder).mkdir()
        rows = []
        for id, target in pd.read_csv(table, dtype=str).itertuples(index=False):
            found = set(classes.parse(target))
            names = [name for name in NAMES if found & set(OURS[name])]
            if names:
                rows.append((id, names))
                for file in (drawn / part).glob(f"{id}_*.png"):
                    shutil.copy(file, root / folder)
        text = [(id, ";".join(names)) for id, names in rows]
        numbers = [(id, " ".join(str(NAMES.index(name)) for name in names)) for id, names in rows]
        if folder == "mine":
            pd.DataFrame(text, columns=["id", "labels"]).to_csv(
                root / "mine" / "labels.csv", index=False
            )
        else:
            pd.DataFrame(numbers, columns=["Id", "Target"]).to_csv(
                root / "new_truth.csv", index=False
            )
    return root / "new_truth.csv"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The guide's recipe, run in a folder of its own beside the project's configs."""
    root = tmp_path_factory.mktemp("own")
    sizes = dict(train=160, test=50, external=4, image_size=64, min_per_class=4)
    dataset.write(root / "drawn", truth_path=root / "truth.csv", **sizes)
    truth = sort_into_folders(root / "drawn", root)
    text = (ROOT / "docs" / "own_classes.md").read_text()
    recipe = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    (root / "mine.py").write_text(recipe)
    (root / "configs").symlink_to(ROOT / "configs")
    options = ["--config=mine.py", "--workdir=work", f"--config.data.truth={truth}", *SMALL]
    call(root, "run", *options)
    return root, options


def call(root: Path, verb: str, *options: str) -> str:
    command = [sys.executable, "-m", "hpa_jax", verb, *options]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_five_classes_end_in_a_submission_of_the_new_folder(done):
    root, _ = done
    submission = pd.read_csv(root / "work" / "submission.csv", dtype=str)
    ids = {path.name.rsplit("_", 1)[0] for path in (root / "new").glob("*.png")}
    assert set(submission["Id"]) == ids and len(submission) == len(ids)
    assert submission["Predicted"].str.fullmatch("[0-4]( [0-4])*").all()
    scores = json.loads((root / "work" / "evaluation.json").read_text())
    assert len(scores["submission"]["class_f1"]) == 5
    page = (root / "work" / "report" / "index.html").read_text()
    assert "secretory" in page and classes.NAMES[11] not in page


@pytest.mark.slow
def test_the_bundle_labels_a_folder_by_the_own_names(done):
    root, options = done
    call(root, "export", *options)
    call(root, "predict", f"--model={root / 'work' / 'bundle'}", "--workdir=more",
         f"--config.data.root={root / 'new'}")  # fmt: skip
    told = pd.read_csv(root / "more" / "predictions.csv")
    assert set(NAMES) <= set(told.columns)
