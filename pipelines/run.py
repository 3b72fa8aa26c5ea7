"""A run on this machine: checks, services, the engine, and the summary at the end."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fpnas.errors import InputError
from fpnas.packages import EXPORT_PACKAGES, require
from fpnas.stages.base import STAGES, RunInfo, Stage
from fpnas.stages.config import StageConfig
from fpnas.storage import Store, connect, home_directory
from pipelines.display import Display
from pipelines.engine import Engine, LocalPlan, engine_named, run_stages
from pipelines.files import write_json
from pipelines.outcomes import Outcome
from pipelines.plan import Request, make_plan


def run(request: Request, console: Console, engine: str = "local") -> dict[str, Any]:
    """Runs the pipeline on this machine.

    Args:
        request: What to run.
        console: Where progress goes.
        engine: ``local`` or ``docker``.

    Returns:
        The JSON document of ``fpnas run --json``.

    Raises:
        InputError: Before any work.
        FpnasError: A stage failed, or was stopped.
    """
    return carry_out(make_plan(request), STAGES, summarize, console, engine_named(engine))


def carry_out(
    plan: LocalPlan,
    stages: Mapping[str, Stage],
    summarized: Callable[[RunInfo, Mapping[str, Outcome], Store, Path], dict[str, Any]],
    console: Console,
    engine: Engine,
) -> dict[str, Any]:
    """Runs a pipeline on this machine, and keeps what it ran and what came out.

    Args:
        plan: What to run.
        stages: Of its pipeline, by name.
        summarized: Makes the JSON document of what became of the stages.
        console: Where progress goes.
        engine: Carries out the stages.

    Returns:
        The JSON document.

    Raises:
        InputError: Before any work.
        FpnasError: A stage failed, or was stopped.
    """
    engine.check(plan)
    home = home_directory()
    with services(home):
        store = connect()
        check(plan.configs, store)
        directory = home / "runs" / plan.info.run_id
        with only_one(directory):
            write_json(directory / "run.json", plan.to_json())
            console.print(f"run {plan.info.run_id} in {directory}", highlight=False)
            with same_terminal(console) as own:
                display = Display(own, tuple(stages))
                outcomes = run_stages(engine, plan, stages, directory, display)
            result = summarized(plan.info, outcomes, store, directory)
            result["engine"] = engine.name
            write_json(directory / "result.json", result)
    return result


def check(configs: Mapping[str, StageConfig], store: Store) -> None:
    """Checks packages, storage, tracking, pictures and the teacher.

    Args:
        configs: Of the stages.
        store: Where artifacts go.

    Raises:
        InputError: Naming what cannot be used.
    """
    from fpnas.stages import distill, register, training_config

    registration = configs.get("register")
    if isinstance(registration, register.Config) and registration.export:
        require(*EXPORT_PACKAGES)
    from fpnas import tracking
    from fpnas.data.prepare import check as check_data
    from fpnas.stages.prepare import Config

    store.check()
    tracking.initialise()
    prepare = configs["prepare"]
    assert isinstance(prepare, Config)
    classes = check_data(prepare.options(), store.client)
    for config in configs.values():
        if isinstance(config, training_config.TrainingConfig):
            training_config.check(config)
    distillation = configs.get("distill")
    if isinstance(distillation, distill.Config):
        distill.check(distillation, classes or (), store)


def resumed(run_id: str, given: Mapping[str, Any]) -> Request:
    """The request of an earlier run, to go on with it.

    Args:
        run_id: The run.
        given: What the user states again; it must not differ.

    Raises:
        InputError: No such run, or a statement that differs from it.
    """
    path = home_directory() / "runs" / run_id / "run.json"
    if not path.is_file():
        known = sorted(p.parent.name for p in path.parent.parent.glob("*/run.json"))
        raise InputError(
            "--resume",
            run_id,
            "is not a run on this machine",
            legal=", ".join(known) or "none",
            fix="start a new run without --resume",
        )
    document = json.loads(path.read_text(encoding="utf-8"))
    if "baseline" in document:
        raise InputError(
            "--resume", run_id, "is a baseline", fix=f"run {document['info']['command']} again"
        )
    stored = document["request"]
    for field, value in given.items():
        if value != stored[field] and value != tuple(stored[field] or ()):
            raise InputError(
                field.upper(),
                value,
                f"differs from the run's {stored[field]}",
                fix=f"leave it out to resume {run_id}, or start a new run without --resume",
            )
    request = Request(**{**stored, "overrides": tuple(stored["overrides"])})
    plan = make_plan(request)
    if plan.info.run_id != run_id:
        raise InputError(
            "--resume",
            run_id,
            "was configured by another version of the space or the profile",
            fix="start a new run without --resume",
        )
    return request


@contextlib.contextmanager
def services(home: Path) -> Iterator[None]:
    """S3 on loopback unless an endpoint is set, and its address in the environment."""
    if os.environ.get("S3_ENDPOINT_URL"):
        yield
        return
    from fpnas.services import local_s3

    text = os.environ.get("S3_PORT", "")
    if text and not text.isdecimal():
        raise InputError("S3_PORT", text, "is not a port", legal="1 to 65535", fix="unset it")
    with local_s3(home, int(text) if text else None) as service:
        before = dict(os.environ)
        os.environ.update(service.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def same_terminal(console: Console) -> Iterator[Console]:
    """A console on the same terminal that stays there when this process's output is redirected."""
    try:
        descriptor = os.dup(console.file.fileno())
    except (OSError, ValueError):  # not a real file, as in a test
        yield console
        return
    with os.fdopen(descriptor, "w", encoding="utf-8", buffering=1) as file:
        yield Console(file=file)


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Two processes must not work on one run."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                "run",
                directory.name,
                "is being worked on by another process",
                fix="wait for it or stop it",
            ) from error
        yield


def summarize(
    info: RunInfo, outcomes: Mapping[str, Outcome], store: Store, directory: Path
) -> dict[str, Any]:
    """Builds the JSON document, and copies the report into the run's folder."""
    from fpnas import tracking
    from fpnas.stages.tracked import parent_run_id

    report_uri = outcomes["register"].artifact
    assert report_uri is not None
    report = store.open(report_uri)
    summary = report.read_json("summary.json")
    registration = report.read_json("registration.json")
    (directory / "report.html").write_bytes(report.fetch("report.html").read_bytes())
    place = tracking.initialise()
    bills = {n: dict(store.open(outcome.artifact or "").bill) for n, outcome in outcomes.items()}
    speed = bills["register"].pop("speed")
    return {
        "run_id": info.run_id,
        "space": info.space,
        "model": info.model,
        "profile": info.profile,
        "seed": info.seed,
        "stages": stage_entries(outcomes, bills),
        "architecture": summary["architecture"],
        "search": summary["search"] and {**summary["search"], **_search_bill(bills)},
        "train": summary["train"],
        "distill": summary["distill"],
        "speed": speed,
        "registered_model": {key: registration[key] for key in ("name", "version", "aliases")},
        "mlflow": {
            "tracking_uri": place.uri,
            "experiment_id": place.experiment_id,
            "run_id": parent_run_id(info),
        },
        "report": str(directory / "report.html"),
        "command": info.command,
    }


def stage_entries(
    outcomes: Mapping[str, Outcome], bills: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """What became of every stage, for the JSON document."""
    return [
        {
            "name": outcome.name,
            "status": outcome.status,
            "seconds": round(outcome.elapsed_seconds, 3),
            "cached": outcome.cached,
            "artifact": outcome.artifact,
            "bill": dict(bills[outcome.name]),
        }
        for outcome in outcomes.values()
    ]


def _search_bill(bills: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What the two searches took; it differs between two runs of the same."""
    searches = [bills[name] for name in ("coarse", "fine")]
    return {
        "seconds": round(sum(float(bill["seconds"]) for bill in searches), 3),
        "peak_memory_bytes": max(int(bill["peak_memory_bytes"]) for bill in searches),
    }


def serve_ui(port: int, console: Console) -> None:
    """Serves MLflow's pages over the runs of this machine until interrupted.

    Raises:
        InputError: The port is in use, or MLflow is a server elsewhere.
    """
    import threading

    from fpnas import tracking
    from fpnas.mlflow_pages import experiment_url
    from fpnas.services import mlflow_server

    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    if elsewhere:
        raise InputError(
            "MLFLOW_TRACKING_URI",
            elsewhere.rpartition("@")[2],
            "is a server of its own",
            fix="open it in a browser, or unset the variable to see the runs of this machine",
        )
    home = home_directory()
    with services(home):
        place = tracking.initialise()
        with mlflow_server(home, port) as server:
            console.print(
                f"runs: {experiment_url(server.url, place.experiment_id)}\nstop with Ctrl-C",
                highlight=False,
                soft_wrap=True,
            )
            threading.Event().wait()
