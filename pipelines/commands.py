"""The commands for a cluster: submit, status, logs, schedule and cancel.

Each names its run as the others do: by the options that it was submitted with.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fpnas.errors import FpnasError, InputError
from pipelines import kfp_runs, names
from pipelines.kfp_runs import Target, failure, submission, summary
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
    from pipelines.compile import Compilable
    from pipelines.kfp_server import Server

EndpointOption = Annotated[
    str, typer.Option("--endpoint", envvar=kfp_runs.ENDPOINT, help="Of KFP's API.")
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
    experiment: ExperimentOption = kfp_runs.EXPERIMENT,
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
    from pipelines.plan import Request

    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    target = Target(endpoint, experiment, namespace, pipeline_root, service_account)
    submit_plan(plan_for(request, baseline), target, again=again, wait=wait, as_json=as_json)


def submit_plan(
    plan: Compilable,
    target: Target,
    *,
    again: bool = False,
    wait: bool = False,
    as_json: bool = False,
) -> None:
    """Starts a plan's run, or finds it, and prints what became of it.

    Args:
        plan: The run.
        target: Where.
        again: Even if it has succeeded.
        wait: Until it has ended.
        as_json: As one document.

    Raises:
        InputError: Before any work.
        ServiceDownError: It is not known whether the run was made.
        StoppedError: It was waited for, and cancelled.
        FpnasError: It was waited for, and failed.
    """
    ready = submission(plan, target)
    run, made = ready.start(again=again)
    words = "made" if made else "was there"
    if wait:
        _console.print(f"{ready.name} {words}; waiting for its end", highlight=False)
        run = ready.server.wait(run["run_id"])
    _print(as_json, {**summary(run), "made": made}, run["state"] if wait else words)
    if wait and (error := failure(run)):
        raise error


def status(
    run: RunArgument,
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = kfp_runs.EXPERIMENT,
    namespace: NamespaceOption = None,
    pods_namespace: Annotated[
        str, typer.Option("--namespace", help="Of the pods.")
    ] = names.NAMESPACE,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, and why a stage is stuck."""
    from pipelines.kfp_body import tasks
    from pipelines.pods import Cluster

    server = kfp_runs.server_at(endpoint, namespace)
    found = server.run(_found(server, run, experiment)["run_id"])
    try:
        pods = Cluster(pods_namespace).findings(found)
    except FpnasError as error:
        pods = []
        _console.print(f"without pods and events: {error}", markup=False, highlight=False)
    result = {**summary(found), "tasks": tasks(found), "pods": pods}
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
    experiment: ExperimentOption = kfp_runs.EXPERIMENT,
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
    server = kfp_runs.server_at(endpoint, namespace)
    text = cluster.log(_found(server, run, experiment), stage, lines)
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
    experiment: ExperimentOption = kfp_runs.EXPERIMENT,
    namespace: NamespaceOption = None,
    pipeline_root: RootOption = None,
    service_account: AccountOption = names.SERVICE_ACCOUNT,
    baseline: BaselineOption = None,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the schedule.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run it again and again on Kubeflow Pipelines; one schedule a run, never two at a time."""
    from pipelines.baseline import plan_for
    from pipelines.kfp_body import cron_of
    from pipelines.plan import Request

    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    plan, parsed = plan_for(request, baseline), cron_of(cron)
    name = plan.info.run_id
    if remove:
        server = kfp_runs.server_at(endpoint, namespace)
        gone = server.unschedule(name, server.known_experiment(experiment))
        _print(as_json, {"run": name, "removed": gone}, f"{len(gone)} schedule(s) removed")
        return
    target = Target(endpoint, experiment, namespace, pipeline_root, service_account)
    found, made = submission(plan, target).schedule(parsed)
    result = {"run": name, "id": found["recurring_run_id"], "cron": parsed, "made": made}
    _print(as_json, result, "made" if made else "was there")


def cancel(
    run: RunArgument,
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = kfp_runs.EXPERIMENT,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run; what is finished is kept, and submitting it again goes on."""
    server = kfp_runs.server_at(endpoint, namespace)
    found = server.cancel(_found(server, run, experiment)["run_id"])
    _print(as_json, summary(found), found.get("state", ""))


def _found(server: Server, run: str, experiment: str) -> dict[str, Any]:
    """The newest run of a name."""
    found = server.runs(run, server.known_experiment(experiment))
    if not found:
        raise InputError(
            "RUN", run, f"is not in the experiment {experiment}", fix="start it: fpnas submit"
        )
    return found[0]


def _print(as_json: bool, result: dict[str, Any], words: str) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(result["run"])
        _console.print(words, highlight=False, markup=False)
