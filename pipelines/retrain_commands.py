"""The commands fingerprint and retrain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fpnas.errors import FpnasError, StoppedError
from pipelines import names
from pipelines.commands import (
    AccountOption,
    EndpointOption,
    ExperimentOption,
    NamespaceOption,
    RootOption,
)
from pipelines.kfp_runs import EXPERIMENT, KFP, Target, submission
from pipelines.kfp_runs import failure as failed
from pipelines.options import (
    DataOption,
    EngineOption,
    JsonOption,
    ModelOption,
    ProfileOption,
    SeedOption,
    SetOption,
    SpaceOption,
    StrategyOption,
    print_json,
)

if TYPE_CHECKING:
    from pipelines.plan import Plan, Request
    from pipelines.retrain import Ended

_console = Console(stderr=True)


def add_retrain_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (fingerprint, retrain):
        app.command()(command)


def fingerprint(
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a digest of what a model would be made of, and what differs from the champion."""
    from pipelines.plan import Request, make_plan
    from pipelines.retrain import fingerprint as describe

    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    document = describe(make_plan(request))
    if as_json:
        print_json(document)
        return
    typer.echo(document["fingerprint"])
    for name, value in document["parts"].items():
        _console.print(f"{name:<8} {value}", highlight=False)
    champion = document["champion"]
    if champion is None:
        _console.print(f"{document['model']} has no champion", highlight=False)
        return
    _console.print(f"champion of {document['model']}: version {champion['version']}, ", end="")
    differences = document["differences"]
    _console.print("which differs in" if differences else "made of the same", highlight=False)
    for line in differences:
        _console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def retrain(
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    engine: EngineOption = "local",
    force: Annotated[bool, typer.Option("--force", help="Even when nothing changed.")] = False,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            envvar="GITHUB_STEP_SUMMARY",
            help="Append a comparison to this file, Markdown.",
        ),
    ] = None,
    endpoint: EndpointOption = "",
    experiment: ExperimentOption = EXPERIMENT,
    namespace: NamespaceOption = None,
    pipeline_root: RootOption = None,
    service_account: AccountOption = names.SERVICE_ACCOUNT,
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline if what the champion was made of has changed; else do nothing, and say so.

    The better model becomes the champion by the rule of fpnas run.
    """
    from pipelines import retrain as retraining
    from pipelines.engine import ENGINES, unknown_engine
    from pipelines.plan import Request, make_plan
    from pipelines.retrain_summary import failure, markdown

    if engine not in ENGINES:
        raise unknown_engine(engine)
    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    plan = make_plan(request)
    try:
        if engine == KFP:
            target = Target(endpoint, experiment, namespace, pipeline_root, service_account)
            start = _on_kfp(plan, target)
        else:
            start = _here(request, engine)
        document = retraining.retrain(plan, start, engine, force=force)
    except FpnasError as error:
        _append(summary, failure(plan.info.model, plan.info.run_id, str(error)))
        raise
    text = markdown(document)
    _append(summary, text)
    if as_json:
        print_json(document)
    else:
        typer.echo(text, nl=False)


def _here(request: Request, engine: str) -> Callable[[], Ended]:
    def start() -> Ended:
        from pipelines.retrain import Ended
        from pipelines.run import run

        return Ended({"report": run(request, _console, engine)["report"]})

    return start


def _on_kfp(plan: Plan, target: Target) -> Callable[[], Ended]:
    """Checks what can be checked before; what it returns submits the run and waits for its end."""
    ready = submission(plan, target)

    def start() -> Ended:
        from pipelines.retrain import Ended

        # A run of this name may have succeeded with other code or pictures.
        run, made = ready.start(again=True)
        _console.print("made" if made else "was there", run["run_id"], highlight=False)
        error = failed(ready.server.wait(run["run_id"]))
        if error is not None and (made or isinstance(error, StoppedError)):
            raise error
        return Ended(adopted=not made, failure=error)

    return start


def _append(path: Path | None, text: str) -> None:
    """Adds to a job's page, which earlier steps may have begun."""
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
