"""Costs: the closed form against hand calculations, a counter of its own, and brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model, get_model_weights

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
    for point, expected in zip(choices.tolist(), tables, strict=True):
        architecture = architecture_at(space, point)
        # Shapes are enough: nothing is computed on the meta device.
        with torch.device("meta"):
            network = Network(architecture, CLASSES)
        assert architecture_cost(architecture, CLASSES) == expected
        assert count_macs(network, space.input_size) == expected[0]
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


def weights_of(name):
    """Every published weight of a torchvision model: its crop in pixels and its printed GMACs."""
    return [(w.transforms().crop_size[0], w.meta["_ops"]) for w in get_model_weights(name)]


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        ("mobilenet_v2", 224),
        ("mobilenet_v3_small", 224),
        ("mobilenet_v3_large", 224),
        ("mnasnet1_0", 224),
        ("efficientnet_b0", 224),
        ("efficientnet_b1", 240),
        ("efficientnet_b2", 288),
        ("resnet50", 224),
        ("convnext_tiny", 224),  # scales channels by a parameter of the block itself
    ],
)
def test_the_counter_agrees_with_torchvision(name, crop):
    with torch.device("meta"):
        network = get_model(name, weights=None)
    macs = count_macs(network, crop)
    # Printed to the million, of which mobilenet_v3_small has only 57.
    assert weights_of(name) == [(crop, round(macs / 1e9, 3))] * len(weights_of(name))
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, 3, crop, crop, device="meta"))
    assert counter.get_total_flops() == 2 * macs


def test_the_counter_knows_convolutions_and_linear_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3)
            self.linear = nn.Linear(6, 6)

        def forward(self, images):
            pooled = self.conv(images).mean(dim=(2, 3))
            return self.linear(self.linear(pooled))

    # Each output of the convolution sees 1 of the 3 inputs, and the linear layer runs twice.
    assert count_macs(Twice(), 8) == 6 * 9 * 16 + 2 * 36
    assert count_macs(nn.Flatten(), 8) == 0
    # A linear layer at each of 8 x 8 positions, and a convolution over 3 x 8 of length 8.
    assert count_macs(nn.Linear(8, 5), 8) == 3 * 8 * 8 * 5
    lines = nn.Sequential(nn.Flatten(1, 2), nn.Conv1d(24, 4, 3), nn.InstanceNorm1d(4, affine=True))
    assert count_macs(lines, 8) == 24 * 3 * 4 * 6


class Scaled(nn.Module):
    """A convolution, and a tensor that the module itself keeps."""

    def __init__(self, name, tensor):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        if isinstance(tensor, nn.Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def forward(self, images):
        return self.conv(images)


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 4, 3),
        nn.MultiheadAttention(4, 2),
        nn.LSTM(4, 4),
        nn.Bilinear(4, 4, 4),
        nn.Embedding(4, 4),
        nn.ParameterList([torch.ones(4, 4)]),
        Gain(),  # it computes nothing but with its weight
        Scaled("mixing", nn.Parameter(torch.ones(4, 4))),
        Scaled("blur", torch.ones(4, 1, 3, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_counter_refuses_what_it_does_not_know(layer):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), layer)
    with pytest.raises(TypeError, match=rf"MACs of {type(layer).__name__} \(at 1\)"):
        count_macs(network, 8)
    assert network.training


@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 1), (1, 4, 1, 1)])
def test_a_scale_of_channels_counts_as_nothing(shape):
    assert count_macs(Scaled("scale", nn.Parameter(torch.ones(shape))), 8) == 3 * 4 * 64
    assert count_macs(Scaled("shift", torch.ones(shape)), 8) == 3 * 4 * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_counter_changes_nothing(dtype):
    network = get_model("mobilenet_v3_small", weights=None).to(dtype)
    for index, layer in enumerate(network.modules()):
        layer.training = index % 3 > 0  # modes that no call of train() gives
    modes = [layer.training for layer in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random_state = torch.get_rng_state()
    assert count_macs(network, 64) == count_macs(network, 64) > 0
    assert [layer.training for layer in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)  # dropout has drawn nothing
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_counter_leaves_nothing_behind_when_it_fails():
    conv = nn.Conv2d(3, 4, 5)
    with pytest.raises(RuntimeError):
        count_macs(conv, 2)
    assert not conv._forward_hooks
    assert conv.training
    with pytest.raises(ValueError, match="input_size=0 must be at least 1"):
        count_macs(conv, 0)


def test_expansion_one_keeps_any_width():
    space = small_space(expansion=(1, 2, 1))
    choices = torch.zeros(1, 3, 5, dtype=torch.int64)
    choices[:, :, 2] = 1
    network = Network(architecture_at(space, choices[0].tolist()), CLASSES)
    costs = CostModel(space, CLASSES)
    assert count_macs(network, 17) == int(costs.macs(choices)[0])
    assert sum(p.numel() for p in network.parameters()) == int(costs.params(choices)[0])
