"""Kinds of architecture: both are read, built and counted alike."""

import pytest
import torch

from fpnas.architecture import architecture_at, largest_architecture
from fpnas.cost import architecture_cost, count_macs
from fpnas.networks.description import build_network, network_cost, read_architecture
from fpnas.networks.named import NamedArchitecture
from fpnas.space import load_space

SPACE = load_space("tiny").open()
SMALL = architecture_at(SPACE, [[0] * len(group.choices) for group in SPACE.groups])


@pytest.mark.parametrize(
    "architecture", [SMALL, largest_architecture(SPACE), NamedArchitecture("mnasnet", 32, 0.5, 16)]
)
def test_read_build_and_count(architecture):
    assert read_architecture(architecture.to_json()) == architecture
    network = build_network(architecture, 7, dropout=0.1).eval()
    macs, params = network_cost(architecture, 7)
    assert macs == count_macs(network, architecture.input_size)
    assert params == sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_a_point_of_a_space_costs_what_the_formula_says():
    assert network_cost(SMALL, 7) == architecture_cost(SMALL, 7)
