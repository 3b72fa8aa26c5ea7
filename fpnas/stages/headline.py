"""The figures that runs are compared by, on the pipeline's MLflow run.

MLflow's table, parallel coordinates and scatter plots compare runs by the metrics and parameters
of the runs themselves, so these stand on the parent and have one name for every kind of run. What
a run has not done (a search, a distillation) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fpnas.training.speed import LATENCY_BATCH, THROUGHPUT_BATCH

if TYPE_CHECKING:
    from fpnas.stages.base import RunInfo
    from fpnas.tracking import Run

_SEARCHES = ("coarse", "fine")


def log_headline(
    run: Run,
    info: RunInfo,
    summary: Mapping[str, Any],
    seconds: Mapping[str, float],
    speed: Mapping[str, Any] | None = None,
) -> None:
    """Logs the figures of a run.

    Args:
        run: The pipeline's run.
        info: Names it.
        summary: ``architecture``, ``train``, and ``search`` and ``distill``, which may be None;
            see :meth:`fpnas.stages.reporting.Findings.summary`.
        seconds: That each stage took, by its name.
        speed: From :func:`fpnas.stages.measuring.measure_model`.
    """
    search = summary["search"]
    run.log_metrics(
        0,
        {
            **_accuracy(summary),
            **_cost(summary["architecture"]),
            **speed_metrics(speed),
            **_search(search, seconds),
            "total_seconds": sum(seconds.values()),
        },
    )
    run.log_params(
        {
            "space": info.space,
            "model": info.model,
            "profile": info.profile,
            "strategy": search["strategy"] if search else "none",
            "seed": info.seed,
        }
    )
    run.set_tags(
        {
            "fpnas.architecture": summary["architecture"]["string"],
            "fpnas.command": info.command,
            "fpnas.alarms": ", ".join(a["name"] for a in search["alarms"]) or "none"
            if search
            else "none",
        }
    )


def best_scores(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """Scores of the better of the two models; the undistilled one's when they are equal."""
    models = [summary[name] for name in ("train", "distill") if summary.get(name)]
    best: Mapping[str, Any] = max(models, key=lambda scores: scores["top1"])
    return best


def speed_metrics(speed: Mapping[str, Any] | None) -> dict[str, float]:
    """Latency and throughput by device and runtime, torch on the CPU without either.

    >>> one = {"runtime": "torch", "device": "cpu", "batch_size": 1, "median_seconds": 0.002}
    >>> speed_metrics({"measurements": [one]})
    {'latency_ms': 2.0}
    """
    found = {}
    for one in speed["measurements"] if speed else ():
        runtime = {"torch": "", "model.onnx": "_onnx", "model.int8.onnx": "_int8"}.get(
            one["runtime"], f"_{one['runtime']}"
        )
        place = ("" if one["device"] == "cpu" else "_gpu") + runtime
        if one["batch_size"] == LATENCY_BATCH:
            found[f"latency_ms{place}"] = 1e3 * one["median_seconds"]
        elif one["batch_size"] == THROUGHPUT_BATCH:
            found[f"throughput_images_per_s{place}"] = one["images_per_second"]
    return found


def _accuracy(summary: Mapping[str, Any]) -> dict[str, float]:
    train, distill = summary["train"], summary["distill"]
    best = best_scores(summary)
    found = {"top1": best["top1"], "top5": best["top5"], "top1_train": train["top1"]}
    if best.get("calibration_error") is not None:
        found["calibration_error"] = best["calibration_error"]
    if distill:
        found["top1_distill"] = distill["top1"]
        found["distillation_gain"] = distill["top1"] - train["top1"]
        if distill["teacher"].get("top1") is not None:
            found["top1_teacher"] = distill["teacher"]["top1"]
    return found


def _cost(architecture: Mapping[str, Any]) -> dict[str, float]:
    names = ("macs", "target_macs", "params")
    return {name: architecture[name] for name in names if architecture.get(name) is not None}


def _search(search: Mapping[str, Any] | None, seconds: Mapping[str, float]) -> dict[str, float]:
    if not search:
        return {}
    counts = {name: search[name] for name in ("num_samples", "num_forwards", "num_backwards")}
    return {**counts, "search_seconds": sum(seconds.get(name, 0.0) for name in _SEARCHES)}
