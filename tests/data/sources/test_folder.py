"""Your own images: patterns, 16 bits, OME-TIFF, missing yellow, pixel sizes, labels by name."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.contents import sha256
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, reader
from hpa_jax.data.problems import Problems
from hpa_jax.data.sources import folder, imported
from tests.data.layouts import picture, png16, save


def scan(root, **options):
    problems = Problems()
    into = root.parent / "imported"
    table = folder.scan(root, classes.NAMES, problems, into=into, **options)
    return table, [str(problem) for problem in problems.found]


def channels_of(row):
    return reader.read(row[list(reader.CHANNELS)].to_dict())


def test_eight_bit_files_are_used_where_they_are(tmp_path):
    root = tmp_path / "own"
    save(root / "plate 1", "a.b", picture(1))
    table, problems = scan(root, pattern="plate 1/{id}_{channel}")
    assert problems == [] and table["id"].tolist() == ["a.b"]
    assert table["source"][0] == "own" and table["labels"][0] is None
    assert table["red"][0] == str(root / "plate 1" / "a.b_red.png")
    assert np.array_equal(channels_of(table.iloc[0]), picture(1))


def test_sixteen_bits_are_scaled_between_percentiles_of_their_depth(tmp_path):
    root = tmp_path / "own"
    ramp = np.linspace(1000, 3000, 10000).reshape(100, 100).astype(np.uint16)
    save(root, "a", np.stack([ramp, ramp[::-1], ramp, np.full_like(ramp, 700)], -1), ".tif")
    table, problems = scan(root, percentiles=(5, 95))
    assert problems == []
    image = channels_of(table.iloc[0])
    expected = np.clip((ramp - 1100.0) / 1800.0 * 255, 0, 255)
    assert np.abs(image[..., 0] - expected).max() <= 1
    assert np.array_equal(image[..., 1], image[::-1, :, 0])
    assert not image[..., 3].any()  # a flat plane has nothing to scale
    assert table["black"][0] == pytest.approx([1100, 1100, 1100, 700], abs=1)
    assert table["white"][0][:3] == pytest.approx([2900] * 3, abs=1)
    # By the values 12 bits: white of the flat one lies 15 % of 4,095 above its black.
    assert table["white"][0][3] == pytest.approx(700 + 0.15 * 4095)


def ome(path, planes, names, size=None):
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    if size:
        metadata |= {"PhysicalSizeX": size, "PhysicalSizeXUnit": "µm"}
    path.parent.mkdir(exist_ok=True)
    tifffile.imwrite(path, planes, metadata=metadata, ome=True, photometric="minisblack")


def test_ome_names_say_which_plane_is_which(tmp_path):
    planes = np.moveaxis(picture(2), -1, 0)
    names = ["DAPI", "Tubulin", "ER", "GFP"]
    ome(tmp_path / "own" / "x.ome.tif", planes, names)
    table, problems = scan(tmp_path / "own", pattern="{id}")
    assert problems == [] and table["id"][0] == "x"
    blue, red, yellow, green = planes
    assert np.array_equal(channels_of(table.iloc[0]), np.stack([red, green, blue, yellow], -1))


def test_given_order_wins_and_empty_names_are_left_out(tmp_path):
    planes = np.moveaxis(np.concatenate([picture(2), picture(3)[..., :1]], -1), -1, 0)
    ome(tmp_path / "own" / "x.ome.tif", planes, ["a", "b", "c", "d", "e"])
    table, problems = scan(tmp_path / "own", pattern="{id}")
    assert "Set data.folder.planes" in problems[0]
    order = ("yellow", "", "blue", "green", "red")
    table, problems = scan(tmp_path / "own", pattern="{id}", planes=order)
    assert problems == []
    assert np.array_equal(channels_of(table.iloc[0]), np.moveaxis(planes[[4, 3, 2, 0]], 0, -1))


@pytest.mark.parametrize("policy", imported.MISSING)
def test_missing_yellow(tmp_path, policy):
    root = tmp_path / "own"
    rgb = picture(4, channels=3)
    root.mkdir()
    Image.fromarray(rgb).save(root / "a.png")
    order = ("red", "green", "blue")
    table, problems = scan(root, pattern="{id}", planes=order, missing={"yellow": policy})
    if policy == "error":
        assert len(table) == 0 and "no yellow channel" in problems[0]
        return
    assert problems == []
    image = channels_of(table.iloc[0])
    assert np.array_equal(image[..., :3], rgb)
    yellow = rgb.mean(-1) if policy == "mean" else np.zeros((16, 16))
    assert np.abs(image[..., 3] - yellow).max() <= 0.5


def test_pixel_size_gives_the_field_of_a_training_image(tmp_path):
    planes = np.moveaxis(picture(5, 64), -1, 0)
    names = ["red", "green", "blue", "yellow"]
    ome(tmp_path / "own" / "fine.ome.tif", planes, names, size=0.25)
    ome(tmp_path / "own" / "coarse.ome.tif", planes, names, size=1.0)
    table, _ = scan(tmp_path / "own", pattern="{id}", field_um=8.0)
    coarse, fine = (channels_of(row) for _, row in table.iterrows())
    assert np.array_equal(fine, picture(5, 64)[16:48, 16:48])  # 8 µm are 32 of its pixels
    assert np.array_equal(coarse, picture(5, 64)[28:36, 28:36])
    assert table["original_size"].tolist() == [64, 64]


def test_unknown_pixel_size_warns_or_is_given(tmp_path):
    save(tmp_path / "own", "a", picture(6, 32))
    with pytest.warns(UserWarning, match="1 of 1 images don't say their pixel size"):
        table, _ = scan(tmp_path / "own", field_um=16.0)
    assert np.array_equal(channels_of(table.iloc[0]), picture(6, 32))
    table, _ = scan(tmp_path / "own", field_um=16.0, pixel_size=0.25)  # 64 pixels: padded
    assert np.array_equal(channels_of(table.iloc[0])[16:48, 16:48], picture(6, 32))


def test_a_stack_is_projected_and_a_series_refused(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    stack = np.stack([np.moveaxis(picture(s), -1, 0) for s in (7, 8)])
    tifffile.imwrite(root / "z.ome.tif", stack, metadata={"axes": "ZCYX"}, ome=True)
    tifffile.imwrite(root / "t.ome.tif", stack, metadata={"axes": "TCYX"}, ome=True)
    order = ("red", "green", "blue", "yellow")
    table, problems = scan(root, pattern="{id}", planes=order)
    assert table["id"].tolist() == ["z"]
    assert np.array_equal(channels_of(table.iloc[0]), np.maximum(picture(7), picture(8)))
    assert len(problems) == 1 and "2 of axis T" in problems[0]
    table, problems = scan(root, pattern="{id}", planes=order, frame=1)
    t = table[table["id"] == "t"].iloc[0]
    assert problems == [] and np.array_equal(channels_of(t), picture(8))


def test_labels_by_name_and_by_number(tmp_path):
    root = tmp_path / "own"
    for id in "abcde":
        save(root, id, picture(1))
    rows = ["id,labels", "a,golgi apparatus; Cytosol", "b, 25 0", "c,", "d,Golgi aparatus"]
    text = "\r\n".join([*rows, "zz,1", "a,2"])
    (root / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    table, problems = scan(root)
    assert dict(zip(table["id"], table["labels"], strict=True)) == {
        "a": [7, 25],
        "b": [0, 25],
        "c": None,
        "d": None,
        "e": None,
    }
    assert len(problems) == 3
    assert any("row 5" in p and "did you mean 'Golgi" in p for p in problems)
    assert any("(id zz): has no images" in p for p in problems)
    assert any("row 7 (id a): the id is there twice" in p for p in problems)


@pytest.mark.parametrize(
    ("first", "rows", "is_header"),
    [
        ("id,labels", 1, True),
        ("Id,Predicted", 1, True),
        ("c,Cytosol", 2, False),
        ("c,0 25", 2, False),
        ("elsewhere,7", 2, False),  # labels that are classes are no column's name
        ("c,Cytosool", 2, False),  # an image's id is none either
    ],
)
def test_the_first_row_counts_if_it_is_no_header(tmp_path, first, rows, is_header):
    root = tmp_path / "own"
    for id in "ac":
        save(root, id, picture(1))
    (root / "labels.csv").write_text(f"{first}\na,3\n")
    table, problems = scan(root)
    labels = dict(zip(table["id"], table["labels"], strict=True))
    assert labels["a"] == [3]
    expected = {"c,Cytosol": [25], "c,0 25": [0, 25]}
    assert labels["c"] == expected.get(first)
    assert len(problems) == (0 if is_header or first in expected else 1)
    assert all("row 1" in problem or "elsewhere" in problem for problem in problems)


def test_an_id_twice_is_found_even_with_an_empty_label(tmp_path):
    save(tmp_path / "own", "a", picture(1))
    (tmp_path / "own" / "labels.csv").write_text("id,labels\na,\na,3\n")
    _, problems = scan(tmp_path / "own")
    assert len(problems) == 1 and "row 3 (id a): the id is there twice" in problems[0]


def test_a_stated_pixel_size_that_is_not_used_is_said(tmp_path):
    planes = np.moveaxis(picture(5, 64), -1, 0)
    ome(tmp_path / "own" / "a.ome.tif", planes, ["red", "green", "blue", "yellow"], size=0.25)
    for _ in range(2):  # the second time the image is converted already
        with pytest.warns(UserWarning, match=r"1 of 1 images say their pixel size \(e.g. 0.25 µm"):
            scan(tmp_path / "own", pattern="{id}")


def test_images_of_72_dpi_keep_their_pixels(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    for k, channel in enumerate(reader.CHANNELS):
        plane = picture(3, 64)[..., k].astype(np.uint16) * 256
        options = dict(resolution=(28.3, 28.3), resolutionunit="CENTIMETER")
        tifffile.imwrite(root / f"a_{channel}.tif", plane, **options)
    with pytest.warns(UserWarning, match="1 of 1 images don't say their pixel size"):
        table, problems = scan(root, field_um=163.84)
    assert problems == [] and channels_of(table.iloc[0]).shape == (64, 64, 4)


def test_converted_images_are_no_larger_than_the_records_need(tmp_path):
    image = picture(6, 64)
    save(tmp_path / "own", "a", image.astype(np.uint16) * 256, ".tif")
    whole, _ = scan(tmp_path / "own", percentiles=(0, 100))
    expected = reader.resize(channels_of(whole.iloc[0]), 32)
    small, _ = scan(tmp_path / "own", percentiles=(0, 100), largest=32)
    assert np.array_equal(channels_of(small.iloc[0]), expected)
    assert small["original_size"][0] == 64
    assert len(list((tmp_path / "imported").glob("*.png"))) == 4


def test_a_full_disk_is_said_before_converting(tmp_path, monkeypatch):
    save(tmp_path / "own", "a", picture(6, 64).astype(np.uint16) * 256, ".tif")
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(imported.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"1 images need about .* GB are free"):
        scan(tmp_path / "own", largest=32)
    assert not list((tmp_path / "imported").iterdir())


def test_files_that_stay_where_they_are_need_no_disk(tmp_path, monkeypatch):
    save(tmp_path / "own", "a", picture(6, 64))
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(imported.shutil, "disk_usage", lambda path: usage)
    table, problems = scan(tmp_path / "own", largest=32)
    assert problems == [] and table["id"].tolist() == ["a"]


def test_what_is_filtered_out_is_not_read(tmp_path):
    root = tmp_path / "own"
    save(root, "a", picture(1))
    save(root, "b", picture(2))
    (root / "b_red.png").write_bytes(b"")
    (root / "labels.csv").write_text("id,labels\na,3\nb,0 25\n")
    table, problems = scan(root, not_only=(0, 25))
    assert table["id"].tolist() == ["a"] and problems == []


def test_every_problem_of_a_folder_at_once(tmp_path):
    root = tmp_path / "own"
    for id in ("a", "b", "c", "d"):
        save(root, id, picture(1))
    (root / "a_red.png").unlink()
    (root / "b_blue.png").write_bytes((root / "b_blue.png").read_bytes()[:50])
    (root / "c_green.png").unlink()
    save(tmp_path, "out", picture(1))
    (root / "c_green.png").symlink_to(tmp_path / "out_green.png")
    table, problems = scan(root)
    assert table["id"].tolist() == ["d"]
    assert any("no red channel" in p for p in problems)
    assert any("b_blue.png" in p and "truncated" in p for p in problems)
    assert any("c_green.png" in p and "leaves data.root" in p for p in problems)


def test_conversion_happens_once_and_again_when_a_file_changes(tmp_path):
    root = tmp_path / "own"
    save(root, "a", picture(1).astype(np.uint16) * 100, ".tif")
    first, _ = scan(root)
    stamp = (tmp_path / "imported").stat().st_mtime_ns
    again, _ = scan(root)
    assert first["red"][0] == again["red"][0]
    assert (tmp_path / "imported").stat().st_mtime_ns == stamp
    save(root, "a", picture(2).astype(np.uint16) * 100, ".tif")
    changed, _ = scan(root)
    assert changed["red"][0] != first["red"][0]
    assert len(list((tmp_path / "imported").glob("*.png"))) == 4


def test_only_images_that_are_converted_are_signed(tmp_path):
    """The bytes of files that are used where they lie are not read for a signature."""
    root, read = tmp_path / "own", []

    def content(path):
        read.append(Path(path).name)
        return sha256(path)

    save(root, "a", picture(1))
    png16(root / "b_green.png", picture(2)[..., 1].astype(np.uint16) * 100)
    missing = dict(red="zeros", blue="zeros", yellow="zeros")
    first, _ = scan(root, content=content, missing=missing)
    assert read == ["b_green.png"] and first["green"][1].startswith(str(tmp_path / "imported"))
    stamp = Path(first["green"][1]).stat().st_mtime_ns
    again, _ = scan(root, content=content, missing=missing)
    assert Path(again["green"][1]).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pattern="{channel}"), "must contain {id}"),
        (dict(pattern="{id}_{color}"), "{color} is none of"),
        (dict(pattern="{id}-{channel}"), "no image fits"),
        (dict(missing={"yellow": "guess"}), "one of error, zeros, mean"),
        (dict(missing={"green": "zeros"}), "of red, blue, yellow"),
        (dict(channels="DAPI:violet"), "with channels of red"),
        (dict(project="sum"), "one of max"),
        (dict(value_range=(2, 1)), "black < white"),
        (dict(scale_over="month"), "one of image, plate, data"),
        (dict(planes=("violet",)), "none of red"),
        (dict(percentiles=(99, 1)), "within 0..100"),
    ],
)
def test_wrong_options(tmp_path, options, message):
    save(tmp_path / "own", "a", picture(1))
    with pytest.raises(InputError, match=message):
        scan(tmp_path / "own", **options)


def test_sources_combine_with_filters_and_weights(tmp_path):
    for name in ("one", "two"):
        for i in range(3):
            save(tmp_path / name, f"{name}{i}", picture(i))
    (tmp_path / "one" / "labels.csv").write_text("id,labels\none0,0\none1,0 25\none2,25 7\n")
    sources = [
        dict(source="folder", root=tmp_path / "one", not_only=(0, 25), weight=2),
        dict(source="folder", root=tmp_path / "two"),
    ]
    table = catalog.build(sources, classes.NAMES, imported=tmp_path / "imported")
    assert table["id"].tolist() == ["one2", "two0", "two1", "two2"]
    assert table["weight"].tolist() == [2, 1, 1, 1]
    with pytest.raises(InputError, match="folder has no option 'patern', did you mean 'pattern'"):
        catalog.build([dict(source="folder", root=tmp_path, patern="")], classes.NAMES)
    twice = [sources[1], sources[1]]
    with pytest.raises(InputError, match=r"the id is in two places .*: 3 times .*two0_red"):
        catalog.build(twice, classes.NAMES, imported=tmp_path / "imported")


def test_three_planes_are_red_green_and_blue(tmp_path):
    root = tmp_path / "own"
    root.mkdir()
    rgb = picture(4, channels=3)
    Image.fromarray(rgb).save(root / "a.png")
    _, (problem,) = scan(root)
    assert "no yellow channel" in problem and "missing.yellow=zeros" in problem
    table, problems = scan(root, missing={"yellow": "zeros"})
    assert not problems and np.array_equal(channels_of(table.iloc[0])[..., :3], rgb)
