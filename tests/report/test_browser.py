"""The page in a real browser: every image loads, every link leads somewhere, no complaints."""

import pytest

from hpa_jax.pipeline import report
from hpa_jax.report import page
from hpa_jax.report.inputs import ChainStep
from hpa_jax.report.page import Card, Figure, Section
from tests.report import browser
from tests.report.example import data, results

pytestmark = pytest.mark.browser


def test_every_section_opens_without_complaint(tmp_path):
    valid = results(test=False).valid
    chain = [ChainStep("alone", {"validation": valid.decided["tiny"]}, {})]
    plan = {"epoch": [0, 1], "lr": [1e-3, 1e-4], "stem": [1e-3, 1e-4], "beta1": [0.9, 0.9]}
    log = [{"step": 1, "epoch": 1, "split": "train", "loss": 1.0, "lr": 1e-3}]
    sections = report.sections(
        data(
            results(test=False, chain=chain),
            gains={0: {"own/mean": 1.0}},
            logs={"tiny": log},
            schedules={"tiny": {**plan, "borders": []}},
        )
    )
    page.write(tmp_path / "index.html", "title", "subtitle", sections)
    seen, console = browser.opened(tmp_path / "index.html", tmp_path)
    assert seen["images"] == sum(len(s.figures) + len(s.cards) for s in sections) > 10
    assert seen["links"] == len(sections)
    assert seen["broken"] == seen["lost"] == seen["hidden"] == seen["cut"] == []
    assert seen["wide"] == 0
    assert console == ""


def test_what_is_broken_is_seen(tmp_path):
    """The test above can fail: no images, a page too wide, a table that is cut, a complaint."""
    bad = Section(
        "bad",
        "Bad",
        figures=[Figure("data:image/svg+xml;base64,PHN2Zw==", "no figure")],
        cards=[Card("data:image/png;base64,AA==", "no picture", [])],
        table=page.Table(["a column"] * 40, [["a cell of a table"] * 40]),
    )
    fits = Section("fits", "Fits", table=page.Table(["a column"], [["a cell"]]))
    path = tmp_path / "index.html"
    page.write(path, "title", "subtitle", [bad, fits])
    wide = '<a href="#nowhere" style="display: block; width: 2000px">x</a>'
    path.write_text(path.read_text().replace("</main>", wide + "<script>oops()</script></main>"))
    seen, console = browser.opened(path, tmp_path)
    assert seen["broken"] == ["no figure", "no picture"] and seen["cut"] == ["bad"]
    assert len(seen["lost"]) == 1 and seen["wide"] > 0 and "oops" in console
