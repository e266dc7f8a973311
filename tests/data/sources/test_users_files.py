"""Inputs of users that were once answered wrongly without a word, each with its right answer.

The first line of a test's docstring says what kind of file or folder it is.  Images are synthetic
cells; what the program takes is compared with their pixels, those of more than 8 bits with the
formula of `scaled`.
"""

import contextlib
import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, reader
from hpa_jax.data.reader import CHANNELS
from hpa_jax.data.synthetic.camera import photograph
from tests.data.layouts import png16, save

LABELS = ((0,), (2,), (5,))
OFFSET = 100  # counts of a camera without light


@pytest.fixture(scope="module")
def images():
    """id -> uint8[64, 64, 4]."""
    return {f"p{i}": photograph((77, i), labels, 64) for i, labels in enumerate(LABELS)}


def taken(root, tmp_path, *, source="folder", names=classes.NAMES, skip=False, **options):
    """(id -> pixels, the table, what was said) of a folder by the program's own catalog."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = catalog.build(
            [dict(source=source, root=root, **options)],
            names,
            imported=tmp_path / "imported",
            on_bad_image="skip" if skip else "error",
        )
    rows = table[["id", *CHANNELS]].to_dict("records")
    return {r["id"]: reader.read(r) for r in rows}, table, [str(w.message) for w in told]


def equal(got, images):
    return set(got) == set(images) and all(np.array_equal(got[i], images[i]) for i in images)


def scaled(values, bits, floor=0.15, percentiles=(0.001, 99.999)):
    """uint8[H, W] of one channel: the documented scaling of more than 8 bits."""
    black, high = np.percentile(values, percentiles)
    white = max(high, black + floor * (2**bits - 1))
    return np.rint(np.clip((values - black) / (white - black), 0, 1) * 255)


def close(got, images, bits, factor=16):
    """Whether each channel is `scaled` from the image times a factor, within one grey level."""
    return all(
        np.abs(got[i][..., k] - scaled(image[..., k].astype(float) * factor, bits)).max() <= 1
        for i, image in images.items()
        for k in range(got[i].shape[2])
    )


def written(folder, images, write, suffix):
    folder.mkdir(parents=True, exist_ok=True)
    for id, image in images.items():
        for k, channel in enumerate(CHANNELS):
            write(folder / f"{id}_{channel}{suffix}", image[..., k])
    return folder


# --- pixels ---


def test_white_is_zero(tmp_path, images):
    """TIFF with PhotometricInterpretation 0."""

    def write(path, plane):
        tifffile.imwrite(path, 255 - plane, photometric="miniswhite")

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert equal(got, images)


@pytest.mark.parametrize("kind", ["float32", "int16", "int8"])
def test_white_as_zero_of_signed_values_is_refused(tmp_path, images, kind):
    """The same in floats and signed integers, whose black is not stated."""

    def write(path, plane):
        tifffile.imwrite(path, (127 - plane // 2).astype(kind), photometric="miniswhite")

    with pytest.raises(InputError, match=rf"MinIsWhite\) in {kind} pixels"):
        taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_signed_values_from_the_type_s_least_on(tmp_path, images, kind):
    """Unsigned values that were stored as signed ones."""
    step = 1 if kind == "int8" else 257

    def write(path, plane):
        least = np.iinfo(kind).min
        tifffile.imwrite(path, (plane.astype(int) * step + least).astype(kind))

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert equal(got, images)


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_channels_that_are_understood_differently_are_refused(tmp_path, images, kind):
    """A bright channel of signed values has no low one; a channel of floats may be of 0 and 1."""

    def write(path, plane):
        odd = "green" in path.stem
        if kind == "int16":
            values = plane.astype(int) * 257 - 2**15 if not odd else plane.astype(int) * 4 + 99
        else:
            values = plane / 255 if not odd else plane > 99
        tifffile.imwrite(path, values.astype(kind))

    root = written(tmp_path / "in", images, write, ".tif")
    with pytest.raises(InputError, match="look like counts and in others like"):
        taken(root, tmp_path)
    if kind == "float32":
        got, *_ = taken(root, tmp_path, value_range=(0, 1))
        assert set(np.unique(got["p1"][..., 1])) == {0, 255}


def test_inks_are_refused(tmp_path, images):
    """A JPEG of CMYK: how its inks mix is not stated."""
    (tmp_path / "in").mkdir()
    Image.fromarray(images["p0"][..., :3].copy()).convert("CMYK").save(tmp_path / "in" / "a.jpg")
    with pytest.raises(
        InputError, match=r"a.jpg \(id a\): its samples are no intensities \(CMYK\)"
    ):
        taken(tmp_path / "in", tmp_path, missing=dict(yellow="zeros"))


def test_colours_in_ome_tiff(tmp_path, images):
    """An RGB OME-TIFF, whose one channel of three samples has one name."""
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        path, about = tmp_path / "in" / f"{id}.ome.tif", dict(axes="YXS", Channel=dict(Name="RGB"))
        tifffile.imwrite(path, image[..., :3], photometric="rgb", metadata=about)
    got, *_ = taken(tmp_path / "in", tmp_path, missing=dict(yellow="zeros"))
    assert all(np.array_equal(got[id][..., :3], images[id][..., :3]) for id in images)


def test_the_channel_that_holds_more_images_is_named(tmp_path, images):
    """A preview of another form in one channel's file."""
    root = written(tmp_path / "in", {"p0": images["p0"]}, tifffile.imwrite, ".tif")
    with tifffile.TiffWriter(root / "p0_green.tif") as file:
        file.write(images["p0"][..., 1], metadata=None)
        file.write(np.zeros((30, 40, 3), np.uint8), photometric="rgb", metadata=None)
    with pytest.raises(
        InputError, match=r"p0_green.tif .*holds 2 images, another channel's file 1"
    ):
        taken(root, tmp_path)


def test_colour_png_of_16_bits_keeps_its_low_byte(tmp_path, images):
    """12-bit camera values in a 16-bit RGB PNG, and the same in TIFF."""
    for kind in ("png", "tif"):
        root = tmp_path / kind
        root.mkdir()
        for id, image in images.items():
            values = image[..., :3].astype(np.uint16) * 16
            if kind == "png":
                png16(root / f"{id}.png", values)
            else:
                tifffile.imwrite(root / f"{id}.tif", values, photometric="rgb")
        got, _, told = taken(root, tmp_path / kind, missing={"yellow": "zeros"})
        assert close({i: g[..., :3] for i, g in got.items()}, images, 12)
        assert any("by their values 12 bits: 3" in line for line in told)


def grey_as_rgb(path, plane):
    png16(path, np.dstack([plane.astype(np.uint16) * 16] * 3))


def test_grey_of_16_bits_saved_as_colour(tmp_path, images):
    """A file a channel, 12-bit grey in 16-bit RGB PNG."""
    got, *_ = taken(written(tmp_path / "in", images, grey_as_rgb, ".png"), tmp_path)
    assert close(got, images, 12)


def test_the_competitions_layout_reads_16_bits_by_the_same_rules(tmp_path, images):
    """16-bit RGB and grey PNGs below train/ and test/."""
    for write in (grey_as_rgb, lambda path, plane: png16(path, plane.astype(np.uint16) * 16)):
        root = tmp_path / write.__name__.strip("<>")
        written(root / "train", images, write, ".png")
        written(root / "test", {f"t{i}": image for i, image in images.items()}, write, ".png")
        (root / "train.csv").write_text("Id,Target\np0,0\np1,2\np2,5\n")
        (root / "sample_submission.csv").write_text("Id,Predicted\ntp0,0\ntp1,0\ntp2,0\n")
        got, table, _ = taken(root, tmp_path / root.name, source="kaggle")
        assert close({i: got[i] for i in images}, images, 12) and len(got) == 6
        assert all(len(white) == 4 for white in table["white"])


def test_deep_originals_keep_their_size_in_the_catalog(tmp_path, images):
    """16-bit full-size files of the competition, stored smaller: original_size is the file's."""
    for part in ("train", "test"):
        prefix = "" if part == "train" else "t"
        part_images = {f"{prefix}{id}": image for id, image in images.items()}
        written(tmp_path / "in" / f"{part}_full_size", part_images, grey_as_rgb, ".png")
    (tmp_path / "in" / "train.csv").write_text("Id,Target\np0,0\np1,2\np2,5\n")
    (tmp_path / "in" / "sample_submission.csv").write_text("Id,Predicted\ntp0,0\ntp1,0\ntp2,0\n")
    source = dict(source="kaggle", root=tmp_path / "in", full_size=True)
    table = catalog.build([source], classes.NAMES, imported=tmp_path / "imported", largest=32)
    assert table["original_size"].tolist() == [64] * 6 and table["height"].tolist() == [32] * 6


def test_sparse_signal_survives(tmp_path, images):
    """Dots on less than .1 % of the pixels of a background-subtracted 12-bit channel."""
    image = images["p0"].copy()
    image[..., 1] = 0
    image[10, 10, 1] = image[40, 50, 1] = 220

    def write(path, plane):
        tifffile.imwrite(path, plane.astype(np.uint16) * 16)

    got, *_ = taken(written(tmp_path / "in", {"p0": image}, write, ".tif"), tmp_path)
    green = got["p0"][..., 1]
    assert green[10, 10] == green[40, 50] == 255 and np.count_nonzero(green) == 2


def test_camera_noise_stays_dark_and_is_named(tmp_path, images):
    """12 bits with an offset of 100 counts; two channels have noise alone."""
    rng = np.random.default_rng(0)

    def write(path, plane):
        empty = path.stem.endswith(("green", "yellow"))
        values = plane.astype(float) * (0 if empty else 14) + rng.normal(OFFSET, 3, plane.shape)
        tifffile.imwrite(path, values.round().clip(0, 4095).astype(np.uint16))

    got, table, told = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    for image in got.values():
        assert image[..., [1, 3]].max() <= 12 and image[..., [0, 2]].max() == 255
    assert any(line.startswith("channel green looks empty: 3 (p0, p1, p2)") for line in told)
    assert table["black"][0] == pytest.approx([OFFSET] * 4, abs=15)


def test_depth_is_of_the_image_not_of_a_channel(tmp_path, images):
    """A 12-bit image one of whose channels has values below 256."""
    image = images["p0"].copy()
    image[..., 3] //= 17  # 0..15, so 0..240 in the file

    def write(path, plane):
        tifffile.imwrite(path, plane.astype(np.uint16) * 16)

    got, *_ = taken(written(tmp_path / "in", {"p0": image}, write, ".tif"), tmp_path)
    assert close(got, {"p0": image}, 12)


@pytest.mark.parametrize("factor", [1, 3])
def test_an_image_of_another_depth_than_the_rest_is_named(tmp_path, images, factor):
    """A dim image among those of a 12-bit camera that no metadata describe."""
    written(tmp_path / "in", {"p2": images["p2"]}, lambda path, p: deep(path, p, factor), ".tif")
    others = {id: images[id] for id in ("p0", "p1")}
    written(tmp_path / "in", others, lambda path, p: deep(path, p, 15), ".tif")
    *_, told = taken(tmp_path / "in", tmp_path)
    assert any("another depth than the rest" in line and ": 1 (p2)" in line for line in told)
    *_, told = taken(tmp_path / "in", tmp_path, bits=12)
    assert not any("another depth" in line for line in told)


def deep(path, plane, factor):
    tifffile.imwrite(path, plane.astype(np.uint16) * factor)


def test_images_that_are_skipped_are_counted_and_named(tmp_path, images):
    """data.on_bad_image="skip" with a channel of one image cut off."""
    root = written(tmp_path / "in", images, lambda p, a: Image.fromarray(a).save(p), ".png")
    (root / "p1_red.png").write_bytes(b"")
    got, _, told = taken(root, tmp_path, skip=True)
    assert set(got) == {"p0", "p2"}
    assert any("left out" in line and ": 1 (p1)" in line for line in told)


def test_8_bits_stored_in_16_are_kept(tmp_path, images):
    """uint16 whose values fit 8 bits, or are spread by 257."""
    for factor in (1, 257):

        def write(path, plane, factor=factor):
            tifffile.imwrite(path, plane.astype(np.uint16) * factor)

        root = written(tmp_path / f"x{factor}", images, write, ".tif")
        got, _, told = taken(root, tmp_path / str(factor))
        assert equal(got, images) and any("were kept as they are" in line for line in told)


@pytest.mark.parametrize("marked", [0, 1])
def test_previews_are_skipped(tmp_path, images, marked):
    """A TIFF whose first page is a small preview, marked as reduced or not."""

    def write(path, plane):
        with tifffile.TiffWriter(path) as file:
            file.write(plane[::4, ::4], photometric="minisblack", subfiletype=marked)
            file.write(plane, photometric="minisblack")

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert equal(got, images)


@pytest.mark.parametrize("kind", ["rgb48", "rgba64", "la"])
def test_grey_saved_as_deep_colour(tmp_path, images, kind):
    """RGB48, RGBA64 and grey with alpha, as NIS-Elements and ImageJ write them."""
    alpha = {} if kind == "rgb48" else {"extrasamples": ["unassalpha"]}

    def write(path, plane):
        values = plane.astype(np.uint16) * 16
        planes = [values] * (1 if kind == "la" else 3)
        planes += [np.full_like(values, 65535)] if alpha else []
        photometric = "minisblack" if kind == "la" else "rgb"
        tifffile.imwrite(
            path, np.dstack(planes), photometric=photometric, planarconfig="contig", **alpha
        )

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert close(got, images, 12)


@pytest.mark.parametrize("pages", [2, 3, 5])
def test_a_plain_z_stack_is_projected_and_said(tmp_path, images, pages):
    """A file a channel of several pages without written axes."""

    def write(path, plane):
        with tifffile.TiffWriter(path) as file:
            for share in np.linspace(0.4, 1, pages):
                page = (plane * share).astype(np.uint8)
                file.write(page, photometric="minisblack", metadata=None, contiguous=False)

    root = written(tmp_path / "in", images, write, ".tif")
    got, _, told = taken(root, tmp_path)
    assert equal(got, images)
    assert any(line.startswith("note: Z stacks became one plane (max): 3") for line in told)
    with pytest.raises(InputError, match=r"a Z stack of . planes"):
        taken(root, tmp_path / "refused", project="refuse")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_palette_is_looked_up(tmp_path, images, suffix):
    """Grey images whose palette is not sorted."""
    rng = np.random.default_rng(3)

    def write(path, plane):
        order = rng.permutation(256).astype(np.uint8)
        index = np.empty(256, np.uint8)
        index[order] = np.arange(256)
        image = Image.frombytes("P", plane.shape[::-1], index[plane].tobytes())
        image.putpalette(np.repeat(order, 3).tobytes())
        image.save(path)

    got, *_ = taken(written(tmp_path / "in", images, write, suffix), tmp_path)
    assert equal(got, images)


def test_a_false_colour_table_shows_intensity(tmp_path, images):
    """One channel shown by a look-up table from black over red to yellow and white."""
    ramp = np.arange(256)
    hot = np.stack([np.clip(3 * ramp - at, 0, 255) for at in (0, 255, 510)]).astype(np.uint16) * 257

    def write(path, plane):
        tifffile.imwrite(path, plane, photometric="palette", colormap=hot)

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert equal(got, images)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_of_exif_is_obeyed(tmp_path, images, orientation):
    """A file that says it is to be shown turned."""
    turned = {3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}[orientation]

    def write(path, plane):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(plane).transpose(turned).save(path, exif=exif)

    got, *_ = taken(written(tmp_path / "in", images, write, ".png"), tmp_path)
    assert equal(got, images)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_bytes_after_the_end_do_not_matter(tmp_path, images, suffix):
    """A whole file with 512 more bytes."""

    def write(path, plane):
        options = dict(quality=95, progressive=True) if suffix == ".jpg" else {}
        Image.fromarray(plane).save(path, **options)
        path.write_bytes(path.read_bytes() + bytes(512))

    got, *_ = taken(written(tmp_path / "in", images, write, suffix), tmp_path)
    assert all(np.abs(got[i].astype(int) - images[i]).mean() < 1.5 for i in images)


@pytest.mark.parametrize("codec", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"])
def test_codecs_of_tiff(tmp_path, images, codec):
    """Compressed TIFFs, read without the package imagecodecs, too."""

    def write(path, plane):
        Image.fromarray(plane).save(path, compression=codec)

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert equal(got, images)


def test_a_tiff_of_jpeg(tmp_path, images):
    """JPEG inside of TIFF."""

    def write(path, plane):
        Image.fromarray(plane).save(path, compression="jpeg", quality=95)

    got, *_ = taken(written(tmp_path / "in", images, write, ".tif"), tmp_path)
    assert all(np.abs(got[i].astype(int) - images[i]).mean() < 2 for i in images)


def ome(count, promised):
    channels = "".join(
        f'<Channel ID="Channel:0:{i}" Name="{c}" SamplesPerPixel="1"/>'
        for i, c in enumerate(CHANNELS)
    )
    data = "".join(f'<TiffData IFD="{i}" FirstC="{i}" PlaneCount="1"/>' for i in range(promised))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" '
        f'SizeZ="1" SizeC="4" SizeT="1">{channels}{data}</Pixels></Image></OME>'
    )


@pytest.mark.parametrize("promised", [3, 4])
def test_planes_that_are_promised_and_absent_are_refused(tmp_path, images, promised):
    """An acquisition that stopped: OME-XML of four channels, three pages."""
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        with tifffile.TiffWriter(tmp_path / "in" / f"{id}.ome.tif", ome=False) as file:
            for k in range(3):
                about = ome(3, promised) if k == 0 else None
                file.write(
                    image[..., k], photometric="minisblack", description=about, metadata=None
                )
    with pytest.raises(InputError, match=r"promise.*: 3 times \(.*p0.ome.tif"):
        taken(tmp_path / "in", tmp_path, pattern="{id}")


def test_channels_last_without_names_are_counted_in_the_message(tmp_path, images):
    """numpy's [H, W, 4] written as it is: TIFF reads 64 planes of 64 x 4 pixels."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", images["p0"], photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif.*: 64 planes without names: which are red"):
        taken(tmp_path / "in", tmp_path, pattern="{id}")


def test_an_empty_strip_is_refused(tmp_path, images):
    """A write that was interrupted: a strip of 0 bytes, which decoders fill with zeros."""
    root = written(tmp_path / "in", images, lambda p, x: tifffile.imwrite(p, x), ".tif")
    with tifffile.TiffFile(root / "p1_green.tif", mode="r+b") as file:
        file.pages[0].tags["StripByteCounts"].overwrite(0)
    with pytest.raises(InputError, match=r"p1_green.tif.*empty strips"):
        taken(root, tmp_path)


def test_padding_is_black_whatever_the_cameras_offset(tmp_path, images):
    """16-bit camera data with an offset in a field that is larger than the image."""
    names = {"axes": "CYX", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm"}
    names["Channel"] = {"Name": ["Tubulin", "GFP", "DAPI", "ER"]}
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        values = np.moveaxis(image, -1, 0).astype(np.uint16) * 4 + 1000
        tifffile.imwrite(tmp_path / "in" / f"{id}.ome.tif", values, ome=True, metadata=names)
    whole, *_ = taken(tmp_path / "in", tmp_path / "a")
    padded, *_ = taken(tmp_path / "in", tmp_path / "b", field_um=8.0)
    for id in images:
        assert padded[id].shape == (80, 80, 4)
        assert np.array_equal(padded[id][8:-8, 8:-8], whole[id])
        assert padded[id].sum() == whole[id].sum()


@pytest.mark.parametrize(("quality", "subsampling", "off"), [(95, 0, 3), (75, 2, 8)])
def test_the_atlas_jpegs_give_the_plane_of_their_colour(
    tmp_path, images, quality, subsampling, off
):
    """ID_red.jpg is shown in its colour; JPEG's chroma bleeds into the other planes."""
    shown = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}

    def write(path, plane):
        rgb = np.zeros((*plane.shape, 3), np.uint8)
        rgb[..., shown[path.stem.rsplit("_", 1)[1]]] = plane[..., None]
        Image.fromarray(rgb).save(path, quality=quality, subsampling=subsampling)

    got, *_ = taken(written(tmp_path / "in", images, write, ".jpg"), tmp_path)
    assert all(np.abs(got[i].astype(int) - images[i]).mean() < off for i in images)


def test_a_composite_named_as_a_channel_is_refused(tmp_path, images):
    """A JPEG of several channels whose name ends in _green."""

    def write(path, plane):
        Image.fromarray(np.dstack([plane, plane[::-1], plane.T])).save(path, quality=95)

    with pytest.raises(InputError, match="a colour image whose planes differ"):
        taken(written(tmp_path / "in", images, write, ".jpg"), tmp_path)


def test_a_channel_that_is_a_copy_is_named(tmp_path, images):
    """The same file saved as two channels."""
    image = images["p0"].copy()
    image[..., 3] = image[..., 0]
    save(tmp_path / "in", "p0", image)
    *_, told = taken(tmp_path / "in", tmp_path)
    assert any(line.startswith("channel yellow is a copy of red: 1 (p0)") for line in told)


# --- files to images ---


def test_what_systems_leave_in_folders_is_ignored(tmp_path, images):
    """._NAME, .DS_Store, Thumbs.db, desktop.ini."""
    for id, image in images.items():
        save(tmp_path / "in", id, image)
    for path in list((tmp_path / "in").iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(100))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (tmp_path / "in" / name).write_bytes(bytes(64))
    got, _, told = taken(tmp_path / "in", tmp_path)
    assert equal(got, images) and not any("left out" in line for line in told)


def test_composites_beside_channels_are_left_out_by_name(tmp_path, images):
    """ID_blue_red_green.jpg of the atlas beside its single channels; alone it is an RGB image."""
    for id, image in images.items():
        save(tmp_path / "in", id, image)
        composite = Image.fromarray(image[..., :3])
        path = tmp_path / "in" / f"{id}_blue_red_green.jpg"
        composite.save(path, quality=100, subsampling=0)
    got, _, told = taken(tmp_path / "in", tmp_path)
    assert equal(got, images) and any("composites" in line and ": 3 (" in line for line in told)
    for path in (tmp_path / "in").glob("*.png"):
        path.unlink()
    got, *_ = taken(tmp_path / "in", tmp_path / "alone", missing={"yellow": "zeros"})
    assert set(got) == set(images)
    assert all(np.abs(got[i][..., :3].astype(int) - images[i][..., :3]).mean() < 8 for i in got)


@pytest.mark.parametrize(
    "pattern", ["{channel}/{id}_{channel}", "{id}_{channel}", "", "*/{id}_{channel}"]
)
def test_the_layout_of_cellmaps(tmp_path, images, pattern):
    """red/ID_red.png: the channel is in the folder and in the name."""
    for id, image in images.items():
        for k, channel in enumerate(CHANNELS):
            (tmp_path / "in" / channel).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., k]).save(tmp_path / "in" / channel / f"{id}_{channel}.png")
    got, *_ = taken(tmp_path / "in", tmp_path, pattern=pattern)
    assert equal(got, images)


def test_sub_folders_and_capitals_belong_to_the_images(tmp_path, images):
    """A sub-folder a day, suffixes and channels in capitals; what fits nothing is named."""
    save(tmp_path / "in", "p0", images["p0"])
    save(tmp_path / "in" / "day2", "p1", images["p1"])
    for k, channel in enumerate(("Red", "Green", "Blue", "Yellow")):
        Image.fromarray(images["p2"][..., k]).save(tmp_path / "in" / f"p2_{channel}.PNG")
    Image.fromarray(images["p2"][..., 0]).save(tmp_path / "in" / "overview.png")
    got, _, told = taken(tmp_path / "in", tmp_path)
    assert equal(got, images)
    assert any("fit no pattern were left out: 1 (overview.png)" in line for line in told)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("r01c0{n}f01p01-ch{k}sk1fk1fl1.tiff", "ch1:red,ch2:green,ch3:blue,ch4:yellow"),
        ("plate_A0{n}_s1_w{k}.TIF", "1:red,2:green,3:blue,4:yellow"),
        ("A0{n}/C{k}.tif", "C1:red,C2:green,C3:blue,C4:yellow"),
        ("im{n}_C{k}.tif", "C1:red,C2:green,C3:blue,C4:yellow"),
        ("P_B02_T0001F00{n}L01A0{k}Z01C0{k}.tif", "01:red,02:green,03:blue,04:yellow"),
        ("Plate_B0{n}_T0001F001L01A0{k}Z01C0{k}.tif", "1:red,2:green,C3:blue,C04:yellow"),
        ("im{n}_c{k}_ORG.tif", "1:red,2:green,3:blue,4:yellow"),
    ],
)
def test_numbered_channels_are_asked_for_and_read(tmp_path, images, name, channels):
    """Harmony, ImageXpress, CellVoyager, ZEN, and numbered channels of others."""
    for n, image in enumerate(images.values()):
        for k in range(4):
            path = tmp_path / "in" / name.format(n=n + 1, k=k + 1)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, image[..., k])
    with pytest.raises(InputError, match=r"which is which\? Set data.folder.channels"):
        taken(tmp_path / "in", tmp_path / "no")
    got, _, told = taken(tmp_path / "in", tmp_path / "yes", channels=channels)
    assert [np.array_equal(a, b) for a, b in zip(got.values(), images.values())] == [True] * 3
    assert any("read as" in line for line in told)


@pytest.mark.parametrize(
    ("name", "stains"),
    [
        ("{id}-{stain}", CHANNELS),
        ("{id} {stain}", ("Texas Red", "FITC", "Hoechst 33342", "Cy5")),
        ("{id}.{stain}", CHANNELS),
        ("{stain}_{id}", ("Tubulin", "GFP", "DAPI", "ER")),
        ("{id}_{stain}", ("Texas_Red", "Alexa_488", "DAPI", "Alexa_Fluor_647")),
    ],
)
def test_other_separators_and_stains_of_two_words(tmp_path, images, name, stains):
    """ID-red.png, DAPI_ID.png, ID_Texas_Red.png."""
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        for k, stain in enumerate(stains):
            path = tmp_path / "in" / f"{name.format(id=id, stain=stain)}.png"
            Image.fromarray(image[..., k]).save(path)
    assert equal(taken(tmp_path / "in", tmp_path)[0], images)


@pytest.mark.parametrize("z", ["", " z 1"])
def test_in_cell_names_the_stain_by_the_emission(tmp_path, images, z):
    """A - 01(fld 1 wv Blue - FITC).tif: blue light excites the green protein."""
    (tmp_path / "in").mkdir()
    for n, image in enumerate(images.values()):
        for k, stain in enumerate(("Green - dsRed", "Blue - FITC", "UV - DAPI", "Red - Cy5")):
            path = tmp_path / "in" / f"A - 0{n}(fld 1 wv {stain}{z}).tif"
            tifffile.imwrite(path, image[..., k])
    got, *_ = taken(tmp_path / "in", tmp_path)
    assert equal(got, {f"A - 0{n}_1": image for n, image in enumerate(images.values())})


def test_one_channel_without_a_name_is_asked_for(tmp_path, images):
    """Grey files whose names say no channel."""
    (tmp_path / "in").mkdir()
    Image.fromarray(images["p0"][..., 0]).save(tmp_path / "in" / "x.png")
    with pytest.raises(InputError, match=r"holds one channel, and its name doesn't say which"):
        taken(tmp_path / "in", tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("p{n}_z{z:02d}_{channel}.tif", {}),
        ("p{n}-{channel}-s{z}.png", dict(pattern="{id}-{channel}-s{z}")),
        ("p{n}_Z{z:03d}_ch0{k}.tif", dict(channels="ch00:red,ch01:green,ch02:blue,ch03:yellow")),
        ("p{n}p{z:02d}-ch{k}sk1fk1fl1.tiff", dict(channels="0:red,1:green,2:blue,3:yellow")),
        ("ZStep_{z}/p{n}_w{k}8A3F.TIF", dict(channels="0:red,1:green,2:blue,3:yellow")),
        ("p{n}L01A01Z{z:02d}C0{k}.tif", dict(channels="00:red,01:green,02:blue,03:yellow")),
    ],
)
def test_a_file_a_z_plane_is_one_image(tmp_path, images, name, options):
    """Z planes that are files of their own: Leica, Harmony, MetaXpress, CellVoyager."""
    for n, image in enumerate(images.values()):
        for k, channel in enumerate(CHANNELS):
            for z, share in ((1, 0.5), (2, 1.0), (10, 0.3)):
                path = tmp_path / "in" / name.format(n=n, k=k, z=z, channel=channel)
                path.parent.mkdir(parents=True, exist_ok=True)
                plane = (image[..., k] * share).astype(np.uint8)
                if path.suffix == ".png":
                    Image.fromarray(plane).save(path)
                else:
                    tifffile.imwrite(path, plane)
    got, _, told = taken(tmp_path / "in", tmp_path, **options)
    assert equal(got, images)
    assert any(line.startswith("note: Z stacks became one plane (max): 3") for line in told)
    with pytest.raises(InputError, match=r"a Z stack of 3 planes"):
        taken(tmp_path / "in", tmp_path / "refused", project="refuse", **options)


def test_a_changed_z_plane_is_read_anew(tmp_path, images):
    """Another plane of a stack of files, the first one as it was."""
    for z, id in ((1, "p0"), (2, "p1")):
        save(tmp_path / "in", f"x_z{z}", images[id])
    taken(tmp_path / "in", tmp_path)
    save(tmp_path / "in", "x_z2", images["p2"])
    expected = {"x": np.maximum(images["p0"], images["p2"])}
    assert equal(taken(tmp_path / "in", tmp_path)[0], expected)


def test_thumbnails_of_metaxpress_are_skipped(tmp_path, images):
    """p0_s1_w1_thumbGUID.TIF beside p0_s1_w1GUID.TIF, whose GUID may start with a digit."""
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        for k in range(4):
            tifffile.imwrite(tmp_path / "in" / f"{id}_w{k}8A3F-1C.TIF", image[..., k])
            tifffile.imwrite(tmp_path / "in" / f"{id}_w{k}_thumb9B2E-4D.TIF", image[::4, ::4, k])
    with pytest.raises(InputError, match=r"with the channels 0, 1, 2 and 1 more: which"):
        taken(tmp_path / "in", tmp_path / "asked")
    got, *_ = taken(tmp_path / "in", tmp_path, channels="w0:red,w1:green,w2:blue,w3:yellow")
    assert equal(got, images)


def test_stains_name_channels(tmp_path, images):
    """Files named by stain, and a channel's own name by option."""
    for id, image in images.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        for k, stain in enumerate(("Tubulin", "GFP", "DAPI", "mine")):
            Image.fromarray(image[..., k]).save(tmp_path / "in" / f"{id}_{stain}.png")
    got, *_ = taken(tmp_path / "in", tmp_path, channels="mine:yellow")
    assert equal(got, images)


def test_a_root_below_home_and_names_by_token(tmp_path, images, monkeypatch):
    """root="~/in", and channels as data.sources may name them: channel -> its token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in").mkdir()
    for id, image in images.items():
        for k in range(4):
            Image.fromarray(image[..., k]).save(tmp_path / "in" / f"{id}-ch{k + 1}sk1.png")
    tokens = {channel: f"ch{k + 1}" for k, channel in enumerate(CHANNELS)}
    got, *_ = taken("~/in", tmp_path, pattern="{id}-{channel}sk1", tokens=tokens)
    assert equal(got, images)


def test_links_out_of_the_root_need_an_option(tmp_path, images):
    """Workflow engines stage their inputs as links."""
    for id, image in images.items():
        save(tmp_path / "store", id, image)
    (tmp_path / "in").mkdir()
    for path in (tmp_path / "store").iterdir():
        (tmp_path / "in" / path.name).symlink_to(path)
    with pytest.raises(InputError, match=r"a link that leaves data.root.*links=True: 12 times"):
        taken(tmp_path / "in", tmp_path)
    got, *_ = taken(tmp_path / "in", tmp_path, links=True)
    assert equal(got, images)


def test_names_that_are_not_utf_8_are_named(tmp_path, images):
    """File names in an old code page."""
    save(tmp_path / "in", "p0", images["p0"])
    save(tmp_path / "in", "p1", images["p1"])
    for channel in CHANNELS:
        path = os.fsencode(tmp_path / "in")
        with contextlib.suppress(OSError):  # a file system of Unicode names refuses them itself
            os.rename(
                path + f"/p0_{channel}.png".encode(),
                path + b"/gr\xfc\xdf_%b.png" % channel.encode(),
            )
    with pytest.raises(InputError, match=r"not UTF-8; rename it: 4 times .*gr\\xfc\\xdf_blue"):
        taken(tmp_path / "in", tmp_path)
    got, *_ = taken(tmp_path / "in", tmp_path, skip=True)
    assert set(got) == {"p1"}


def test_a_table_that_names_the_channels_anew_is_read_anew(tmp_path, images):
    """The header of a table of paths corrected, the same files in the same order."""
    root = written(tmp_path / "in", {"p0": images["p0"]}, tifffile.imwrite, ".tif")
    row = ",".join(f"p0_{channel}.tif" for channel in CHANNELS)
    for header, order in (
        ("red,green,blue,yellow", [0, 1, 2, 3]),
        ("green,red,blue,yellow", [1, 0, 2, 3]),
    ):
        (root / "t.csv").write_text(f"id,{header}\np0,{row}\n")
        got, *_ = taken(root, tmp_path, table="t.csv")
        assert np.array_equal(got["p0"], images["p0"][..., order])


def test_a_table_with_two_columns_of_labels_is_asked_about(tmp_path, images):
    """Columns label and target in a table of paths."""
    root = written(tmp_path / "in", {"p0": images["p0"]}, tifffile.imwrite, ".tif")
    (root / "t.csv").write_text("id,green,label,target\np0,p0_green.tif,1,2\n")
    with pytest.raises(InputError, match="columns label, target: which are the labels"):
        taken(root, tmp_path, table="t.csv")


@pytest.mark.parametrize("options", [dict(pixel_size=80), dict(field_um=163840, pixel_size=0.08)])
def test_a_scale_in_nanometres_is_refused(tmp_path, images, options):
    """80 nm and 163,840 nm, where µm are meant."""
    written(tmp_path / "in", images, lambda path, p: Image.fromarray(p).save(path), ".png")
    with pytest.raises(InputError, match=r"data\.folder\.(pixel_size=80|field_um=163840): .* µm"):
        taken(tmp_path / "in", tmp_path, **options)


def test_names_are_equal_whatever_the_form_of_their_letters(tmp_path, images):
    """macOS decomposes letters, a table typed elsewhere has composed ones."""
    save(tmp_path / "in", unicodedata.normalize("NFD", "Zelle_ü"), images["p0"])
    (tmp_path / "in" / "labels.csv").write_text("id,labels\nZelle_ü,Nucleoli\n", "utf-8")
    _, table, _ = taken(tmp_path / "in", tmp_path)
    assert table["labels"][0].tolist() == [2]


def test_a_changed_folder_is_read_anew(tmp_path, images):
    """Another plate with files of the same names, sizes and times."""
    a, b = images["p0"], images["p1"]
    for folder, image in (("one", a), ("two", b)):
        for k, channel in enumerate(CHANNELS):
            path = tmp_path / folder / f"x_{channel}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, image[..., k])
            os.utime(path, (315532800, 315532800))
    assert np.array_equal(taken(tmp_path / "one", tmp_path)[0]["x"], a)
    assert np.array_equal(taken(tmp_path / "two", tmp_path)[0]["x"], b)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_paths_is_a_source(tmp_path, images, suffix):
    """Paths and labels in one table, files in any place below the root."""
    rows = []
    for n, (id, image) in enumerate(images.items()):
        save(tmp_path / "in" / f"day{n}", f"x{n}", image)
        paths = {c: f"day{n}/x{n}_{c}.png" for c in CHANNELS}
        rows.append({"Id": id, **paths, "Labels": "Nucleoli" if n else "", "note": "7"})
    table = pd.DataFrame(rows)
    path = tmp_path / "in" / f"images{suffix}"
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    got, table, _ = taken(tmp_path / "in", tmp_path, table=path.name)
    assert equal(got, images)
    assert [None if x is None else x.tolist() for x in table["labels"]] == [None, [2], [2]]
    (tmp_path / "in" / "images.csv").write_text(
        "id,red,green,blue,yellow\na,../x,b,c,d\na,b,b,b,b\n"
    )
    with pytest.raises(InputError, match=r"row 2: .*outside of data.root"):
        taken(tmp_path / "in", tmp_path, table="images.csv")


# --- labels ---


@pytest.mark.parametrize(
    "text",
    [
        "id,plate,labels\np0,1,Nucleoplasm\np1,2,Nucleoli\np2,3,5\n",
        ",id,labels\n0,p0,Nucleoplasm\n1,p1,Nucleoli\n2,p2,5.0\n",
        "labels,id\nNucleoplasm,p0\nNucleoli,p1\n[5],p2\n",
        "Id,Target\np0,0\np1,2.0\np2,5\n",
        "image;class\np0;nucleoplasm\np1;nucleoli\np2;5\n",
        "id\tlabel\np0\t0\np1\t2\np2\t5\n",
        "sep=;\nid;labels\np0;0\np1;2\np2;5\n",
        "image,compartment\np0,Nucleoplasm\np1,Nucleoli\np2,Nuclear bodies\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_labels_are_found_by_their_header(tmp_path, images, text, encoding):
    """Other columns, orders, separators and encodings (Excel's); never the plate's number."""
    for id, image in images.items():
        save(tmp_path / "in", id, image)
    (tmp_path / "in" / "labels.csv").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    _, table, _ = taken(tmp_path / "in", tmp_path)
    assert [x.tolist() for x in table["labels"]] == [[0], [2], [5]]


@pytest.mark.parametrize("name", ["plate", "well", "count"])
def test_numbers_of_another_column_are_no_labels(tmp_path, images, name):
    """A table of ids and plates."""
    for id, image in images.items():
        save(tmp_path / "in", id, image)
    (tmp_path / "in" / "labels.csv").write_text(f"id,{name}\np0,3\np1,3\np2,4\n")
    with pytest.raises(InputError, match=f"numbers in a column '{name}': are they class numbers"):
        taken(tmp_path / "in", tmp_path)


@pytest.mark.parametrize("texts", [("0;2", "2", "5"), ("[0, 2]", "2", "5"), ("0|2", "2.0", "5.0")])
@pytest.mark.parametrize("header", ["Id,Target", "ID,Label"])
def test_the_competitions_table_takes_other_separators(tmp_path, images, texts, header):
    """pandas' floats, ; and | between numbers, and the header of the competition of 2021."""
    for id, image in images.items():
        save(tmp_path / "train", id, image)
        save(tmp_path / "test", f"t{id}", image)
    rows = "".join(f'{id},"{text}"\n' for id, text in zip(images, texts))
    (tmp_path / "train.csv").write_text(f"{header}\n{rows}")
    ids = "".join(f"t{id},64,64,0\n" for id in images)
    (tmp_path / "sample_submission.csv").write_text(f"ID,ImageWidth,ImageHeight,String\n{ids}")
    _, table, _ = taken(tmp_path, tmp_path, source="kaggle")
    labels = table[table["source"] == "train"].set_index("id")["labels"]
    assert [labels[id].tolist() for id in images] == [[0, 2], [2], [5]]


def test_class_names_count_before_numbers(tmp_path, images):
    """Own classes called "2" and "1"."""
    save(tmp_path / "in", "p0", images["p0"])
    (tmp_path / "in" / "labels.csv").write_text("id,labels\np0,1\n")
    _, table, _ = taken(tmp_path / "in", tmp_path, names=("2", "1"))
    assert table["labels"][0].tolist() == [1]


# --- the terminal ---


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode(tmp_path, images, encoding):
    """Paths and help whose letters the terminal lacks."""
    root = tmp_path / "Zellen µ ü →"
    save(root, "p0", images["p0"])
    project = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(project)}
    for arguments in (
        ["catalog", "--help"],
        ["catalog", "--config.data.source=folder", f"--config.data.root={root}"],
    ):
        command = [sys.executable, "-m", "hpa_jax", *arguments, f"--workdir={tmp_path / 'w'}"]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
