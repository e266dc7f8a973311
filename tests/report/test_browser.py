"""The page in a real browser: every image loads, every link leads somewhere, no complaints."""

import numpy as np
import pytest

from hpa_jax.pipeline import report
from hpa_jax.report import overview, page
from hpa_jax.report.inputs import ChainStep
from hpa_jax.report.page import Card, Cells, Figure, Section
from tests.report import browser
from tests.report.example import data, results

pytestmark = pytest.mark.browser


def test_every_section_opens_without_complaint(tmp_path):
    valid = results(test=False).valid
    chain = [ChainStep("alone", {"validation": valid.decided["tiny"]}, {})]
    plan = {"epoch": [0, 1], "lr": [1e-3, 1e-4], "stem": [1e-3, 1e-4], "beta1": [0.9, 0.9]}
    log = [{"step": 1, "epoch": 1, "split": "train", "loss": 1.0, "lr": 1e-3}]
    shown = data(
        results(test=False, chain=chain),
        gains={0: {"own/mean": 1.0}},
        logs={"tiny": log},
        schedules={"tiny": {**plan, "borders": []}},
        shown=24,
    )
    sections, first = report.sections(shown), overview.overview(shown)
    page.write(tmp_path / "index.html", "title", "subtitle", sections, first)
    seen, console = browser.opened(tmp_path / "index.html", tmp_path)
    cards = [card for s in sections for card in s.cards] + first.cards
    cards += [card for s in sections if s.table for own in s.table.details.values() for card in own]
    assert seen["images"] == sum(len(s.figures) for s in sections) > 5
    assert seen["cells"] == sum(1 + (card.other is not None) for card in cards) > 10
    assert seen["links"] == len(sections) + 1
    assert seen["broken"] == seen["lost"] == seen["hidden"] == seen["cut"] == []
    assert seen["wide"] == 0
    assert console == ""


def test_what_is_broken_is_seen(tmp_path):
    """The test above can fail: no images, a page too wide, a table that is cut, a complaint."""
    bad = Section(
        "bad",
        "Bad",
        figures=[Figure("data:image/svg+xml;base64,PHN2Zw==", "no figure")],
        cards=[Card(Cells("data:image/png;base64,AA==", 1, 1), "no image", [])],
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


CLICKS = """
const log = [];
const table = document.querySelector("#sorted ~ .scroll table") || document.querySelector("table");
const first = () => table.querySelector("tr:not(.detail) > td").textContent;
const visible = () => [...table.querySelectorAll("tr")].filter(row => row.offsetHeight).length;
log.push(visible());
table.querySelectorAll("button.sort")[1].click();
log.push(first());
table.querySelectorAll("button.sort")[1].click();
log.push(first());
table.parentNode.parentNode.querySelector(".scroll + button").click();
log.push(visible());
table.querySelector("button.row").click();
log.push(table.querySelector("button.row").closest("tr").nextElementSibling.offsetHeight > 50);
document.querySelector("tr.detail button.open").click();
const dialog = document.querySelector("dialog");
log.push(dialog.querySelector("h2").textContent, dialog.textContent.includes("why"));
log.push(document.documentElement.scrollWidth - document.documentElement.clientWidth);
document.title = JSON.stringify(log);
"""


@pytest.mark.parametrize("width", [1366, 390])
def test_tables_sort_fold_and_open_images(tmp_path, width):
    rows = [[f"class {n}", str((7 * n) % 20)] for n in range(20)]
    image = page.cells(np.zeros((9, 9, 4), np.uint8))
    details = {3: [Card(image, "an image", [page.Line("why")])]}
    section = Section("s", "S", table=page.Table(["class", "images"], rows, details=details))
    path = tmp_path / "index.html"
    page.write(path, "title", "subtitle", [section])
    log, console = browser.clicked(path, tmp_path, CLICKS, width)
    assert console == ""
    # 12 rows and the head; the largest first, then the smallest; all rows.
    assert log[:4] == [13, "class 17", "class 0", 21]
    assert log[4:] == [True, "an image (1 of 1)", True, 0]
