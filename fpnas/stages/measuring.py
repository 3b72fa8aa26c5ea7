"""How fast a model is, with what else the machine was doing meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def measure_model(
    network: nn.Module, info: Mapping[str, Any], exported: Sequence[Path] = ()
) -> dict[str, Any]:
    """Measures a network as it is deployed.

    Args:
        network: Maps normalized pictures to logits.
        info: ``model.json``.
        exported: Its exported files; the ONNX files among them are measured too.

    Returns:
        What :func:`fpnas.training.speed.measure_everywhere` gives, and the ``other_cores`` that
        were busy with something else. It belongs into the bill: a digest identifies what does not
        differ from run to run.
    """
    from fpnas.networks.network import Classifier
    from fpnas.stages.load import OtherLoad
    from fpnas.training.inference import runner
    from fpnas.training.speed import measure_everywhere

    runners = {path.name: runner(path) for path in exported if path.suffix == ".onnx"}
    load = OtherLoad()
    model = Classifier(network, info["mean"], info["std"])
    found = measure_everywhere(model, info["input_size"], runners)
    return {**found, "other_cores": load.cores()}
