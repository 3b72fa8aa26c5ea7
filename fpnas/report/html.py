"""The report of a run: one HTML file that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from fpnas.cost import architecture_cost
from fpnas.report.advice import next_steps
from fpnas.report.architecture_picture import architecture_picture
from fpnas.report.data import ReportData, TrainingSummary
from fpnas.report.formats import (
    MISSING,
    format_count,
    format_macs,
    format_percent,
    format_points,
    format_seconds,
)
from fpnas.report.heat_map import choice_heat_map
from fpnas.report.layers import Layer, layers
from fpnas.report.model_figures import training_curves
from fpnas.report.page import Picture, environment, is_web
from fpnas.report.search_figures import join_phases, search_curves
from fpnas.report.table import speed_rows

_NUM_ERRORS = 5
_MAX_QUARANTINED = 200
"""Quarantined pictures that are listed; of the others the report says how many there are."""


@dataclass(frozen=True)
class Fact:
    """A figure of the headline."""

    name: str
    value: str
    note: str = ""


def render_report(data: ReportData) -> str:
    """Returns the report as one HTML document that loads nothing from anywhere."""
    search_stages = [stage for stage in data.stages if stage.num_samples is not None]
    return (
        environment()
        .get_template("report.html")
        .render(
            data=data,
            title=f"{data.space.name} {data.space.model}, {data.profile} profile",
            facts=_facts(data),
            architecture=_architecture(data),
            group_rows=list(_group_rows(data)),
            curves=_curves(data),
            heat_map=_heat_map(data),
            search_stages=search_stages,
            search_steps=_total(stage.num_steps for stage in search_stages),
            search_seconds=_total(stage.seconds for stage in search_stages),
            quarantined=_quarantined(data),
            num_quarantined=len(data.dataset.quarantined) if data.dataset else 0,
            training=_training(data),
            models=_model_rows(data),
            weakest=_weakest_classes(data),
            confused=_confused_classes(data),
            speeds=speed_rows(data.speed),
            links=[(name, url, is_web(url)) for name, url in data.links.items()],
            advice=next_steps(data),
        )
    )


def _total(values: Iterable[float | None]) -> float | None:
    """The sum; None where a part is unknown."""
    parts = list(values)
    return None if None in parts else sum(part for part in parts if part is not None)


def _facts(data: ReportData) -> list[Fact]:
    facts = []
    if data.train is not None:
        facts.append(Fact("top-1", format_percent(data.train.top1), "trained from scratch"))
    if data.distill is not None:
        gain = data.distillation_gain
        note = f"{format_points(gain)} by the teacher" if gain is not None else ""
        facts.append(Fact("top-1, distilled", format_percent(data.distill.top1), note))
    target = data.space.target_macs
    if data.architecture is not None:
        macs, params = architecture_cost(data.architecture, data.num_classes)
        note = f"{format_percent(macs / target, digits=0)} of the target {format_macs(target)}"
        facts.append(Fact("MACs", format_macs(macs), note))
        facts.append(Fact("parameters", format_count(params)))
    else:
        facts.append(Fact("MACs target", format_macs(target)))
    samples = data.num_samples
    if samples is not None:
        facts.append(Fact("architectures drawn", format_count(samples), _of_space(data)))
    seconds = data.total_seconds
    if seconds is not None:
        cached = sum(stage.cached for stage in data.stages)
        note = f"{cached} of {len(data.stages)} stages found" if cached else "all stages"
        facts.append(Fact("time", format_seconds(seconds), note))
    return facts


def _of_space(data: ReportData) -> str:
    mantissa, exponent = f"{data.space.size:.1e}".split("e")
    return f"of {mantissa}e{int(exponent)} in the space"


def _architecture(data: ReportData) -> Picture | None:
    if data.architecture is None:
        return None
    macs, params = architecture_cost(data.architecture, data.num_classes)
    blocks = data.architecture.blocks()
    alt = (
        f"The decoded architecture from left to right: a stem, {len(blocks)} blocks in "
        f"{len(data.architecture.groups)} groups, of which {data.architecture.num_layers} are in "
        f"use, and a head; {format_macs(macs)} MACs, {format_count(params)} parameters. "
        "The table below lists every group."
    )
    return Picture.of(
        architecture_picture(data.architecture, data.num_classes), alt, "The decoded architecture"
    )


def _group_rows(data: ReportData) -> Iterator[dict[str, str]]:
    """One row a block group, and one for stem and head: what the picture shows in numbers."""
    if data.architecture is None:
        return
    everything = layers(data.architecture, data.num_classes)
    total = sum(layer.macs for layer in everything)
    for (_, index), found in groupby(everything, key=lambda layer: (layer.name, layer.group)):
        members = list(found)
        first = members[0]
        macs = sum(layer.macs for layer in members)
        row = {
            "group": str(index + 1) if index is not None else first.name,
            "blocks": str(len(members)) if index is not None else MISSING,
            "pixels": _pixels(members),
            "channels": str(first.channels),
            "expansion": MISSING,
            "kernel": "3x3" if first.name == "stem" else "1x1",
            "activation": MISSING,
            "attention": MISSING,
            "macs": format_macs(macs),
            "share": format_percent(macs / total),
        }
        block = first.block
        if block is not None and first.is_bypassed:
            row["kernel"] = "bypassed"
        elif block is not None:
            row |= {
                "expansion": f"{first.expansion:g}",
                "kernel": f"{block.kernel}x{block.kernel}",
                "activation": block.activation,
                "attention": _attention(block.splits),
            }
        yield row


def _pixels(members: list[Layer]) -> str:
    first, last = members[0].in_pixels, members[-1].out_pixels
    return f"{first} to {last}" if first != last else f"{first}"


def _attention(splits: int) -> str:
    return {0: "none", 1: "squeeze-excite"}.get(splits, f"{splits} splits")


def _curves(data: ReportData) -> Picture | None:
    history, _ = join_phases(data.phases)
    if history.empty:
        return None
    first, last = history.iloc[0], history.iloc[-1]
    alt = (
        f"Six panels over {len(history)} search steps. Entropy goes from "
        f"{first['entropy_nats']:.1f} to {last['entropy_nats']:.1f} nats; samples in a step reach "
        f"{history['num_samples'].max():.0f} and end at {last['num_samples']:.0f}; expected MACs "
        f"go from {format_macs(first['expected_macs'])} to {format_macs(last['expected_macs'])} "
        f"with a target of {format_macs(data.space.target_macs)}; "
        f"{format_percent(last['skip_rate'])} of the blocks are bypassed in the end."
    )
    return Picture.of(
        search_curves(data.phases, data.space.target_macs), alt, "The search, step by step"
    )


def _heat_map(data: ReportData) -> Picture | None:
    if data.snapshots is None:
        return None
    shots = data.snapshots
    figure = choice_heat_map(
        data.space, shots.steps, shots.probabilities, shots.switch_step, data.architecture
    )
    alt = (
        f"Probability of every choice of the {data.space.num_groups} block groups over "
        f"{int(shots.steps[-1])} search steps, one row of panels a group: expansion, channels, "
        "kernel, activation and splits where there is a choice."
    )
    return Picture.of(figure, alt, "The probability of every choice over time")


def _quarantined(data: ReportData) -> pd.DataFrame | None:
    return data.dataset.quarantined.head(_MAX_QUARANTINED) if data.dataset else None


def _runs(data: ReportData) -> list[tuple[str, TrainingSummary]]:
    return [(n, m) for n, m in (("train", data.train), ("distill", data.distill)) if m is not None]


def _training(data: ReportData) -> Picture | None:
    histories = {
        name: model.history
        for name, model in _runs(data)
        if model.history is not None and len(model.history)
    }
    if not histories:
        return None
    parts = [
        f"{name} runs for {len(history)} epochs and ends at a top-1 of "
        f"{format_percent(history['top1'].dropna().iloc[-1])}"
        for name, history in histories.items()
        if history["top1"].notna().any()
    ]
    alt = f"Loss, accuracy and learning rate over epochs. {'; '.join(parts)}."
    return Picture.of(training_curves(histories), alt, "Training, epoch by epoch")


def _model_rows(data: ReportData) -> list[tuple[str, str, str, str, str]]:
    rows = []
    names = {"train": "trained from scratch", "distill": "distilled"}
    for name, model in _runs(data):
        loss = f"{model.loss:.3f}" if model.loss is not None else MISSING
        error = format_percent(model.calibration_error)
        rows.append(
            (names[name], format_percent(model.top1), format_percent(model.top5), loss, error)
        )
    if data.teacher is not None:
        rows.append(
            (
                f"teacher: {data.teacher.name}",
                format_percent(data.teacher.top1),
                MISSING,
                MISSING,
                MISSING,
            )
        )
    return rows


def _weakest_classes(data: ReportData) -> list[tuple[str, str, int]]:
    """The classes that the better model finds least often: name, share found, pictures."""
    confusion = data.better.confusion if data.better else None
    if confusion is None:
        return []
    counts = confusion.to_numpy()
    pictures = counts.sum(axis=1)
    seen = np.flatnonzero(pictures > counts.diagonal())
    share = counts.diagonal()[seen] / pictures[seen]
    order = seen[np.argsort(share, kind="stable")][:_NUM_ERRORS]
    return [
        (str(confusion.index[i]), format_percent(counts[i, i] / pictures[i]), int(pictures[i]))
        for i in order
    ]


def _confused_classes(data: ReportData) -> list[tuple[str, str, int]]:
    """What the better model takes most often for something else: class, taken for, pictures."""
    confusion = data.better.confusion if data.better else None
    if confusion is None:
        return []
    counts = confusion.to_numpy() * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-counts, axis=None, kind="stable")[:_NUM_ERRORS]
    pairs = [divmod(int(place), len(confusion)) for place in order]
    names = [str(name) for name in confusion.index]
    return [(names[i], names[j], int(counts[i, j])) for i, j in pairs if counts[i, j]]
