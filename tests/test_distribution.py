"""Distributions: probabilities, entropy, sampling, and the conversion of coarse into fine."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution
from fpnas.space import available_spaces, load_space

# Unequal groups, and variables with a single choice.
LAYOUT = ChoiceLayout(torch.tensor([[2, 3, 1, 1, 2], [1, 1, 4, 1, 1], [1, 1, 1, 1, 1]]))
BOTH = (FactorizedDistribution, JointDistribution)


def randomized(kind, layout, seed, spread=1.0):
    distribution = kind(layout)
    generator = torch.Generator().manual_seed(seed)
    distribution.logits.data.normal_(std=spread, generator=generator)
    return distribution


def every_point(layout):
    groups = [itertools.product(*map(range, sizes)) for sizes in layout.sizes.tolist()]
    return torch.tensor(list(itertools.product(*groups)))


def test_the_papers_example():
    layout = ChoiceLayout(torch.tensor([[3, 2, 2, 6, 10]]))
    assert JointDistribution(layout).num_parameters() == 720
    assert FactorizedDistribution(layout).num_parameters() == 23


@pytest.mark.parametrize("name", available_spaces())
def test_parameters_and_entropy_of_every_space(name):
    space = load_space(name).open()
    layout = ChoiceLayout.of(space)
    coarse, fine = FactorizedDistribution(layout), JointDistribution(layout)
    assert coarse.num_parameters() == space.num_factorized_parameters
    assert fine.num_parameters() == space.num_joint_parameters
    for distribution in (coarse, fine):
        assert distribution.entropy().item() == pytest.approx(space.uniform_entropy_nats, rel=1e-5)
        assert not distribution.most_probable().any()  # ties go to the lowest index


@given(st.lists(st.lists(st.integers(1, 6), min_size=5, max_size=5), min_size=1, max_size=4))
def test_ravel_and_unravel_are_inverse(sizes):
    layout = ChoiceLayout(torch.tensor(sizes))
    for group, size in enumerate(layout.joint_sizes.tolist()):
        joint = torch.zeros(size, len(sizes), dtype=torch.int64)
        joint[:, group] = torch.arange(size)
        choices = layout.unravel(joint)
        assert torch.equal(layout.ravel(choices), joint)
        np.testing.assert_array_equal(
            choices[:, group].numpy(), np.stack(np.unravel_index(np.arange(size), sizes[group]), 1)
        )
        assert len(choices.unique(dim=0)) == size


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 10))
def test_the_conversion_loses_nothing(seed, spread):
    coarse = randomized(FactorizedDistribution, LAYOUT, seed, spread)
    fine = coarse.to_joint()
    points = every_point(LAYOUT)
    torch.testing.assert_close(fine.log_prob(points), coarse.log_prob(points), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(fine.group_entropies(), coarse.group_entropies(), atol=1e-4, rtol=0)
    assert torch.equal(fine.most_probable(), coarse.most_probable())
    torch.testing.assert_close(fine.marginals(), coarse.marginals(), atol=1e-5, rtol=0)
    assert torch.isfinite(fine.logits).all()


def test_the_conversion_of_a_whole_space():
    layout = ChoiceLayout.of(load_space("sa_expanded").open("l2"))
    coarse = randomized(FactorizedDistribution, layout, seed=5)
    fine = coarse.to_joint()
    drawn = coarse.sample(64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(fine.log_prob(drawn), coarse.log_prob(drawn), rtol=1e-5, atol=1e-4)
    assert fine.entropy().item() == pytest.approx(coarse.entropy().item(), abs=1e-3)
    assert torch.equal(fine.most_probable(), coarse.most_probable())


@pytest.mark.parametrize("kind", BOTH)
def test_probabilities_entropy_and_mode_by_enumeration(kind):
    distribution = randomized(kind, LAYOUT, seed=2, spread=1.5)
    points = every_point(LAYOUT)
    log_probs = distribution.log_prob(points).detach().double()
    assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)
    entropy = -(log_probs.exp() * log_probs).sum().item()
    assert distribution.entropy().item() == pytest.approx(entropy, abs=1e-5)
    assert torch.equal(distribution.most_probable(), points[log_probs.argmax()])
    marginals = distribution.marginals()
    assert marginals.shape == (3, 5, 4)
    torch.testing.assert_close(marginals.sum(dim=2), torch.ones(3, 5))
    for group, variable, choice in ((0, 1, 2), (0, 4, 0), (1, 2, 3), (2, 0, 0)):
        mass = log_probs.exp()[points[:, group, variable] == choice].sum().item()
        assert marginals[group, variable, choice].item() == pytest.approx(mass, abs=1e-5)
    assert marginals[0, 2, 1:].sum() == 0


@pytest.mark.parametrize("kind", BOTH)
def test_samples_come_as_often_as_they_should(kind):
    distribution = randomized(kind, LAYOUT, seed=7)
    number = 40_000
    drawn = distribution.sample(number, torch.Generator().manual_seed(11))
    assert drawn.shape == (number, 3, 5)
    assert drawn.dtype == torch.int64
    for group, table in enumerate(distribution.joint_probabilities()):
        if table.size == 1:
            continue
        joint = LAYOUT.ravel(drawn)[:, group]
        counts = np.bincount(joint.numpy(), minlength=table.size)
        assert len(counts) == table.size  # padding is never drawn
        assert chisquare(counts, table.ravel() / table.sum() * number).pvalue > 1e-3
    # Groups are independent.
    first, second = LAYOUT.ravel(drawn)[:, 0].double(), LAYOUT.ravel(drawn)[:, 1].double()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(number)


@pytest.mark.parametrize("kind", BOTH)
def test_samples_depend_on_the_generator_alone(kind):
    distribution = randomized(kind, LAYOUT, seed=1)
    torch.manual_seed(0)
    first = distribution.sample(50, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    assert torch.equal(distribution.sample(50, torch.Generator().manual_seed(3)), first)
    assert not torch.equal(distribution.sample(50, torch.Generator().manual_seed(4)), first)


@pytest.mark.parametrize("kind", BOTH)
def test_the_gradient_is_softmax_minus_one_hot(kind):
    distribution = randomized(kind, LAYOUT, seed=4)
    point = every_point(LAYOUT)[17:18]
    (-distribution.log_prob(point)).sum().backward()
    one_hot = torch.zeros_like(distribution.logits)
    if kind is JointDistribution:
        one_hot.scatter_(1, LAYOUT.ravel(point).T, 1.0)
        probabilities = distribution.joint_log_probs().exp()
    else:
        one_hot.scatter_(2, point[0].unsqueeze(-1), 1.0)
        probabilities = distribution.log_probs().exp()
    torch.testing.assert_close(distribution.logits.grad, (probabilities - one_hot).detach())
    assert not distribution.logits.grad[~distribution.mask].any()


@pytest.mark.parametrize("kind", BOTH)
def test_entropy_of_a_certain_choice_has_a_finite_gradient(kind):
    distribution = kind(LAYOUT)
    distribution.logits.data[..., 0] = 500.0
    entropy = distribution.entropy()
    entropy.backward()
    assert entropy.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(distribution.logits.grad).all()
