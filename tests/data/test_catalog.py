"""The catalog: checked row by row, all findings at once, skipped only when asked."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.artifacts import read_table, write_table
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, hashes
from tests.data.layouts import competition, picture, save


def build(root, **options):
    return catalog.build([dict(source="kaggle", root=root)], classes.NAMES, **options)


def test_columns_survive_parquet(tmp_path):
    table = build(competition(tmp_path))
    assert tuple(table.columns) == catalog.COLUMNS
    write_table(tmp_path / "catalog.parquet", table)
    again = read_table(tmp_path / "catalog.parquet")
    assert again["id"].tolist() == table["id"].tolist()
    assert again["labels"][0].tolist() == [5, 25] and again["labels"].iloc[-1] is None
    assert (again["height"] == 16).all() and again["original_size"].isna().all()


def test_originals_say_their_own_size(tmp_path):
    root = competition(tmp_path, train=2, test=1)
    for part, id in (("train", "t0"), ("train", "t1"), ("test", "x0")):
        save(root / f"{part}_full_size", id, picture(9, 32), ".tif")
    (root / "train.csv").write_text("Id,Target,file_size\nt0,1,4195920\nt1,1,\n")
    source = dict(source="kaggle", root=root, full_size=True)
    table = catalog.build([source], classes.NAMES)
    assert table["original_size"].tolist() == [2048, 32, 32]
    assert build(root, check="header")["original_size"].isna().tolist() == [False, True, True]


def break_some(root):
    train = root / "train"
    (train / "t0_red.png").write_bytes((train / "t0_red.png").read_bytes()[:60])
    (train / "t1_blue.png").write_bytes(b"")
    Image.fromarray(picture(1, 32)[..., 0]).save(train / "t2_green.png")
    for channel in ("red", "green", "blue", "yellow"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(train / f"t3_{channel}.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(train / "t4_yellow.png")  # allowed
    wanted = {"t0": "truncated", "t1": "0 bytes", "t2": "32 x 32 pixels", "t3": "black"}
    return root, wanted


def test_error_names_every_bad_image(tmp_path):
    root, wanted = break_some(competition(tmp_path / "data"))
    with pytest.raises(InputError) as caught:
        build(root, bad_images=tmp_path / "bad_images.csv")
    message = str(caught.value)
    assert message.startswith("4 problems") and "\n" not in message and "skip" in message
    for id, what in wanted.items():
        assert f"(id {id})" in message and what in message
    bad = pd.read_csv(tmp_path / "bad_images.csv")
    assert sorted(bad["id"]) == sorted(wanted)


def test_problems_that_differ_in_numbers_are_one_line(tmp_path):
    root = competition(tmp_path, train=9)
    for n in range(4):
        side = 20 + 4 * n
        Image.fromarray(picture(1, side)[..., 0]).save(root / "train" / f"t{n}_green.png")
        for channel in ("red", "green", "blue", "yellow"):
            (root / "train" / f"t{n + 4}_{channel}.png").unlink()
    with pytest.raises(InputError) as caught:
        build(root)
    message = str(caught.value)
    assert message.startswith("8 problems") and message.count(" times") == 2
    assert "one size: 4 times, with other numbers too (" in message
    assert "ID_red.png): 4 times (" in message and "and 1 more)" in message


def test_skip_leaves_them_out_and_lists_them(tmp_path):
    root, wanted = break_some(competition(tmp_path / "data"))
    table = build(root, on_bad_image="skip", bad_images=tmp_path / "bad_images.csv")
    assert table["id"].tolist() == ["t5", "t4", "x2", "x1", "x0"]
    assert sorted(pd.read_csv(tmp_path / "bad_images.csv")["id"]) == sorted(wanted)
    competition(tmp_path / "data")
    build(root, bad_images=tmp_path / "bad_images.csv")
    assert not (tmp_path / "bad_images.csv").exists()


def test_processes_find_what_threads_find(tmp_path, monkeypatch):
    root, wanted = break_some(competition(tmp_path / "data"))
    save(root / "test", "x0", picture(3, 16).astype(np.uint16) * 16)  # in 12 bits: converted
    options = dict(on_bad_image="skip", workers=2, bad_images=tmp_path / "bad.csv")
    threads = build(root, imported=tmp_path / "imported", **options)
    monkeypatch.setattr(catalog.processes, "WORTHWHILE", 1)
    processes = build(root, imported=tmp_path / "imported", **options)
    pd.testing.assert_frame_equal(processes, threads)
    assert sorted(pd.read_csv(tmp_path / "bad.csv")["id"]) == sorted(wanted)


def test_a_folder_needs_no_processes(tmp_path, monkeypatch):
    """Its images were looked at when read; a script may label one without a guard of __main__."""
    monkeypatch.setattr(catalog.processes, "WORTHWHILE", 1)
    monkeypatch.setattr(catalog.processes, "pool", None)
    for number in range(3):
        save(tmp_path / "own", f"a{number}", picture(number, 16))
    source = dict(source="folder", root=tmp_path / "own")
    table = catalog.build([source], classes.NAMES, imported=tmp_path / "imported", workers=2)
    assert len(table) == 3
    with pytest.raises(TypeError):
        build(competition(tmp_path / "data"), workers=2)


def test_header_check_sees_sizes_and_ends(tmp_path):
    root, wanted = break_some(competition(tmp_path / "data"))
    table = build(root, on_bad_image="skip", check="header")
    assert set(wanted) - set(table["id"]) == {"t0", "t1", "t2"}


def test_one_id_in_two_parts_is_refused(tmp_path):
    root = competition(tmp_path)
    text = (root / "sample_submission.csv").read_text()
    (root / "sample_submission.csv").write_text(text + "t0,0\n")
    for path in (root / "train").glob("t0_*"):
        (root / "test" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"\(id t0\): the id is in two places \(train and test\)"):
        build(root)


def test_nothing_left_is_an_error_even_when_skipping(tmp_path):
    root = competition(tmp_path, train=1, test=1)
    (root / "train" / "t0_red.png").write_bytes(b"")
    (root / "test" / "x0_red.png").write_bytes(b"")
    with pytest.raises(InputError, match="nothing is left"):
        build(root, on_bad_image="skip")


def test_unknown_source(tmp_path):
    with pytest.raises(InputError, match="did you mean 'kaggle'"):
        catalog.build([dict(source="kagle", root=tmp_path)], classes.NAMES)


def test_fingerprints_are_those_of_the_files(tmp_path):
    """Of a competition's files and of a folder's converted copies; none where not asked."""
    deep = tmp_path / "deep"
    for number in range(3):
        planes = picture(number + 20, 32).astype(np.uint16) * 16
        save(deep, f"d{number}", planes[..., :3], ".tif")
    sources = [
        dict(source="kaggle", root=competition(tmp_path / "kaggle")),
        dict(source="folder", root=deep, missing=dict(yellow="zeros"), bits=12),
    ]
    table = catalog.build(sources, classes.NAMES, imported=tmp_path / "imported", largest=16)
    assert (table["fingerprint"] != "").all()
    channels = hashes.CHANNELS
    expected, bad = hashes.of_files(table[list(channels)].to_numpy(), channels, oriented=True)
    found = hashes.of_texts(table["fingerprint"], len(channels), oriented=True)
    assert not bad
    for name in ("hashes", "informative", "digests", "oriented"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    header = build(tmp_path / "kaggle", check="header")
    assert (header["fingerprint"] == "").all()  # nothing was decoded
    without = catalog.build(sources, classes.NAMES, imported=tmp_path / "other", hashed=False)
    assert (without["fingerprint"] == "").all()
