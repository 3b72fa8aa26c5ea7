"""What the HTML pages have in common: one file each, that needs nothing but a browser.

Written with jinja2, which torch already depends on: it escapes whatever is inserted, which
templates of the standard library leave to the care of whoever edits them. Figures are SVG inside
the file: sharp at any zoom and on paper. Nothing in a file depends on the time of rendering.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from matplotlib.figure import Figure

from fpnas.report.formats import (
    format_count,
    format_macs,
    format_milliseconds,
    format_percent,
    format_points,
    format_seconds,
)
from fpnas.report.style import to_svg

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in a page."""

    svg: str
    alt: str
    caption: str

    @classmethod
    def of(cls, figure: Figure, alt: str, caption: str) -> Picture:
        """Draws the figure."""
        return cls(to_svg(figure), alt, caption)

    @property
    def data_uri(self) -> str:
        """The picture as an address that holds all of it."""
        encoded = base64.b64encode(self.svg.encode("utf-8")).decode("ascii")
        return f"data:image/svg+xml;base64,{encoded}"


@cache
def environment() -> jinja2.Environment:
    """Templates, with the formats of :mod:`fpnas.report.formats` as filters."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        macs=format_macs,
        count=format_count,
        duration=format_seconds,
        milliseconds=format_milliseconds,
        percent=format_percent,
        points=format_points,
    )
    made.globals["css"] = (_FOLDER / "report.css").read_text(encoding="utf-8")
    return made


def is_web(url: str) -> bool:
    """Whether an address becomes a link."""
    # Anything else that a browser would follow, such as javascript:, stays text.
    return urlsplit(url).scheme in ("http", "https")
