"""Results of the runs of this machine, for comparing them."""

from __future__ import annotations

import json
from typing import Any

from fpnas.errors import InputError, closest
from fpnas.stages.headline import speed_metrics
from fpnas.stages.load import is_disturbed
from fpnas.storage import home_directory

_SEARCH_BILL = ("num_steps", "num_forwards", "num_backwards", "peak_memory_bytes")


def finished_runs(names: list[str] | None) -> list[dict[str, Any]]:
    """The finished runs: each its ``result``, and when it ``finished``, seconds of the clock.

    Args:
        names: Of the runs; all finished ones when empty.

    Raises:
        InputError: No such run, or none at all.
    """
    paths = sorted((home_directory() / "runs").glob("*/result.json"))
    found = {path.parent.name: path for path in paths}
    if not found:
        raise InputError(
            "runs", home_directory() / "runs", "holds no finished run", fix="start one: fpnas run"
        )
    for name in names or ():
        if name not in found:
            raise InputError(
                "run",
                name,
                "is not a finished run",
                legal=", ".join(found),
                fix=closest(name, found),
            )
    chosen = [found[name] for name in names or found]
    return [
        {"result": json.loads(path.read_text(encoding="utf-8")), "finished": path.stat().st_mtime}
        for path in chosen
    ]


def latest_registered(name: str | None) -> dict[str, Any]:
    """The document of a finished run with a registered model; the latest one by default.

    Raises:
        InputError: No such run, or a baseline, which is not registered.
    """
    runs = finished_runs([name] if name else None)
    registered = [run for run in runs if run["result"].get("registered_model")]
    if not registered:
        raise InputError(
            "run",
            name or home_directory() / "runs",
            "has no registered model",
            fix="name a run of fpnas run; baselines are only measured",
        )
    result: dict[str, Any] = max(registered, key=lambda run: run["finished"])["result"]
    return result


def comparison_row(result: dict[str, Any]) -> dict[str, Any]:
    """A row of :func:`fpnas.report.table.comparison_table`; what was not done is absent."""
    search, distill = result["search"], result["distill"]
    figures = speed_metrics(result.get("speed"))
    row = {
        "run": result["run_id"],
        "space": result["space"],
        "model": result["model"],
        "top1": result["train"]["top1"],
        "macs": result["architecture"]["macs"],
        "target_macs": result["architecture"].get("target_macs"),
        "params": result["architecture"]["params"],
        "latency_ms": figures.get("latency_ms"),
        "images_per_second": figures.get("throughput_images_per_s"),
        "note": ", ".join(notes(result)),
    }
    if distill:
        row["distilled_top1"] = distill["top1"]
    if search:
        row |= {
            "strategy": search["strategy"],
            "num_samples": search["num_samples"],
            "search_seconds": search["seconds"],
        }
    elif result.get("baseline"):
        row["strategy"] = "baseline"
    if registered := result.get("registered_model"):
        row |= {
            "registered_model": registered["name"],
            "version": registered["version"],
            "aliases": registered["aliases"],
        }
    return row


def csv_row(result: dict[str, Any]) -> dict[str, Any]:
    """The same with everything else that is known of a run, one value a column."""
    train, distill, search = result["train"], result["distill"] or {}, result["search"] or {}
    row = comparison_row(result)
    speed = speed_metrics(result.get("speed"))
    speed.pop("throughput_images_per_s", None)  # the row's images_per_second
    return {
        **row,
        "aliases": " ".join(row.get("aliases", ())),
        "architecture": result["architecture"]["string"],
        "architecture_sha256": result["architecture"].get("sha256"),
        "top5": train["top5"],
        "distilled_top5": distill.get("top5"),
        "calibration_error": train.get("calibration_error"),
        "distilled_calibration_error": distill.get("calibration_error"),
        "num_val_images": train["num_images"],
        **{name: search.get(name) for name in _SEARCH_BILL},
        **{
            f"{stage['name']}_seconds": stage.get("bill", {}).get("seconds", stage["seconds"])
            for stage in result["stages"]
        },
        **speed,
        "mlflow_run": result["mlflow"]["run_id"],
        "command": result["command"],
    }


def notes(result: dict[str, Any]) -> list[str]:
    """Why the times of a run should not be compared with those of others."""
    bills = {stage["name"]: stage.get("bill", {}) for stage in result["stages"]}
    resumed = [name for name, bill in bills.items() if bill.get("resumed")]
    disturbed = [name for name, bill in bills.items() if is_disturbed(bill.get("other_cores"))]
    if is_disturbed((result.get("speed") or {}).get("other_cores")):
        disturbed.append("speed")
    found = []
    if resumed:
        found.append(f"resumed: {' '.join(resumed)}")
    if disturbed:
        found.append(f"other load: {' '.join(disturbed)}")
    return found
