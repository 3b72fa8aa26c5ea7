"""The summary at the end of a run, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from fpnas.report.table import (
    format_count,
    format_macs,
    format_percent,
    format_points,
    format_seconds,
)
from fpnas.tracking import run_url


def print_summary(result: dict[str, Any], console: Console) -> None:
    """Prints what was found, what it cost, where it is and what to do next.

    Args:
        result: The document of ``fpnas run --json``.
        console: Where to.
    """
    architecture, search = result["architecture"], result["search"]
    trained, distilled = result["train"], result["distill"]
    registered = result["registered_model"]
    stages = Table("stage", "seconds", "artifact", title=f"run {result['run_id']}")
    for stage in result["stages"]:
        seconds = "found" if stage["cached"] else f"{stage['seconds']:.1f}"
        stages.add_row(stage["name"], seconds, stage["artifact"])
    console.print(stages)
    teacher = distilled["teacher"]
    lines = {
        "architecture": architecture["string"],
        "cost": f"{format_macs(architecture['macs'])} MACs of "
        f"{format_macs(architecture['target_macs'])}, {format_count(architecture['params'])} "
        "parameters",
        "search": f"{search['strategy']}: {format_count(search['num_samples'])} architectures "
        f"sampled in {format_seconds(search['seconds'])}, "
        f"{format_count(search['num_forwards'])} forward and "
        f"{format_count(search['num_backwards'])} backward passes, at most "
        f"{search['peak_memory_bytes'] / 2**30:.1f} GiB",
        "top-1": f"{format_percent(trained['top1'])} trained, "
        f"{format_percent(distilled['top1'])} distilled "
        f"({format_points(distilled['top1'] - trained['top1'])}; teacher {teacher['name']} "
        f"{format_percent(teacher['top1'])})",
        "registered": f"{registered['name']} version {registered['version']} "
        f"({', '.join(registered['aliases'])})",
        "report": result["report"],
        "mlflow": _mlflow(result["mlflow"]),
        "next": "make mlflow-ui shows all runs; fpnas compare puts them side by side",
    }
    width = max(len(name) for name in lines)
    for name, text in lines.items():
        console.print(f"[bold]{name:>{width}}[/]  {text}", highlight=False, soft_wrap=True)
    for alarm in search["alarms"]:
        text = f"[bold yellow]{'alarm':>{width}}[/]  {alarm['stage']} search: {alarm['message']}"
        console.print(text, highlight=False, soft_wrap=True)


def _mlflow(place: dict[str, Any]) -> str:
    uri, experiment, run = place["tracking_uri"], place["experiment_id"], place["run_id"]
    if uri.startswith("http"):
        return run_url(uri, experiment, run)
    return f"{run_url('http://127.0.0.1:5000', experiment, run)} (after make mlflow-ui)"
