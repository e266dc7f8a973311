"""One microscope file: pixel sizes of all who write them, sets of files, and what only claims."""

import sys
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from hpa_jax.data import reader
from hpa_jax.data.reader import BadImage, Reading

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


@pytest.mark.parametrize(("down", "unit"), [(0.08, "µm"), (80.0, "nm"), (0.0, "µm")])
def test_square_pixels_have_a_size(tmp_path, down, unit):
    about = {"PhysicalSizeX": 0.08, "PhysicalSizeY": down, "PhysicalSizeYUnit": unit}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, metadata={"axes": "YX", **about}, ome=True)
    assert reader.planes(tmp_path / "a.ome.tif").pixel_size == 0.08


def test_pixels_that_are_not_square_are_refused(tmp_path):
    about = {"PhysicalSizeX": 0.08, "PhysicalSizeY": 0.16}
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, metadata={"axes": "YX", **about}, ome=True)
    with pytest.raises(BadImage, match=r"not square \(0\.08 x 0\.16\)"):
        reader.planes(tmp_path / "a.ome.tif")


def test_each_image_of_a_file_has_its_own_metadata(tmp_path):
    """Positions of one OME-TIFF with other channels, pixel sizes and depths."""
    stated = [(["DAPI", "GFP"], 0.08, 12), (["GFP", "DAPI"], 0.16, 14)]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for names, size, bits in stated:
            about = dict(PhysicalSizeX=size, PhysicalSizeXUnit="µm", SignificantBits=bits)
            values = np.stack([PLANE, PLANE]).astype(np.uint16)
            file.write(values, metadata=dict(axes="CYX", Channel={"Name": names}, **about))
    for number, (names, size, bits) in enumerate(stated):
        read = reader.planes(tmp_path / "a.ome.tif", scene=number)
        assert (list(read.names), read.pixel_size, read.bits) == (names, size, bits)


def test_a_file_that_lacks_an_image_of_its_metadata_is_refused(tmp_path):
    """Which of the two described is the one that is there can't be told."""
    pixels = (
        '<Image ID="Image:{n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYZCT" Type="uint8" '
        'SizeX="32" SizeY="32" SizeC="1" SizeZ="1" SizeT="1"><Channel ID="Channel:{n}:0" '
        'Name="{name}"/>{data}</Pixels></Image>'
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        + pixels.format(n=0, name="red", data='<TiffData IFD="7" PlaneCount="1"/>')
        + pixels.format(n=1, name="green", data='<TiffData IFD="0" PlaneCount="1"/>')
        + "</OME>"
    )
    tifffile.imwrite(tmp_path / "a.ome.tif", PLANE, description=xml, metadata=None)
    with pytest.raises(BadImage, match="its OME-XML describes 2 images, 1 are there"):
        reader.planes(tmp_path / "a.ome.tif")


def test_a_codec_that_needs_imagecodecs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    tifffile.imwrite(tmp_path / "a.tif", PLANE)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(34712)
    with pytest.raises(BadImage, match="JPEG2000 of these pixels needs the package imagecodecs"):
        reader.planes(tmp_path / "a.tif")


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


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("how", ["packed", "MaxSampleValue"])
def test_white_is_zero_in_fewer_bits_than_are_stored(tmp_path, how):
    path = tmp_path / "a.tif"
    if how == "packed":
        pytest.importorskip("imagecodecs")
    about = {"bitspersample": 12} if how == "packed" else {"extratags": [(281, "H", 1, 4095, True)]}
    tifffile.imwrite(path, 4095 - RAMP, photometric="miniswhite", **about)
    found = reader.planes(path)
    assert np.array_equal(found.pixels[0], RAMP) and found.bits == 12


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_four_bits_span_the_range_of_eight(tmp_path, photometric):
    pytest.importorskip("imagecodecs")  # which packs them
    levels = PLANE % 16
    stored = levels if photometric == "minisblack" else 15 - levels
    tifffile.imwrite(tmp_path / "a.tif", stored, bitspersample=4, photometric=photometric)
    assert np.array_equal(reader.planes(tmp_path / "a.tif").pixels[0], levels * 17)


def fire():
    """ImageJ's look-up table, int[256, 3]: 32 colours and what lies between them."""
    red = (0, 0, 1, 25, 49, 73, 98, 122, 146, 162, 173, 184, 195, 207, 217, 229, 240, 252, 255)
    green = (*(0,) * 13, 14, 35, 57, 79, 101, 117, 133, 147, 161, 175, 190, 205, 219, 234, 248, 255)
    blue = (0, 61, 96, 130, 165, 192, 220, 227, 210, 181, 151, 122, 93, 64, 35, 5, *(0,) * 11)
    blue = (*blue, 35, 98, 160, 223, 255)
    at = np.arange(256) / 8
    return np.stack([np.interp(at, np.arange(len(c)), c) for c in (red, green, blue)], -1)


def hi_lo():
    """Grey whose ends are marked: underexposed pixels in blue, overexposed ones in red."""
    table = np.repeat(np.arange(256)[:, None], 3, axis=1)
    table[0], table[255] = (0, 0, 255), (255, 0, 0)
    return table


@pytest.mark.parametrize("table", [fire, hi_lo])
def test_a_look_up_table_with_marks_or_a_flat_end_shows_intensity(tmp_path, table):
    colours = table().astype(np.uint16).T * 257
    tifffile.imwrite(tmp_path / "a.tif", PLANE, photometric="palette", colormap=colours)
    assert np.array_equal(reader.planes(tmp_path / "a.tif").pixels, PLANE[None])


def test_colours_sorted_by_brightness_are_no_look_up_table(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    colours = colours[np.argsort(colours @ (299, 587, 114))]
    wide = colours.astype(np.uint16).T * 257
    tifffile.imwrite(tmp_path / "a.tif", PLANE, photometric="palette", colormap=wide)
    shown = reader.planes(tmp_path / "a.tif")
    assert np.array_equal(np.moveaxis(shown.pixels, 0, -1), colours[PLANE])


def test_a_palette_of_16_bits_keeps_its_low_byte(tmp_path):
    grey = np.repeat(np.arange(65536, dtype=np.uint16)[None, ::-1], 3, axis=0)
    tifffile.imwrite(tmp_path / "a.tif", 65535 - RAMP, photometric="palette", colormap=grey)
    assert np.array_equal(reader.planes(tmp_path / "a.tif").pixels[0], RAMP)


@pytest.mark.parametrize(("photometric", "samples"), [("separated", 4), ("cielab", 3)])
def test_inks_and_lab_are_no_intensities(tmp_path, photometric, samples):
    tifffile.imwrite(tmp_path / "a.tif", np.dstack([PLANE] * samples), photometric=photometric)
    with pytest.raises(BadImage, match="no intensities"):
        reader.planes(tmp_path / "a.tif")


def test_a_file_is_read_by_what_it_is_not_by_its_name(tmp_path):
    """A stack of TIFF pages named .png would lose all but its first page."""
    tifffile.imwrite(tmp_path / "a.png", np.stack([PLANE // 2, PLANE]), photometric="minisblack")
    Image.fromarray(PLANE).save(tmp_path / "b.tif", "PNG")
    stack = reader.planes(tmp_path / "a.png", Reading(single=True))
    assert np.array_equal(stack.pixels[0], PLANE) and stack.notes
    assert np.array_equal(reader.planes(tmp_path / "b.tif").pixels[0], PLANE)
    assert reader.size(tmp_path / "a.png") == reader.size(tmp_path / "b.tif") == (32, 32)


def test_the_header_gives_the_size_as_read(tmp_path):
    path = tmp_path / "a.tif"
    for step in (4, 2, 1):  # the smallest level first
        tifffile.imwrite(path, PLANE[::step, ::step], append=step < 4, metadata=None)
    assert reader.size(path) == (32, 32)
    tifffile.imwrite(path, PLANE[:20], extratags=[(274, "H", 1, 6, True)])
    assert reader.size(path) == reader.planes(path).pixels.shape[1:] == (32, 20)


def test_floats_that_are_counts_of_0_and_1_stay_dark(tmp_path):
    counts = (PLANE % 50 == 0).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", counts)
    assert np.array_equal(reader.planes(tmp_path / "a.tif").pixels[0], counts)
