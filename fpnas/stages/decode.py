"""Decode: the most probable architecture within the budget, its cost checked by a second count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.errors import FpnasError
from fpnas.stages.config import StageConfig
from fpnas.stages.searching import load_search

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext


class Config(StageConfig):
    """Nothing to configure: the space and its budget come with the search."""


def run(context: StageContext) -> None:
    """Writes ``architecture.json`` and ``decode.json``."""
    from fpnas.architecture import architecture_at
    from fpnas.cost import CostModel, architecture_cost, count_macs
    from fpnas.networks.network import Network
    from fpnas.report.architecture_picture import architecture_picture
    from fpnas.search.decode import most_probable_within

    found = load_search(context.inputs["search_state"])
    space = found.space
    cost_model = CostModel(space, found.num_classes)
    decoded = most_probable_within(found.distribution, cost_model, space.target_macs)
    architecture = architecture_at(space, decoded.choices.tolist())
    macs, params = architecture_cost(architecture, found.num_classes)
    network = Network(architecture, found.num_classes).eval()
    counted = count_macs(network, space.input_size)
    if not decoded.macs == macs == counted <= space.target_macs:
        raise FpnasError(
            f"the costs of {architecture} disagree: table {decoded.macs}, formula {macs}, "
            f"counted {counted}, target {space.target_macs}; please report this"
        )
    context.output.write_json("architecture.json", architecture.to_json())
    context.output.write_json(
        "decode.json",
        {
            "string": str(architecture),
            "sha256": architecture.sha256,
            "choices": decoded.choices.tolist(),
            "macs": macs,
            "params": params,
            "target_macs": space.target_macs,
            "num_classes": found.num_classes,
            "log_prob_nats": decoded.log_prob,
            "is_mode": decoded.is_mode,
        },
    )
    context.tracking.log_metrics(0, {"macs": macs, "params": params})
    context.tracking.set_tags({"fpnas.architecture": str(architecture)})
    picture = architecture_picture(architecture, found.num_classes)
    context.tracking.log_figure(picture, "architecture.png")
