"""OME-Zarr stores written by its reference writer: pixels, names, sizes, plates, and bad ones.

Where the package ome-zarr is, the tests write stores anew; `golden/*.zip` are three that it wrote:
python -m tests.data.test_ome_zarr
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core.errors import InputError
from hpa_jax.data import ome_zarr, reader
from hpa_jax.data.planes import BadImage, Reading
from tests.data.layouts import picture
from tests.data.sources.test_users_files import close, equal, taken

zarr = pytest.importorskip("zarr")
try:
    from ome_zarr import format as formats
    from ome_zarr import writer
except ImportError:
    writer = formats = None
needs_writer = pytest.mark.skipif(writer is None, reason="needs the package ome-zarr")
GOLDEN = Path(__file__).parent / "golden"
NAMES = ("DAPI", "GFP", "Tubulin", "ER")
ORDER = (2, 1, 0, 3)  # of CHANNELS, as NAMES has them


def write(group, image, version, um=0.08, names=NAMES):
    group = zarr.open_group(str(group), mode="w", zarr_format=2 if version == "V04" else 3)
    _fill(group, image, version, um, names)


def _fill(group, image, version, um=0.08, names=NAMES):
    writer.write_image(
        np.moveaxis(image[..., list(ORDER)], -1, 0),
        group,
        scale_factors=[2],
        fmt=getattr(formats, f"Format{version}")(),
        axes="cyx",
        scale={"c": 1.0, "y": um, "x": um},
        axes_units={"y": "micrometer", "x": "micrometer"},
    )
    if names:
        about = group.attrs.asdict()
        omero = {"channels": [{"label": name, "color": "FFFFFF"} for name in names]}
        if "ome" in about:
            group.attrs["ome"] = {**about["ome"], "omero": omero}
        else:
            group.attrs["omero"] = omero


@needs_writer
@pytest.mark.parametrize("version", ["V04", "V05"])
def test_stores_of_both_versions(tmp_path, version):
    images = {f"a{i}": picture(i, 64) for i in range(2)}
    for id, image in images.items():
        write(tmp_path / "in" / f"{id}.ome.zarr", image, version)
    got, table, _ = taken(tmp_path / "in", tmp_path)
    assert equal(got, images)
    assert table["pixel_size"].tolist() == pytest.approx([0.08, 0.08])


@needs_writer
def test_16_bits_are_scaled_as_any_others(tmp_path):
    image = picture(3, 64)
    write(tmp_path / "in" / "a.zarr", image.astype(np.uint16) * 16, "V04")
    got, *_ = taken(tmp_path / "in", tmp_path)
    assert close(got, {"a": image}, 12)


@needs_writer
@pytest.mark.parametrize("version", ["V04", "V05"])
def test_each_field_of_a_plate_is_an_image(tmp_path, version):
    plate(tmp_path / "in" / "plate1.zarr", version)
    got, table, _ = taken(tmp_path / "in", tmp_path)
    assert equal(got, {"plate1_A1_0": picture(0, 64), "plate1_B1_0": picture(1, 64)})
    assert table["plate"].tolist() == ["plate1"] * 2
    assert table["sample"].tolist() == ["plate1_A1", "plate1_B1"]


@needs_writer
def test_points_over_a_plate_are_those_of_its_store(tmp_path):
    """Deep images of which one is darker: scaled alone both would reach white."""
    for name, share in (("p0", 1), ("p1", 2)):
        root = zarr.open_group(str(tmp_path / "in" / f"{name}.zarr"), mode="w", zarr_format=2)
        writer.write_plate_metadata(root, ["A"], ["1"], ["A/1"], fmt=formats.FormatV04())
        well = root.require_group("A").require_group("1")
        writer.write_well_metadata(well, ["0", "1"], fmt=formats.FormatV04())
        for field, dimmer in (("0", 1), ("1", 4)):
            deep = picture(0, 64).astype(np.uint16) * 16 // dimmer // share
            _fill(well.require_group(field), deep, "V04")
    got, *_ = taken(tmp_path / "in", tmp_path, scale_over="plate", bits=12, floor=0.05)
    top = {id: int(image[..., 1].max()) for id, image in got.items()}
    assert top["p0_A1_0"] == top["p1_A1_0"] == 255
    assert abs(top["p0_A1_1"] - 255 / 4) < 5 and abs(top["p1_A1_1"] - 255 / 4) < 5


def plate(path, version):
    fmt = getattr(formats, f"Format{version}")()
    root = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "V04" else 3)
    writer.write_plate_metadata(root, ["A", "B"], ["1"], ["A/1", "B/1"], fmt=fmt)
    for n, well in enumerate(("A", "B")):
        group = root.require_group(well).require_group("1")
        writer.write_well_metadata(group, ["0"], fmt=fmt)
        _fill(group.require_group("0"), picture(n, 64), version)


@needs_writer
def test_a_changed_chunk_is_read_anew(tmp_path):
    write(tmp_path / "in" / "a.zarr", picture(0, 64), "V04")
    taken(tmp_path / "in", tmp_path)
    write(tmp_path / "in" / "a.zarr", picture(1, 64), "V04")
    assert equal(taken(tmp_path / "in", tmp_path)[0], {"a": picture(1, 64)})


@needs_writer
def test_absent_chunks_are_told(tmp_path):
    write(tmp_path / "a.zarr", np.zeros((64, 64, 4), np.uint8) + picture(1, 64), "V04")
    chunk = next(
        p for p in (tmp_path / "a.zarr" / "s0").rglob("*") if p.is_file() and p.name.isdecimal()
    )
    chunk.unlink()
    assert any("chunks are absent" in note for note in reader.planes(tmp_path / "a.zarr").notes)


@needs_writer
def test_bad_stores_are_refused_in_one_line(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    zarr.open_group(str(tmp_path / "plain.zarr"), mode="w")
    write(tmp_path / "names.zarr", picture(0, 64), "V04", names=("a", "b"))
    for name, reason in (("empty", "no readable"), ("plain", "without OME"), ("names", "name 2")):
        with pytest.raises(BadImage, match=reason) as caught:
            ome_zarr.read(tmp_path / f"{name}.zarr", 0, Reading())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["v04", "v05", "plate"])
def test_stores_of_the_reference_writer(tmp_path, name):
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(GOLDEN / f"{name}.ome.zarr.zip") as file:
        file.extractall(tmp_path / "in" / f"{name}.ome.zarr")
    got, table, _ = taken(tmp_path / "in", tmp_path)
    ids = ["plate_A1_0", "plate_B1_0"] if name == "plate" else [name]
    assert equal(got, {id: picture(n, 64) for n, id in enumerate(ids)})
    assert table["pixel_size"].tolist() == pytest.approx([0.08] * len(ids))


def test_pixels_that_are_not_square_are_refused(tmp_path):
    store = tmp_path / "a.ome.zarr"
    with zipfile.ZipFile(GOLDEN / "v04.ome.zarr.zip") as file:
        file.extractall(store)
    about = json.loads((store / ".zattrs").read_text())
    for level in about["multiscales"][0]["datasets"]:
        level["coordinateTransformations"][0]["scale"][-2] *= 2
    (store / ".zattrs").write_text(json.dumps(about))
    with pytest.raises(BadImage, match=r"not square \(0\.08 x 0\.16\)"):
        reader.planes(store)


@pytest.mark.parametrize("part", ["", ".zattrs", "s0", "s0/0/0/0"])
def test_a_link_out_of_the_root_is_refused(tmp_path, part):
    """The store, its metadata, an array or a chunk."""
    root, store = tmp_path / "in", tmp_path / "in" / "a.ome.zarr"
    with zipfile.ZipFile(GOLDEN / "v04.ome.zarr.zip") as file:
        file.extractall(store)
    (store / part).rename(tmp_path / "elsewhere")
    (store / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"a link that leaves data.root.*links=True"):
        taken(root, tmp_path)
    assert equal(taken(root, tmp_path, links=True)[0], {"a": picture(0, 64)})
    (tmp_path / "in" / "images.csv").write_text("id,image\nx,a.ome.zarr\n")
    with pytest.raises(InputError, match=r"outside of data.root"):
        taken(root, tmp_path, table="images.csv")


def test_what_a_linked_array_holds_counts(tmp_path):
    """A store whose array is a link: another content is not taken for the one imported before."""
    for name in ("v04", "plate"):
        with zipfile.ZipFile(GOLDEN / f"{name}.ome.zarr.zip") as file:
            file.extractall(tmp_path / name)
    store = tmp_path / "v04"
    root = tmp_path / "in"
    root.mkdir()
    store.rename(root / "a.ome.zarr")
    array = root / "a.ome.zarr" / "s0"
    array.rename(tmp_path / "first")
    array.symlink_to(tmp_path / "first")
    taken(root, tmp_path, links=True)
    array.unlink()
    array.symlink_to(tmp_path / "plate" / "B" / "1" / "0" / "s0")
    assert equal(taken(root, tmp_path, links=True)[0], {"a": picture(1, 64)})


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in ("v04", "v05", "plate"):
        store = GOLDEN / f"{name}.ome.zarr"
        if name == "plate":
            plate(store, "V04")
        else:
            write(store, picture(0, 64), name.upper())
        shutil.make_archive(str(store), "zip", store)
        shutil.rmtree(store)
