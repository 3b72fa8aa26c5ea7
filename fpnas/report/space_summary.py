"""What a search space is in numbers: the document of ``fpnas space show``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from fpnas.cost import CostModel
from fpnas.report.formats import format_macs
from fpnas.space import SearchSpace, SpaceFile


def summarize_space(
    file: SpaceFile, *, input_size: int | None = None, num_classes: int = 1000
) -> dict[str, Any]:
    """Summarizes a space and all of its operating points.

    The figures of the space itself are those of its first operating point; only the number of
    groups and of blocks depends on the point.

    Args:
        file: The space.
        input_size: Instead of each operating point's own, pixels.
        num_classes: Classes that costs are computed for.

    Raises:
        InputError: The input size is too small for the strides.
    """
    first = file.open(input_size=input_size)
    return {
        "name": file.name,
        "description": file.description,
        "granularity": file.granularity,
        **_numbers(first),
        "groups": [
            {
                **{choice.name: list(choice.values) for choice in group.choices},
                "repeat": group.repeat,
                "stride": group.stride,
                "size": group.size,
            }
            for group in first.groups
        ],
        "models": {
            name: _summarize_model(file.open(name, input_size=input_size), num_classes)
            for name in file.models
        },
    }


def _numbers(space: SearchSpace) -> dict[str, Any]:
    return {
        "num_groups": space.num_groups,
        "num_blocks": space.num_blocks,
        "size": space.size,
        "uniform_entropy_nats": space.uniform_entropy_nats,
        "num_factorized_parameters": space.num_factorized_parameters,
        "num_joint_parameters": space.num_joint_parameters,
    }


def _summarize_model(space: SearchSpace, num_classes: int) -> dict[str, Any]:
    cost_model = CostModel(space, num_classes)
    low, high = cost_model.range_macs()
    return {
        "input_size": space.input_size,
        "target_macs": space.target_macs,
        **_numbers(space),
        "min_macs": low,
        "max_macs": high,
        "median_macs": cost_model.median_macs(),
    }


def print_space(summary: dict[str, Any], console: Console) -> None:
    """Prints a summary as two tables."""
    console.print(f"[bold]{summary['name']}[/] - {summary['description']}", highlight=False)
    console.print(
        f"{summary['num_groups']} groups, {summary['num_blocks']} blocks, "
        f"{summary['size']:.4g} architectures, uniform entropy "
        f"{summary['uniform_entropy_nats']:.2f} nats, parameters "
        f"{summary['num_factorized_parameters']} factorized, "
        f"{summary['num_joint_parameters']} joint",
        highlight=False,
    )
    groups = Table(
        "group", "expansion", "channels", "kernel", "activation", "splits", "x", "stride"
    )
    for index, group in enumerate(summary["groups"], start=1):
        groups.add_row(
            str(index),
            *(
                _values(group[name])
                for name in ("expansion", "channels", "kernel", "activation", "splits")
            ),
            str(group["repeat"]),
            str(group["stride"]),
        )
    console.print(groups)
    models = Table("model", "input", "blocks", "size", "target", "median", "min", "max")
    for name, model in summary["models"].items():
        models.add_row(
            name,
            f"{model['input_size']} px",
            str(model["num_blocks"]),
            f"{model['size']:.3g}",
            *(format_macs(model[f"{key}_macs"]) for key in ("target", "median", "min", "max")),
        )
    console.print(models)


def _values(values: list[Any]) -> str:
    if len(values) > 4:
        return f"{values[0]:g} to {values[-1]:g} by {values[1] - values[0]:g}"
    return " ".join(str(value) for value in values)
