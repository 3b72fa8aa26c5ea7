"""The command line. The outermost layer: it may import everything, and does so late."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fpnas import __version__
from fpnas.errors import FpnasError, InputError
from pipelines.commands import add_cluster_commands, submit_plan
from pipelines.kfp_runs import KFP, Target
from pipelines.model_commands import add_model_commands
from pipelines.options import (
    BaselineOption,
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
from pipelines.retrain_commands import add_retrain_commands

app = typer.Typer(
    name="fpnas",
    help="Fast probabilistic neural architecture search: labelled images and a compute budget in, "
    "a trained and registered classifier out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
space_app = typer.Typer(help="Search spaces.", no_args_is_help=True)
app.add_typer(space_app, name="space")

_console = Console(stderr=True)


@app.callback()
def _main() -> None:
    pass


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def run(
    context: typer.Context,
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    engine: EngineOption = "local",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Go on with this run; name no other option.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search, decode, train, distill and register, from pictures to a model.

    The same command again finds what is done and resumes what is not.
    """
    from pipelines.plan import Request, make_plan
    from pipelines.run import resumed
    from pipelines.run import run as run_pipeline

    options: dict[str, Any] = {
        "space": space,
        "model": model,
        "data": data,
        "profile": profile,
        "strategy": strategy,
        "seed": seed,
        "overrides": tuple(overrides or ()),
    }
    if resume is not None:
        sources = {name: context.get_parameter_source(name) for name in options}
        given = {
            name: value
            for name, value in options.items()
            if sources[name] is not None and sources[name].name == "COMMANDLINE"  # type: ignore[union-attr]
        }
        request = resumed(resume, given)
    else:
        request = Request(**options)
    if engine == KFP:
        submit_plan(make_plan(request), Target.from_environment(), wait=True, as_json=as_json)
        return
    result = run_pipeline(request, _console, engine)
    if as_json:
        print_json(result)
    else:
        from pipelines.summary import print_summary

        print_summary(result, Console())


@app.command()
def baseline(
    name: Annotated[
        str,
        typer.Argument(
            help="mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large, mnasnet, "
            "efficientnet_b0 to _b2, resnest14d, resnest26d or resnest50d, with @WIDTH and "
            "/OUTPUT_STRIDE where wanted (mobilenet_v2@0.5/8); or random, the best random "
            "architecture of the space."
        ),
    ],
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    engine: EngineOption = "local",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network that nobody searched, by the recipe of fpnas run with the same options."""
    from pipelines.baseline import plan_baseline, print_baseline, run_baseline
    from pipelines.plan import Request

    request = Request(
        space=space,
        model=model,
        data=data,
        profile=profile,
        seed=seed,
        overrides=tuple(overrides or ()),
    )
    if engine == KFP:
        plan = plan_baseline(name, request)
        submit_plan(plan, Target.from_environment(), wait=True, as_json=as_json)
        return
    result = run_baseline(name, request, _console, engine)
    if as_json:
        print_json(result)
    else:
        print_baseline(result, Console())


@app.command(name="compile")
def compile_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML file to write.")],
    space: SpaceOption = "tiny",
    model: ModelOption = None,
    data: DataOption = "digits",
    profile: ProfileOption = "smoke",
    strategy: StrategyOption = "fpnas",
    seed: SeedOption = 0,
    overrides: SetOption = None,
    baseline: BaselineOption = None,
    engine: Annotated[
        str, typer.Option("--engine", help="kfp, or argo for Argo Workflows without Kubeflow.")
    ] = "kfp",
) -> None:
    """Write the pipeline for a cluster: KFP's intermediate representation, or Argo's template."""
    from pipelines.baseline import plan_for
    from pipelines.compile import compile_pipeline
    from pipelines.plan import Request

    request = Request(space, model, data, profile, strategy, seed, tuple(overrides or ()))
    compile_pipeline(plan_for(request, baseline), output, engine)
    _console.print(f"wrote {output}", highlight=False)


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="prepare, coarse, fine, decode, train, ...")],
    config: Annotated[Path, typer.Option("--config", help="The stage's configuration, JSON.")],
    run_info: Annotated[Path, typer.Option("--run", help="The pipeline run, JSON.")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="role=s3://... for every input.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file for the artifact's address.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run one stage by hand; its artifact's address goes to stdout."""
    from fpnas.errors import closest
    from fpnas.stages.base import ALL_STAGES, RunInfo
    from fpnas.stages.train_job import perform
    from fpnas.storage import connect

    if name not in ALL_STAGES:
        raise InputError(
            "STAGE",
            name,
            "is not a stage",
            legal=", ".join(ALL_STAGES),
            fix=closest(name, ALL_STAGES),
        )
    chosen = ALL_STAGES[name]
    addresses = dict(item.partition("=")[::2] for item in inputs or [])
    if addresses.keys() != chosen.inputs.keys():
        raise InputError(
            "--input",
            sorted(addresses),
            f"are not the inputs of {name}",
            legal=", ".join(chosen.inputs) or "none",
            fix="give each one as role=s3://...",
        )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if int(os.environ.get("RANK", "0")) > 0:  # of torchrun; rank 0 does the writing
        from fpnas.stages.ranks import follow

        follow(name, _read_json(config), _read_json(run_info), addresses)
        return
    store = connect()
    store.check()
    artifact, cached = perform(
        chosen,
        chosen.config_type.parse(_read_json(config), name),
        RunInfo.model_validate(_read_json(run_info)),
        {role: store.open(uri) for role, uri in addresses.items()},
        store,
    )
    if output is not None:
        output.write_text(artifact.uri, encoding="utf-8")
    if as_json:
        print_json({"uri": artifact.uri, "digest": artifact.digest, "cached": cached})
    else:
        typer.echo(artifact.uri)


@space_app.command("list")
def space_list(as_json: JsonOption = False) -> None:
    """List the search spaces that come with the package."""
    from fpnas.space import available_spaces, load_space

    files = [load_space(name) for name in available_spaces()]
    if as_json:
        print_json([{"name": f.name, "models": list(f.models)} for f in files])
        return
    table = Table("space", "models", "description")
    for file in files:
        table.add_row(file.name, " ".join(file.models), file.description)
    Console().print(table)


@space_app.command("show")
def space_show(
    name: Annotated[str, typer.Argument(help="A search space, or a YAML file.")],
    input_size: Annotated[
        int | None, typer.Option(help="Show the costs at this size instead, pixels.")
    ] = None,
    num_classes: Annotated[int, typer.Option(help="Classes that costs are computed for.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Show the size, the parameters and the costs of a search space."""
    from fpnas.report.space_summary import print_space, summarize_space
    from fpnas.space import load_space

    summary = summarize_space(load_space(name), input_size=input_size, num_classes=num_classes)
    if as_json:
        print_json(summary)
    else:
        print_space(summary, Console())


@app.command()
def doctor(engine: EngineOption = "local", as_json: JsonOption = False) -> None:
    """Check everything that a run needs, and say what to do."""
    from fpnas.doctor import checks
    from pipelines.engine_checks import engine_checks

    of_engine = engine_checks(engine)  # first, as it refuses what is no engine
    found = checks() + of_engine
    failed = any(check.status == "fail" for check in found)
    if as_json:
        print_json(
            [{"name": c.name, "status": c.status, "detail": c.detail, "fix": c.fix} for c in found]
        )
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        table = Table("check", "status", "found", "what to do")
        for check in found:
            status = f"[{colours[check.status]}]{check.status}[/]"
            table.add_row(check.name, status, check.detail, check.fix)
        Console().print(table)
    raise typer.Exit(1 if failed else 0)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Where MLflow listens.")] = 5000,
) -> None:
    """Serve MLflow's pages over the runs of this machine until interrupted."""
    from pipelines.run import serve_ui

    serve_ui(port, _console)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "file", path, f"cannot be read as JSON: {error}", fix="correct it"
        ) from error


# After the others, as fpnas --help lists them.
add_model_commands(app)
add_cluster_commands(app)
add_retrain_commands(app)


def main() -> None:
    """Runs the command line; errors become one message and an exit status."""
    try:
        app()
    except FpnasError as error:
        _console.print("error:", style="bold red", end=" ")
        _console.print(str(error), highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
