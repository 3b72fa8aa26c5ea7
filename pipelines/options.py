"""What several commands share: options, and how they print."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fpnas.search.options import STRATEGIES

SpaceOption = Annotated[str, typer.Option("--space", help="A search space, or a YAML file.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Operating point; the space's first by default.")
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data", help="digits, cifar10, imagenette, a folder, an archive, or s3://bucket/prefix."
    ),
]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="smoke, laptop, paper, or a YAML file.")
]
StrategyOption = Annotated[
    str, typer.Option("--strategy", help=f"How to search: {', '.join(STRATEGIES)}.")
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local: every stage a process here; docker: every stage in a container here; "
        "kfp: submit to Kubeflow Pipelines and wait.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of everything that is drawn.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value over the profile; may be repeated."),
]
BaselineOption = Annotated[
    str | None,
    typer.Option("--baseline", help="Instead of a search this network, as in fpnas baseline."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def print_json(value: Any) -> None:
    """Prints one JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2))
