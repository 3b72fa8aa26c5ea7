"""Finished runs side by side, as one HTML page that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fpnas.architecture import Architecture
from fpnas.report.architecture_picture import architecture_picture
from fpnas.report.comparison_figures import compared_curves
from fpnas.report.formats import MISSING, format_macs, format_percent
from fpnas.report.model_figures import accuracy_cost
from fpnas.report.page import Picture, environment, is_web
from fpnas.report.published import ModelPoint
from fpnas.report.table import (
    COMPARISON_COLUMNS,
    NUMBERS,
    comparison_table,
    format_comparison,
    speed_rows,
)


@dataclass(frozen=True)
class ComparedRun:
    """A finished run as the comparison shows it; what is None or empty is said to be absent.

    Attributes:
        row: Its row of :func:`fpnas.report.table.comparison_table`.
        pictures: What it was measured on, in words that differ for different pictures.
        architecture: The decoded architecture.
        num_classes: Of its classifier.
        histories: Epochs by stage (``train``, ``distill``).
        bill: Of the search: ``num_samples``, ``num_steps``, ``num_forwards``, ``num_backwards``,
            ``seconds``, ``peak_memory_bytes``; empty without a search.
        stage_seconds: By stage.
        speed: From :func:`fpnas.training.speed.measure_everywhere`.
        missing: What could not be read, a sentence each.
    """

    row: Mapping[str, Any]
    pictures: str
    architecture: Architecture | None = None
    num_classes: int = 0
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    bill: Mapping[str, Any] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    speed: Mapping[str, Any] | None = None
    missing: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.row["run"])

    @property
    def point(self) -> ModelPoint:
        """Its models in a figure of accuracy against MACs."""
        distilled = self.row.get("distilled_top1")
        return ModelPoint(self.name, self.row["macs"], float(self.row["top1"]), distilled)


def render_comparison(runs: Sequence[ComparedRun], links: Mapping[str, str]) -> str:
    """Returns the page.

    Args:
        runs: At least one.
        links: Addresses by what they show; those of http and https become links.
    """
    table = comparison_table([run.row for run in runs])
    order = {name: place for place, name in enumerate(table["run"])}
    runs = sorted(runs, key=lambda run: order[run.name])
    stages = list(dict.fromkeys(stage for run in runs for stage in run.stage_seconds))
    return (
        environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            headings=_headings(table),
            rows=format_comparison(table).to_dict("records"),
            missing=MISSING,
            own=_accuracy(runs, published=False),
            published=_accuracy(runs, published=True),
            num_picture_sets=len({run.pictures for run in runs}),
            curves=_curves(runs),
            architectures=[_architecture(run) for run in runs if run.architecture],
            without_architecture=[run.name for run in runs if not run.architecture],
            stages=stages,
            speeds=_speeds(runs),
            methods=sorted({run.speed["method"] for run in runs if run.speed}),
            notes=[(run.name, run.row["note"]) for run in runs if run.row.get("note")],
            problems=[(run.name, sentence) for run in runs for sentence in run.missing],
            links=[(name, url, is_web(url)) for name, url in links.items()],
        )
    )


def _headings(table: pd.DataFrame) -> list[tuple[str, bool]]:
    """Headings of the columns in which any run has something, and whether they are numbers."""
    return [
        (heading, key in NUMBERS)
        for key, heading in COMPARISON_COLUMNS.items()
        if table[key].notna().any()
    ]


def _accuracy(runs: Sequence[ComparedRun], *, published: bool) -> Picture:
    points: dict[str, list[ModelPoint]] = {}
    for run in runs:
        points.setdefault(run.pictures, []).append(run.point)
    alt = "Top-1 against MACs: " + "; ".join(map(_in_words, (run.point for run in runs)))
    caption = "Accuracy against cost: trained from scratch, and distilled in outline"
    if published:
        caption = (
            "The same beside published results of the FP-NAS paper, in grey: ImageNet, trained "
            "from scratch without distillation, as our filled points are. They compare only with "
            "runs on ImageNet"
        )
    return Picture.of(accuracy_cost(points, published), f"{alt}.", caption)


def _in_words(point: ModelPoint) -> str:
    distilled = f", {format_percent(point.distilled)} distilled" if point.distilled else ""
    return f"{point.name} {format_percent(point.top1)} at {format_macs(point.macs)}{distilled}"


def _curves(runs: Sequence[ComparedRun]) -> Picture | None:
    histories = {run.name: run.histories for run in runs if run.histories}
    if not histories:
        return None
    alt = f"Validation loss and top-1 over epochs of {', '.join(histories)}."
    return Picture.of(compared_curves(histories), alt, "Training, epoch by epoch")


def _architecture(run: ComparedRun) -> Picture:
    assert run.architecture is not None
    return Picture.of(
        architecture_picture(run.architecture, run.num_classes),
        f"The architecture of {run.name}: {run.architecture}.",
        f"{run.name}: {run.architecture}",
    )


def _speeds(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    return [{"run": run.name, **row} for run in runs for row in speed_rows(run.speed)]
