"""CZI: what the library of its maker wrote is read as it was written, or refused.

No file of a microscope was at hand.
"""

import re
import sys

import numpy as np
import pytest

from hpa_jax.data import reader
from hpa_jax.data.planes import BadImage, Reading
from tests.data.layouts import picture
from tests.data.sources.test_users_files import equal, taken

NAMES = ["Tubulin", "GFP", "DAPI", "ER"]


@pytest.fixture
def czi():
    return pytest.importorskip("pylibCZIrw.czi")


def write(czi, path, scenes, names=NAMES, step=1000):
    """A file of images [T, Z, C, H, W(, 3)], one a scene; a scene begins `step` pixels right of the
    one before.  None in place of a plane leaves it out."""  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    with czi.create_czi(str(path)) as file:
        for number, scene in enumerate(scenes):
            place = dict(scene=number, location=(number * step - 300, -20))
            for t, stack in enumerate(scene):
                for z, channels in enumerate(stack):
                    for c, plane in enumerate(channels):
                        if plane is not None:
                            pixels = np.ascontiguousarray(plane.reshape(*plane.shape[:2], -1))
                            file.write(data=pixels, plane={"T": t, "Z": z, "C": c}, **place)
        about = dict(channel_names=dict(enumerate(names)), scale_x=0.08e-6, scale_y=0.08e-6)
        file.write_metadata("a", **about)
    return path


def edited(czi, path, change):
    """The file with other metadata. change: XML -> XML."""
    with czi.edit_czi(str(path)) as file, file.edit_session() as metadata:
        before = metadata.get_xml()
        assert change(before) != before
        metadata.set_xml(change(before))
    return path


def _without_last(xml):
    start, end = xml.rindex("<Channel "), xml.rindex("</Channel>") + len("</Channel>")
    return xml[:start] + xml[end:]


def of(image):
    """[T, Z, C, H, W] of uint8[H, W, C]."""
    return np.moveaxis(image, -1, 0)[None, None]


def test_a_stack_of_four_channels(czi, tmp_path):
    image = picture(1, 64)
    stack = np.concatenate([of(image // 2), of(image)], axis=1)
    write(czi, tmp_path / "in" / "a.czi", [stack])
    got, table, told = taken(tmp_path / "in", tmp_path)
    assert equal(got, {"a": image}) and table["pixel_size"][0] == pytest.approx(0.08)
    assert any(line.startswith("note: Z stacks became one plane (max): 1") for line in told)
    assert any("CZI was tried on files of its maker's library" in line for line in told)


@pytest.mark.parametrize("sides", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("step", [1000, 40])
def test_each_scene_is_an_image(czi, tmp_path, sides, step):
    """Also where the metadata list no scene, and where scenes differ in size or overlap."""
    images = {f"a_s{k}": picture(k, side) for k, side in enumerate(sides)}
    write(czi, tmp_path / "in" / "a.czi", list(map(of, images.values())), step=step)
    got, *_ = taken(tmp_path / "in", tmp_path)
    assert equal(got, images)


def test_scenes_that_the_metadata_list(czi, tmp_path):
    images = {f"a_s{k}": picture(k, 64) for k in range(2)}
    path = write(czi, tmp_path / "in" / "a.czi", list(map(of, images.values())))
    scenes = '<S><Scenes><Scene Index="0" Name="A1"/><Scene Index="1" Name="A1"/></Scenes></S>'
    edited(czi, path, lambda xml: xml.replace("<Dimensions>", f"<Dimensions>{scenes}"))
    got, *_ = taken(tmp_path / "in", tmp_path)
    assert equal(got, images)


def test_the_depth_is_the_one_stated(czi, tmp_path):
    path = write(czi, tmp_path / "a.czi", [of(picture(1, 64).astype(np.uint16) * 16)])
    bits = "<ComponentBitCount>12</ComponentBitCount></Channel>"
    assert reader.planes(path).bits is None
    assert reader.planes(edited(czi, path, lambda x: x.replace("</Channel>", bits))).bits == 12


def test_a_mosaic_is_put_together(czi, tmp_path):
    plane = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    with czi.create_czi(str(tmp_path / "a.czi")) as file:
        for left in (0, 40):
            tile = np.ascontiguousarray(plane[:, left : left + 40, None])
            file.write(data=tile, plane={"C": 0}, scene=0, location=(left, 0))
        file.write_metadata("a", channel_names={0: "DAPI"})
    (read,) = reader.planes(tmp_path / "a.czi").pixels
    assert np.array_equal(read, plane)


def test_colour_is_read_as_red_green_blue(czi, tmp_path):
    image = picture(1, 64)[..., :3]
    path = write(czi, tmp_path / "a.czi", [image[None, None, None, ..., ::-1]], names=["RGB"])
    read = reader.planes(path)
    assert read.colour and np.array_equal(np.moveaxis(read.pixels, 0, -1), image)


def test_a_time_series_gives_the_frame_asked_for(czi, tmp_path):
    image = of(picture(1, 64))
    path = write(czi, tmp_path / "a.czi", [np.concatenate([image // 2, image])])
    assert np.array_equal(reader.planes(path, Reading(frame=1)).pixels, image[0, 0])
    with pytest.raises(BadImage, match="has 2 of axis T: a time series"):
        reader.planes(path)


def test_what_is_not_whole_is_refused(czi, tmp_path):
    plane = picture(1, 64)[..., 0]
    gaps = write(czi, tmp_path / "gaps.czi", [[[[plane, plane], [plane, None]]]], NAMES[:2])
    with pytest.raises(BadImage, match="1 of 4 planes are not in the file"):
        reader.planes(gaps)
    mixed = [[[[plane, plane.astype(np.uint16)]]]]
    with pytest.raises(BadImage, match="Gray16, Gray8 pixels; one type of all channels"):
        reader.planes(write(czi, tmp_path / "mixed.czi", mixed, NAMES[:2]))
    unnamed = edited(
        czi, write(czi, tmp_path / "few.czi", [[[[plane, plane]]]], NAMES[:2]), _without_last
    )
    with pytest.raises(BadImage, match="its metadata name 1 channels, 2 are there"):
        reader.planes(unnamed)
    cut = tmp_path / "cut.czi"
    cut.write_bytes(gaps.read_bytes()[:5000])
    for read in (reader.planes, reader.scenes):
        with pytest.raises(BadImage, match="can't be read"):
            read(cut)


def test_without_its_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    (tmp_path / "a.czi").write_bytes(b"any")
    with pytest.raises(BadImage, match=r"needs pylibCZIrw: pip install 'hpa-jax\[formats\]'"):
        reader.planes(tmp_path / "a.czi")


def test_pixels_that_are_not_square_are_refused(czi, tmp_path):
    path = write(czi, tmp_path / "a.czi", [of(picture(1, 64))])
    number = r"(Id=\"Y\".*?<Value>)[^<]*"
    edited(czi, path, lambda xml: re.sub(number, r"\g<1>1.6e-07", xml, flags=re.DOTALL))
    with pytest.raises(BadImage, match="not square"):
        reader.planes(path)


def test_metadata_that_are_no_numbers_are_one_line(czi, tmp_path):
    path = write(czi, tmp_path / "a.czi", [of(picture(1, 64))])
    number = r"(Id=\"X\".*?<Value>)[^<]*"
    edited(czi, path, lambda xml: re.sub(number, r"\g<1>wide", xml, flags=re.DOTALL))
    with pytest.raises(BadImage, match=r"can't be read.*wide"):
        reader.planes(path)
