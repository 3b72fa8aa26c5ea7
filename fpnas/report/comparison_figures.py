"""Training curves of several runs on the same axes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle, product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fpnas.report.style import CYCLE, INK, MUTED, new_figure, style

_DASHES: dict[str, Any] = {"train": "-", "distill": (0, (4, 2))}
_MARKERS = ("", "o", "s", "^")
"""With the colours, as many runs can be told apart as there are pairs; then they repeat."""


@style()
def compared_curves(histories: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Draws validation loss and top-1 over epochs, a colour for each run, with one legend.

    Args:
        histories: By run and by stage (``train``, ``distill``): one row an epoch with the columns
            ``epoch``, ``val_loss`` and ``top1``. What was not measured is NaN.

    Raises:
        ValueError: There is no history.
    """
    if not any(histories.values()):
        raise ValueError("histories is empty. Legal: at least one run with a history")
    rows = (len(histories) + 4) // 3
    figure = new_figure(4.0 + 0.22 * rows, constrained=True)
    loss, accuracy = figure.subplots(1, 2)
    loss.set(title="Loss on the validation split", ylabel="loss (nats a picture)")
    accuracy.set(title="Top-1 on the validation split", ylabel="top-1 (%)")
    looks = cycle(product(_MARKERS, CYCLE))
    handles = []
    for (run, stages), (marker, colour) in zip(histories.items(), looks, strict=False):
        for stage, history in stages.items():
            for axis, column, scale in ((loss, "val_loss", 1.0), (accuracy, "top1", 100.0)):
                _line(axis, history, column, scale, colour, marker, _DASHES[stage])
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=4, label=run))
    kinds = {"train": "from scratch", "distill": "distilled"}
    for stage, text in kinds.items():
        if any(stage in stages for stages in histories.values()):
            handles.append(Line2D([], [], color=MUTED, linestyle=_DASHES[stage], label=text))
    for axis in (loss, accuracy):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, labelcolor=INK)
    return figure


def _line(
    axis: Axes,
    history: pd.DataFrame,
    column: str,
    scale: float,
    colour: str,
    marker: str,
    dashes: object,
) -> None:
    known = history[["epoch", column]].astype(float).dropna()
    axis.plot(
        known["epoch"],
        known[column] * scale,
        color=colour,
        linestyle=dashes,
        marker=marker,
        markersize=4,
        markevery=max(1, len(known) // 8),
    )
