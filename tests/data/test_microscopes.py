"""Makers' formats: what bioio's readers give, by a stand-in of its interface."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from hpa_jax.data import reader
from hpa_jax.data.planes import BadImage
from tests.data.layouts import picture
from tests.data.sources.test_users_files import equal, taken

NAMES = ["Tubulin", "GFP", "DAPI", "ER"]


def stand_in(pixels, names, scenes=1):
    """The module bioio, whose every file holds these pixels [T, C, Z, Y, X]."""

    class BioImage:
        def __init__(self, path):
            self.scenes = tuple(f"scene {n}" for n in range(scenes))
            self.dims = SimpleNamespace(order="TCZYX")
            self.physical_pixel_sizes = SimpleNamespace(X=0.08, Y=0.08)
            self.channel_names = names

        def set_scene(self, number):
            self.data = pixels // (1 + number)
            self.shape, self.dtype = self.data.shape, self.data.dtype

    module = ModuleType("bioio")
    module.BioImage = BioImage
    return module


@pytest.mark.parametrize("suffix", [".nd2", ".lif"])
def test_a_file_is_read_by_the_same_rules_and_said_to_be_untried(tmp_path, monkeypatch, suffix):
    image = picture(1, 64)
    pixels = np.moveaxis(image, -1, 0)[None, :, None]
    pixels = np.concatenate([pixels // 2, pixels], axis=2)  # a Z stack
    monkeypatch.setitem(sys.modules, "bioio", stand_in(pixels, NAMES))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a{suffix}").write_bytes(b"any")
    got, table, told = taken(tmp_path / "in", tmp_path)
    assert equal(got, {"a": image}) and table["pixel_size"][0] == 0.08
    assert any(
        f"{suffix[1:].upper()} is read by bioio, which was tried on no real" in t for t in told
    )
    assert any(line.startswith("note: Z stacks became one plane (max): 1") for line in told)


def test_each_scene_is_an_image(tmp_path, monkeypatch):
    pixels = np.moveaxis(picture(1, 64), -1, 0)[None, :, None]
    monkeypatch.setitem(sys.modules, "bioio", stand_in(pixels, NAMES, scenes=2))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.lif").write_bytes(b"any")
    got, *_ = taken(tmp_path / "in", tmp_path)
    assert equal(got, {"a_s0": picture(1, 64), "a_s1": picture(1, 64) // 2})


@pytest.mark.parametrize(
    ("shape", "names", "reason"),
    [((2, 4, 1), NAMES, "a time series"), ((1, 3, 1), NAMES, "name 4 channels, 3 are there")],
)
def test_what_is_ambiguous_is_refused(tmp_path, monkeypatch, shape, names, reason):
    pixels = np.ones((*shape, 64, 64), np.uint16)
    monkeypatch.setitem(sys.modules, "bioio", stand_in(pixels, names))
    (tmp_path / "a.nd2").write_bytes(b"any")
    with pytest.raises(BadImage, match=reason):
        reader.planes(tmp_path / "a.nd2")


def test_a_file_whose_scenes_cannot_be_read_is_refused(tmp_path, monkeypatch):
    """bioio's readers open a file by its first bytes, and find that it is damaged later."""

    class Damaged:
        def __init__(self, path):
            pass

        @property
        def scenes(self):
            raise ValueError("Corrupt ND2 file\nheader chunk")

    module = ModuleType("bioio")
    module.BioImage = Damaged
    monkeypatch.setitem(sys.modules, "bioio", module)
    (tmp_path / "a.nd2").write_bytes(b"any")
    for read in (reader.scenes, reader.planes):
        with pytest.raises(BadImage, match=r"can't be read \(Corrupt ND2 file header chunk\)"):
            read(tmp_path / "a.nd2")


def test_without_bioio_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bioio", None)
    (tmp_path / "a.lif").write_bytes(b"any")
    with pytest.raises(BadImage, match=r"needs bioio: pip install 'hpa-jax\[formats\]'"):
        reader.planes(tmp_path / "a.lif")
