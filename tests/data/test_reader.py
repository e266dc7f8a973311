"""Every form of a channel file that can be met: converted without loss, or refused in words."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpa_jax.data import reader
from tests.data.layouts import picture, save

GREY = picture(1)[..., 0]


def written(tmp_path: Path, pixels: np.ndarray, name: str = "a.png", mode=None) -> Path:
    Image.fromarray(pixels, mode).save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize(
    "pixels",
    [
        GREY,
        np.stack([GREY] * 3, -1),
        np.stack([GREY, GREY, GREY, np.full_like(GREY, 255)], -1),
        GREY.astype(np.uint16),
        GREY.astype(np.uint16) * 257,
        GREY.astype(np.uint16) * 256,
    ],
    ids=["grey", "rgb", "rgba", "16-bit small", "16-bit x257", "16-bit x256"],
)
def test_converts_what_loses_nothing(tmp_path, pixels):
    path = written(tmp_path, pixels)
    assert np.array_equal(reader.read_channel(path, "red"), GREY)


@pytest.mark.parametrize(
    ("channel", "planes"),
    [("red", (0,)), ("green", (1,)), ("blue", (2,)), ("yellow", (0, 1))],
)
def test_takes_the_plane_of_an_image_shown_in_a_colour(tmp_path, channel, planes):
    pixels = np.zeros((*GREY.shape, 3), np.uint8)
    for k in planes:
        pixels[..., k] = GREY
    path = written(tmp_path, pixels)
    assert np.array_equal(reader.read_channel(path, channel), GREY)
    other = "blue" if channel != "blue" else "red"
    # A look-up table may show a channel in any colour: the intensity is what it shows.
    assert np.array_equal(reader.read_channel(path, other), GREY)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (picture(1)[..., :3], "planes differ"),
        (np.stack([GREY] * 3 + [GREY], -1), "transparent"),
        (np.arange(256, dtype=np.uint16).reshape(16, 16) * 100, "16-bit"),
        (np.full((4, 4), 1.5, np.float32), "fractional"),
    ],
)
def test_refuses_what_would_lose_meaning(tmp_path, pixels, reason):
    name = "a.tif" if pixels.dtype == np.float32 else "a.png"
    with pytest.raises(reader.BadImage, match=reason):
        reader.read_channel(written(tmp_path, pixels, name), "red")


def test_names_every_kind_of_damage(tmp_path):
    whole = written(tmp_path, picture(3, 64)[..., 0]).read_bytes()
    cases = {
        "cut.png": (whole[:-40], "truncated"),
        "half.png": (whole[: len(whole) // 2], "truncated"),
        "empty.png": (b"", "0 bytes"),
        "text.png": (b"not an image", "not an image"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(reader.BadImage, match=reason) as caught:
            reader.read_channel(tmp_path / name, "red")
        assert name in str(caught.value)
        with pytest.raises(reader.BadImage, match=reason):
            reader.size(tmp_path / name)
    with pytest.raises(reader.BadImage, match="no such file"):
        reader.size(tmp_path / "absent.png")


def test_damage_inside_the_pixels_is_found_by_decoding(tmp_path):
    rng = np.random.default_rng(0)
    path = written(tmp_path, rng.integers(0, 256, (64, 64), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[200:240] = bytes(40)
    path.write_bytes(content)
    assert reader.size(path) == (64, 64)
    with pytest.raises(reader.BadImage, match="damaged"):
        reader.read_channel(path, "red")


def test_refuses_a_bomb_before_decoding(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"0"))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(reader.BadImage, match="pixels; refused"):
        reader.read_channel(path, "red")


def test_reads_channels_in_order_and_absent_yellow_as_zeros(tmp_path):
    image = picture(5)
    save(tmp_path, "a", image)
    paths = {c: str(tmp_path / f"a_{c}.png") for c in reader.CHANNELS}
    assert np.array_equal(reader.read(paths), image)
    assert np.array_equal(reader.read(paths, ("blue", "red")), image[..., [2, 0]])
    paths["yellow"] = None
    assert np.array_equal(reader.read(paths)[..., 3], np.zeros((16, 16)))
    save(tmp_path, "b", picture(5, 32))
    paths["green"] = str(tmp_path / "b_green.png")
    with pytest.raises(reader.BadImage, match=r"32 x 32 .* 16 x 16"):
        reader.read(paths)


def test_resize_averages_and_crops_the_longer_side():
    image = picture(7, 16)  # constant 4 x 4 blocks
    small = reader.resize(np.pad(image, ((0, 0), (8, 8), (0, 0))), 16)
    assert np.array_equal(small, image)
    assert reader.resize(np.full((64, 64, 4), 77, np.uint8), 24).tolist() == [[[77] * 4] * 24] * 24
    transparent = image.copy()
    transparent[..., 3] = 0  # an alpha plane of zeros must not blacken the others
    assert np.array_equal(reader.resize(transparent, 8)[..., :3], reader.resize(image, 8)[..., :3])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "tile": (16, 16)}])
def test_a_truncated_tiff_is_found_by_its_header(tmp_path, options):
    import tifffile

    path = tmp_path / "a_red.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    tifffile.imwrite(path, pixels, **options)
    assert reader.size(path) == (64, 64)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(reader.BadImage, match="truncated TIFF"):
        reader.size(path)
