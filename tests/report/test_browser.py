"""The page in a real browser: every image loads, every link leads somewhere, no complaints."""

import numpy as np
import pytest

from hpa_jax.report import (
    classes,
    cost,
    curves,
    importance,
    mistakes,
    mixups,
    page,
    reliability,
    result,
    steps,
)
from hpa_jax.report.page import Card, Figure, Section
from tests.report import browser
from tests.report.example import CLASSES, findings

pytestmark = pytest.mark.browser


def test_every_section_opens_without_complaint(tmp_path):
    found = findings(test=False)
    chain = [steps.Step("alone", {"validation": found.valid.decided["tiny"]}, {})]
    noise = np.random.default_rng(0)
    sections = [
        result.section(found, None, {}),
        steps.section(found, chain, ""),
        classes.section(found, np.ones(3, int)),
        curves.section(found),
        reliability.section(found),
        mixups.section(found),
        *mistakes.sections(
            found, lambda ids: iter(noise.integers(0, 256, (len(ids), 9, 9, 4), np.uint8)), 3
        ),
        importance.section({0: {"own/mean": 1.0}}, CLASSES),
        cost.section({"data": 1.0}, ("data",)),
    ]
    page.write(tmp_path / "index.html", "title", "subtitle", sections)
    seen, console = browser.opened(tmp_path / "index.html", tmp_path)
    assert seen["images"] == sum(len(s.images) + len(s.cards) for s in sections) > 10
    assert seen["links"] == len(sections)
    assert seen["broken"] == seen["lost"] == seen["hidden"] == seen["cut"] == []
    assert seen["wide"] == 0
    assert console == ""


def test_what_is_broken_is_seen(tmp_path):
    """The test above can fail: no images, a page too wide, a table that is cut, a complaint."""
    bad = Section(
        "bad",
        "Bad",
        images=[Figure("data:image/svg+xml;base64,PHN2Zw==", "no figure")],
        cards=[Card("data:image/png;base64,AA==", "no image", [])],
        table=page.Table(["a column"] * 40, [["a cell of a table"] * 40]),
    )
    fits = Section("fits", "Fits", table=page.Table(["a column"], [["a cell"]]))
    path = tmp_path / "index.html"
    page.write(path, "title", "subtitle", [bad, fits])
    wide = '<a href="#nowhere" style="display: block; width: 2000px">x</a>'
    path.write_text(path.read_text().replace("</main>", wide + "<script>oops()</script></main>"))
    seen, console = browser.opened(path, tmp_path)
    assert seen["broken"] == ["no figure", "no image"] and seen["cut"] == ["bad"]
    assert len(seen["lost"]) == 1 and seen["wide"] > 0 and "oops" in console
