"""The masked supernet: at one-hot gates an architecture of the space, in between a mixture."""

import copy

import pytest
import torch
from torch.nn import functional as F

from fpnas.architecture import architecture_at
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.masked_supernet import MaskedSupernet, MidMasks, leading_ones
from fpnas.networks.network import ConvNorm, MBConv, Network
from fpnas.space import ACTIVATION, CHANNELS, EXPANSION, KERNEL, SPLITS, load_space, parse_space

CLASSES = 3
# Expansion 1 among others; a group that keeps its width; one that can only be bypassed; repeats.
MIXED = parse_space(
    {
        "name": "mixed",
        "description": "all the corners",
        "choices": {"kernel": [0, 3], "activation": ["relu", "swish"], "splits": [0, 2]},
        "stem": {"channels": 8, "stride": 2},
        "groups": [
            {"expansion": [1, 3, 1], "channels": [8, 12, 4], "repeat": 1, "stride": 1},
            {"expansion": 1, "channels": [8, 16, 4], "repeat": 2, "stride": 2},
            {"expansion": [1, 2, 1], "channels": 16, "repeat": 2, "stride": 1},
            {"expansion": 1, "channels": [12, 16, 4], "repeat": 1, "stride": 1, "kernel": [0]},
        ],
        "head": {"channels": 24},
        "models": {"only": {"input_size": 16, "target_macs": 1}},
    },
    "here",
).open()
TINY = load_space("tiny").open(input_size=8)


def make_supernet(space):
    """In float64 and with nothing left at ones and zeros, so that every parameter matters."""
    generator = torch.manual_seed(0)
    supernet = MaskedSupernet(space, CLASSES)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return supernet.double()


@pytest.fixture(scope="module")
def mixed():
    return make_supernet(MIXED)


@pytest.fixture(scope="module")
def tiny():
    return make_supernet(TINY)


def pictures(space, number=6):
    generator = torch.Generator().manual_seed(1)
    shape = (number, 3, space.input_size, space.input_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_choices(space, number, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return FactorizedDistribution(ChoiceLayout.of(space)).sample(number, generator)


def one_hot(space, choices):
    width = int(ChoiceLayout.of(space).sizes.max())
    return F.one_hot(choices, width).double()


def soft_gates(space, seed=4):
    distribution = FactorizedDistribution(ChoiceLayout.of(space)).double()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(distribution.logits.shape, generator=generator, dtype=torch.float64)
    distribution.logits.data += noise
    return distribution.log_probs().detach().exp()


def chosen_type(block, choices):
    """The layer that a block is made of at one-hot gates."""
    expands = block.group.choices[EXPANSION].values[choices[EXPANSION]] != 1
    kind = next(i for i, masks in enumerate(block.masks) if masks.expands == expands)
    return block.types[block.terms.index((kind, *choices[KERNEL:].tolist()))]


def copy_attention(layer, target, mid):
    splits, hidden = layer.splits, target.reduce.out_features
    target.reduce.weight.copy_(layer.attention.reduce.weight[:hidden, :mid])
    target.reduce.bias.copy_(layer.attention.reduce.bias[:hidden])
    weight = layer.attention.expand.weight.view(splits, layer.mid, -1)[:, :mid, :hidden]
    target.expand.weight.copy_(weight.reshape(splits * mid, hidden))
    target.expand.bias.copy_(layer.attention.expand.bias.view(splits, -1)[:, :mid].reshape(-1))


@torch.no_grad()
def stand_alone(supernet, choices):
    """The network of an architecture, with only the leading channels of the chosen types."""
    architecture = architecture_at(supernet.space, choices.tolist())
    network = Network(architecture, CLASSES).double().train()
    groups = [i for i, group in enumerate(supernet.space.groups) for _ in range(group.repeat)]
    supernet.stem.copy_into(network.stem)
    for group, block, target in zip(groups, supernet.blocks, network.blocks, strict=True):
        if isinstance(target, ConvNorm):
            block.bypass.copy_into(target)
        if isinstance(target, MBConv):
            layer = chosen_type(block, choices[group])
            if isinstance(target.expand, ConvNorm):
                layer.expand.copy_into(target.expand)
            for branch, depthwise in enumerate(target.depthwise):
                layer.depthwise.copy_into(depthwise, branch)
            layer.project.copy_into(target.project)
            if target.attention is not None:
                copy_attention(layer, target.attention, target.project[0].in_channels)
    supernet.head.copy_into(network.head)
    network.classifier.load_state_dict(supernet.classifier.state_dict())
    return network


@pytest.mark.parametrize(("name", "number"), [("mixed", 16), ("tiny", 3)])
def test_one_hot_gates_give_the_stand_alone_network(name, number, request):
    supernet = request.getfixturevalue(name)
    space = supernet.space
    images = pictures(space)
    points = random_choices(space, number)
    points[0, :, KERNEL] = 0
    for choices in points:
        with torch.no_grad():
            logits = supernet(images, one_hot(space, choices))
            expected = stand_alone(supernet, choices)(images)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(logits, expected, rtol=1e-7, atol=1e-7)


def test_only_what_was_chosen_gets_a_gradient(tiny):
    choices = random_choices(TINY, 1, seed=8)[0]
    choices[1, KERNEL] = 0
    assert (choices[:, KERNEL] > 0).sum() >= 3
    tiny.zero_grad(set_to_none=True)
    tiny(pictures(TINY), one_hot(TINY, choices)).square().sum().backward()
    groups = [i for i, group in enumerate(TINY.groups) for _ in range(group.repeat)]
    specs = architecture_at(TINY, choices.tolist()).blocks()
    chosen = [tiny.stem, tiny.head, tiny.classifier]
    for group, block, spec in zip(groups, tiny.blocks, specs, strict=True):
        if spec.kernel:
            chosen.append(chosen_type(block, choices[group]))
        elif not spec.is_identity:
            chosen.append(block.bypass)
    names = {id(parameter): name for name, parameter in tiny.named_parameters()}
    expected = {names[id(parameter)] for module in chosen for parameter in module.parameters()}
    found = {n for n, p in tiny.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == expected


def test_masked_channels_contribute_nothing(mixed):
    # Group 1: input 8 of 12 channels, expansion 1, output 12 of 16. Group 2: 12 or 16 to 16,
    # expanded twice: mid 24 (12 * 2) of 32, hidden 8.
    choices = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 0, 0], [1, 0, 1, 1, 1], [0, 1, 0, 0, 0]])
    supernet = copy.deepcopy(mixed)
    images, gates = pictures(MIXED), one_hot(MIXED, choices)
    before = supernet(images, gates)
    before.square().sum().backward()
    narrow, wide = (chosen_type(supernet.blocks[i], choices[g]) for i, g in ((1, 1), (3, 2)))
    slices = [
        (narrow.depthwise.weight, (slice(None), slice(8))),
        (narrow.depthwise.shift, (slice(None), slice(8))),
        (narrow.project.weight, (slice(12), slice(8))),
        (narrow.project.shift, (slice(None), slice(12))),
        (wide.expand.weight, (slice(24), slice(12))),
        (wide.expand.shift, (slice(None), slice(24))),
        (wide.depthwise.weight, (slice(None), slice(24))),
        (wide.depthwise.scale, (slice(None), slice(24))),
        (wide.project.weight, (slice(16), slice(24))),
        (wide.attention.reduce.weight, (slice(8), slice(24))),
    ]
    for parameter, inside in slices:
        mask = torch.zeros_like(parameter, dtype=torch.bool)
        mask[inside] = True
        assert 0 < mask.sum() < mask.numel()
        assert parameter.grad[mask].any()
        assert not parameter.grad[~mask].any()
        with torch.no_grad():
            parameter[~mask] += 7.0
    with torch.no_grad():
        assert torch.equal(supernet(images, gates), before)


def test_the_gradient_by_the_gates_is_that_of_finite_differences(mixed):
    gates = soft_gates(MIXED).requires_grad_()
    images = pictures(MIXED, number=4)
    assert torch.autograd.gradcheck(lambda leaf: mixed(images, leaf), gates, fast_mode=True)
    (gradient,) = torch.autograd.grad(mixed(images, gates)[:, 0].sum(), gates)
    sizes = ChoiceLayout.of(MIXED).sizes
    matters = (torch.arange(gates.shape[-1]) < sizes.unsqueeze(-1)) & (sizes > 1).unsqueeze(-1)
    matters[3, [ACTIVATION, SPLITS]] = False  # of a group that is always bypassed
    assert gradient[matters].all()


@pytest.mark.parametrize("variable", [KERNEL, ACTIVATION, SPLITS])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_types_are_mixed_by_their_gates(mixed, variable, index):
    # Block 0 changes widths, block 1 the resolution, block 2 only repeats.
    block, group = mixed.blocks[index], (0, 1, 1)[index]
    generator = torch.Generator().manual_seed(2)
    shape = (4, (8, 12, 16)[index], 6, 6)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    gates = soft_gates(MIXED)
    width_gates = (torch.ones(1).double(), gates[0, CHANNELS, :2], gates[1, CHANNELS, :3])[index]

    def run(first):
        own = gates[group].clone()
        own[variable, :2] = torch.tensor([first, 1 - first])
        with torch.no_grad():
            return block(images, width_gates, own)

    assert not torch.allclose(run(0.0), run(1.0))
    torch.testing.assert_close(run(0.3), 0.3 * run(1.0) + 0.7 * run(0.0))


def test_masks_by_hand():
    assert leading_ones([1, 3]).tolist() == [[1, 0, 0], [1, 1, 1]]
    # Mid widths of 8 and 12 channels: 8 * 1.5 = 12, rounded up, and 12 * 1.5 = 18; times two.
    masks = MidMasks([8, 12], [1, 1.5, 2], expands=True)
    assert masks.mid_masks.sum(-1).tolist() == [[16, 16], [16, 24]]
    assert not masks.takes_all
    mid, hidden = masks(torch.tensor([0.25, 0.75]), torch.tensor([0.2, 0.3, 0.5]))
    # All but the share of expansion 1; the last eight only for 12 channels expanded twice.
    torch.testing.assert_close(mid, torch.tensor([0.8] * 16 + [0.75 * 0.5] * 8))
    torch.testing.assert_close(hidden, torch.tensor([0.8] * 8))
    keeps = MidMasks([8, 12], [1, 1.5, 2], expands=False)
    mid, _ = keeps(torch.tensor([0.25, 0.75]), torch.tensor([0.2, 0.3, 0.5]))
    torch.testing.assert_close(mid, torch.tensor([0.2] * 8 + [0.2 * 0.75] * 4))


def test_a_bypassed_block_hands_its_input_on(mixed):
    images = torch.rand(4, 16, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    own = soft_gates(MIXED)[1]
    own[KERNEL, :2] = torch.tensor([1.0, 0.0])
    with torch.no_grad():
        assert torch.equal(mixed.blocks[2](images, own[CHANNELS, :3], own), images)


def test_bypasses_are_where_shapes_may_change(mixed, tiny):
    assert [b.bypass is not None for b in mixed.blocks] == [1, 1, 0, 1, 0, 1]
    assert [b.bypass is not None for b in tiny.blocks] == [1, 1, 1, 0, 1, 0, 1]
    # One type for each kernel but 0, activation and number of splits; none where all is bypassed.
    assert [len(b.types) for b in tiny.blocks] == [16] * 7
    assert [len(b.types) for b in mixed.blocks] == [8, 4, 4, 8, 8, 0]


def test_padding_is_not_read(mixed):
    gates = soft_gates(MIXED)
    sizes = ChoiceLayout.of(MIXED).sizes
    padded = gates.clone()
    padded[torch.arange(gates.shape[-1]) >= sizes.unsqueeze(-1)] = torch.nan
    images = pictures(MIXED, number=2)
    with torch.no_grad():
        assert torch.equal(mixed(images, padded), mixed(images, gates))


def test_only_weights_are_stored(mixed):
    assert set(mixed.state_dict()) == {name for name, _ in mixed.named_parameters()}
