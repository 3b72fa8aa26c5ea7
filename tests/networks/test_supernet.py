"""The supernet: its slices are the stand-alone networks, and nothing else is computed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.network import Network
from fpnas.networks.supernet import Supernet
from fpnas.space import KERNEL, SPLITS, load_space, parse_space

CLASSES = 5
# The last feature maps are 4 x 4, which a 5x5 kernel sees all of, and 1 x 1.
SPACES = {"tiny": ("t0", 32), "sa_expanded": ("l0", 32)}


def make_supernet(name):
    """A supernet in float64 with nothing left at ones and zeros, so that no copy is a no-op."""
    model, input_size = SPACES[name]
    space = load_space(name).open(model, input_size=input_size)
    generator = torch.manual_seed(0)
    supernet = Supernet(space, CLASSES)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return supernet.double()


@pytest.fixture(scope="module")
def tiny():
    return make_supernet("tiny")


def pictures(space, number=4):
    generator = torch.Generator().manual_seed(1)
    shape = (number, 3, space.input_size, space.input_size)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def random_choices(space, number, seed):
    generator = torch.Generator().manual_seed(seed)
    return FactorizedDistribution(ChoiceLayout.of(space)).sample(number, generator)


@pytest.mark.parametrize(("name", "number"), [("tiny", 12), ("sa_expanded", 3)])
def test_a_slice_is_the_stand_alone_network(name, number):
    supernet = make_supernet(name)
    images = pictures(supernet.space)
    for choices in random_choices(supernet.space, number, seed=5):
        architecture = supernet.architecture(choices)
        network = supernet.extract(architecture).train().double()
        assert isinstance(network, Network)
        with torch.no_grad():
            torch.testing.assert_close(
                network(images), supernet(images, architecture), rtol=1e-6, atol=1e-6
            )


def test_an_extracted_network_is_a_copy(tiny):
    network = tiny.extract(tiny.architecture(random_choices(tiny.space, 1, 0)[0]))
    shared = {parameter.data_ptr() for parameter in tiny.parameters()}
    assert shared.isdisjoint(parameter.data_ptr() for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("name", "number"), [("tiny", 8), ("sa_expanded", 2)])
def test_only_what_was_drawn_is_computed(name, number):
    supernet = make_supernet(name)
    costs = CostModel(supernet.space, CLASSES)
    choices = random_choices(supernet.space, number, seed=8)
    choices[0, :, KERNEL] = 0
    images = pictures(supernet.space, number=2)
    for choice, macs in zip(choices, costs.macs(choices).tolist(), strict=True):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            supernet(images, supernet.architecture(choice))
        assert counter.get_total_flops() == 2 * 2 * macs  # two operations, two pictures


def test_gradients_outside_the_slice_are_zero(tiny):
    # expansion 1.5, 3x3; block 1: 12 -> 24 channels, mid 16 (18); bypassed in groups 2 and 4.
    choices = torch.tensor(
        [[0, 0, 1, 0, 0], [0, 1, 1, 1, 2], [0, 0, 0, 0, 0], [2, 4, 2, 0, 1], [0, 0, 0, 0, 0]]
    )
    tiny.zero_grad(set_to_none=True)
    tiny(pictures(tiny.space), tiny.architecture(choices)).square().sum().backward()
    block = tiny.blocks[1]

    def inside(gradient, *slices):
        """The gradient in the slice is there, everything outside is exactly zero."""
        rest = gradient.clone()
        rest[slices] = 0
        return bool(gradient[slices].abs().max() > 0) and not rest.any()

    assert block.expand.weight.shape == (72, 16, 1, 1)
    assert inside(block.expand.weight.grad, slice(16), slice(12))
    assert inside(block.expand.scale.grad, slice(None), slice(16))
    window = slice(1, 4)
    assert block.depthwise.weight.shape == (4, 72, 1, 5, 5)
    assert inside(block.depthwise.weight.grad, slice(2), slice(16), slice(None), window, window)
    assert inside(block.depthwise.shift.grad, slice(2), slice(16))
    assert inside(block.project.weight.grad, slice(24), slice(16))
    assert inside(block.reduce.weight.grad, slice(8), slice(16))
    assert inside(block.excite_weight.grad, slice(2), slice(16), slice(8))
    assert inside(block.excite_bias.grad, slice(2), slice(16))
    # Group 2: its first block is bypassed by a convolution, its second by nothing at all.
    first, second = tiny.blocks[2], tiny.blocks[3]
    assert inside(first.bypass.weight.grad, slice(32), slice(24))
    for unused in (first.expand, first.depthwise, first.project, *second.children()):
        assert all(parameter.grad is None for parameter in unused.parameters())
    # 32 channels expanded 4.5 times, with the largest kernel.
    wide = tiny.blocks[4].depthwise.weight.grad
    assert inside(wide, slice(1), slice(144))
    assert wide[0, :144, 0, 0, 0].all()


def test_every_choice_is_reached_and_matters(tiny):
    images = pictures(tiny.space, number=2)
    base = torch.tensor([[0, 0, 1, 0, 0]] * tiny.space.num_groups)
    with torch.no_grad():
        reference = tiny(images, tiny.architecture(base))
        for group, choices in enumerate(g.choices for g in tiny.space.groups):
            for variable, choice in enumerate(choices):
                for index in range(len(choice)):
                    point = base.clone()
                    point[group, variable] = index
                    logits = tiny(images, tiny.architecture(point))
                    assert logits.shape == (2, CLASSES)
                    assert torch.isfinite(logits).all()
                    changed = not torch.equal(logits, reference)
                    assert changed == (index != base[group, variable])


def test_a_bypassed_block_hands_its_input_on(tiny):
    space = tiny.space
    point = torch.tensor([[0, 0, 1, 0, 0]] * space.num_groups)
    point[0, KERNEL] = 0
    point[0, 1] = 1  # 16 channels in, 16 out
    spec = tiny.architecture(point).blocks()[0]
    assert spec.is_identity
    images = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    assert tiny.blocks[0](images, spec) is images
    other = point.clone()
    other[0, SPLITS] = 2  # what a bypassed group would have been does not matter
    with torch.no_grad():
        logits = [tiny(pictures(space), tiny.architecture(p)) for p in (point, other)]
    assert torch.equal(*logits)


def test_only_first_blocks_of_a_group_have_a_bypass_of_their_own(tiny):
    firsts = [index for index, block in enumerate(tiny.blocks) if hasattr(block, "bypass")]
    assert firsts == [0, 1, 2, 4, 6]


def test_the_seed_decides_the_weights():
    space = load_space("tiny").open()
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(Supernet(space, CLASSES).blocks[1].expand.weight)
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_no_parameter_is_left_out_of_the_space():
    # Together, all architectures of one choice each touch every parameter that is not a margin.
    supernet = make_supernet("tiny")
    largest = [[len(c) - 1 for c in g.choices] for g in supernet.space.groups]
    images = pictures(supernet.space)
    supernet(images, architecture_at(supernet.space, largest)).sum().backward()
    bypassed = torch.tensor(largest)
    bypassed[:, KERNEL] = 0
    bypassed[0, 1] = 0  # a change of width, so that the first block cannot be an identity
    supernet(images, supernet.architecture(bypassed)).sum().backward()
    untouched = [name for name, p in supernet.named_parameters() if p.grad is None]
    # The first row has the fixed expansion 1, whose blocks do not expand.
    assert untouched == [f"blocks.0.expand.{name}" for name in ("weight", "scale", "shift")]


def test_an_expansion_of_one_may_be_wider_than_its_rounding():
    row = {"expansion": 1, "channels": 16, "repeat": 1, "stride": 1}
    space = parse_space(
        {
            "name": "odd",
            "description": "18 channels would be rounded to 16",
            "choices": {"kernel": [3], "activation": ["relu"], "splits": [0]},
            "stem": {"channels": 18, "stride": 2},
            "groups": [row],
            "head": {"channels": 32},
            "models": {"only": {"input_size": 16, "target_macs": 1}},
        },
        "here",
    ).open()
    torch.manual_seed(0)
    supernet = Supernet(space, CLASSES)
    architecture = architecture_at(space, [[0] * 5])
    images = pictures(space).float()
    with torch.no_grad():
        torch.testing.assert_close(
            supernet.extract(architecture).train()(images),
            supernet(images, architecture),
            rtol=1e-4,
            atol=1e-4,
        )
