"""The commands for models that runs have made: compare, register, export and predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fpnas.errors import InputError
from pipelines.options import JsonOption, print_json

_console = Console(stderr=True)


def add_model_commands(app: typer.Typer) -> None:
    """Adds the commands of this module."""
    for command in (compare, register, export, predict):
        app.command()(command)


def compare(
    runs: Annotated[list[str] | None, typer.Argument(help="Run names; all by default.")] = None,
    models: Annotated[
        str | None, typer.Option("--models", help="Runs of these operating points, such as s1,l0.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A folder for comparison.csv and comparison.html."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare finished runs of this machine: a table, and with --output a CSV file and a page."""
    from fpnas.report.table import comparison_table, comparison_view
    from pipelines.compare import chosen_results, write_comparison
    from pipelines.results import comparison_row

    results = chosen_results(runs, models)
    files = write_comparison(results, output) if output is not None else []
    rows = [comparison_row(result) for result in results]
    if as_json:
        print_json(rows)
    else:
        Console().print(comparison_view(comparison_table(rows)))
    for path in files:
        _console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def register(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run whose models are trained.")],
    as_json: JsonOption = False,
) -> None:
    """Finish a run whose registry was away: measure, register, report.

    The same model is never registered twice. With another MLFLOW_TRACKING_URI it is registered
    there as well.
    """
    from pipelines.register import register_run
    from pipelines.summary import print_summary

    result = register_run(run_name)
    if as_json:
        print_json(result)
    else:
        print_summary(result, Console())


def export(
    run_name: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A finished run; the latest by default.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder.")] = Path("exported"),
    opset: Annotated[
        int | None, typer.Option("--opset", help="Of ONNX; torch's default otherwise.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a run's better model as torch.export, ONNX and int8 ONNX, each checked."""
    from fpnas.report.table import exported_table
    from pipelines.export import export_run

    written = export_run(run_name, output, opset)
    if as_json:
        print_json(written)
        return
    Console().print(exported_table(written["files"]))
    _console.print(
        f"{written['run']} ({written['model']}) in {output}; try it: "
        f"fpnas predict --model {output / 'model.onnx'} IMAGE...",
        highlight=False,
        soft_wrap=True,
    )


def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, WebP and others.")],
    model: Annotated[
        Path | None,
        typer.Option("--model", help="What fpnas export wrote; the latest run's model by default."),
    ] = None,
    number: Annotated[int, typer.Option("--top", min=1, help="Classes to name.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Name the most probable classes of pictures."""
    from fpnas.training.inference import load, read_pictures, top_classes
    from pipelines.export import latest_model

    if model is not None and not model.is_file():
        raise InputError("--model", model, "is not a file", fix="write one with fpnas export")
    if model is None:
        with latest_model() as path:
            run, card = load(path)
    else:
        run, card = load(model)
    found = top_classes(run, card, read_pictures(images, card), number)
    if as_json:
        print_json(
            [
                {"image": str(path), "classes": [{"name": n, "probability": p} for n, p in row]}
                for path, row in zip(images, found, strict=True)
            ]
        )
        return
    table = Table("picture", "class", "probability")
    for path, row in zip(images, found, strict=True):
        for place, (name, probability) in enumerate(row):
            table.add_row("" if place else str(path), name, f"{probability:.1%}")
        table.add_section()
    Console().print(table)
