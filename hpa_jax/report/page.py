"""The report's page: sections of text, tables, figures and images to one HTML file.

Everything is inside the file (figures as data URIs, no script, no font), so it opens offline and
can be mailed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpa_jax.core import artifacts


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    chosen: the row to highlight, -1 for none; text: columns that hold text; groups: (title,
    number of columns) of a line above the columns' names.
    """

    columns: list[str]
    rows: list[list[str]]
    chosen: int = -1
    text: tuple[int, ...] = (0,)
    groups: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A wide figure (data URI) with its alternative text."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Line:
    """A line under an image; kind: "", "good", "bad" or "id"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Card:
    """A small image with lines under it; `other`: a second image beside the first."""

    uri: str
    alt: str
    lines: list[Line]
    other: str = ""


@dataclass(frozen=True)
class Section:
    """One section of the page, in the order notes, table, figures, cards, feet."""

    id: str
    title: str
    notes: list[str] = field(default_factory=list)
    table: Table | None = None
    figures: list[Figure] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    feet: list[str] = field(default_factory=list)


def write(path: Path, title: str, subtitle: str, sections: list[Section]) -> None:
    """Write the page to `path`; names and ids from tables are escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True)
    template = environment.get_template("page.html.j2")
    html = template.render(title=title, subtitle=subtitle, sections=sections)
    with artifacts.atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as text; a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def span(bounds: Sequence[float] | None, digits: int = 2) -> str:
    """Return an interval as text; a dash for None and NaN."""
    if bounds is None or any(bound != bound for bound in bounds):
        return "–"
    low, high = bounds
    return f"{low:.{digits}f}–{high:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """Return a change with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")
