"""The competition's folder: messy tables read right, every unusable row named."""

import numpy as np
import pytest

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data.problems import Problems
from hpa_jax.data.sources import competition as kaggle
from tests.data.layouts import CHANNELS, competition, picture, save


def scan(root, names=classes.NAMES, **options):
    problems = Problems()
    return kaggle.scan(root, names, problems, **options), [str(p) for p in problems.found]


def test_rows_keep_the_order_of_the_tables(tmp_path):
    table, problems = scan(competition(tmp_path))
    assert problems == []
    assert table["id"].tolist() == ["t5", "t4", "t3", "t2", "t1", "t0", "x2", "x1", "x0"]
    assert table["source"].tolist() == ["train"] * 6 + ["test"] * 3
    assert table["labels"][0] == [5, 25] and table["labels"][6] is None
    assert table["yellow"][0] == str(tmp_path / "train" / "t5_yellow.png")


def test_bom_crlf_spaces_and_an_index_column(tmp_path):
    root = competition(tmp_path)
    text = "\ufeff,Id , Target\r\n0, t0 , 3  0 \r\n1,t1, 27\r\n"
    (root / "train.csv").write_bytes(text.encode())
    table, problems = scan(root)
    assert problems == []
    assert table["id"].tolist()[:2] == ["t0", "t1"]
    assert table["labels"].tolist()[:2] == [[0, 3], [27]]


def test_all_bad_rows_are_named_at_once(tmp_path):
    root = competition(tmp_path)
    (root / "train" / "t2_blue.png").unlink()
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    outside.write_bytes((root / "train" / "t3_red.png").read_bytes())
    (root / "train" / "t3_red.png").unlink()
    (root / "train" / "t3_red.png").symlink_to(outside)
    rows = ["t0,28", "t1,", "t2,1", "t3,1", "../test/x0,1", "t4,1", "t4,2", "absent,0", "t5,x"]
    (root / "train.csv").write_text("Id,Target\n" + "\n".join(rows) + "\n")
    table, problems = scan(root)
    assert table["id"].tolist() == ["t4", "x2", "x1", "x0"]
    wanted = [
        ("row 2", "t0", "'28' is no class name or class number 0..27"),
        ("row 3", "t1", "no label"),
        ("row 4", "t2", "no blue (looked for"),
        ("t3_red.png", "t3", "leaves data.root"),
        ("row 6", "../test/x0", "plain name"),
        ("row 8", "t4", "already in row 7"),
        ("row 9", "absent", "no image of any channel"),
        ("row 10", "t5", "'x' is no class name"),
    ]
    for place, id, what in wanted:
        found = [p for p in problems if f"(id {id})" in p]
        assert any(place in p and what in p for p in found), (id, problems)
    assert len(problems) == len(wanted)


def test_fewer_classes_bound_the_labels(tmp_path):
    _, problems = scan(competition(tmp_path), names=("a", "b", "c"))
    assert len(problems) == 6 and "0..2" in problems[0]


@pytest.mark.parametrize("name", ["train.csv", "sample_submission.csv"])
def test_a_missing_or_wrong_table_is_one_error(tmp_path, name):
    root = competition(tmp_path)
    (root / name).write_text("Picture,Class\na,1\n")
    with pytest.raises(InputError, match=f"{name}: needs the columns Id"):
        scan(root)
    (root / name).unlink()
    with pytest.raises(InputError, match=f"{name}: not there"):
        scan(root)
    with pytest.raises(InputError, match="no such folder"):
        scan(root / "nowhere")


def test_external_part_and_specimens(tmp_path):
    root = competition(tmp_path)
    save(root / "external", "10580_1610_C1_1", picture(50))
    (root / "external.csv").write_text("Id,Target\n10580_1610_C1_1,13 25 0\n")
    table, problems = scan(root)
    assert problems == []
    row = table[table["source"] == "external"].iloc[0]
    assert (row["antibody"], row["plate"], row["sample"]) == ("10580", "1610", "1610_C1")
    assert row["labels"] == [0, 13, 25]


def test_full_size_tiffs_and_original_sizes(tmp_path):
    root = competition(tmp_path, train=2, test=1)
    for part, id in (("train", "t0"), ("train", "t1"), ("test", "x0")):
        save(root / f"{part}_full_size", id, picture(9, 32), ".tif")
    (root / "train.csv").write_text("Id,Target,file_size\nt0,1,4195920\nt1,1,9438800\n")
    table, problems = scan(root, full_size=True)
    assert problems == []
    assert table["red"][0].endswith("train_full_size/t0_red.tif")
    assert table["original_size"].tolist() == [2048, 3072, None]
    assert kaggle.original_side(5) is None


def test_links_inside_the_root_are_followed(tmp_path):
    root = competition(tmp_path)
    (root / "store").mkdir()
    for channel in CHANNELS:
        path = root / "train" / f"t0_{channel}.png"
        path.rename(root / "store" / path.name)
        path.symlink_to(root / "store" / path.name)
    table, problems = scan(root)
    assert problems == [] and np.sum(table["id"] == "t0") == 1


def test_only_the_parts_and_images_that_are_wanted_are_looked_for(tmp_path):
    root = competition(tmp_path)
    (root / "train" / "t3_red.png").unlink()
    (root / "train.csv").write_text("Id,Target\nt3,0 25\nt4,25\nt5,7\n")
    table, problems = scan(root, not_only=(0, 25))
    assert problems == [] and table["id"].tolist() == ["t5", "x2", "x1", "x0"]
    (root / "train.csv").unlink()
    table, problems = scan(root, parts=("test",))
    assert problems == [] and table["id"].tolist() == ["x2", "x1", "x0"]
    with pytest.raises(InputError, match="part 'tests': one of train, external, test"):
        scan(root, parts=("tests",))
    with pytest.raises(InputError, match=r"external.csv: not there"):
        scan(root, parts=("external",))
