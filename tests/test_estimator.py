"""Estimators: how many architectures, their weights, and equation 7."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.estimator import (
    adaptive_num_samples,
    architecture_coefficients,
    hinge_cost,
    importance_weights,
    surrogate_loss,
)
from fpnas.space import load_space

log_likelihoods = st.lists(st.floats(-500, 0), min_size=1, max_size=20)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(("rate", "number"), [(1 / 2, 28), (1 / 4, 14), (1 / 8, 7), (1 / 16, 4)])
def test_the_papers_numbers_of_samples(rate, number):
    entropy = load_space("fbnetv2_f").open().uniform_entropy_nats
    assert adaptive_num_samples(entropy, rate) == number


def test_numbers_of_samples_are_rounded_and_bounded():
    assert [adaptive_num_samples(h, 0.25) for h in (0.0, 1.0, 5.9, 6.0, 6.1, 10.0)] == [
        *(1, 1, 1, 2, 2, 3)  # 1.5 and 2.5 are rounded up
    ]
    assert adaptive_num_samples(1.0, 0.25, minimum=3) == 3
    assert adaptive_num_samples(1.0, 0.25, minimum=0) == 1


def test_sum_and_mean_by_hand():
    values = double(math.log(6), math.log(3), math.log(1))
    summed = importance_weights(values, batch_size=2, temperature="sum")
    torch.testing.assert_close(summed.weights, double(0.6, 0.3, 0.1))
    assert summed.temperature == 1
    assert summed.effective_sample_size == pytest.approx(1 / 0.46)
    mean = importance_weights(values, batch_size=2, temperature="mean")
    roots = double(6, 3, 1).sqrt()
    torch.testing.assert_close(mean.weights, roots / roots.sum())
    assert mean.temperature == 2
    number = importance_weights(values, batch_size=2, temperature=0.5)
    torch.testing.assert_close(number.weights, double(36, 9, 1) / 46)


@settings(max_examples=200, deadline=None)
@given(log_likelihoods, st.floats(0.05, 0.95))
def test_the_effective_sample_size_hits_its_target(values, fraction):
    values = double(*values)
    result = importance_weights(values, batch_size=64, temperature="ess", ess_fraction=fraction)
    summed = importance_weights(values, batch_size=64, temperature="sum")
    target = fraction * len(values)
    assert result.weights.sum().item() == pytest.approx(1)
    assert result.effective_sample_size == pytest.approx(1 / (result.weights**2).sum().item())
    if summed.effective_sample_size >= target:  # never sharper than the likelihood itself
        assert result.temperature == 1
        assert torch.equal(result.weights, summed.weights)
    else:
        assert result.temperature > 1
        assert result.effective_sample_size == pytest.approx(target, rel=1e-3)
    # The order of the likelihoods is kept.
    order = values.argsort()
    assert (result.weights[order].diff() >= 0).all()


def test_shifting_all_likelihoods_changes_nothing():
    values = double(-3, -40, -41, -60)
    for temperature in ("sum", "mean", "ess"):
        shifted = importance_weights(values - 1e4, batch_size=8, temperature=temperature)
        plain = importance_weights(values, batch_size=8, temperature=temperature)
        torch.testing.assert_close(shifted.weights, plain.weights)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_likelihood_that_is_not_finite_has_no_weight(value):
    found = importance_weights(torch.tensor([1.0, value, 2.0]), batch_size=4, temperature="sum")
    expected = torch.softmax(torch.tensor([1.0, 2.0], dtype=torch.float64), 0)
    assert found.weights[1] == 0
    torch.testing.assert_close(found.weights[[0, 2]], expected)
    with pytest.raises(ValueError, match="no log-likelihood is finite"):
        importance_weights(torch.tensor([value, value]), batch_size=4)


def test_hinge_cost():
    costs = hinge_cost(torch.tensor([0, 50, 100, 150, 300]), 100)
    torch.testing.assert_close(costs, double(0, 0, 0, 0.5, 2))


def test_equation_seven_by_hand():
    weights, costs = double(0.5, 0.3, 0.2), double(0, 1, 3)
    plain = architecture_coefficients(weights, costs, cost_weight=0.4, baseline=False)
    torch.testing.assert_close(plain, double(0.5, 0.3 - 0.1, 0.2 - 0.3))
    centred = architecture_coefficients(weights, costs, cost_weight=0.4, baseline=True)
    torch.testing.assert_close(centred, plain - (1 - 0.4) / 3)


@pytest.mark.parametrize("baseline", [True, False])
def test_the_cost_term_is_zero_when_every_cost_is(baseline):
    weights = double(0.7, 0.3)
    result = architecture_coefficients(weights, double(0, 0), cost_weight=9, baseline=baseline)
    torch.testing.assert_close(result, weights - 0.5 if baseline else weights)


@settings(max_examples=50, deadline=None)
@given(log_likelihoods, st.floats(0, 5), st.data())
def test_coefficients_with_a_baseline_sum_to_zero(values, cost_weight, data):
    costs = data.draw(
        st.lists(st.floats(0, 10), min_size=len(values), max_size=len(values)), label="costs"
    )
    weights = importance_weights(double(*values), batch_size=1).weights
    result = architecture_coefficients(
        weights, double(*costs), cost_weight=cost_weight, baseline=True
    )
    assert result.sum().item() == pytest.approx(0, abs=1e-9)


def test_the_surrogates_gradient_is_the_formula():
    layout = ChoiceLayout(torch.tensor([[2, 3, 1, 1, 2], [1, 2, 2, 1, 1]]))
    distribution = FactorizedDistribution(layout)
    distribution.logits.data.normal_(generator=torch.Generator().manual_seed(0))
    choices = distribution.sample(4, torch.Generator().manual_seed(1))
    coefficients = double(0.4, -0.1, 0.05, -0.35)
    surrogate_loss(coefficients, distribution.log_prob(choices)).backward()
    expected = torch.zeros_like(distribution.logits)
    probabilities = distribution.log_probs().detach().exp()
    for coefficient, choice in zip(coefficients.tolist(), choices, strict=True):
        one_hot = torch.zeros_like(expected).scatter_(2, choice.unsqueeze(-1), 1.0)
        expected += coefficient * (probabilities - one_hot)
    torch.testing.assert_close(distribution.logits.grad, expected)


def exact_gradient(values, costs, baseline, cost_weight=1.0):
    """Expected gradient of a three-way choice's logits over every draw of two architectures."""
    probabilities = torch.softmax(double(0.2, -0.5, 0.9), 0)
    scores = torch.eye(3, dtype=torch.float64) - probabilities  # grad of log P, by choice
    total = torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=2):
        index = list(drawn)
        weights = importance_weights(values[index], batch_size=1, temperature="sum").weights
        m = architecture_coefficients(
            weights, costs[index], cost_weight=cost_weight, baseline=baseline
        )
        total += probabilities[index].prod() * (m[:, None] * -scores[index]).sum(dim=0)
    return total


def test_the_baseline_leaves_the_expected_gradient():
    values = double(-1, -2, -0.3)
    for costs in (double(0, 0, 0), double(1, 0.5, 2)):
        plain, centred = (exact_gradient(values, costs, baseline) for baseline in (False, True))
        assert plain.abs().max() > 1e-2
        torch.testing.assert_close(centred, plain)
