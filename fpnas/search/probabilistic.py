"""Probabilistic search: FP-NAS, PARSEC, and what lies between them.

Architectures are drawn from a learned distribution; both the shared weights and the distribution
follow the gradients of the paper's section on probabilistic search (equation 7). The distribution
is factorized or joint, and the number of draws follows its entropy (FP-NAS) or is fixed (PARSEC).

Tensor shapes: A sampled architectures.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fpnas.cost import CostModel
from fpnas.distribution import AbstractDistribution
from fpnas.errors import DivergedError
from fpnas.estimator import (
    adaptive_num_samples,
    architecture_coefficients,
    hinge_cost,
    importance_weights,
    surrogate_loss,
)
from fpnas.search.evaluator import Evaluator
from fpnas.search.loop import AbstractSearch, num_invalid
from fpnas.search.options import SearchOptions


class ProbabilisticSearch(AbstractSearch):
    """Learns a distribution over architectures together with the weights that they share.

    Args:
        distribution: To start from; changed in place.
        evaluator: Trains the weights and scores architectures.
        cost_model: Of the space that the distribution is over.
        options: How to search.
        seed: Of the draws.
    """

    def __init__(
        self,
        distribution: AbstractDistribution,
        evaluator: Evaluator,
        cost_model: CostModel,
        options: SearchOptions,
        seed: int,
    ) -> None:
        super().__init__(distribution, cost_model, options, seed)
        self.evaluator = evaluator
        self.optimizer = torch.optim.Adam(
            [distribution.logits], lr=options.architecture_learning_rate, betas=(0.5, 0.999)
        )

    def advance(self) -> dict[str, float]:
        """Draws architectures, trains the weights, then the distribution."""
        options = self.options
        warming_up = self.step < options.warmup_steps
        num_samples = options.warmup_samples if warming_up else self._num_samples()
        choices = self.distribution.sample(num_samples, self.generator)
        macs = self.cost_model.macs(choices)
        trained = self.evaluator.train_step(choices, learning_rate_at(self.step, options))
        measured = {} if warming_up else self._update(choices, macs, trained.log_likelihoods)
        self.num_samples += num_samples
        over_budget = macs > self.cost_model.space.target_macs
        return {
            "num_samples": float(num_samples),
            "effective_sample_size": float(num_samples),
            "temperature": 0.0,
            "loss": trained.loss,
            "num_invalid": num_invalid(trained.log_likelihoods),
            "over_budget_rate": float(over_budget.double().mean()),
            **measured,
        }

    def _num_samples(self) -> int:
        options = self.options
        if options.num_samples is not None:
            return options.num_samples
        entropy = self.distribution.entropy().item()
        return adaptive_num_samples(entropy, options.sampling_rate, options.min_samples)

    def _update(self, choices: Tensor, macs: Tensor, on_weight_half: Tensor) -> dict[str, float]:
        """One step on the distribution."""
        options = self.options
        log_likelihoods, batch_size = self.evaluator.log_likelihood(choices)
        finite = torch.isfinite(log_likelihoods)
        if not finite.any():
            raise DivergedError(f"the log-likelihoods are {log_likelihoods.tolist()}")
        weights = importance_weights(
            log_likelihoods,
            batch_size=batch_size,
            temperature=options.temperature,
            ess_fraction=options.ess_fraction,
        )
        coefficients = architecture_coefficients(
            weights.weights,
            hinge_cost(macs, self.cost_model.space.target_macs),
            cost_weight=options.cost_weight,
            baseline=options.baseline,
        )
        self.optimizer.zero_grad(set_to_none=True)
        surrogate_loss(coefficients, self.distribution.log_prob(choices)).backward()
        self.optimizer.step()
        if not torch.isfinite(self.distribution.logits).all():
            raise DivergedError(f"the architecture parameters are not finite at step {self.step}")
        return {
            "effective_sample_size": weights.effective_sample_size,
            "temperature": weights.temperature,
            "mean_log_likelihood": float(log_likelihoods[finite].mean()),
            "agreement": _correlation(on_weight_half, log_likelihoods),
            "num_invalid": num_invalid(on_weight_half) + num_invalid(log_likelihoods),
        }

    def state(self) -> dict[str, Any]:
        """As a tree of tensors and scalars."""
        return {**super().state(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        super().load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])


def learning_rate_at(step: int, options: SearchOptions) -> float:
    """Learning rate of the shared weights: a cosine from the peak to zero."""
    progress = step / max(options.num_steps, 1)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's, NaN where fewer than three distinct pairs are left to compare."""
    finite = torch.isfinite(first) & torch.isfinite(second)
    pairs = torch.stack([first[finite], second[finite]]).double().unique(dim=1)
    if pairs.shape[1] < 3:
        return math.nan
    return float(torch.corrcoef(pairs)[0, 1])
