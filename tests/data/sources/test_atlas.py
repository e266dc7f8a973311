"""External images: location names to classes, addresses, colour JPEGs to channels."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from hpa_jax.core import classes
from hpa_jax.core.errors import InputError
from hpa_jax.data import catalog, reader
from hpa_jax.data.problems import Problems
from hpa_jax.data.sources import atlas
from tests.data.layouts import picture

TABLE = "Id,Target\n10580_1610_C1_1,13 25 0\nENSG00000001497_44431_556_B9_1,25\n"
REAL = Path(__file__).resolve().parents[4] / "shared/data/real_tables"


def test_names_become_numbers():
    text = "Golgi  Apparatus;nucleus; Midbody ring ;Vesicles;midbody"
    assert atlas.locations(text, classes.NAMES) == ([0, 7, 16], ["Vesicles"])
    assert atlas.locations("x", classes.NAMES) == ([], ["x"])
    # a set of classes of one's own needs no synonyms
    assert atlas.locations("nucleus", ("Nucleus", "Rest")) == ([0], [])


def test_addresses():
    urls = atlas.urls_of("ENSG00000001497_44431_556_B9_1", atlas.URL)
    assert urls[0] == "http://v18.proteinatlas.org/images/44431/556_B9_1_red.jpg"
    assert len(urls) == 4
    assert atlas.urls_of("1_2_C3_4", atlas.COMPOSITE_URL) == [
        "https://www.proteinatlas.org/images/1/2_C3_4_blue_red_green.jpg"
    ]


def test_table_of_names_drops_what_is_no_class(tmp_path):
    (tmp_path / "t.csv").write_text(
        "Id,Site Parsed Labels\n1_2_C3_4,Vesicles; cytosol\n1_2_C3_5,Vesicles\nnonsense,Cytosol\n"
        "1_2_C3_4,Cytosol\n1_2_C3_6,29\n"
    )
    problems = Problems()
    with pytest.warns(UserWarning, match=r"Vesicles \(2\)"):
        table = atlas.read_table(tmp_path / "t.csv", classes.NAMES, problems)
    assert table["id"].tolist() == ["1_2_C3_4"] and table["labels"][0] == [25]
    assert (table["antibody"][0], table["plate"][0], table["sample"][0]) == ("1", "2", "2_C3")
    found = "; ".join(str(problem) for problem in problems.found)
    assert len(problems.found) == 3
    assert "antibody_plate_well_field" in found and "twice" in found and "'29'" in found


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def in_colour(plane, channel):
    pixels = np.zeros((*plane.shape, 3), np.uint8)
    for k in {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}[channel]:
        pixels[..., k] = plane
    return jpeg(pixels)


@pytest.fixture
def atlas_server(monkeypatch):
    """httpx without a network: antibody 10580 is there, the other is not."""
    asked = []

    def answer(request):
        asked.append(str(request.url))
        path = request.url.path
        if "/10580/" not in path:
            return httpx.Response(404)
        channel = path.rsplit("_", 1)[1].removesuffix(".jpg")
        image = picture(3, 32)
        if path.endswith("blue_red_green.jpg"):
            return httpx.Response(200, stream=httpx.ByteStream(jpeg(image[..., :3])))
        plane = image[..., reader.CHANNELS.index(channel)]
        return httpx.Response(200, stream=httpx.ByteStream(in_colour(plane, channel)))

    plain = httpx.Client
    monkeypatch.setattr(
        httpx, "Client", lambda **o: plain(**o, transport=httpx.MockTransport(answer))
    )
    return asked


FAST = dict(per_second=0, first_pause=0.01, retries=1)


@pytest.mark.parametrize("url", [atlas.URL, atlas.COMPOSITE_URL])
def test_from_the_network_to_the_catalog(tmp_path, atlas_server, url):
    root = tmp_path / "atlas"
    root.mkdir()
    (root / "external.csv").write_text(TABLE)
    files = 4 if "{channel}" in url else 1
    wanted, failed = atlas.fetch(root, classes.NAMES, url=url, **FAST)
    assert wanted == 2 * files and len(failed) == files
    assert "HTTP 404" in (root / "download_failed.csv").read_text()
    source = dict(source="atlas", root=root, url=url)
    bad = tmp_path / "bad.csv"
    table = catalog.build(
        [source],
        classes.NAMES,
        imported=tmp_path / "imported",
        on_bad_image="skip",
        bad_images=bad,
    )
    assert "fetch it with the verb download" in bad.read_text()
    assert table["id"].tolist() == ["10580_1610_C1_1"]
    assert table["labels"][0].tolist() == [0, 13, 25] and table["source"][0] == "external"
    assert table["original_size"][0] == 32
    image = reader.read(table.iloc[0][list(reader.CHANNELS)].to_dict())
    known = 4 if "{channel}" in url else 3
    difference = np.abs(image[..., :known].astype(int) - picture(3, 32)[..., :known])
    assert difference.max() <= 4
    if known == 3:
        assert not image[..., 3].any()


def test_images_of_common_classes_are_not_fetched(tmp_path, atlas_server):
    (tmp_path / "external.csv").write_text(TABLE)
    wanted, failed = atlas.fetch(tmp_path, classes.NAMES, not_only=(0, 25), **FAST)
    assert wanted == 4 and failed == {} and len(atlas_server) == 4
    atlas.fetch(tmp_path, classes.NAMES, not_only=(0, 25), **FAST)
    assert len(atlas_server) == 4  # they are there
    source = dict(source="atlas", root=tmp_path, not_only=(0, 25))
    table = catalog.build([source], classes.NAMES, imported=tmp_path / "imported")
    assert table["id"].tolist() == ["10580_1610_C1_1"]


def test_a_link_out_of_the_root_is_refused(tmp_path, atlas_server):
    root = tmp_path / "atlas"
    (root / "pictures").mkdir(parents=True)
    (root / "external.csv").write_text("Id,Target\n10580_1610_C1_1,13\n")
    atlas.fetch(root, classes.NAMES, **FAST)
    red = root / "pictures" / "10580_1610_C1_1_red.jpg"
    red.rename(tmp_path / "secret.jpg")
    red.symlink_to(tmp_path / "secret.jpg")
    problems = Problems()
    table = atlas.scan(root, classes.NAMES, problems, into=tmp_path / "imported")
    assert len(table) == 0 and len(problems.found) == 1
    assert "a link that leaves data.root" in str(problems.found[0])


def test_images_are_kept_no_larger_than_asked(tmp_path, atlas_server):
    (tmp_path / "external.csv").write_text("Id,Target\n10580_1610_C1_1,13\n")
    atlas.fetch(tmp_path, classes.NAMES, **FAST)
    into = tmp_path / "imported"
    whole = atlas.scan(tmp_path, classes.NAMES, Problems(), into=into)
    expected = reader.resize(reader.read(whole.iloc[0].to_dict()), 16)
    small = atlas.scan(tmp_path, classes.NAMES, Problems(), into=into, largest=16)
    assert np.array_equal(reader.read(small.iloc[0].to_dict()), expected)
    assert small["original_size"][0] == 32 and len(list(into.glob("*.png"))) == 4


def test_sizes_and_checksums_of_the_table_are_asked_for(tmp_path, atlas_server):
    columns = "Id,Target,size_red,sha256_blue"
    (tmp_path / "external.csv").write_text(f"{columns}\n10580_1610_C1_1,13,7,{'0' * 64}\n")
    _, failed = atlas.fetch(tmp_path, classes.NAMES, **FAST)
    reasons = {url.rsplit("_", 1)[1]: reason for url, reason in failed.items()}
    assert "instead of 7" in reasons["red.jpg"] and "another checksum" in reasons["blue.jpg"]
    assert len(reasons) == 2
    (tmp_path / "external.csv").write_text(f"{columns}\n10580_1610_C1_1,13,x,\n1_2_C3_4,0,,ab\n")
    with pytest.raises(InputError, match=r"2 problems: .*'x' is no number.*'ab' is no SHA-256"):
        atlas.fetch(tmp_path, classes.NAMES, **FAST)


@pytest.mark.parametrize(
    ("columns", "cells", "reason"),
    [("size", "7", "instead of 7"), ("sha256", "0" * 64, "another checksum")],
)
def test_size_and_checksum_of_one_file_of_all_channels(
    tmp_path, atlas_server, columns, cells, reason
):
    (tmp_path / "external.csv").write_text(f"Id,Target,{columns}\n10580_1610_C1_1,13,{cells}\n")
    _, failed = atlas.fetch(tmp_path, classes.NAMES, url=atlas.COMPOSITE_URL, **FAST)
    assert len(failed) == 1 and reason in next(iter(failed.values()))
    assert not list((tmp_path / "pictures").glob("*.jpg"))


def test_wrong_tables_and_options(tmp_path):
    with pytest.raises(InputError, match="not there"):
        atlas.fetch(tmp_path, classes.NAMES)
    (tmp_path / "external.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="needs the columns Id and Target"):
        atlas.fetch(tmp_path, classes.NAMES)
    with pytest.raises(InputError, match="must contain"):
        atlas.fetch(tmp_path, classes.NAMES, url="http://x/{name}.jpg")
    with pytest.raises(InputError, match="one of zeros, mean"):
        atlas.scan(tmp_path, classes.NAMES, Problems(), into=tmp_path, missing_yellow="x")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tables are not here")
def test_the_real_external_table():
    problems = Problems()
    table = atlas.read_table(REAL / "HPAv18RBGY_wodpl.csv", classes.NAMES, problems)
    assert len(table) == 74_606 and problems.found == []
    assert table["antibody"].nunique() == 12_815
