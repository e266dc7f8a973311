"""The report's page: sections of text, tables, figures and images in one self-contained HTML file.

Tables sort and fold, rows expand, images switch channels and enlarge (components.js, shared with
the predictions page).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpa_jax.core import artifacts
from hpa_jax.report.figures import mosaic, uri

if TYPE_CHECKING:
    import jinja2

SIDE = 256  # px of an image's longer side on the page
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cells:
    """An image of the page: its four planes in one file (figures.mosaic), each w x h pixels."""

    src: str
    w: int
    h: int


@dataclass(frozen=True)
class Line:
    """A line under an image; kind: "", "good", "bad" or "id"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Card:
    """An image with lines under it; `other`: a second image beside the first."""

    cells: Cells
    alt: str
    lines: list[Line]
    other: Cells | None = None


@dataclass(frozen=True)
class Table:
    """A table of formatted cells.

    chosen: the row to highlight, -1 for none; text: columns that hold text; groups: (title,
    number of columns) above the column names; details: row number -> images shown when the row is
    expanded.
    """

    columns: list[str]
    rows: list[list[str]]
    chosen: int = -1
    text: tuple[int, ...] = (0,)
    groups: list[tuple[str, int]] = field(default_factory=list)
    details: Mapping[int, list[Card]] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A wide figure (data URI) with its alternative text."""

    uri: str
    alt: str


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


@dataclass(frozen=True)
class Overview:
    """The first screen: the result, on which data, and sections to read next.

    verdict: one sentence; facts: (value, description); next: (section id, link text, reason).
    """

    verdict: str
    facts: list[tuple[str, str]]
    next: list[tuple[str, str, str]]
    cards: list[Card] = field(default_factory=list)


def cells(image: np.ndarray, side: int = SIDE) -> Cells:
    """Return an image uint8[H, W, 4] for the page."""
    encoded, height, width = mosaic(image, side)
    return Cells(uri(encoded, "image/jpeg"), width, height)


def write(
    path: Path,
    title: str,
    subtitle: str,
    sections: list[Section],
    overview: Overview | None = None,
) -> None:
    """Write the page to `path`; names and ids from tables are escaped."""
    html = environment().get_template("page.html.j2").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        overview=overview,
        styles=asset("components.css", "page.css"),
        script=asset("components.js", "page.js"),
    )  # fmt: skip
    with artifacts.atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def asset(*names: str) -> Any:
    """Return the text of files beside this module, unescaped."""
    import markupsafe

    return markupsafe.Markup("\n".join((HERE / name).read_text("utf-8") for name in names))


def environment() -> "jinja2.Environment":
    """Return the templates of both pages; names and ids from tables are escaped."""
    import jinja2

    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True)
    templates.filters["cells_json"] = lambda images: json.dumps([vars(image) for image in images])
    return templates


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
