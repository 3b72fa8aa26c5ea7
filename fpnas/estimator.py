"""The estimators of FP-NAS: how many architectures to draw, and what each of them counts.

Tensor shapes: A (or K, in the paper) sampled architectures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fpnas.search.options import Temperature


def adaptive_num_samples(entropy_nats: float, sampling_rate: float, minimum: int = 1) -> int:
    """Number of architectures to draw: K = lambda * H(P(A | alpha)), rounded to nearest.

    Args:
        entropy_nats: Entropy of the distribution, natural logarithm.
        sampling_rate: The paper's lambda, 1/4 by default there.
        minimum: The least number, at least 1.

    >>> adaptive_num_samples(56.25, 1 / 4)
    14
    """
    return max(minimum, 1, math.floor(sampling_rate * entropy_nats + 0.5))


@dataclass(frozen=True)
class ImportanceWeights:
    """Normalized likelihoods of the sampled architectures.

    Attributes:
        weights: Positive, sum to 1, (A,).
        temperature: What the summed log-likelihoods were divided by.
        effective_sample_size: 1 / sum of squared weights, between 1 and A.
    """

    weights: Tensor
    temperature: float
    effective_sample_size: float


def importance_weights(
    log_likelihoods: Tensor,
    *,
    batch_size: int,
    temperature: Temperature | float = "ess",
    ess_fraction: float = 0.5,
) -> ImportanceWeights:
    """Weights omega_k proportional to P(y | X, w, A_k) ** (1 / temperature).

    The likelihood of a batch is a product over its pictures. As it stands (``"sum"``) one
    architecture takes all the weight; with the mean over pictures (``"mean"``) all have the same.
    ``"ess"`` finds the temperature at which the effective sample size is ``ess_fraction`` of the
    number of architectures, but never sharpens beyond the sum (temperature 1). Our choice; the
    paper does not say which it uses. An architecture whose log-likelihood is not finite gets no
    weight.

    Args:
        log_likelihoods: Summed over the batch, in nats, (A,).
        batch_size: The number of pictures.
        temperature: ``"sum"`` (1), ``"mean"`` (the batch size), ``"ess"``, or a number.
        ess_fraction: The target for ``"ess"``, in (0, 1].

    Raises:
        ValueError: Every log-likelihood is NaN or infinite.
    """
    finite = torch.isfinite(log_likelihoods)
    if not finite.any():
        raise ValueError(f"no log-likelihood is finite: {log_likelihoods.tolist()}")
    values = log_likelihoods.double()[finite]
    if temperature == "sum":
        chosen = 1.0
    elif temperature == "mean":
        chosen = float(batch_size)
    elif temperature == "ess":
        chosen = _temperature_for(values, ess_fraction * len(values))
    else:
        chosen = float(temperature)
    weights = torch.zeros(len(finite), dtype=torch.float64)
    weights[finite] = torch.softmax(values / chosen, dim=0)
    return ImportanceWeights(weights, chosen, _effective_sample_size(weights))


def _effective_sample_size(weights: Tensor) -> float:
    return float(1.0 / weights.square().sum())


def _temperature_for(values: Tensor, target: float) -> float:
    """Bisects the temperature; the effective sample size grows with it."""
    if _effective_sample_size(torch.softmax(values, dim=0)) >= target:
        return 1.0
    low, high = 0.0, math.log(1e12)
    for _ in range(60):
        middle = (low + high) / 2
        size = _effective_sample_size(torch.softmax(values / math.exp(middle), dim=0))
        low, high = (middle, high) if size < target else (low, middle)
    return math.exp(high)


def hinge_cost(macs: Tensor, target_macs: int) -> Tensor:
    """C(A) = max(0, MACs(A) / target - 1), (A,) float64."""
    return (macs.double() / target_macs - 1.0).clamp(min=0.0)


def architecture_coefficients(
    weights: Tensor, costs: Tensor, *, cost_weight: float, baseline: bool
) -> Tensor:
    """The m_k of the paper's equation 7, which multiply the gradient of -log P(A_k | alpha).

    m_k = omega_k - beta * C(A_k) / sum_j C(A_j); the cost term is zero when every cost is.

    Args:
        weights: Importance weights on the architecture half of the pictures, (A,).
        costs: Hinge costs, (A,).
        cost_weight: The paper's beta.
        baseline: Subtract the mean of each term, which removes the drift of weights that are all
            positive. Our choice. Since E[grad log P] = 0, that of the importance weights leaves
            the expected gradient as it is; that of the cost term does so only where every draw
            has an architecture over budget, and else makes the pressure weaker.
    """
    total = costs.sum()
    cost_term = costs / total if total > 0 else torch.zeros_like(costs)
    if baseline:
        weights, cost_term = weights - weights.mean(), cost_term - cost_term.mean()
    return weights - cost_weight * cost_term


def surrogate_loss(coefficients: Tensor, log_probs: Tensor) -> Tensor:
    """A scalar whose gradient is sum_k m_k grad[-log P(A_k | alpha)] (equation 7)."""
    return -(coefficients.detach() * log_probs).sum()
