"""Figures as data URIs, so that a page is one file: axes, colours, dots with intervals, images.

Colours: Okabe and Ito's palette, which is safe for colour-blind readers; cividis for heat maps.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP*X"
HEAT = "cividis_r"
JPEG_QUALITY = 80
Series = tuple[np.ndarray, np.ndarray, np.ndarray]  # value, low, high of each row; NaN: none


def colours(count: int) -> list[str]:
    """Return `count` colours; the palette repeats."""
    return [PALETTE[i % len(PALETTE)] for i in range(count)]


def marker(number: int, points: int) -> str:
    """Return the marker of line `number`: each repetition of the palette has a different one.

    In the first round only single points have a marker.
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
    """Return a figure of rows x columns axes, row by row.

    width, height: in inches. fitted: margins adapt to the texts, which is slow for many panels.
    options: of matplotlib's `subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def svg(figure: "Figure") -> str:
    """Return the figure as a data URI; the same figure gives the same bytes."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    settings = {"svg.hashsalt": "hpa_jax", "svg.fonttype": "none", "path.simplify_threshold": 0.3}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return uri(buffer.getvalue(), "image/svg+xml")


def uri(data: bytes, kind: str) -> str:
    """Return bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def dots(names: Sequence[str], series: Mapping[str, Series], label: str) -> str:
    """Return dots with 95 % intervals: one row per name, one colour per series."""
    figure, (axis,) = axes(1, height=0.24 * len(names) + 1.2, width=8.6)
    rows = np.arange(len(names))
    shift = 0.18 * (np.arange(len(series)) - (len(series) - 1) / 2)
    for i, (name, (value, low, high)) in enumerate(series.items()):
        colour = colours(len(series))[i]
        axis.hlines(rows + shift[i], low, high, color=colour, alpha=0.5, linewidth=2)
        axis.plot(value, rows + shift[i], MARKERS[i], color=colour, label=name, markersize=5)
    axis.set_yticks(rows, names, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set(xlabel=f"{label}; bars: 95 % bootstrap interval")
    axis.grid(axis="x", alpha=0.3)
    if len(series) > 1:
        handles = axis.get_legend_handles_labels()
        figure.legend(*handles, fontsize=8, loc="outside upper right", ncols=len(series))
    return svg(figure)


def mosaic(image: np.ndarray, side: int) -> tuple[bytes, int, int]:
    """Return the four planes of uint8[H, W, 4] side by side in one grey JPEG, red and green over
    blue and yellow, and the height and width of a plane in pixels.

    Grey, as colour compression would mix the channels.  The longer side becomes at most `side`
    pixels; each channel is stretched to its 99.5th percentile.
    """
    from PIL import Image

    height, width = image.shape[:2]
    step = max(1, max(height, width) // 256)
    top = np.maximum(np.percentile(image[::step, ::step], 99.5, axis=(0, 1)), 24)
    scale = min(1.0, side / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    sheet = Image.new("L", (2 * width, 2 * height))
    for k in range(4):
        table = np.minimum(np.arange(256) * (255.0 / top[k]), 255).astype(np.uint8)
        plane = Image.fromarray(table[image[..., k]])
        small = plane.resize((width, height), Image.Resampling.BILINEAR)
        sheet.paste(small, (k % 2 * width, k // 2 * height))
    buffer = io.BytesIO()
    # A sheet of 1024² at quality 85: 5 ms, 216 kB; as WebP (80, method 2): 93 ms, 162 kB.
    sheet.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), height, width


def planes(encoded: bytes) -> np.ndarray:
    """Return the planes uint8[H, W, 4] that `mosaic` encoded."""
    from PIL import Image

    sheet = np.asarray(Image.open(io.BytesIO(encoded)).convert("L"))
    height, width = (size // 2 for size in sheet.shape)
    blocks = sheet.reshape(2, height, 2, width).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(blocks.reshape(height, width, 4))
