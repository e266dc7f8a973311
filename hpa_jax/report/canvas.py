"""What every figure shares: colours, axes, and the way to a data URI, so that the page is one file.

Colours: Okabe and Ito's palette, which colour-blind readers tell apart; cividis for areas.
"""

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP*X"
AREAS = "cividis"


def colours(count: int) -> list[str]:
    """As many colours, round and round the palette."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def marker(number: int, points: int) -> str:
    """Of the line of that number: where the palette begins anew, another sign in each round.

    In the first round a line has none, unless it is a single point, which no line would show.
    """
    first = number < len(PALETTE)
    return "" if first and points > 1 else MARKERS[number // len(PALETTE) % len(MARKERS)]


def axes(
    columns: int,
    rows: int = 1,
    width: float = 9,
    height: float = 3.2,
    *,
    fitted: bool = True,
    **options: bool,
) -> tuple["Figure", "list[Axes]"]:
    """A figure of rows x columns axes (inches), row by row.

    fitted: margins fit the texts by themselves, which takes seconds for many panels; options: of
    matplotlib's subplots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def svg(figure: "Figure") -> str:
    """The figure as a data URI; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings = {"svg.hashsalt": "hpa_jax", "svg.fonttype": "none", "path.simplify_threshold": 0.3}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return uri(buffer.getvalue(), "image/svg+xml")


def uri(data: bytes, kind: str) -> str:
    """Bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
