"""Synthetic data: layout, label distribution, duplicates, truth apart, determinism, errors."""

import csv
import filecmp
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data.synthetic import dataset

SMALL = dict(train=70, test=40, external=24, image_size=32, min_per_class=2, seed=5)


def rows(path):
    with open(path, newline="") as handle:
        return {row["Id"]: row for row in csv.DictReader(handle)}


def picture(folder, name):
    return np.stack(
        [np.asarray(Image.open(folder / f"{name}_{c}.png")) for c in dataset.CHANNELS], -1
    )


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "data"
    truth = root.parent / "truth.csv"
    dataset.write(root, truth_path=truth, duplicates=0.2, leak=0.2, **SMALL)
    return root, truth


def test_layout_is_the_competitions(drawn):
    root, truth = drawn
    train, sample = rows(root / "train.csv"), rows(root / "sample_submission.csv")
    external = rows(root / "external.csv")
    assert (len(train), len(sample), len(external)) == (70, 40, 24)
    assert {row["Predicted"] for row in sample.values()} == {"0"}
    assert list(rows(truth)) == list(sample)
    for folder, table in (("train", train), ("test", sample), ("external", external)):
        files = {path.name for path in (root / folder).glob("*.png")}
        assert files == {f"{name}_{c}.png" for name in table for c in dataset.CHANNELS}
        for name in list(table)[:4]:
            for channel in dataset.CHANNELS:
                with Image.open(root / folder / f"{name}_{channel}.png") as image:
                    assert (image.mode, image.size) == ("L", (32, 32))


def test_no_file_in_the_folder_tells_the_truth(drawn):
    root, truth = drawn
    names = set(rows(root / "sample_submission.csv"))
    for table in root.rglob("*.csv"):
        if table.name != "sample_submission.csv":
            assert not names & set(rows(table))
    assert not (names & set((root / dataset.MARKER).read_text().split()))
    assert root not in truth.parents


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(drawn, tmp_path):
    root, truth = drawn
    again = tmp_path / "data"
    dataset.write(
        again, truth_path=tmp_path / "t.csv", duplicates=0.2, leak=0.2, workers=2, **SMALL
    )
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all(filecmp.cmp(root / name, again / name, shallow=False) for name in files)
    assert filecmp.cmp(truth, tmp_path / "t.csv", shallow=False)


def plan(**differences):
    values = dict(
        train=400, test=120, external=80, min_per_class=4, label_noise=0.0, duplicates=0.1,
        leak=0.1, seed=1,
    )  # fmt: skip
    return dataset.plan(**{**values, **differences})


def test_another_seed_gives_other_ids_and_labels():
    one, other = plan(), plan(seed=2)
    assert not {p.id for p in one if p.part != "external"} & {p.id for p in other}
    assert [p.shown for p in one] != [p.shown for p in other]


def test_every_class_reaches_the_floor_and_counts_follow_the_real_ones():
    pictures = plan(train=3000, min_per_class=12, duplicates=0.0, leak=0.0)
    counts = {
        part: np.bincount([c for p in pictures if p.part == part for c in p.target], minlength=28)
        for part in ("train", "test")
    }
    assert counts["train"].min() >= 12
    assert counts["test"].min() >= 2
    # Shares in the real table: Nucleoplasm .414, Cytosol .265, Plasma membrane .122.
    share = counts["train"] / 3000
    assert share[[0, 25, 21]] == pytest.approx([0.414, 0.265, 0.122], abs=0.04)


def test_label_sets_are_the_published_table():
    sets, shares = dataset.label_sets()
    assert len(sets) == len(set(sets)) == 577
    assert shares.sum() == pytest.approx(1)
    matrix = np.array([classes.encode_numbers(labels) for labels in sets])
    counts = (shares[:, None] * matrix).sum(0) * 31072
    assert counts[[0, 10, 15, 27]] == pytest.approx([12885, 28, 21, 11])


def test_a_floor_without_room_is_lowered_not_endless():
    drawn = dataset.draw_label_sets(np.random.default_rng(0), 20, 50)
    assert len(drawn) == 20


def test_duplicates_show_the_same_cells_and_carry_the_same_labels(drawn):
    root, truth = drawn
    pictures = dataset.plan(
        duplicates=0.2, leak=0.2, label_noise=0.0,
        **{key: value for key, value in SMALL.items() if key != "image_size"},
    )  # fmt: skip
    original = {p.seed: p for p in pictures if not p.copy}
    duplicates = [(p, original[p.seed]) for p in pictures if p.copy]
    parts = {(copy.part, first.part) for copy, first in duplicates}
    assert {("train", "train"), ("external", "test"), ("train", "test")} <= parts
    labels = rows(root / "train.csv") | rows(truth) | rows(root / "external.csv")
    for copy, first in duplicates:
        assert labels[copy.id]["Target"] == labels[first.id]["Target"]
        a = picture(root / copy.part, copy.id).astype(float)
        b = picture(root / first.part, first.id).astype(float)
        for k in range(4):
            if a[..., k].std() > 2 and b[..., k].std() > 2:
                assert np.corrcoef(a[..., k].ravel(), b[..., k].ravel())[0, 1] > 0.9
        if copy.copy == "exact" and copy.part == first.part:
            assert np.array_equal(a, b)


def test_label_noise_changes_the_table_and_not_the_image():
    clean, noisy = plan(), plan(label_noise=0.1)
    changed = [(a, b) for a, b in zip(clean, noisy) if a.target != b.target]
    assert len(changed) == 40
    assert all(b.part == "train" and a.shown == b.shown for a, b in changed)
    assert all(p.target == p.shown for p in noisy if p.part != "train")


def test_external_ids_read_antibody_plate_well_sample():
    external = [p for p in plan(leak=0.0) if p.part == "external"]
    antibodies = {}
    for p in external:
        antibody, plate, well, sample = p.id.split("_")
        assert antibody.isdigit() and plate.isdigit() and sample in "12" and well[0] in "ABCDEFGH"
        antibodies.setdefault(antibody, set()).add(p.target)
    assert len({p.id for p in external}) == len(external)
    assert len(antibodies) == 20 and all(len(sets) == 1 for sets in antibodies.values())


def test_an_external_image_is_brighter_but_for_no_reason_of_its_labels(drawn):
    root, _ = drawn
    means = {
        part: np.mean([np.asarray(Image.open(f)).mean() for f in (root / part).glob("*_red.png")])
        for part in ("train", "external")
    }
    assert means["external"] > 1.2 * means["train"]


def test_a_killed_run_leaves_no_data_set(tmp_path, monkeypatch):
    def die(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, "_tables", die)
    with pytest.raises(KeyboardInterrupt):
        dataset.write(tmp_path / "data", truth_path=tmp_path / "t.csv", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "differences, names",
    [
        (dict(train=-1), "synthetic.train"),
        (dict(leak=1.5), "synthetic.leak"),
        (dict(image_size=4), "image_size"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(tmp_path, differences, names):
    with pytest.raises(InputError, match=names):
        dataset.write(tmp_path / "data", truth_path=tmp_path / "t.csv", **{**SMALL, **differences})


def test_a_folder_of_somebody_elses_is_not_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not generated here"):
        dataset.write(tmp_path / "data", truth_path=tmp_path / "t.csv", **SMALL)
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


def test_truth_inside_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="outside"):
        dataset.write(tmp_path / "data", truth_path=tmp_path / "data" / "truth.csv", **SMALL)


def test_the_package_carries_its_table():
    assert Path(dataset.__file__).with_name("label_sets.csv").is_file()
