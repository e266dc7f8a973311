import re

from hpa_jax.report import page
from hpa_jax.report.page import Card, Cells, Figure, Line, Overview, Section, Table, number, span

CELLS = Cells("data:image/png;base64,AA==", 1, 1)


def test_page_is_one_file_and_escapes_names(tmp_path):
    sections = [
        Section("a", "A <b>", ["note & more"], Table(["x"], [["<script>1</script>"]], 0)),
        Section("b", "B", figures=[Figure("data:image/png;base64,AA==", "alt text")]),
        Section("c", "C", cards=[Card(CELLS, "id'<", [Line("bad", "bad")])]),
    ]
    page.write(tmp_path / "report" / "index.html", "T", "S", sections)
    html = (tmp_path / "report" / "index.html").read_text()
    assert html.count("<script>") == 1 and "&lt;script&gt;" in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)  # opens offline
    assert 'class="chosen"' in html and 'alt="alt text"' in html and 'id="c"' in html
    assert re.findall(r'<div class="bad">bad', html)
    assert 'data-name="id&#39;&lt;"' in html


def test_the_overview_comes_first(tmp_path):
    cards = [Card(CELLS, "first", [])]
    first = Overview("It is <good>.", [(".9", "macro-F1")], [("a", "Classes", "weak")], cards)
    page.write(tmp_path / "p.html", "T", "S", [Section("a", "A")], first)
    html = (tmp_path / "p.html").read_text()
    assert (
        html.index("It is &lt;good&gt;.") < html.index('data-name="first"') < html.index('id="a"')
    )
    assert '<a href="#a">Classes</a>: weak' in html


def test_numbers():
    assert number(None) == number(float("nan")) == "–"
    assert number(1234567) == "1,234,567"
    assert number(0.12345) == "0.123"
    assert (
        span((0.0004, 0.0046), 3) == "0.000–0.005"
    )  # a rare class's threshold: two digits say none
    assert span(None) == span((0.1, float("nan"))) == "–"
