"""One microscope file: pixel sizes of all who write them, sets of files, and what only claims."""

import tracemalloc

import numpy as np
import pytest
import tifffile

from hpa_jax.data import reader
from hpa_jax.data.reader import BadImage

PLANE = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        (125_000, "CENTIMETER", 0.08),
        (317_500, "INCH", 0.08),
        (28.3, "CENTIMETER", None),  # 72 dpi: 353 µm a pixel is no microscope's
        (72, "INCH", None),
        (96, "INCH", None),
        (2e6, "CENTIMETER", None),
        (12.5, "NONE", None),
    ],
)
def test_resolution_tags_give_the_pixel_size_where_it_can_be_one(
    tmp_path, resolution, unit, expected
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PLANE, resolution=(resolution, resolution), resolutionunit=unit)
    found = reader.planes(path).pixel_size
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [
        ("um", 12.5, 0.08),
        ("micron", 12.5, 0.08),
        ("\\u00B5m", 12.5, 0.08),
        ("nm", 0.0125, 0.08),
        ("pixel", 12.5, None),
        ("", 12.5, None),
    ],
)
def test_imagej_says_its_unit_in_the_description(tmp_path, unit, per_unit, expected):
    path = tmp_path / "a.tif"
    about = {"unit": unit} if unit else {}
    tifffile.imwrite(path, PLANE, imagej=True, resolution=(per_unit, per_unit), metadata=about)
    found = reader.planes(path).pixel_size
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-4))


@pytest.mark.parametrize(("size", "expected"), [(0.08, 0.08), (353.0, None), (-1.0, None)])
def test_a_size_of_ome_that_cannot_be_is_unknown(tmp_path, size, expected):
    path = tmp_path / "a.ome.tif"
    about = {"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, PLANE, metadata=about, ome=True)
    assert reader.planes(path).pixel_size == expected


def set_of_two(path, other, uuid="urn:uuid:2"):
    """An OME-TIFF of one page whose XML says that the second channel lies in another file."""
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="32" '
        'SizeY="32" SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" Name="red"/>'
        '<Channel ID="Channel:0:1" Name="green"/>'
        f'<TiffData FirstC="0" IFD="0"><UUID FileName="{path.name}">urn:uuid:1</UUID></TiffData>'
        f'<TiffData FirstC="1" IFD="0"><UUID FileName="{other}">{uuid}</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(path, PLANE, description=xml, metadata=None)


def test_a_file_that_names_one_outside_the_root_does_not_get_its_pixels(tmp_path):
    secret, root = tmp_path / "secret", tmp_path / "root"
    secret.mkdir(), root.mkdir()
    tifffile.imwrite(secret / "s.tif", PLANE + 1)
    set_of_two(root / "a.ome.tif", "../secret/s.tif")
    with pytest.raises(BadImage, match=r"names a file elsewhere \('../secret/s.tif'\)"):
        reader.planes(root / "a.ome.tif")
    set_of_two(root / "b.ome.tif", str(secret / "s.tif"))
    with pytest.raises(BadImage, match="names a file elsewhere"):
        reader.planes(root / "b.ome.tif")


def test_a_file_of_a_set_is_read_alone_and_without_names(tmp_path):
    (tmp_path / "outside.tif").write_bytes(b"")
    tifffile.imwrite(tmp_path / "outside.tif", PLANE + 1)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "b.tif").symlink_to(tmp_path / "outside.tif")
    set_of_two(tmp_path / "root" / "a.ome.tif", "b.tif")
    field = reader.planes(tmp_path / "root" / "a.ome.tif")
    assert np.array_equal(field.pixels, PLANE[None]) and field.names == ("",)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 9000, 9000), np.complex64, "complex64 pixels; whole numbers and floats"),
        ((1, 20_000, 20_000), np.uint8, "claims 1 x 20000 x 20000 uint8"),
        ((60, 3000, 3000), np.uint16, "claims 60 x 3000 x 3000 uint16"),
    ],
)
def test_a_bomb_is_refused_by_its_header(tmp_path, shape, dtype, message):
    path = tmp_path / "bomb.tif"
    page = np.zeros(shape[1:], dtype)
    pages = (page for _ in range(shape[0]))
    tifffile.imwrite(path, pages, shape=shape, dtype=dtype, compression="zlib")
    assert path.stat().st_size < 8_000_000
    tracemalloc.start()
    with pytest.raises(BadImage, match=message):
        reader.planes(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
