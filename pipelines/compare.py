"""Finished runs side by side: rows for a terminal, a CSV file and an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fpnas.errors import FpnasError, InputError, closest
from fpnas.storage import connect, home_directory
from pipelines.files import write_text
from pipelines.results import comparison_row, csv_row, finished_runs
from pipelines.run import services

if TYPE_CHECKING:
    from fpnas.report.comparison import ComparedRun
    from fpnas.storage import Artifact, Store

CSV_NAME, PAGE_NAME = "comparison.csv", "comparison.html"
_LOCAL_UI = "http://127.0.0.1:5000"


def chosen_results(names: Sequence[str] | None, models: str | None) -> list[dict[str, Any]]:
    """The documents of finished runs.

    Args:
        names: Of the runs; all finished ones when empty.
        models: Operating points, such as ``s1,l0``; of these only.

    Raises:
        InputError: No such run, or no run of a model.
    """
    results = [run["result"] for run in finished_runs(list(names or ()))]
    if models is None:
        return results
    wanted = [model.strip() for model in models.split(",") if model.strip()]
    known = {result["model"] for result in results}
    for model in wanted or [models]:
        if model not in known:
            raise InputError(
                "--models",
                model,
                "has no finished run",
                legal=", ".join(sorted(known)),
                fix=closest(model, known),
            )
    return [result for result in results if result["model"] in wanted]


def write_comparison(results: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Writes :data:`CSV_NAME` and :data:`PAGE_NAME`.

    Args:
        results: Documents of finished runs, at least one.
        directory: Created when it is not there.

    Returns:
        The files.

    Raises:
        InputError: The directory is a file.
    """
    from fpnas.report.comparison import render_comparison

    if directory.exists() and not directory.is_dir():
        raise InputError("--output", directory, "is a file", fix="name a folder")
    with services(home_directory()):
        store = connect()
        runs = [_read(result, store) for result in results]
    page = render_comparison(runs, _links(results))
    rows = [
        {**csv_row(result), "pictures": run.pictures}
        for result, run in zip(results, runs, strict=True)
    ]
    table = pd.DataFrame(rows).sort_values(["macs", "run"], kind="stable")
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / CSV_NAME, table.to_csv(index=False))
    write_text(directory / PAGE_NAME, page)
    return [directory / CSV_NAME, directory / PAGE_NAME]


def _read(result: dict[str, Any], store: Store) -> ComparedRun:
    """A run with what only its artifacts hold; what cannot be read is named in the page."""
    from fpnas.architecture import Architecture
    from fpnas.report.comparison import ComparedRun

    missing: list[str] = []
    artifacts = {stage["name"]: stage["artifact"] for stage in result["stages"]}

    def read(stage: str, what: Callable[[Artifact], Any]) -> Any:
        if not artifacts.get(stage):
            return None
        try:
            return what(store.open(artifacts[stage]))
        except FpnasError as error:
            missing.append(f"Something of the stage {stage} is not shown: {error}")
            return None

    # A baseline is trained from scratch, by a stage of its own.
    histories = {
        name: read(stage, _history)
        for stage, name in (("train", "train"), ("baseline", "train"), ("distill", "distill"))
        if stage in artifacts
    }
    decoded = read("decode", lambda artifact: artifact.read_json("decode.json"))
    architecture = read("decode", lambda artifact: artifact.read_json("architecture.json"))
    return ComparedRun(
        row=comparison_row(result),
        pictures=read("prepare", _pictures) or "unknown pictures",
        architecture=Architecture.from_json(architecture) if decoded and architecture else None,
        num_classes=decoded["num_classes"] if decoded else 0,
        histories={name: found for name, found in histories.items() if found is not None},
        bill=result["search"] or {},
        stage_seconds={
            stage["name"]: stage.get("bill", {}).get("seconds", stage["seconds"])
            for stage in result["stages"]
        },
        speed=result.get("speed"),
        missing=missing,
    )


def _history(artifact: Artifact) -> pd.DataFrame:
    table = pd.read_parquet(artifact.fetch("history.parquet"))
    artifact.release("history.parquet")
    return table


def _pictures(artifact: Artifact) -> str:
    """The source's last part, with the start of the digest: sources change, digests do not."""
    source = str(artifact.config["data"]).rstrip("/").rpartition("/")[2]
    return f"{source} ({artifact.digest[:8]})"


def _links(results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """MLflow's own page over the same runs; one for each place that they are tracked in."""
    from fpnas.mlflow_pages import compare_url

    places: dict[tuple[str, str], list[str]] = {}
    for result in results:
        place = result["mlflow"]
        key = (place["tracking_uri"], place["experiment_id"])
        places.setdefault(key, []).append(place["run_id"])
    links = {}
    for (uri, experiment), runs in places.items():
        if uri.startswith("http"):
            links["the same runs in MLflow"] = compare_url(uri, experiment, runs)
        else:
            links["the same runs in MLflow, after make mlflow-ui"] = compare_url(
                _LOCAL_UI, experiment, runs
            )
    return links
