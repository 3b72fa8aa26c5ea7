"""Figures of trained models: training curves, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from fpnas.report.published import PUBLISHED, ModelPoint
from fpnas.report.style import (
    BLUE,
    CYCLE,
    INK,
    MUTED,
    VERMILLION,
    new_figure,
    style,
)

TRAINING_COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "top1", "top5")
_COLOURS = {"train": BLUE, "distill": VERMILLION}
_POINT_COLOURS = (VERMILLION, *(colour for colour in CYCLE if colour != VERMILLION))


@style()
def training_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Draws loss, accuracy and learning rate over epochs, a colour for each run.

    Args:
        histories: By the name of the run (``train``, ``distill``): one row an epoch with the
            columns of :data:`TRAINING_COLUMNS`. What was not measured in an epoch is NaN.

    Raises:
        ValueError: No history, or one that lacks a column.
    """
    if not histories:
        raise ValueError("histories is empty. Legal: at least one run, such as 'train'")
    for name, history in histories.items():
        if missing := [c for c in TRAINING_COLUMNS if c not in history.columns]:
            raise ValueError(f"history of {name} lacks the columns {', '.join(missing)}")
    figure = new_figure(3.9, constrained=True)
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.set(title="Loss", ylabel="loss (nats a picture)")
    accuracy.set(title="Accuracy on the validation split", ylabel="accuracy (%)")
    rate.set(title="Learning rate", ylabel="learning rate")
    spare = iter(colour for colour in CYCLE if colour not in _COLOURS.values())
    for index, (name, history) in enumerate(histories.items()):
        colour = _COLOURS.get(name) or next(spare)
        _line(loss, history, "train_loss", f"{name}, training", colour, dashed=True)
        _line(loss, history, "val_loss", f"{name}, validation", colour)
        _line(accuracy, history, "top5", f"{name}, top-5", colour, scale=100, dashed=True)
        _line(accuracy, history, "top1", f"{name}, top-1", colour, scale=100)
        # Schedules are often the same: an earlier one shows on both sides of a later one.
        width = 1.4 + 2.0 * (len(histories) - 1 - index)
        _line(rate, history, "learning_rate", name, colour, width=width)
    for axis in (loss, accuracy, rate):
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if not axis.get_lines():
            axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=MUTED)
            continue
        # Below the axis, where it covers no curve.
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=min(2, len(histories)))
    accuracy.set_ylim(0.0, 101.0)
    rate.set_ylim(bottom=0.0)
    return figure


def _line(
    axis: Axes,
    history: pd.DataFrame,
    column: str,
    label: str,
    colour: str,
    *,
    scale: float = 1.0,
    width: float = 1.8,
    dashed: bool = False,
) -> None:
    known = history[["epoch", column]].astype(float).dropna()
    if known.empty:
        return
    axis.plot(
        known["epoch"],
        known[column] * scale,
        color=colour,
        linestyle=(0, (4, 2)) if dashed else "-",
        linewidth=1.2 if dashed else width,
        marker="o" if len(known) < 25 else "",
        markersize=3,
        label=label,
    )


@style()
def accuracy_cost(points: Mapping[str, Sequence[ModelPoint]], published: bool) -> Figure:
    """Draws top-1 against MACs.

    Args:
        points: The models of this project, by the pictures that they were measured on: a colour
            each, since accuracies on different pictures say nothing of each other. What
            distillation gave is drawn above or below a model, in outline.
        published: Also draw :data:`fpnas.report.published.PUBLISHED`, in grey and named so.

    Raises:
        ValueError: There is nothing to draw.
    """
    if not any(points.values()) and not published:
        raise ValueError("points is empty. Legal: at least one model, or published=True")
    figure = new_figure(5.8, constrained=True)
    axis = figure.add_subplot()
    axis.set(
        xlabel="MACs (millions, logarithmic)",
        ylabel="top-1 (%)",
        xscale="log",
        title="Accuracy against cost",
    )
    groups: list[tuple[Sequence[ModelPoint], dict[str, object], dict[str, object]]] = []
    text: dict[str, object] = {"color": INK, "fontsize": 9, "fontweight": "bold"}
    for (label, models), colour in zip(points.items(), cycle(_POINT_COLOURS), strict=False):
        groups.append((models, {"color": colour, "s": 55, "label": label, "zorder": 4}, text))
    if published:
        marker = {"color": "#98A2AD", "s": 26, "label": "published, ImageNet", "zorder": 3}
        groups.append((PUBLISHED, marker, {"color": MUTED, "fontsize": 7.5}))
    for models, marker, _ in groups:
        axis.scatter([m.macs / 1e6 for m in models], [100 * m.top1 for m in models], **marker)  # type: ignore[arg-type]
        _draw_distilled(axis, models, str(marker["color"]))
    _set_limits(axis, [model for models, _, _ in groups for model in models])
    axis.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    if any(model.distilled is not None for models in points.values() for model in models):
        axis.scatter([], [], facecolor="none", edgecolor=MUTED, s=45, label="distilled")
    axis.legend(loc="lower right", fontsize=9)
    figure.draw_without_rendering()  # the labels are placed by their sizes on the final axis
    _place_labels(axis, [(model, text) for models, _, text in groups for model in models])
    figure.set_layout_engine("none")
    return figure


def _draw_distilled(axis: Axes, models: Sequence[ModelPoint], colour: str) -> None:
    for model in models:
        if model.distilled is not None:
            x, pair = model.macs / 1e6, [100 * model.top1, 100 * model.distilled]
            axis.plot([x, x], pair, color=colour, linewidth=1.0, zorder=2)
            axis.scatter(x, pair[1], facecolor="white", edgecolor=colour, s=45, zorder=4)


def _set_limits(axis: Axes, models: Sequence[ModelPoint]) -> None:
    """Leaves room for the names, and shows at least a factor of 3 and 4 points of accuracy."""
    macs = [m.macs / 1e6 for m in models]
    top1 = [100 * value for m in models for value in m.scores]
    room = max(1.3, (3 * min(macs) / max(macs)) ** 0.5)
    axis.set_xlim(min(macs) / room, max(macs) * room)
    room = max(0.08 * (max(top1) - min(top1)), (4 - max(top1) + min(top1)) / 2)
    axis.set_ylim(min(top1) - room, max(top1) + room)


_PLACES = [
    (dx, dy, ha, va)
    for reach in (6, 14, 24)
    for dx, dy, ha, va in (
        (reach, 0, "left", "center"),
        (0, reach, "center", "bottom"),
        (-reach, 0, "right", "center"),
        (0, -reach, "center", "top"),
        (reach, reach, "left", "bottom"),
        (reach, -reach, "left", "top"),
        (-reach, reach, "right", "bottom"),
        (-reach, -reach, "right", "top"),
    )
]


def _place_labels(axis: Axes, labels: Iterable[tuple[ModelPoint, dict[str, object]]]) -> None:
    """Writes each name in the first place near its point that is free, in the given order.

    A published name that finds no free place is left out; one of ours takes the best there is.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    labels = list(labels)
    legend = axis.get_legend()
    taken = [legend.get_window_extent(renderer)] if legend else []
    for model, _ in labels:
        ends = axis.transData.transform([(model.macs / 1e6, 100 * top1) for top1 in model.scores])
        (left, low), (right, high) = ends.min(axis=0) - 4, ends.max(axis=0) + 4
        taken.append(Bbox.from_extents(left, low, right, high))
    for model, text in labels:
        best: tuple[int, int] | None = None
        tried: list[Annotation] = []
        for index, (dx, dy, ha, va) in enumerate(_PLACES):
            arrow = {"arrowstyle": "-", "color": "#C3CAD1", "linewidth": 0.7, "shrinkA": 0}
            label = axis.annotate(
                model.name,
                (model.macs / 1e6, 100 * model.top1),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                arrowprops=arrow if abs(dx) + abs(dy) > 12 else None,
                **text,  # type: ignore[arg-type]
            )
            tried.append(label)
            # Of the text alone: the extent of an annotation includes its arrow.
            label.update_positions(renderer)
            box = super(Annotation, label).get_window_extent(renderer)
            outside = not _contains(axis.bbox, box)
            clashes = box.count_overlaps(taken) + 3 * outside
            if best is None or clashes < best[0]:
                best = (clashes, index)
            if not clashes:
                break
        assert best is not None
        kept = None if best[0] and text["color"] == MUTED else best[1]
        for index, label in enumerate(tried):
            if index != kept:
                label.remove()
        if kept is None:
            continue
        chosen = tried[kept]
        taken.append(super(Annotation, chosen).get_window_extent(renderer))


def _contains(outer: Bbox, inner: Bbox) -> bool:
    inside = outer.x0 <= inner.x0 and outer.y0 <= inner.y0
    return bool(inside and inner.x1 <= outer.x1 and inner.y1 <= outer.y1)
