"""The pipeline's graph, read from its one definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Node:
    """A task of the pipeline.

    Attributes:
        image: Of its container.
        sources: The task that makes each input artifact, by the input's role.
    """

    image: str
    sources: Mapping[str, str]


def graph_of(specification: Mapping[str, Any]) -> dict[str, Node]:
    """Reads the graph from KFP's intermediate representation, in an order of its own."""
    executors = specification["deploymentSpec"]["executors"]
    nodes = {}
    for name, task in sorted(specification["root"]["dag"]["tasks"].items()):
        component = specification["components"][task["componentRef"]["name"]]
        artifacts = sorted(task["inputs"].get("artifacts", {}).items())
        nodes[name] = Node(
            executors[component["executorLabel"]]["container"]["image"],
            {role: a["taskOutputArtifact"]["producerTask"] for role, a in artifacts},
        )
    return nodes


def pipeline_graph(pipeline: str = "fpnas_pipeline") -> dict[str, Node]:
    """The graph of a pipeline, by its name in :mod:`pipelines.definition`."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from google.protobuf import json_format

        from pipelines import definition

        return graph_of(json_format.MessageToDict(getattr(definition, pipeline).pipeline_spec))
