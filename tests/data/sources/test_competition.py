"""The competition's folder: messy tables read right, every unusable row named."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data.problems import Problems
from hpa_jax.data.sources import competition as kaggle
from tests.data.layouts import CHANNELS, competition, picture, png16, save
from tests.data.sources import test_users_files as users


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


def trailing(path, plane):
    Image.fromarray(plane).save(path)
    path.write_bytes(path.read_bytes() + bytes(512))


def truncated(path, plane):
    Image.fromarray(plane).save(path)
    path.write_bytes(path.read_bytes()[:-30])


def turned(path, plane):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(plane).transpose(Image.ROTATE_90).save(path, exif=exif)


def empty_strip(path, plane):
    tifffile.imwrite(path, plane)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(0)


def stack(path, plane):
    tifffile.imwrite(path, np.stack([plane // 2, plane]), photometric="minisblack")


def series(path, plane):
    with tifffile.TiffWriter(path, ome=True) as file:
        for image in (plane, plane // 2):
            file.write(image, photometric="minisblack", metadata={"axes": "YX"})


def saved(kind):
    """Writer (path, plane uint8[H, W]) of a kind of file."""
    imwrite = tifffile.imwrite
    return {
        "grey": lambda path, plane: Image.fromarray(plane).save(path),
        "grey of 16 bits": lambda path, plane: png16(path, plane.astype(np.uint16) * 16),
        "colour of 16 bits": lambda path, plane: png16(
            path, np.dstack([plane.astype(np.uint16) * 16] * 3)
        ),
        "8 in 16 bits": lambda path, plane: png16(path, plane.astype(np.uint16)),
        "white is zero": lambda path, plane: imwrite(path, 255 - plane, photometric="miniswhite"),
        "floats": lambda path, plane: imwrite(path, plane.astype(np.float32) / 255),
        "fractions": lambda path, plane: imwrite(path, plane.astype(np.float32) * 1.37),
        "time series": lambda path, plane: imwrite(
            path, np.stack([plane, plane]), imagej=True, metadata={"axes": "TYX"}
        ),
        "transparent": lambda path, plane: Image.fromarray(np.dstack([plane] * 4)).save(path),
        "planes differ": lambda path, plane: Image.fromarray(
            np.dstack([plane, 255 - plane, plane // 2])
        ).save(path),
        "turned": turned,
        "bytes after the end": trailing,
        "truncated": truncated,
        "empty strip": empty_strip,
        "stack": stack,
    }[kind]


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("grey", ".PNG"),
        ("grey", ".ome.tif"),
        ("grey of 16 bits", ".png"),
        ("colour of 16 bits", ".png"),
        ("8 in 16 bits", ".png"),
        ("white is zero", ".tif"),
        ("floats", ".tif"),
        ("fractions", ".tif"),
        ("time series", ".tif"),
        ("transparent", ".png"),
        ("planes differ", ".png"),
        ("turned", ".png"),
        ("bytes after the end", ".png"),
        ("truncated", ".png"),
        ("empty strip", ".tif"),
        ("stack", ".tif"),
    ],
)
def test_any_file_is_read_or_refused_as_one_of_a_folder(tmp_path, kind, suffix):
    root = competition(tmp_path / "competition", train=1, test=1, side=32)
    (tmp_path / "folder").mkdir()
    for part, id in (("train", "t0"), ("test", "x0")):
        for channel in CHANNELS:
            old = root / part / f"{id}_{channel}.png"
            plane = np.asarray(Image.open(old))
            old.unlink()
            for place in (root / part, tmp_path / "folder"):
                saved(kind)(place / f"{id}_{channel}{suffix}", plane)

    def taken(source, root):
        try:
            images, _, told = users.taken(root, tmp_path / source, source=source)
        except InputError as error:
            what = str(error).split(": 2 times")[0]
            return what if "fractional" not in what else "fractional"
        notes = {line.split(": ")[1] for line in told if "read as" not in line}
        return {id: pixels.tolist() for id, pixels in images.items()}, notes

    assert taken("kaggle", root) == taken("folder", tmp_path / "folder")


def test_files_that_no_row_names_are_told(tmp_path):
    root = competition(tmp_path)
    save(root / "test", "more", picture(9))
    (root / "test" / "._x0_red.png").write_bytes(b"\0")
    problems = Problems()
    kaggle.scan(root, classes.NAMES, problems)
    ((what, names),) = problems.warnings.items()
    assert what.endswith("files that no row of sample_submission.csv names were left out")
    assert names == [f"more_{channel}.png" for channel in sorted(CHANNELS)]


def test_a_channel_in_two_formats_is_a_problem(tmp_path):
    root = competition(tmp_path)
    tifffile.imwrite(root / "train" / "t1_red.tif", picture(9)[..., 0])
    table, problems = scan(root)
    assert "t1" not in set(table["id"])
    assert "t1_red.png and t1_red.tif (id t1): the channel is there twice" in problems[0]


def test_links_out_of_the_root_need_an_option(tmp_path):
    outside = competition(tmp_path / "store")
    root = tmp_path / "root"
    root.mkdir()
    for name in ("train.csv", "sample_submission.csv"):
        (root / name).write_bytes((outside / name).read_bytes())
    for part in ("train", "test"):
        (root / part).symlink_to(outside / part)
    with pytest.raises(InputError, match=r"leaves data.root.*links=True"):
        scan(root)
    table, problems = scan(root, links=True)
    assert len(table) == 9 and not problems


def test_a_file_of_several_images_is_refused(tmp_path):
    root = competition(tmp_path / "in")
    (root / "train" / "t1_red.png").unlink()
    series(root / "train" / "t1_red.ome.tif", picture(1)[..., 0])
    with pytest.raises(InputError, match=r"t1_red.ome.tif.*contains 2 images"):
        users.taken(root, tmp_path, source="kaggle")
