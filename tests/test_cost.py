"""Costs: the closed form against hand calculations, a counter of its own, and brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fpnas.architecture import Architecture, GroupSpec, architecture_at
from fpnas.cost import CostModel, architecture_cost, attention_channels, count_macs, output_size
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.network import Network
from fpnas.space import SPLITS, available_spaces, load_space, parse_space

CLASSES = 7


def small_space(expansion=(0.75, 1.5, 0.75), first_stride=1):
    return parse_space(
        {
            "name": "small",
            "description": "every pair of widths, all kinds of blocks",
            "choices": {"kernel": [0, 3], "activation": ["relu"], "splits": [0, 2]},
            "stem": {"channels": 12, "stride": 2},
            "groups": [
                {
                    "expansion": list(expansion),
                    "channels": [12, 16, 4],
                    "repeat": 2,
                    "stride": first_stride,
                },
                {"expansion": 2, "channels": [16, 20, 4], "repeat": 2, "stride": 2},
                {"expansion": 1.5, "channels": [16, 24, 4], "repeat": 1, "stride": 1},
            ],
            "head": {"channels": 40},
            "models": {"only": {"input_size": 17, "target_macs": 60_000}},
        },
        "here",
    ).open()


def random_choices(space, number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return FactorizedDistribution(ChoiceLayout.of(space)).sample(number, generator)


def every_point(space):
    groups = [itertools.product(*(range(len(c)) for c in g.choices)) for g in space.groups]
    return torch.tensor(list(itertools.product(*groups)))


def test_one_block_by_hand():
    # 9 x 9 pixels in, 5 x 5 out; 16 channels expanded to 48; hidden width 12, rounded to 16.
    group = GroupSpec(3.0, 24, 5, "swish", 2, repeat=1, stride=2)
    architecture = Architecture("hand", "only", 9, 16, 1, (group,), 8)
    block_macs = 16 * 48 * 81 + 2 * 25 * 48 * 25 + 48 * 24 * 25 + 48 * 16 + 16 * 96
    stem_macs, head_macs, classifier_macs = 27 * 16 * 81, 24 * 8 * 25, 8 * 3
    assert block_macs == 153_312
    macs = block_macs + stem_macs + head_macs + classifier_macs
    expand, depthwise, project = 16 * 48 + 96, 2 * (25 * 48 + 96), 48 * 24 + 48
    attention = 48 * 16 + 16 + 16 * 96 + 96
    ends = (27 * 16 + 32) + (24 * 8 + 16) + (8 * 3 + 3)
    params = expand + depthwise + project + attention + ends
    assert (macs, params) == (193_128, 7_771)
    assert architecture_cost(architecture, 3) == (macs, params)


def test_a_bypassed_block_by_hand():
    change = GroupSpec(4.5, 24, 0, "swish", 4, repeat=3, stride=2)
    architecture = Architecture("hand", "only", 9, 16, 1, (change,), 8)
    ends_macs, ends_params = 27 * 16 * 81 + 24 * 8 * 25 + 24, 27 * 16 + 32 + 24 * 8 + 16 + 27
    # Only the first of the three changes anything: a strided 1x1 convolution and its norm.
    assert architecture_cost(architecture, 3) == (
        ends_macs + 16 * 24 * 25,
        ends_params + 16 * 24 + 48,
    )


def test_small_parts():
    assert [output_size(n, 2) for n in (7, 8, 9)] == [4, 4, 5]
    assert [attention_channels(mid) for mid in (8, 16, 48, 64, 80, 832)] == [8, 8, 16, 16, 24, 208]


@pytest.mark.parametrize("name", [*available_spaces(), "small"])
def test_table_closed_form_and_a_counter_agree(name):
    # Odd sizes at every stride.
    space = small_space() if name == "small" else load_space(name).open(input_size=35)
    choices = random_choices(space, 6, seed=3)
    # Bypass all of one and nothing of another.
    choices[0, :, 2], choices[1, :, 2] = 0, 1
    costs = CostModel(space, CLASSES)
    tables = zip(costs.macs(choices).tolist(), costs.params(choices).tolist(), strict=True)
    # Shapes are enough: nothing is computed on the meta device.
    images = torch.empty(1, 3, space.input_size, space.input_size, device="meta")
    for point, expected in zip(choices.tolist(), tables, strict=True):
        architecture = architecture_at(space, point)
        with torch.device("meta"):
            network = Network(architecture, CLASSES).eval()
        assert architecture_cost(architecture, CLASSES) == expected
        assert count_macs(network, images) == expected[0]
        assert sum(p.numel() for p in network.parameters()) == expected[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(8, 300), st.integers(2, 1000))
def test_table_equals_the_closed_form(seed, input_size, num_classes):
    space = load_space("tiny").open(input_size=input_size)
    choices = random_choices(space, 3, seed)
    costs = CostModel(space, num_classes)
    closed = [architecture_cost(architecture_at(space, c), num_classes) for c in choices.tolist()]
    assert costs.macs(choices).tolist() == [macs for macs, _ in closed]
    assert costs.params(choices).tolist() == [params for _, params in closed]


def test_range_is_that_of_all_architectures():
    space = small_space()
    costs = CostModel(space, CLASSES)
    points = every_point(space)
    assert len(points) == space.size == 1536
    macs = costs.macs(points)
    assert costs.range_macs() == (int(macs.min()), int(macs.max()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 4))
def test_expectation_is_that_over_all_architectures(seed, spread):
    space = small_space()
    costs = CostModel(space, CLASSES)
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    generator = torch.Generator().manual_seed(seed)
    distribution.logits.data.normal_(std=spread, generator=generator)
    points = every_point(space)
    probabilities = distribution.log_prob(points).detach().double().exp()
    exhaustive = float((probabilities * costs.macs(points).double()).sum())
    expected = costs.expected_macs(distribution.joint_probabilities())
    assert expected == pytest.approx(exhaustive, rel=1e-5)


def test_group_tables_add_up_to_the_total():
    space = small_space()
    costs = CostModel(space, CLASSES)
    tables, ends = costs.group_macs()
    assert [table.shape for table in tables] == [
        (1, 2, 2, 2, 1, 2),
        (2, 1, 2, 2, 1, 2),
        (2, 1, 3, 2, 1, 2),
    ]
    for point in random_choices(space, 20).tolist():
        widths = [0, point[0][1], point[1][1]]
        total = sum(int(t[(w, *c)]) for t, w, c in zip(tables, widths, point, strict=True))
        assert total + int(ends[point[-1][1]]) == int(costs.macs(torch.tensor([point]))[0])


def test_the_median_is_that_of_uniform_architectures():
    space = small_space()
    costs = CostModel(space, CLASSES)
    macs = costs.macs(every_point(space)).double().numpy()
    low, high = np.quantile(macs, [0.48, 0.52])
    assert low <= costs.median_macs() <= high
    assert costs.median_macs(seed=1) == costs.median_macs(seed=1)


def test_split_attention_costs_what_the_paper_reports():
    # FP-NAS-S1 of 58 M with 2 and 4 splits in every block: 65 and 79 M.
    space = load_space("sa_f").open("s1pp")
    costs = CostModel(space, 1000)
    choices = random_choices(space, 60_000)
    by_splits = {}
    for index, splits in enumerate(space.groups[0].choices[SPLITS].values):
        choices[:, :, SPLITS] = index
        by_splits[splits] = costs.macs(choices).double() / 1e6
    near = (by_splits[1] - 58).abs() < 1
    assert int(near.sum()) > 200
    two = float((by_splits[2] - by_splits[1])[near].median())
    four = float((by_splits[4] - by_splits[1])[near].median())
    assert 6 <= two <= 8
    assert 19.5 <= four <= 24
    # Squeeze-and-excitation itself is nearly free.
    assert float((by_splits[1] - by_splits[0])[near].median()) < 3


def test_the_counter_knows_convolutions_and_linear_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
            self.linear = nn.Linear(6, 6)

        def forward(self, images):
            pooled = self.conv(images).mean(dim=(2, 3))
            return self.linear(self.linear(pooled))

    # Each output of the convolution sees 2 of the 4 inputs; the batch does not count.
    assert count_macs(Twice(), torch.zeros(3, 4, 8, 8)) == 6 * 2 * 9 * 16 + 2 * 36


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose2d(3, 4, 3), nn.Conv1d(3, 4, 1), nn.MultiheadAttention(4, 2)]
)
def test_the_counter_refuses_what_it_does_not_know(layer):
    with pytest.raises(TypeError, match=type(layer).__name__):
        count_macs(nn.Sequential(nn.Conv2d(3, 3, 1), layer), torch.zeros(1, 3, 8, 8))


def test_the_counter_leaves_no_hooks_behind():
    conv = nn.Conv2d(3, 4, 5)
    with pytest.raises(RuntimeError):
        count_macs(conv, torch.zeros(1, 3, 2, 2))
    assert not conv._forward_hooks


def test_expansion_one_keeps_any_width():
    space = small_space(expansion=(1, 2, 1))
    choices = torch.zeros(1, 3, 5, dtype=torch.int64)
    choices[:, :, 2] = 1
    network = Network(architecture_at(space, choices[0].tolist()), CLASSES).eval()
    costs = CostModel(space, CLASSES)
    assert count_macs(network, torch.zeros(1, 3, 17, 17)) == int(costs.macs(choices)[0])
    assert sum(p.numel() for p in network.parameters()) == int(costs.params(choices)[0])
