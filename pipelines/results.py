"""Results of the runs of this machine, for comparing them."""

from __future__ import annotations

import json
from typing import Any

from fpnas.errors import InputError, closest
from fpnas.storage import home_directory


def comparison_rows(names: list[str] | None) -> list[dict[str, Any]]:
    """Returns one row a finished run; see :func:`finished_runs`."""
    return [_row(run["result"]) for run in finished_runs(names)]


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


def _row(result: dict[str, Any]) -> dict[str, Any]:
    registered = result["registered_model"]
    return {
        "run": result["run_id"],
        "space": result["space"],
        "model": result["model"],
        "top1": result["train"]["top1"],
        "distilled_top1": result["distill"]["top1"],
        "macs": result["architecture"]["macs"],
        "target_macs": result["architecture"]["target_macs"],
        "params": result["architecture"]["params"],
        "num_samples": result["search"]["num_samples"],
        "search_seconds": result["search"]["seconds"],
        "registered_model": registered["name"],
        "version": registered["version"],
        "aliases": registered["aliases"],
    }
