"""Any depth, layout, photometric interpretation and type against one plain 8-bit reference."""

import functools
import re
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpa_jax.data import microscopes, reader
from hpa_jax.data.planes import PROJECTIONS, Reading
from hpa_jax.data.reader import CHANNELS
from hpa_jax.data.sources import imported
from tests.data.layouts import picture, png16

MOST = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def reference(values, bits, floor, percentiles):
    """uint8[H, W]: the scaling as docs/data.md states it, in numpy alone."""
    black, high = np.percentile(values, percentiles)
    white = max(high, black + floor * (2**bits - 1))
    return np.rint(np.clip((values.astype(float) - black) * 255 / (white - black), 0, 255))


def saved(path, plane, kind, layout, bits):
    """A file of one channel, int[H, W] of so many bits, as a kind of file in a layout."""
    imwrite = functools.partial(tifffile.imwrite, path, **layout)
    deep = plane.astype(np.uint16)
    if kind == "white is zero":
        imwrite(65535 - deep, photometric="miniswhite")
    elif kind == "white is zero, stated":
        imwrite(
            (2**bits - 1 - plane).astype(np.uint16),
            photometric="miniswhite",
            extratags=[(281, "H", 1, 2**bits - 1, True)],
        )
    elif kind == "colour":
        imwrite(np.dstack([deep] * 3), photometric="rgb")
    elif kind == "opaque":
        planes = np.dstack([deep] * 3 + [np.full_like(deep, 65535)])
        imwrite(planes, photometric="rgb", extrasamples=["unassalpha"])
    elif kind == "planar":
        planes = np.stack([deep] * 3)
        imwrite(planes, photometric="rgb", planarconfig="separate")
    elif kind == "palette":
        table = np.arange(65536, dtype=np.uint16)[::-1]
        imwrite(65535 - deep, photometric="palette", colormap=np.stack([table] * 3))
    elif kind == "turned":
        imwrite(np.rot90(deep), extratags=[(274, "H", 1, 6, True)])
    elif kind == "stack":
        imwrite(np.stack([deep // 2, deep]), photometric="minisblack")
    elif kind == "png":
        png16(path, plane)
    elif kind == "colour png":
        png16(path, np.dstack([plane] * 3))
    elif kind == "float":
        imwrite((plane / (2**bits - 1)).astype(np.float32))
    else:
        imwrite(plane.astype(kind))


KINDS = (
    *("uint16", "int32", "uint32", "float64", "float", "png", "colour png", "colour", "opaque"),
    *("planar", "white is zero", "white is zero, stated", "palette", "turned", "stack", "one file"),
)
LAYOUTS = (
    {},
    dict(byteorder=">", bigtiff=True),
    dict(rowsperstrip=5),
    dict(tile=(16, 16), compression="zlib"),
    dict(compression="zlib", predictor=True),
)


@given(
    bits=st.sampled_from([10, 12, 14, 16]),
    offset=st.integers(2, 300),  # below, 16 bits are 8 bits spread by 257, which are kept
    kind=st.sampled_from(KINDS),
    layout=st.sampled_from(LAYOUTS),
    floor=st.sampled_from([0.05, 0.15, 1.0]),
    percentiles=st.sampled_from([(0.001, 99.999), (0, 100), (1, 99)]),
    stated=st.booleans(),
    dark=st.integers(1, 40),
    seed=st.integers(0, 9),
)
@MOST
def test_every_form_gives_the_reference(
    tmp_path_factory, bits, offset, kind, layout, floor, percentiles, stated, dark, seed
):
    levels = picture(seed, 32).astype(np.int64) * (2**bits - 1 - offset) // 255 + offset
    levels[..., 3] //= dark  # a channel that by itself would have a smaller depth
    levels[0, 0, :3] = 2**bits - 1  # the depth shows
    depth = bits if kind != "float" else 16
    if layout.get("predictor") and kind in ("float", "float64"):
        layout = {}
    folder = tmp_path_factory.mktemp("form")
    paths = {}
    if kind == "one file":
        paths[""] = str(folder / "x.tif")
        planes = np.moveaxis(levels, -1, 0).astype(np.uint16)
        names = {"axes": "CYX", "Channel": {"Name": list(CHANNELS)}}
        about = dict(ome=True, metadata=names, photometric="minisblack")
        tifffile.imwrite(paths[""], planes, **about, **layout)
    for k, channel in enumerate(CHANNELS if kind != "one file" else ()):
        path = folder / f"x_{channel}.{'png' if 'png' in kind else 'tif'}"
        paths[channel] = str(path)
        saved(path, levels[..., k], kind, layout, bits)
    scaling = reader.Scaling(percentiles, floor, depth if stated else 0)
    how = imported.Conversion(scaling=scaling, reading=Reading())
    row = imported.convert("x", imported.Files(paths), folder, how, lambda: "mark")
    image = reader.read(row)
    for k in range(4):
        values = levels[..., k]
        if kind == "float":
            values = np.rint(values / (2**bits - 1) * 65535)
        expected = reference(values, depth, floor, percentiles)
        assert np.abs(image[..., k] - expected).max() <= 1


def test_points_over_a_plate_are_shared_by_its_images(tmp_path):
    from tests.data.sources.test_users_files import taken

    images = {f"p{n}_a{i}": picture(3 * n + i, 32) for n in range(2) for i in range(2)}
    for id, image in images.items():
        for k, channel in enumerate(CHANNELS):
            (tmp_path / "in").mkdir(exist_ok=True)
            values = image[..., k].astype(np.uint16) * (8 if id.startswith("p1") else 4)
            tifffile.imwrite(tmp_path / "in" / f"{id}_{channel}.tif", values)
    options = dict(pattern="{plate}_{site}_{channel}", scale_over="plate", percentiles=(0, 100))
    got, table, told = taken(tmp_path / "in", tmp_path, **options)
    assert any("read once more for points over the plate: 4 (" in line for line in told)
    table = table.set_index("id")
    for plate, factor in (("p0", 4), ("p1", 8)):
        ids = [id for id in images if id.startswith(plate)]
        values = np.stack([images[id][..., 1].astype(float) * factor for id in ids])
        expected = reference(values, 12, 0.15, (0, 100))
        for id, pixels in zip(ids, expected, strict=True):
            assert np.abs(got[id][..., 1] - pixels).max() <= 1
    whites = table["white"]
    assert whites["p0_a0"] == whites["p0_a1"] and whites["p1_a0"] == whites["p1_a1"]
    assert whites["p0_a0"] != whites["p1_a0"]


def test_the_docs_table_lists_the_formats():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    table = text[text.index("### Formats") : text.index("Metadata count more")]
    rows = [line.split("|")[1:] for line in table.splitlines() if line.startswith("| `.")]
    suffixes = {row[0]: set(re.findall(r"`(\.\w+)`", row[0])) for row in rows}
    assert set.union(*suffixes.values()) == set(reader.SUFFIXES)
    untried = [suffixes[row[0]] for row in rows if "untried" in row[2]]
    assert untried == [set(microscopes.SUFFIXES)]  # which say so (test_microscopes)
    for project in PROJECTIONS:
        assert f'"{project}"' in text or project == "max"


def test_a_plane_of_several_blocks_is_counted_and_scaled_whole():
    """Histograms and scaling go block by block; the last block is a part of one."""
    plane = np.random.default_rng(3).integers(0, 65536, (3, 70_001)).astype(np.uint16)
    assert np.array_equal(reader.histogram(plane), np.bincount(plane.ravel(), minlength=65536))
    (table,) = reader.scale(np.arange(65536, dtype=np.uint16)[None], 400, 30_400)
    assert np.array_equal(reader.scale(plane, 400, 30_400), table[plane])
    assert np.array_equal(reader.scale(plane.T, 400, 30_400), table[plane.T])


def test_one_pixel_that_is_no_multiple_makes_a_plane_deep():
    """It may lie between the pixels that are tested first."""
    spread = np.full((64, 64), 257 * 9, np.uint16)
    assert reader.as_eight_bits([spread])[0].max() == 9
    spread[5, 7] += 1
    assert reader.as_eight_bits([spread]) is None
