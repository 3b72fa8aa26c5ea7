"""The summary at the end of a run, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from fpnas.mlflow_pages import run_url
from fpnas.report.formats import (
    format_count,
    format_macs,
    format_percent,
    format_points,
    format_seconds,
)
from fpnas.stages.headline import speed_metrics


def print_summary(result: dict[str, Any], console: Console) -> None:
    """Prints what was found, what it cost, where it is and what to do next.

    Args:
        result: The document of ``fpnas run --json``.
        console: Where to.
    """
    stages = Table("stage", "seconds", "artifact", title=f"run {result['run_id']}")
    for stage in result["stages"]:
        seconds = "found" if stage["cached"] else f"{stage['seconds']:.1f}"
        stages.add_row(stage["name"], seconds, stage["artifact"])
    console.print(stages)
    lines = _lines(result)
    width = max(len(name) for name in lines)
    for name, text in lines.items():
        console.print(f"[bold]{name:>{width}}[/]  {text}", highlight=False, soft_wrap=True)
    for alarm in result["search"]["alarms"] if result["search"] else ():
        text = f"[bold yellow]{'alarm':>{width}}[/]  {alarm['stage']} search: {alarm['message']}"
        console.print(text, highlight=False, soft_wrap=True)


def _lines(result: dict[str, Any]) -> dict[str, str]:
    """What is said of the run; a run without a search or a distillation says nothing of it."""
    architecture, registered = result["architecture"], result.get("registered_model")
    target = architecture.get("target_macs")
    budget = f" of {format_macs(target)}" if target else ""
    lines = {
        "architecture": architecture["string"],
        "cost": f"{format_macs(architecture['macs'])} MACs{budget}, "
        f"{format_count(architecture['params'])} parameters",
    }
    if result["search"]:
        lines["search"] = _search(result["search"])
    lines["top-1"] = _accuracy(result)
    if result.get("speed"):
        lines["speed"] = _speed(result["speed"])
    if registered:
        lines["registered"] = (
            f"{registered['name']} version {registered['version']} "
            f"({', '.join(registered['aliases'])})"
        )
    if result.get("report"):
        lines["report"] = result["report"]
    lines["mlflow"] = _mlflow(result["mlflow"])
    lines["next"] = "make mlflow-ui shows all runs; fpnas compare puts them side by side"
    return lines


def _search(search: dict[str, Any]) -> str:
    return (
        f"{search['strategy']}: {format_count(search['num_samples'])} architectures "
        f"sampled in {format_seconds(search['seconds'])}, "
        f"{format_count(search['num_forwards'])} forward and "
        f"{format_count(search['num_backwards'])} backward passes, at most "
        f"{search['peak_memory_bytes'] / 2**30:.1f} GiB"
    )


def _accuracy(result: dict[str, Any]) -> str:
    trained, distilled = result["train"], result["distill"]
    text = f"{format_percent(trained['top1'])} trained"
    if not distilled:
        return text
    teacher = distilled["teacher"]
    return (
        f"{text}, {format_percent(distilled['top1'])} distilled "
        f"({format_points(distilled['top1'] - trained['top1'])}; teacher {teacher['name']} "
        f"{format_percent(teacher['top1'])})"
    )


def _speed(speed: dict[str, Any]) -> str:
    figures = speed_metrics(speed)
    return (
        f"{figures['latency_ms']:.2f} ms a picture alone, "
        f"{format_count(figures['throughput_images_per_s'])} pictures a second in batches, "
        f"in torch on {speed['cpu']}"
    )


def _mlflow(place: dict[str, Any]) -> str:
    uri, experiment, run = place["tracking_uri"], place["experiment_id"], place["run_id"]
    if uri.startswith("http"):
        return run_url(uri, experiment, run)
    return f"{run_url('http://127.0.0.1:5000', experiment, run)} (after make mlflow-ui)"
