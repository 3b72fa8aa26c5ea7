"""The commands for a cluster: submit, status, logs, schedule and cancel.

Each names its run as the others do: by the options that it was submitted with.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fpnas.errors import FpnasError, InputError, StoppedError
from pipelines import names
from pipelines.options import (
    BaselineOption,
    DataOption,
    JsonOption,
    ModelOption,
    ProfileOption,
    SeedOption,
    SetOption,
    SpaceOption,
    StrategyOption,
)

if TYPE_CHECKING:
    from pipelines.kfp_server import Server

EndpointOption = Annotated[
    str, typer.Option("--endpoint", envvar="KF_PIPELINES_ENDPOINT", help="Of KFP's API.")
]
ExperimentOption = Annotated[str, typer.Option("--experiment", help="Of KFP.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--user-namespace", help="Of a KFP with several users.")
]
RootOption = Annotated[
    str | None,
    typer.Option("--pipeline-root", help="s3://... for KFP; FPNAS_STORAGE/kfp by default."),
]
AccountOption = Annotated[str, typer.Option("--service-account", help="Of the pods.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="As fpnas submit printed it.")]

_console = Console(stderr=True)


def add_cluster_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (submit, status, logs, schedule, cancel):
        app.command()(command)


def submit(
    endpoint: EndpointOption = "",
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    experiment: ExperimentOption = "fpnas",
    namespace: NamespaceOption = None,
    pipeline_root: RootOption = None,
    service_account: AccountOption = names.SERVICE_ACCOUNT,
    baseline: BaselineOption = None,
    again: Annotated[bool, typer.Option("--again", help="Even if it has succeeded.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until the run has ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the run on Kubeflow Pipelines, once: the same command finds a run that is there."""
    from pipelines.baseline import plan_for
    from pipelines.kfp_body import run_body
    from pipelines.plan import Request

    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    plan = plan_for(request, baseline)
    body = run_body(plan, pipeline_root, service_account)
    server = server_at(endpoint, namespace)
    server.check()
    name = plan.info.run_id
    run, made = server.submit(name, server.experiment(experiment), body, again=again)
    if wait:
        run = server.wait(run["run_id"])
    _print(as_json, {**_summary(run), "made": made}, "made" if made else "was there")
    if wait:
        raise_unless_succeeded(run)


def status(
    run: RunArgument,
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = "fpnas",
    namespace: NamespaceOption = None,
    pods_namespace: Annotated[
        str, typer.Option("--namespace", help="Of the pods.")
    ] = names.NAMESPACE,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, and why a stage is stuck."""
    from pipelines.kfp_body import tasks
    from pipelines.pods import Cluster

    server = server_at(endpoint, namespace)
    found = server.run(_identifier(server, run, experiment))
    try:
        pods = Cluster(pods_namespace).findings(found["run_id"])
    except InputError as error:
        pods = []
        _console.print(f"without pods and events: {error}", markup=False, highlight=False)
    result = {**_summary(found), "tasks": tasks(found), "pods": pods}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    table = Table("stage", "state", "why", "what to do", title=f"{run}: {result['state']}")
    for task in result["tasks"]:
        table.add_row(task["stage"], task["state"], task["error"], "")
    for pod in pods:
        if pod["cause"]:
            table.add_row(pod["stage"], pod["phase"], pod["cause"], pod["fix"])
    Console().print(table)


def logs(
    run: RunArgument,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help="prepare, coarse, fine, ...")],
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = "fpnas",
    namespace: NamespaceOption = None,
    pods_namespace: Annotated[
        str, typer.Option("--namespace", help="Of the pods.")
    ] = names.NAMESPACE,
    lines: Annotated[int, typer.Option("--lines", min=1, help="From the end.")] = 200,
    as_json: JsonOption = False,
) -> None:
    """Print the end of a stage's log, through the kubeconfig."""
    from pipelines.pods import Cluster

    cluster = Cluster(pods_namespace)
    server = server_at(endpoint, namespace)
    text = cluster.log(_identifier(server, run, experiment), stage, lines)
    typer.echo(json.dumps({"run": run, "stage": stage, "log": text}, indent=2) if as_json else text)


def schedule(
    cron: Annotated[str, typer.Argument(metavar="CRON", help="Such as '0 3 * * 1'; UTC.")],
    endpoint: EndpointOption = "",
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    experiment: ExperimentOption = "fpnas",
    namespace: NamespaceOption = None,
    pipeline_root: RootOption = None,
    service_account: AccountOption = names.SERVICE_ACCOUNT,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the schedule.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run it again and again on Kubeflow Pipelines; one schedule a run, never two at a time."""
    from pipelines.kfp_body import cron_of, run_body
    from pipelines.plan import Request, make_plan

    plan = make_plan(Request(space, model, data, profile, strategy, seed, tuple(overrides or ())))
    parsed, name = cron_of(cron), plan.info.run_id
    body = run_body(plan, pipeline_root, service_account)
    server = server_at(endpoint, namespace)
    server.check()
    identifier = server.experiment(experiment)
    if remove:
        gone = server.unschedule(name, identifier)
        _print(as_json, {"run": name, "removed": gone}, f"{len(gone)} schedule(s) removed")
        return
    found, made = server.schedule(name, identifier, parsed, body)
    result = {"run": name, "id": found["recurring_run_id"], "cron": parsed, "made": made}
    _print(as_json, result, "made" if made else "was there")


def cancel(
    run: RunArgument,
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = "fpnas",
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run; what is finished is kept, and submitting it again goes on."""
    server = server_at(endpoint, namespace)
    found = server.cancel(_identifier(server, run, experiment))
    _print(as_json, _summary(found), found.get("state", ""))


def server_at(endpoint: str, namespace: str | None) -> Server:
    """The server of an endpoint, with the token of ``KF_PIPELINES_SA_TOKEN_PATH``.

    Raises:
        InputError: The endpoint is no address, or the token cannot be read.
    """
    from pipelines.kfp_server import Server

    path = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    return Server(endpoint, Path(path) if path else None, namespace)


def _identifier(server: Server, run: str, experiment: str) -> str:
    found = server.runs(run, server.experiment(experiment))
    if not found:
        raise InputError(
            "RUN", run, f"is not in the experiment {experiment}", fix="start it: fpnas submit"
        )
    return str(found[0]["run_id"])


def _summary(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run["display_name"],
        "id": run["run_id"],
        "state": run.get("state", "PENDING"),
        "error": run.get("error", {}).get("message", ""),
    }


def _print(as_json: bool, result: dict[str, Any], words: str) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(result["run"])
        _console.print(words, highlight=False, markup=False)


def raise_unless_succeeded(run: dict[str, Any]) -> None:
    """Ends the command as an ended run did.

    Raises:
        StoppedError: It was cancelled.
        FpnasError: It failed.
    """
    summary = _summary(run)
    if summary["state"] == "CANCELED":
        raise StoppedError(f"{summary['run']} was cancelled; submitting it again goes on")
    if summary["state"] == "FAILED":
        raise FpnasError(f"{summary['run']} failed: {summary['error'] or 'see fpnas status'}")
