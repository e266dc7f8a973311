"""Exactly the right steps run: the real steps from images to predictions, without the arithmetic of
training and prediction."""

import contextlib
import io
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.config.options import option
from hpa_jax.core import artifacts
from hpa_jax.inference.predict import Outputs
from hpa_jax.pipeline import checks, predict, runner, tables
from hpa_jax.training import loop
from tests.data.layouts import competition, picture, save

STEPS = ["catalog", "duplicates", "split", "records", "train", "predict", "features"]
ALL = {
    *("catalog", "duplicates", "leak-table", "split", "records"),
    *("train-one", "predict-one", "train-two", "predict-two", "features"),
}


class Runner:
    """Runs the steps over 20 images; returns the tasks that were done."""

    def __init__(self, folder: Path) -> None:
        self.root, self.workdir, self.flags, self.said = folder / "data", folder / "w", {}, ""

    def __call__(self, **changes) -> set[str]:
        config = configs.default().unlock()
        config.data.update(source="kaggle", root=str(self.root))
        config.records.update(image_size=16, shard_images=4, encoding="raw")
        config.split.fraction = 0.3
        one = dict(backbone="se_resnext_tiny", image_size=16, batch_size=4)
        config.models = {name: configs.model(**one) for name in ("one", "two")}
        for path, value in changes.items():
            node = config
            *sections, leaf = path.split("__")
            for part in sections:
                node = node[part]
            node[leaf] = value
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            runner.run(config.lock(), {"workdir": str(self.workdir), **self.flags}, STEPS)
        self.said = out.getvalue()
        return {line[1:].split("]")[0] for line in self.said.splitlines() if " reads " in line}

    def shards(self) -> dict[str, int]:
        shards = self.workdir.glob("records/*/*.array_record")
        return {path.name: path.stat().st_mtime_ns for path in shards}


@pytest.fixture
def no_arithmetic(monkeypatch):
    """Training writes a file that names it, prediction says .5 of everything."""

    def train(model, *, name, directory, **rest):
        folder = Path(directory, "checkpoints", "1")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text(f"{uuid.uuid4()}, of {name}")
        (Path(directory) / "metrics.jsonl").write_text("{}\n")

    def seen(context, model, folder, ids, part, title):
        probs = np.full((len(ids), context.num_classes), 0.5, np.float32)
        return Outputs(probs, np.zeros((len(ids), 2), np.float32), probs)

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(predict, "predict_rows", seen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where the first finished workdir lies, of which each test gets a copy."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def run(whole, no_arithmetic, tmp_path):
    if not (whole / "w").is_dir():
        competition(whole / "data", 20, 4)
        assert Runner(whole)() == ALL
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    yield Runner(tmp_path)
    trained = {path.read_text() for path in whole.rglob("weights")}
    assert trained <= {path.read_text() for path in tmp_path.rglob("weights")}  # whatever happened


def test_a_workdir_that_was_copied_or_moved_is_done(run):
    assert run() == set()  # a copy: the fixture made it
    run.workdir = run.workdir.rename(run.workdir.with_name("moved"))
    assert run() == set()


def test_a_data_root_that_was_moved_or_copied_is_known(run):
    run.root = run.root.rename(run.root.with_name("moved"))
    assert run() == set()
    copy = run.root.with_name("copied")
    shutil.copytree(run.root, copy)
    run.root = copy
    assert run() == set()
    catalog = artifacts.read_table(run.workdir / "catalog.parquet")
    assert set(catalog["root"]) == {0} and catalog["red"][0] == "train/t19_red.png"


def test_touched_files_are_the_same(run):
    for path in [*run.root.rglob("*"), *run.workdir.rglob("*")]:
        os.utime(path, ns=(1, 1))
    assert run() == set()


def test_a_corrected_label_packs_no_image_anew(run):
    before = run.shards()
    table = run.root / "train.csv"
    table.write_text(table.read_text().replace("t3,3 25", "t3,7"))
    split = artifacts.read_table(run.workdir / "splits.parquet").set_index("id")["split"]
    assert split["t3"] == "train"
    again = run() - {"features"}  # the split is by labels, so that other images may validate
    networks_again = {f"{verb}-{name}" for verb in ("train", "predict") for name in ("one", "two")}
    assert again == {"catalog", "leak-table", "split"} | networks_again
    assert run.shards() == before
    rows = tables.split_rows(runner.Context(configs.default(), run.workdir), "train")
    assert np.flatnonzero(rows.labels[list(rows.ids).index("t3")]).tolist() == [7]
    table.write_text(table.read_text().replace("t3,7", "t3,3 25"))
    again = run() - {"features"}
    assert again == {"catalog", "leak-table", "split"}  # and the networks of before come back
    assert run.said.count("restored from replaced/train-") == 2


def test_another_test_image_trains_nothing(run):
    save(run.root / "test", "x1", picture(77))
    assert run() == {
        *("catalog", "duplicates", "leak-table", "records", "predict-one", "predict-two"),
        "features",
    } | ({"split"} if "[split] reads" in run.said else set())
    assert "[train-one] done before, unchanged" in run.said


def test_another_training_image_trains_again(run):
    split = artifacts.read_table(run.workdir / "splits.parquet").set_index("id")["split"]
    assert split["t3"] == "train"
    save(run.root / "train", "t3", picture(77))
    again = run()
    assert {"catalog", "duplicates", "records", "train-one", "train-two"} <= again
    assert "features" not in again  # of validation and test images


def test_a_new_test_image_trains_nothing(run):
    before = run.shards()
    save(run.root / "test", "x9", picture(99))
    table = run.root / "sample_submission.csv"
    table.write_text(table.read_text() + "x9,0\n")
    assert not {"train-one", "train-two"} & run()
    assert before.items() <= run.shards().items()


def test_another_rate_trains_one_network(run):
    phase = configs.phase(lr=0.1)
    assert run(models__one__phases=(phase,)) == {"train-one", "predict-one"}
    assert "models.one.phases[0].lr: 0.001 -> 0.1" in run.said
    assert run() == set() and "[train-one] restored from" in run.said
    assert "[predict-one] restored from" in run.said


def test_what_changes_no_result_trains_nothing(run):
    changes = dict(workers=1, keep=1, tensorboard=False, checkpoint_minutes=1.0)
    assert run(**{f"train__{name}": value for name, value in changes.items()}) == set()
    assert run(predict__batch_size=3) == set()
    assert run(models__one__views="identity") == {"predict-one"}


def test_other_shards_train_nothing(run):
    assert run(records__shard_images=3) == {"records"}


def test_an_option_that_the_program_gets_trains_nothing(run, monkeypatch):
    """As after an upgrade of hpa_jax: a new option of models, phases, training and the split."""
    with_differences, default = configs._with, configs.default

    def of_tomorrow():
        config = default().unlock()
        for section in ("train", "split", "records"):
            config[section]["brand_new"] = 1
        return config.lock()

    monkeypatch.setattr(
        configs,
        "_with",
        lambda known, own, what: with_differences({**known, "new": option(1, "new")}, own, what),
    )
    monkeypatch.setattr(configs, "default", of_tomorrow)
    assert configs.model().new == configs.phase().new == configs.default().split.brand_new == 1
    assert run() == set()
    assert run(models__one__new=2) == {"train-one", "predict-one"}


def test_force_names_steps(run):
    run.flags = {"force": "train-one"}
    assert run() == {"train-one", "predict-one"}  # whose network is another one
    assert run.said.count("replaced/train-one-1") == 1
    run.flags = {"force": "features,split"}
    assert run() == {"features", "split"}
    run.flags = {"force": "trian"}
    with pytest.raises(runner.InputError, match="did you mean 'train'"):
        run()
    run.flags = {"force": "all"}
    assert run() == ALL


def test_a_weight_file_counts_by_its_bytes(run, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"1")

    def again(path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checks, "check_weights", lambda context: None)
            return run(models__one__init_from=str(path))

    assert again(file) == {"train-one", "predict-one"}
    moved = file.rename(tmp_path / "moved.safetensors")
    assert again(moved) == set()
    moved.write_bytes(b"2")
    assert again(moved) == {"train-one", "predict-one"}
