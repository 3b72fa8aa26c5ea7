"""What kinds of architecture there are, and the network and the cost of any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fpnas.architecture import Architecture
from fpnas.networks.named import NamedArchitecture

if TYPE_CHECKING:
    from torch import nn

AnyArchitecture = Architecture | NamedArchitecture
"""A point of a search space, or a published network. Both know their input size, their JSON, their
digest and their name on one line."""


def read_architecture(data: Mapping[str, Any]) -> AnyArchitecture:
    """Reads ``architecture.json``.

    Raises:
        InputError: Fields that are missing or unknown, or another schema version.
    """
    return (NamedArchitecture if "network" in data else Architecture).from_json(data)


def build_network(
    architecture: AnyArchitecture,
    num_classes: int,
    *,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> nn.Module:
    """Builds the network that maps normalized pictures (B, 3, S, S) to logits (B, classes)."""
    if isinstance(architecture, NamedArchitecture):
        from fpnas.networks.named import build_named

        return build_named(
            architecture, num_classes, dropout=dropout, stochastic_depth=stochastic_depth
        )
    from fpnas.networks.network import Network

    return Network(architecture, num_classes, dropout=dropout, stochastic_depth=stochastic_depth)


def network_cost(architecture: AnyArchitecture, num_classes: int) -> tuple[int, int]:
    """MACs and parameters; in closed form for a point of a space, else counted."""
    from fpnas.cost import architecture_cost, count_macs

    if isinstance(architecture, Architecture):
        return architecture_cost(architecture, num_classes)
    network = build_network(architecture, num_classes)
    params = sum(tensor.numel() for tensor in network.parameters())
    return count_macs(network, architecture.input_size), params
