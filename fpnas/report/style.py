"""One look for every figure, and bytes that depend on nothing but the figure.

Only matplotlib's object-oriented API is used: there is no global figure and no display. The
palette is that of Okabe and Ito, which people with any common colour blindness can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib as mpl
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#CC79A7",
    "#56B4E9",
)
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
INK, MUTED, RULE, PAPER = "#1B1F24", "#5C6670", "#DDE2E7", "#FFFFFF"

WIDTH_INCHES = 11.0
"""Width of every figure: 1056 pixels in a browser, where 9 pt text is 12 pixels high."""
PNG_DPI = 144

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=CYCLE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same on every machine
    "font.size": 9,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "savefig.facecolor": PAPER,
    "svg.hashsalt": "fpnas",
    "text.color": INK,
    "text.parse_math": False,  # a name with a dollar sign is a name
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Sets the look of figures made inside; also a decorator. A user's matplotlibrc has no say."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]
        yield


def new_figure(height_inches: float, *, constrained: bool = False) -> Figure:
    """Returns an empty figure of the common width."""
    figure = Figure(
        figsize=(WIDTH_INCHES, height_inches), layout="constrained" if constrained else None
    )
    FigureCanvasAgg(figure)
    return figure


@style()
def to_png_bytes(figure: Figure, dpi: int = PNG_DPI) -> bytes:
    """Returns the figure as PNG: equal bytes for an equal figure, no date, no software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@style()
def to_svg(figure: Figure) -> str:
    """Returns the figure as an SVG document, text as outlines: equal text for an equal figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", dpi=PNG_DPI, metadata=metadata)
    return buffer.getvalue().decode("utf-8")
