"""Decoding: the most probable architecture within a budget, against brute force."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution
from fpnas.errors import InputError
from fpnas.search.decode import most_probable_within
from fpnas.space import load_space, parse_space

SPACE = parse_space(
    {
        "name": "small",
        "description": "1536 architectures",
        "choices": {"kernel": [0, 3], "activation": ["relu"], "splits": [0, 2]},
        "stem": {"channels": 16, "stride": 2},
        "groups": [
            {"expansion": [1.5, 3, 1.5], "channels": [16, 24, 8], "repeat": 2, "stride": 1},
            {"expansion": 2, "channels": [16, 24, 8], "repeat": 1, "stride": 2},
            {"expansion": 1.5, "channels": [16, 32, 8], "repeat": 2, "stride": 1},
        ],
        "head": {"channels": 32},
        "models": {"only": {"input_size": 16, "target_macs": 300_000}},
    },
    "here",
).open()
COSTS = CostModel(SPACE, 10)
LAYOUT = ChoiceLayout.of(SPACE)
POINTS = torch.tensor(
    list(
        itertools.product(
            *(
                list(itertools.product(*(range(len(c)) for c in group.choices)))
                for group in SPACE.groups
            )
        )
    )
)
MACS = COSTS.macs(POINTS)
LOW, HIGH = int(MACS.min()), int(MACS.max())


def randomized(kind, seed, spread, layout=LAYOUT):
    distribution = kind(layout)
    generator = torch.Generator().manual_seed(seed)
    distribution.logits.data.normal_(std=spread, generator=generator)
    return distribution


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from([FactorizedDistribution, JointDistribution]),
    seed=st.integers(0, 2**31),
    spread=st.floats(0.05, 5),
    budget=st.integers(LOW, HIGH) | st.sampled_from(sorted(set(MACS.tolist()))),
)
def test_it_is_the_best_of_all_architectures_within_the_budget(kind, seed, spread, budget):
    distribution = randomized(kind, seed, spread)
    log_probs = distribution.log_prob(POINTS).detach().double()
    best = log_probs[budget >= MACS].max().item()
    decoded = most_probable_within(distribution, COSTS, budget)
    assert decoded.macs <= budget
    assert decoded.macs == int(COSTS.macs(decoded.choices[None])[0])
    assert decoded.log_prob == pytest.approx(best, abs=1e-4)
    found = distribution.log_prob(decoded.choices[None]).item()
    assert found == pytest.approx(decoded.log_prob, abs=1e-4)
    mode_macs = int(COSTS.macs(distribution.most_probable()[None])[0])
    assert decoded.is_mode == (mode_macs <= budget)


def test_the_mode_is_returned_exactly_when_it_fits():
    distribution = randomized(FactorizedDistribution, seed=3, spread=1.0)
    mode = distribution.most_probable()
    macs = int(COSTS.macs(mode[None])[0])
    assert macs > LOW
    decoded = most_probable_within(distribution, COSTS, macs)
    assert decoded.is_mode
    assert torch.equal(decoded.choices, mode)
    below = most_probable_within(distribution, COSTS, macs - 1)
    assert not below.is_mode
    assert not torch.equal(below.choices, mode)
    assert below.log_prob < decoded.log_prob


def test_the_smallest_budget_leaves_the_cheapest_architecture():
    distribution = randomized(FactorizedDistribution, seed=0, spread=0.1)
    distribution.logits.data[:, 2, 1] += 9  # the mode has no bypass
    decoded = most_probable_within(distribution, COSTS, LOW)
    assert (decoded.macs, decoded.is_mode) == (LOW, False)


def test_a_budget_below_the_space_is_refused_with_its_range():
    distribution = JointDistribution(LAYOUT)
    distribution.logits.data[:, -1] = 1.0  # the dearest
    with pytest.raises(InputError, match="below every architecture") as caught:
        most_probable_within(distribution, COSTS, LOW - 1)
    assert caught.value.field == "target_macs"
    assert caught.value.value == LOW - 1
    assert caught.value.legal == f"{LOW} to {HIGH}"


def test_a_whole_space():
    space = load_space("sa_f").open()
    costs = CostModel(space, 1000)
    layout = ChoiceLayout.of(space)
    distribution = randomized(FactorizedDistribution, 1, 1.0, layout)
    distribution.logits.data[:, 0] += torch.arange(distribution.logits.shape[-1])  # wide inside
    distribution.logits.data[:, 2, 2] += 3  # and rarely bypassed
    assert int(costs.macs(distribution.most_probable()[None])[0]) > space.target_macs
    decoded = most_probable_within(distribution, costs, space.target_macs)
    assert decoded.macs <= space.target_macs
    drawn = distribution.sample(5000, torch.Generator().manual_seed(0))
    fitting = drawn[costs.macs(drawn) <= space.target_macs]
    assert len(fitting) > 50
    assert decoded.log_prob > distribution.log_prob(fitting).max().item()
    # No better architecture is one choice away.
    for group, variable in itertools.product(range(layout.sizes.shape[0]), range(5)):
        neighbours = decoded.choices.repeat(int(layout.sizes[group, variable]), 1, 1)
        neighbours[:, group, variable] = torch.arange(len(neighbours))
        inside = neighbours[costs.macs(neighbours) <= space.target_macs]
        assert distribution.log_prob(inside).max().item() <= decoded.log_prob + 1e-4
