"""The predictions page: what it holds, what it escapes, how large it gets."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from hpa_jax.core.tables import cell
from hpa_jax.decision.calibration import Calibration
from hpa_jax.decision.validated import Validated
from hpa_jax.report import figures, predictions
from hpa_jax.report.predictions import Maps, Neighbours, Predictions
from tests.report import browser

EVIL = "</script><img src=x onerror=alert(1)>\u2028'\"&😀"
CLICKS = Path(__file__).parent / "clicks.js"
CLASSES = ["Nucleoplasm", "Golgi <apparatus>", "Never"]


def page_of(folder, count=4, *, side=24, ids=None, known=None, **more):
    rng = np.random.default_rng(0)
    ids = ids or [f"cell {n}" for n in range(count)]
    images = rng.integers(0, 255, (count, side, side + 8, 4), np.uint8)
    scores = np.linspace(0, 1, 3 * count).reshape(count, 3)
    scores[0, 1] = np.nan
    labels = scores > 0.4
    unlike = np.arange(count) % 2 == 1
    why = [f"too {EVIL}" if flag else "" for flag in unlike]
    thresholds = np.array([0.4, 0.4, np.inf])
    embeddings = {"net": rng.normal(size=(count, 5))}
    found = Predictions(
        *(ids, CLASSES, scores, labels, thresholds, unlike, why, embeddings, "net"),
        validated=known,
    )
    path = predictions.write(
        folder, found, lambda: iter(images), title=f"Cells {EVIL}", lines=[EVIL], **more
    )
    return path, found, images


def data_of(path):
    text = path.read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_page_holds_what_was_predicted(tmp_path):
    plane = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    gallery = Neighbours(["known"], [[0, 1]], [np.zeros((9, 9, 4), np.uint8)], [[(0, 0.5)]] * 4)
    path, found, _ = page_of(
        tmp_path / "p",
        micrometres=[10.0, None, 1.0, 2.0],
        maps=Maps("net", "CAM", [{1: plane}, {}]),
        neighbours=gallery,
    )
    data = data_of(path)
    assert data["classes"] == CLASSES and data["thresholds"] == [0.4, 0.4, None]
    first, last = data["images"][0], data["images"][3]
    assert first["id"] == "cell 0" and first["scores"][1] is None and first["um"] == 10
    assert last["labels"] == np.flatnonzero(found.labels[3]).tolist() and last["flagged"]
    assert (first["w"], first["h"]) == (32, 24) and data["maps"]["h"] == 2
    stored = np.frombuffer(base64.b64decode(first["maps"]["1"]), np.uint8)
    np.testing.assert_allclose(stored.reshape(2, 3) / 255, plane, atol=1 / 500)
    assert "maps" not in last and last["near"] == [[0, 0.5]]
    assert data["gallery"][0]["labels"] == [0, 1]


KNOWN = Validated(
    Calibration(np.array([[0, 2, 1], [0, 1, 1], [np.nan] * 3])),
    np.array([0.81239, np.nan, 0.0]),
    np.array([12, 3, 0]),
)


def test_the_page_says_what_a_score_is_worth_where_it_is_known(tmp_path):
    path, found, _ = page_of(tmp_path / "p", known=KNOWN)
    data = data_of(path)
    assert data["f1"] == [0.812, None, 0.0] and data["support"] == [12, 3, 0]
    for image, scores in zip(data["images"], found.scores, strict=True):
        assert image["probabilities"] == pytest.approx(
            [scores[0] ** 2 / (scores[0] ** 2 + 1 - scores[0]), np.nan_to_num(scores[1]), 0],
            abs=1e-3,
        )
    assert found.first(2).probabilities.shape == (2, 3)
    unknown = data_of(page_of(tmp_path / "q")[0])
    assert "f1" not in unknown and "probabilities" not in unknown["images"][0]


@pytest.mark.browser
def test_the_large_view_has_columns_for_what_is_known(tmp_path):
    script = """setTimeout(() => {
      document.querySelector("button.open").click();
      setTimeout(() => { document.title = JSON.stringify([
        [...document.querySelectorAll("dialog th")].map(cell => cell.textContent.trim()),
        document.querySelector("dialog tbody tr").children.length,
        [...document.querySelectorAll(".chip")].map(chip => chip.title)]); }, 300);
    }, 300);"""
    path, found, _ = page_of(tmp_path / "p", known=KNOWN, ids=["a", "b", "c", "d"])
    log, console = browser.clicked(path, tmp_path, script)
    assert console == "" and log[0][3:6] == ["probability", "F1", "validation images"]
    assert log[1] == 7
    told = sum(title.endswith("; F1 – on 3 validation images") for title in log[2])
    assert told == found.labels[:, 1].sum() == 2


def test_texts_from_outside_are_escaped(tmp_path):
    path, _, _ = page_of(tmp_path / "p", ids=[EVIL, "=1+1", "b", "c"])
    html = path.read_text("utf-8")
    assert html.count("</script>") == 2 and "<img src=x" not in html
    data = data_of(path)
    assert data["images"][0]["id"] == EVIL and EVIL in data["images"][1]["why"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("=1+1", "'=1+1"), ("@x", "'@x"), ("-a", "'-a"), ("+\t1a", "'+\t1a")),
        *(("\t=1", "'\t=1"), ("-1.5", "-1.5"), ("+3", "+3"), ("cell", "cell"), ("", "")),
    ],
)
def test_no_cell_is_a_formula(text, expected):
    assert cell(text) == expected


def test_many_images_lie_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "INSIDE", 3)
    path, _, images = page_of(tmp_path / "p")
    sources = [row["src"] for row in data_of(path)["images"]]
    assert sources == [f"images/00000{n}.jpg" for n in range(4)]
    stored = figures.planes((path.parent / sources[2]).read_bytes())
    assert stored.shape == images[2].shape


def test_a_page_that_grows_too_large_takes_smaller_images(tmp_path, monkeypatch):
    path, _, _ = page_of(tmp_path / "large", side=400)
    monkeypatch.setattr(predictions, "BYTES", path.stat().st_size - 1)
    smaller, _, _ = page_of(tmp_path / "small", side=400)
    assert data_of(path)["images"][0]["w"] == 408
    assert data_of(smaller)["images"][0]["w"] < 408
    assert smaller.stat().st_size < path.stat().st_size
    monkeypatch.setattr(predictions, "BYTES", 100)
    beside, _, _ = page_of(tmp_path / "beside", side=400)
    assert data_of(beside)["images"][0]["src"] == "images/000000.jpg"


def test_planes_come_back_from_their_sheet():
    image = np.zeros((40, 60, 4), np.uint8)
    for k in range(4):
        image[:, 10 * k : 10 * k + 10, k] = 200
    encoded, height, width = figures.mosaic(image, 512)
    assert (height, width) == (40, 60)
    back = figures.planes(encoded)
    np.testing.assert_allclose(back.astype(int), np.where(image > 0, 255, 0), atol=40)
    assert figures.mosaic(image, 30)[1:] == (20, 30)


def test_places_follow_the_embeddings():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(10, 6)), rng.normal(size=(10, 6)) + 30
    places = predictions.project(np.concatenate([near, far]))
    assert places.shape == (20, 2)
    assert abs(places[:10, 0].mean() - places[10:, 0].mean()) > 5 * places[:10, 0].std()
    assert predictions.project(near[:2]) is None


@pytest.mark.browser
def test_the_page_is_clicked_through(tmp_path):
    plane = np.ones((2, 2), np.float32)
    path, _, _ = page_of(
        tmp_path / "p",
        ids=["a", "=1+1", "c", "d"],
        micrometres=[40.0] * 4,
        maps=Maps("net", "CAM", [{0: plane}] * 4),
    )
    log, console = browser.clicked(path, tmp_path, CLICKS.read_text())
    assert console == ""
    assert log[:3] == [4, 2, 2]
    assert log[3:6] == ["d (1 of 4)", 1, "10 µm"]
    assert log[6:9] == [True, True, "c (2 of 4)"]
    assert log[9:] == ["CSV of 1 selected", "'=1+1,Ne", True, True, 0]


@pytest.mark.browser
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("width", [1366, 390])
def test_no_width_cuts_the_page(tmp_path, monkeypatch, width, beside):
    if beside:
        monkeypatch.setattr(predictions, "INSIDE", 3)
    path, _, _ = page_of(tmp_path / "p", ids=["a" * 90, EVIL, "c", "d"])
    script = """setTimeout(() => { document.title = JSON.stringify([
      document.documentElement.scrollWidth - document.documentElement.clientWidth,
      document.querySelectorAll("[data-broken]").length,
      document.querySelectorAll(".card").length]);
    }, 500);"""
    log, console = browser.clicked(path, tmp_path, script, width)
    assert console == "" and log == [0, 0, 4]
