"""Figures of a search: its curves, and its probabilities over time.

Tensor shapes: S snapshots, G block groups, M variables, C choices (padded).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from fpnas.report.formats import format_macs
from fpnas.report.style import BLUE, GREEN, INK, MUTED, VERMILLION, new_figure, style
from fpnas.search.loop import HISTORY_COLUMNS

_SMOOTHING = 50
"""A smoothed curve is the mean over one 50th of the search."""


@dataclass(frozen=True)
class SearchPhase:
    """One search of a run.

    Attributes:
        name: The coarse search (factorized distribution) or the fine one (joint).
        history: One row a step with the columns of :data:`fpnas.search.loop.HISTORY_COLUMNS`;
            ``step`` counts from 1 in each phase.
    """

    name: Literal["coarse", "fine"]
    history: pd.DataFrame

    def __post_init__(self) -> None:
        if missing := [c for c in HISTORY_COLUMNS if c not in self.history.columns]:
            raise ValueError(
                f"history of the {self.name} search lacks the columns {', '.join(missing)}. "
                f"Legal: all of fpnas.search.loop.HISTORY_COLUMNS"
            )

    @property
    def num_steps(self) -> int:
        """Steps done."""
        return len(self.history)


def join_phases(phases: Sequence[SearchPhase]) -> tuple[pd.DataFrame, list[int]]:
    """Puts the phases on one continuous step axis.

    Returns:
        All rows, and the last step of every phase but the last.
    """
    parts, ends, offset = [], [], 0
    for phase in phases:
        if phase.num_steps:
            part = phase.history[list(HISTORY_COLUMNS)].astype(float)
            parts.append(part.assign(step=part["step"] + offset))
            offset = int(parts[-1]["step"].iloc[-1])
            ends.append(offset)
    if not parts:
        return pd.DataFrame(columns=list(HISTORY_COLUMNS), dtype=float), []
    return pd.concat(parts, ignore_index=True), ends[:-1]


@style()
def search_curves(phases: Sequence[SearchPhase], target_macs: int) -> Figure:
    """Draws how a search went, in six panels over one continuous step axis.

    Args:
        phases: The coarse search, the fine one, or both in that order.
        target_macs: The budget.

    Raises:
        ValueError: No phase has done a step.
    """
    history, switches = join_phases(phases)
    if history.empty:
        raise ValueError("phases have no steps. Legal: at least one row of history")
    figure = new_figure(8.4, constrained=True)
    axes = figure.subplots(3, 2, sharex=True)
    window = max(1, len(history) // _SMOOTHING)
    _plot_entropy(axes[0, 0], history)
    _plot_samples(axes[0, 1], history)
    _plot_macs(axes[1, 0], history, target_macs)
    _plot_total(axes[1, 1], history)
    _plot_rates(axes[2, 0], history, window)
    _plot_loss(axes[2, 1], history, window)
    for axis in axes.flat:
        _finish(axis, switches)
    for axis in axes[-1]:
        axis.set_xlabel("search step")
    for axis in axes[0]:
        for switch in switches:
            _label_switch(axis, switch)
    return figure


def _finish(axis: Axes, switches: Sequence[int]) -> None:
    for switch in switches:
        axis.axvline(switch, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), label="_switch")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.tick_params(labelbottom=True)
    axis.margins(x=0.01)
    handles, _ = axis.get_legend_handles_labels()
    if len(handles) > 1:
        # Beside the title, so that it never covers a curve.
        axis.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 0.99),
            ncols=len(handles),
            borderaxespad=0.2,
            columnspacing=1.2,
            handlelength=1.6,
        )


def _label_switch(axis: Axes, switch: float) -> None:
    for text, offset, align in (("coarse", -4, "right"), ("fine", 4, "left")):
        axis.annotate(
            text,
            (switch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(offset, -2),
            textcoords="offset points",
            ha=align,
            va="top",
            color=MUTED,
            fontsize=8.5,
        )


def _plot_entropy(axis: Axes, history: pd.DataFrame) -> None:
    axis.set(title="Entropy of the distribution", ylabel="entropy (nats)")
    axis.plot(history["step"], history["entropy_nats"], color=BLUE)
    axis.set_ylim(bottom=0.0)


def _plot_samples(axis: Axes, history: pd.DataFrame) -> None:
    axis.set(title="Samples in a step", ylabel="architectures")
    axis.plot(
        history["step"], history["num_samples"], color=BLUE, label="drawn, K", drawstyle="steps-mid"
    )
    axis.plot(
        history["step"],
        history["effective_sample_size"],
        color=VERMILLION,
        linewidth=1.2,
        label="effective",
    )
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_ylim(bottom=0.0)


def _plot_macs(axis: Axes, history: pd.DataFrame, target_macs: int) -> None:
    axis.set(title="Cost", ylabel="MACs (millions)")
    steps = history["step"]
    axis.plot(steps, history["expected_macs"] / 1e6, color=BLUE, label="expected")
    axis.plot(
        steps,
        history["most_probable_macs"] / 1e6,
        color=VERMILLION,
        linewidth=1.2,
        label="most probable",
    )
    axis.axhline(
        target_macs / 1e6,
        color=INK,
        linewidth=1.2,
        linestyle=(0, (2, 2)),
        label=f"target {format_macs(target_macs)}",
    )
    axis.set_ylim(bottom=0.0)


def _plot_total(axis: Axes, history: pd.DataFrame) -> None:
    axis.set(title="Samples so far", ylabel="architectures")
    most = int(history["num_samples"].max())
    # The warm-up, which has no temperature, draws the same number in any case.
    constant = history["num_samples"].where(history["temperature"] == 0.0, most)
    axis.plot(
        history["step"],
        constant.cumsum(),
        color=MUTED,
        linewidth=1.2,
        linestyle=(0, (4, 2)),
        label=f"at a constant K = {most}",
    )
    axis.plot(history["step"], history["num_samples"].cumsum(), color=BLUE, label="drawn")
    axis.set_ylim(bottom=0.0)


def _plot_rates(axis: Axes, history: pd.DataFrame, window: int) -> None:
    axis.set(title="Rates", ylabel="share (%)")
    over = 100 * history["over_budget_rate"]
    axis.plot(history["step"], 100 * history["skip_rate"], color=BLUE, label="blocks bypassed")
    axis.plot(
        history["step"],
        _smooth(over, window),
        color=VERMILLION,
        label=f"samples over budget{_of(window)}",
    )
    axis.set_ylim(-2.0, 102.0)


def _plot_loss(axis: Axes, history: pd.DataFrame, window: int) -> None:
    axis.set(title="Loss of the supernet", ylabel="loss (nats a picture)")
    loss = history["loss"]
    if window > 1:
        axis.plot(history["step"], loss, color=GREEN, alpha=0.3, linewidth=0.8, label="each step")
    axis.plot(history["step"], _smooth(loss, window), color=GREEN, label=f"loss{_of(window)}")


def _smooth(values: pd.Series[Any], window: int) -> pd.Series[Any]:
    return values.rolling(window, min_periods=1, center=True).mean()


def _of(window: int) -> str:
    return f", mean of {window} steps" if window > 1 else ""


def snapshot_steps(num_snapshots: int, interval: int, num_steps: int) -> NDArray[np.int64]:
    """Steps at which :func:`fpnas.search.loop.run_search` recorded its probabilities.

    Args:
        num_snapshots: How many there are: the first before any step, the last after the last.
        interval: ``SearchOptions.snapshot_steps``.
        num_steps: Steps done.
    """
    return np.minimum(np.arange(num_snapshots, dtype=np.int64) * interval, num_steps)
