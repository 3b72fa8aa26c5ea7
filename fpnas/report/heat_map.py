"""The heat map of a search: the probability of every choice over time.

Tensor shapes: S snapshots, G block groups, M variables, C choices (padded).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fpnas.architecture import Architecture
from fpnas.cost import output_size
from fpnas.report.style import INK, MUTED, VERMILLION, WIDTH_INCHES, new_figure, style
from fpnas.space import VARIABLES, Choice, SearchSpace

_COLOURS = LinearSegmentedColormap.from_list(
    "probability", ["#F4F7FA", "#C9DDEE", "#7FB2D9", "#2F7DB8", "#0A4A82", "#062A4F"]
)
# A square root, so that the 0.04 of a uniform choice among 23 differs visibly from 0.
_NORM = PowerNorm(0.5, vmin=0.0, vmax=1.0)
_LEFT, _RIGHT, _TICKS = 1.25, 0.15, 0.5  # inches: group names, right margin, labels of values
_ROW, _GAP, _TOP, _BOTTOM = 0.78, 0.2, 0.95, 0.5  # inches
_MAX_LABELS = 6


@style()
def choice_heat_map(
    space: SearchSpace,
    steps: NDArray[np.int64],
    snapshots: NDArray[np.floating[Any]],
    switch_step: int | None,
    architecture: Architecture | None = None,
) -> Figure:
    """Draws one row of panels a block group, one panel a variable with more than one choice.

    Args:
        space: The search space.
        steps: Steps of the snapshots on one continuous axis, non-decreasing, shape (S,). Where
            two are equal, as at the switch, the later one is drawn.
        snapshots: Marginal probabilities, shape (S, G, M, C).
        switch_step: Where the fine search starts; None without one.
        architecture: Marks the values of this decoded architecture.

    Raises:
        ValueError: The shapes do not fit each other or the space, or the architecture is not in it.
    """
    steps, snapshots = np.asarray(steps), np.asarray(snapshots)
    expected = (len(steps), space.num_groups, len(VARIABLES))
    if snapshots.shape[:3] != expected or not len(steps):
        raise ValueError(
            f"snapshots has shape {snapshots.shape}. Legal: {(*expected, 'choices')} for "
            f"{len(steps)} steps of {space.name}, at least one"
        )
    last_of_equal = np.r_[steps[1:] != steps[:-1], True]
    steps, snapshots = steps[last_of_equal], snapshots[last_of_equal]

    columns = [m for m in range(len(VARIABLES)) if any(len(g.choices[m]) > 1 for g in space.groups)]
    height = _TOP + space.num_groups * (_ROW + _GAP) - _GAP + _BOTTOM
    figure = new_figure(height)
    width = (WIDTH_INCHES - _LEFT - _RIGHT) / max(len(columns), 1)
    edges = _edges(steps)
    for row, group in enumerate(space.groups):
        bottom = height - _TOP - (row + 1) * _ROW - row * _GAP
        for column, variable in enumerate(columns):
            choice = group.choices[variable]
            left = _LEFT + column * width + _TICKS
            if len(choice) == 1:
                _write_fixed(figure, left, bottom, height, choice)
                continue
            axis = figure.add_axes(
                (
                    left / WIDTH_INCHES,
                    bottom / height,
                    (width - _TICKS - 0.12) / WIDTH_INCHES,
                    _ROW / height,
                ),
                label=f"group {row + 1} {choice.name}",
            )
            probabilities = snapshots[:, row, variable, : len(choice)]
            _draw_panel(axis, edges, probabilities, choice, switch_step)
            if architecture is not None:
                chosen = choice.values.index(getattr(architecture.groups[row], choice.name))
                _mark(axis, chosen)
            is_last = all(len(g.choices[variable]) == 1 for g in space.groups[row + 1 :])
            axis.tick_params(labelbottom=is_last)
            if is_last:
                axis.set_xlabel("search step", fontsize=8, labelpad=1)
    _write_names(figure, space, height)
    for column, variable in enumerate(columns):
        figure.text(
            (_LEFT + column * width + _TICKS) / WIDTH_INCHES,
            1 - (_TOP - 0.08) / height,
            VARIABLES[variable],
            fontweight="bold",
            va="bottom",
        )
    _draw_key(figure, height, switch_step, architecture)
    return figure


def _edges(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Borders between snapshots, half-way; the first and the last end at their step."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([steps[:1], middle, steps[-1:]], dtype=np.float64)


def _draw_panel(
    axis: Axes,
    edges: NDArray[np.float64],
    probabilities: NDArray[np.floating[Any]],
    choice: Choice,
    switch_step: int | None,
) -> None:
    num_values = len(choice)
    axis.pcolormesh(
        edges,
        np.arange(num_values + 1) - 0.5,
        probabilities.T,
        cmap=_COLOURS,
        norm=_NORM,
        rasterized=True,
    )
    axis.grid(visible=False)
    axis.spines[:].set_visible(True)
    if switch_step is not None:
        axis.axvline(switch_step, color=VERMILLION, linewidth=1.0, linestyle=(0, (3, 2)))
    # Every n-th label where there are too many; the first and the last value always have one.
    spacing = -(-(num_values - 1) // (_MAX_LABELS - 1))
    ticks = list(range(0, num_values, spacing))
    if ticks[-1] != num_values - 1:
        ticks = [tick for tick in ticks if num_values - 1 - tick >= spacing]
        ticks.append(num_values - 1)
    axis.set_yticks(ticks, [_value_label(choice, tick) for tick in ticks], fontsize=7.5)
    axis.tick_params(axis="y", length=2, pad=2)
    axis.tick_params(axis="x", length=2, pad=2, labelsize=7.5)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _value_label(choice: Choice, index: int) -> str:
    value = choice.values[index]
    if choice.name == "kernel":
        return f"{value}x{value}" if value else "bypass"
    return value if isinstance(value, str) else f"{value:g}"


def _mark(axis: Axes, row: int) -> None:
    axis.plot(
        [1.012],
        [row],
        marker="<",
        markersize=5,
        color=VERMILLION,
        markeredgewidth=0,
        transform=axis.get_yaxis_transform(),
        clip_on=False,
        label="decoded",
    )


def _write_fixed(figure: Figure, left: float, bottom: float, height: float, choice: Choice) -> None:
    figure.text(
        left / WIDTH_INCHES,
        (bottom + _ROW / 2) / height,
        f"always {_value_label(choice, 0)}",
        color=MUTED,
        fontsize=8,
        va="center",
    )


def _write_names(figure: Figure, space: SearchSpace, height: float) -> None:
    pixels = output_size(space.input_size, space.stem_stride)
    for row, group in enumerate(space.groups):
        y = height - _TOP - row * (_ROW + _GAP)
        out = output_size(pixels, group.stride)
        size = f"{pixels} to {out} px" if out != pixels else f"{out} px"
        blocks = f"{group.repeat} blocks" if group.repeat > 1 else "1 block"
        x = 0.12 / WIDTH_INCHES
        figure.text(x, y / height, f"Group {row + 1}", va="top", fontweight="bold")
        figure.text(x, (y - 0.2) / height, f"{blocks}\n{size}", va="top", color=MUTED, fontsize=8.5)
        pixels = out


def _draw_key(
    figure: Figure, height: float, switch_step: int | None, architecture: Architecture | None
) -> None:
    axis = figure.add_axes(
        (_LEFT / WIDTH_INCHES + 0.045, 1 - 0.3 / height, 0.22, 0.14 / height), label="key"
    )
    bar = figure.colorbar(
        ScalarMappable(_NORM, _COLOURS),
        cax=axis,
        orientation="horizontal",
        ticks=[0.0, 0.05, 0.2, 0.5, 1.0],
    )
    bar.ax.tick_params(labelsize=7.5, length=2, pad=1)
    bar.ax.grid(visible=False)
    y = 1 - 0.23 / height
    figure.text(0.12 / WIDTH_INCHES, y, "Probability", va="center", fontweight="bold")
    notes = []
    if switch_step is not None:
        notes.append("dashed line: switch from coarse to fine")
    if architecture is not None:
        notes.append("triangle: decoded architecture")
    figure.text(0.42, y, ";  ".join(notes), va="center", color=INK, fontsize=8.5)
