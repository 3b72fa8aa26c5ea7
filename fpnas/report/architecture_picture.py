"""The picture of a decoded architecture: its blocks from left to right, in rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle

from fpnas.architecture import Architecture
from fpnas.cost import architecture_cost
from fpnas.report.formats import format_count, format_macs
from fpnas.report.layers import Layer, layers
from fpnas.report.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    RULE,
    WIDTH_INCHES,
    new_figure,
    style,
)

KERNEL_COLOURS = {3: BLUE, 5: ORANGE}
_OTHER = "#AEB6BF"  # stem and head
_ATTENTION = INK
_MAX_COLUMNS = 12
# Inches, from the top of a row down: group names, (blocks), text, bars.
_GROUPS, _TEXT, _BARS, _ROW_GAP = 0.4, 0.56, 0.5, 0.28
_LOWEST, _HIGHEST = 0.32, 1.05  # blocks of the smallest and of the largest resolution
_HEADER, _FOOTER, _MARGIN = 0.42, 0.5, 0.12


@style()
def architecture_picture(architecture: Architecture, num_classes: int) -> Figure:
    """Draws an architecture with the share of the MACs that each of its blocks takes.

    A block's height shows its resolution (logarithmic, sloping where the stride is 2), its width
    its channels (square root), its colour the kernel. With attention it has a dark edge, and as
    many stripes as there are splits. A bypassed block is hollow and dashed.

    Args:
        architecture: What to draw.
        num_classes: Of the classifier, whose cost is part of the head's.
    """
    everything = layers(architecture, num_classes)
    num_rows = math.ceil(len(everything) / _MAX_COLUMNS)
    num_columns = math.ceil(len(everything) / num_rows)
    scales = _Scales.of(everything)
    rows = [everything[i : i + num_columns] for i in range(0, len(everything), num_columns)]
    blocks = [max(max(scales.heights(layer)) for layer in row) for row in rows]
    height = _HEADER + _FOOTER + sum(blocks) + num_rows * (_GROUPS + _TEXT + _BARS + _ROW_GAP)
    figure = new_figure(height)
    # One axis in inches, the origin at the bottom left.
    axis = figure.add_axes((0, 0, 1, 1), label="architecture")
    axis.set(xlim=(0, WIDTH_INCHES), ylim=(0, height))
    axis.set_axis_off()
    macs, params = architecture_cost(architecture, num_classes)
    _write_title(axis, architecture, macs, params, height)
    # A few blocks stay together instead of spreading over the whole width.
    slot = min((WIDTH_INCHES - 2 * _MARGIN) / num_columns, 1.15)
    canvas = _Canvas(axis, scales, slot)
    top = height - _HEADER
    for index, (row, room) in enumerate(zip(rows, blocks, strict=True)):
        canvas.draw_row(row, top, room, starts=index == 0, continues=index + 1 < num_rows)
        top -= _GROUPS + room + _TEXT + _BARS + _ROW_GAP
    _draw_legend(figure, everything)
    return figure


def _write_title(
    axis: Axes, architecture: Architecture, macs: int, params: int, height: float
) -> None:
    y = height - 0.24
    axis.text(
        _MARGIN,
        y,
        f"{architecture.space} {architecture.model} at {architecture.input_size} px",
        fontsize=10,
        fontweight="bold",
        va="center",
    )
    bypassed = len(architecture.blocks()) - architecture.num_layers
    axis.text(
        WIDTH_INCHES - _MARGIN,
        y,
        f"{format_macs(macs)} MACs,  {format_count(params)} parameters,  "
        f"{architecture.num_layers} of {architecture.num_layers + bypassed} blocks in use",
        ha="right",
        va="center",
        color=MUTED,
    )


@dataclass(frozen=True)
class _Scales:
    """What the sizes of a picture are relative to."""

    least_pixels: int
    most_pixels: int
    most_channels: int
    most_macs: int
    total_macs: int

    @classmethod
    def of(cls, everything: Sequence[Layer]) -> _Scales:
        pixels = [size for layer in everything[1:] for size in (layer.in_pixels, layer.out_pixels)]
        return cls(
            min(pixels),
            max(pixels),
            max(layer.channels for layer in everything if layer.name != "head"),
            max(layer.macs for layer in everything),
            sum(layer.macs for layer in everything),
        )

    def heights(self, layer: Layer) -> tuple[float, float]:
        """Of a layer's left and right side, in inches.

        The stem's input is drawn as high as its output, or there were little room for the rest.
        """
        first = layer.out_pixels if layer.name == "stem" else layer.in_pixels
        return self._height(first), self._height(layer.out_pixels)

    def _height(self, pixels: int) -> float:
        low, high = self.least_pixels, self.most_pixels
        share = math.log(pixels / low) / math.log(high / low) if high > low else 1.0
        return _LOWEST + (_HIGHEST - _LOWEST) * share

    def width(self, channels: int, slot: float) -> float:
        """In inches; a head of many channels is as wide as the widest block."""
        share = min(math.sqrt(channels / self.most_channels), 1.0)
        return max(share * 0.8 * min(slot, 0.9), 0.14)


class _Canvas:
    """Draws rows of layers on one axis, all to the same scales."""

    def __init__(self, axis: Axes, scales: _Scales, slot: float) -> None:
        self.axis, self.scales, self.slot = axis, scales, slot
        self.drawn = 0

    def draw_row(
        self, row: Sequence[Layer], top: float, room: float, *, starts: bool, continues: bool
    ) -> None:
        """Draws layers below ``top``, with ``room`` inches for the highest of them."""
        middle = top - _GROUPS - room / 2
        end = _MARGIN + len(row) * self.slot
        self.axis.plot(
            [_MARGIN if starts else 0.0, WIDTH_INCHES if continues else end],
            [middle, middle],
            color=MUTED,
            linewidth=1.0,
            zorder=1,
        )
        base = top - _GROUPS - room - _TEXT - _BARS
        self.axis.plot([_MARGIN, end], [base, base], color=MUTED, linewidth=0.8)
        self._draw_groups(row, top)
        for position, layer in enumerate(row):
            x = _MARGIN + (position + 0.5) * self.slot
            self._draw_layer(layer, x, middle)
            self._write(layer, x, top - _GROUPS - room - 0.08)
            self._draw_bar(layer, x, base)
            self.drawn += 1

    def _draw_layer(self, layer: Layer, x: float, middle: float) -> None:
        width = self.scales.width(layer.channels, self.slot)
        left, right = x - width / 2, x + width / 2
        heights = self.scales.heights(layer)
        gid = f"layer-{self.drawn}"
        if layer.is_bypassed:
            self._add_band(left, right, middle, heights, (0.0, 1.0), PAPER, gid, dashed=True)
            return
        splits = layer.block.splits if layer.block else 0
        colour = KERNEL_COLOURS[layer.block.kernel] if layer.block else _OTHER
        bands = max(splits, 1)
        gap = 0.035 if bands > 1 else 0.0
        # The line of the data must not shine through between the stripes.
        self._add_band(left, right, middle, heights, (0.0, 1.0), PAPER, f"{gid}-back")
        for band in range(bands):
            lower, upper = band / bands, (band + 1) / bands
            share = (lower + gap * (band > 0), upper - gap * (band < bands - 1))
            self._add_band(left, right, middle, heights, share, colour, f"{gid}-band-{band}")
        if splits:
            cap = min(0.05, width / 3)
            edge = (heights[0] + (heights[1] - heights[0]) * (1 - cap / width), heights[1])
            self._add_band(
                right - cap, right, middle, edge, (0.0, 1.0), _ATTENTION, f"{gid}-attention"
            )

    def _add_band(
        self,
        left: float,
        right: float,
        middle: float,
        heights: tuple[float, float],
        share: tuple[float, float],
        colour: str,
        gid: str,
        *,
        dashed: bool = False,
    ) -> None:
        corners = [
            (x, middle + (part - 0.5) * height)
            for x, height, parts in ((left, heights[0], share), (right, heights[1], share[::-1]))
            for part in parts
        ]
        patch = Polygon(
            corners,
            closed=True,
            facecolor=colour,
            edgecolor=MUTED if dashed else "none",
            linestyle=(0, (3, 2)) if dashed else "-",
            linewidth=1.1 if dashed else 0,
            zorder=2,
        )
        patch.set_gid(gid)
        self.axis.add_patch(patch)

    def _draw_groups(self, row: Sequence[Layer], top: float) -> None:
        y = top - 0.22
        for group in sorted({layer.group for layer in row if layer.group is not None}):
            places = [index for index, layer in enumerate(row) if layer.group == group]
            left = _MARGIN + places[0] * self.slot + 0.06
            right = _MARGIN + (places[-1] + 1) * self.slot - 0.06
            self.axis.plot([left, right], [y, y], color=RULE, linewidth=2.0)
            before = row[places[0]]
            arrow = (
                f"{before.in_pixels} to {before.out_pixels}"
                if before.in_pixels != before.out_pixels
                else f"{before.out_pixels}"
            )
            self.axis.text(left, y + 0.05, f"{group + 1}", fontsize=8, fontweight="bold")
            self.axis.text(right, y + 0.05, f"{arrow} px", fontsize=7, color=MUTED, ha="right")

    def _write(self, layer: Layer, x: float, y: float) -> None:
        block = layer.block
        first = f"{layer.channels} ch"
        if block is None:
            lines = [layer.name, "conv 3x3" if layer.name == "stem" else "conv 1x1, fc"]
        elif block.kernel == 0:
            lines = ["bypassed", "" if block.is_identity else "conv 1x1"]
        else:
            lines = [f"x {layer.expansion:g}, {block.kernel}x{block.kernel}", block.activation]
        self.axis.text(x, y, first, ha="center", va="top", fontsize=8, fontweight="bold")
        self.axis.text(
            x,
            y - 0.15,
            "\n".join(lines),
            ha="center",
            va="top",
            fontsize=7.5,
            color=INK,
            linespacing=1.15,
        )

    def _draw_bar(self, layer: Layer, x: float, base: float) -> None:
        share = layer.macs / self.scales.total_macs
        height = 0.32 * layer.macs / self.scales.most_macs
        bar = Rectangle((x - 0.14, base), 0.28, height, facecolor="#7A8794", linewidth=0)
        bar.set_gid(f"macs-{self.drawn}")
        self.axis.add_patch(bar)
        label = f"{100 * share:.0f} %" if share >= 0.005 else "0 %" if not layer.macs else "< 1 %"
        self.axis.text(x, base + height + 0.02, label, ha="center", va="bottom", fontsize=7)


def _draw_legend(figure: Figure, everything: Sequence[Layer]) -> None:
    handles: list[Patch | Line2D] = [
        Patch(facecolor=colour, label=f"{kernel}x{kernel} depthwise")
        for kernel, colour in KERNEL_COLOURS.items()
    ]
    handles += [
        Patch(facecolor=_OTHER, label="stem, head"),
        Patch(facecolor=PAPER, edgecolor=MUTED, linestyle=(0, (3, 2)), label="bypassed block"),
        Patch(facecolor=_ATTENTION, label="edge: attention; stripes: splits"),
        Patch(facecolor="#7A8794", label="bar: share of the MACs"),
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 0.16 / figure.get_figheight()),
        ncols=len(handles),
        columnspacing=1.5,
        handlelength=1.2,
        borderaxespad=0.4,
    )
    figure.text(
        _MARGIN / WIDTH_INCHES,
        0.1 / figure.get_figheight(),
        "Height: resolution (logarithmic; sloping where the stride is 2).  Width: channels (square "
        "root).  Number above a line: block group.  x: expansion.",
        fontsize=8,
        color=MUTED,
    )
