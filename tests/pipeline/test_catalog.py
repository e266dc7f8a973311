"""The steps from images to records: what a changed image makes them do again."""

import os
import threading

import numpy as np
import pytest

from hpa_jax.config import defaults as configs
from hpa_jax.core import artifacts
from hpa_jax.data.batches import Records
from hpa_jax.pipeline import runner
from tests.data.layouts import competition, picture, save

STEPS = ["catalog", "duplicates", "records"]


@pytest.fixture(params=["decode", "header"])
def work(request, tmp_path, capsys):
    """Runs the steps over a folder of nine images; returns what they said."""
    root = competition(tmp_path / "data")

    def run() -> str:
        config = configs.default().unlock()
        config.data.update(source="kaggle", root=str(root), check=request.param)
        config.records.update(image_size=16, shard_images=2)
        runner.run(config.lock(), {"workdir": str(tmp_path / "run")}, STEPS)
        return capsys.readouterr().out

    run.root, run.workdir, run.check = root, tmp_path / "run", request.param
    return run


def test_a_image_replaced_in_place_is_seen_by_all_that_read_it(work):
    work()
    folder = work.workdir / "records" / "16-zstd"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
    save(work.root / "train", "t0", picture(3))  # now a copy of t3, which has equal pixels
    work()
    records = Records(folder)
    assert (records.image(records.rows(["t0"])[0]) == picture(3)).all()
    pairs = artifacts.read_table(work.workdir / "duplicates.parquet")
    assert pairs[["id_a", "id_b"]].to_numpy().tolist() in ([["t0", "t3"]], [["t3", "t0"]])
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.array_record")}
    changed = [name for name in before if after[name] != before[name]]
    assert len(changed) == 1 and len(before) == 5  # the shard of t0 alone is packed anew


def test_nothing_is_done_again_for_equal_bytes_under_a_new_time(work):
    work()
    for path in work.root.rglob("*"):
        os.utime(path, ns=(1, 1))
    assert " reads " not in work()


def test_a_table_without_any_model_can_be_packed(work):
    assert "[records] 9 images of 16 px" in work()
    assert not np.any([name.startswith("models") for name in os.listdir(work.workdir)])


@pytest.fixture
def own(tmp_path, capsys):
    """Runs the step catalog over a folder of images with links; returns what it said."""

    def run(**options) -> str:
        config = configs.default().unlock()
        config.data.update(source="folder", root=str(tmp_path / "in"))
        config.data.folder.update(links=True, **options)
        runner.run(config.lock(), {"workdir": str(tmp_path / "run")}, ["catalog"])
        return capsys.readouterr().out

    (tmp_path / "in").mkdir()
    return run


def test_a_changed_file_behind_a_linked_folder_is_seen(own, tmp_path):
    save(tmp_path / "store" / "deep", "a", picture(1))
    save(tmp_path / "other", "b", picture(2))
    (tmp_path / "in" / "day1").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "day2").symlink_to(tmp_path / "other")
    assert " reads " in own() and " reads " not in own()
    for folder, id in (("store/deep", "a"), ("other", "b")):
        save(tmp_path / folder, id, picture(7))
        assert " reads " in own() and " reads " not in own()


def test_a_changed_file_that_a_table_names_elsewhere_is_seen(own, tmp_path):
    save(tmp_path / "store", "a", picture(1))
    paths = ",".join(str(tmp_path / "store" / f"a_{c}.png") for c in ("red", "green", "blue"))
    (tmp_path / "in" / "images.csv").write_text(f"id,red,green,blue,yellow\nx,{paths},\n")
    options = dict(table="images.csv", missing=dict(yellow="zeros"))
    assert " reads " in own(**options) and " reads " not in own(**options)
    save(tmp_path / "store", "a", picture(2))
    assert " reads " in own(**options)


def test_import_takes_as_many_threads_as_train_workers_says(own, tmp_path, monkeypatch):
    from hpa_jax.data import reader

    for id in "abcdef":
        save(tmp_path / "in", id, picture(1).astype(np.uint16) * 16, ".tif")
    seen, planes = set(), reader.planes

    def watched(*arguments):
        seen.add(threading.get_ident())
        return planes(*arguments)

    monkeypatch.setattr(reader, "planes", watched)
    config = configs.default().unlock()
    config.data.update(source="folder", root=str(tmp_path / "in"))
    config.train.workers = 1
    runner.run(config.lock(), {"workdir": str(tmp_path / "run")}, ["catalog"])
    assert len(seen) == 1
