"""The search loop of FP-NAS, independent of what evaluates the architectures.

Tensor shapes: A sampled architectures, G block groups, M variables, C choices (padded).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
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
from fpnas.search.options import SearchOptions
from fpnas.space import KERNEL, SearchSpace

HISTORY_COLUMNS = (
    "step",
    "entropy_nats",
    "num_samples",
    "effective_sample_size",
    "temperature",
    "loss",
    "mean_log_likelihood",
    "expected_macs",
    "most_probable_macs",
    "skip_rate",
    "over_budget_rate",
)


@dataclass
class SearchState:
    """Everything that the next step depends on, apart from the evaluator."""

    distribution: AbstractDistribution
    optimizer: torch.optim.Adam
    generator: torch.Generator
    step: int = 0
    num_samples: int = 0
    history: list[list[float]] = field(default_factory=list)
    snapshots: list[Tensor] = field(default_factory=list)

    @classmethod
    def start(
        cls, distribution: AbstractDistribution, options: SearchOptions, seed: int
    ) -> SearchState:
        """A new search from a distribution, with an optimiser of its own."""
        return cls(
            distribution,
            torch.optim.Adam(
                [distribution.logits], lr=options.architecture_learning_rate, betas=(0.5, 0.999)
            ),
            torch.Generator().manual_seed(seed),
        )

    def state(self) -> dict[str, Any]:
        """As a tree of tensors and scalars."""
        return {
            "logits": self.distribution.logits,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "num_samples": self.num_samples,
            "history": torch.tensor(self.history, dtype=torch.float64),
            "snapshots": torch.stack(self.snapshots) if self.snapshots else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        with torch.no_grad():
            self.distribution.logits.copy_(state["logits"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step, self.num_samples = state["step"], state["num_samples"]
        self.history = state["history"].tolist()
        snapshots = state["snapshots"]
        self.snapshots = [] if snapshots is None else list(snapshots.unbind())


def search_step(
    state: SearchState, evaluator: Evaluator, cost_model: CostModel, options: SearchOptions
) -> dict[str, float]:
    """One step: draw architectures, train the weights, then the distribution.

    Raises:
        DivergedError: A loss, a likelihood or a logit became NaN or infinite.
    """
    distribution = state.distribution
    entropy = distribution.entropy().item()
    warming_up = state.step < options.warmup_steps
    num_samples = (
        options.warmup_samples
        if warming_up
        else adaptive_num_samples(entropy, options.sampling_rate, options.min_samples)
    )
    choices = distribution.sample(num_samples, state.generator)
    macs = cost_model.macs(choices)

    progress = state.step / max(options.num_steps, 1)
    learning_rate = options.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    loss = evaluator.train_step(choices, learning_rate)

    weights = None
    log_likelihoods = torch.zeros(num_samples, dtype=torch.float64)
    if not warming_up:
        log_likelihoods, batch_size = evaluator.log_likelihood(choices)
        if not torch.isfinite(log_likelihoods).all():
            raise DivergedError(f"the log-likelihoods are {log_likelihoods.tolist()}")
        weights = importance_weights(
            log_likelihoods,
            batch_size=batch_size,
            temperature=options.temperature,
            ess_fraction=options.ess_fraction,
        )
        coefficients = architecture_coefficients(
            weights.weights,
            hinge_cost(macs, cost_model.space.target_macs),
            cost_weight=options.cost_weight,
            baseline=options.baseline,
        )
        state.optimizer.zero_grad(set_to_none=True)
        surrogate_loss(coefficients, distribution.log_prob(choices)).backward()
        state.optimizer.step()
        if not torch.isfinite(distribution.logits).all():
            raise DivergedError(f"the architecture parameters are not finite at step {state.step}")

    state.step += 1
    state.num_samples += num_samples
    return {
        "step": float(state.step),
        "entropy_nats": entropy,
        "num_samples": float(num_samples),
        "effective_sample_size": weights.effective_sample_size if weights else float(num_samples),
        "temperature": weights.temperature if weights else 0.0,
        "loss": loss,
        "mean_log_likelihood": float(log_likelihoods.mean()),
        "expected_macs": cost_model.expected_macs(distribution.joint_probabilities()),
        "most_probable_macs": float(cost_model.macs(distribution.most_probable()[None])[0]),
        "skip_rate": skip_rate(distribution, cost_model.space),
        "over_budget_rate": float((macs > cost_model.space.target_macs).double().mean()),
    }


def skip_rate(distribution: AbstractDistribution, space: SearchSpace) -> float:
    """Expected share of the blocks that are bypassed."""
    marginals = distribution.marginals()
    skipped = 0.0
    for group, probabilities in zip(space.groups, marginals, strict=True):
        kernels = group.choices[KERNEL].values
        skipped += sum(
            float(probabilities[KERNEL, index]) * group.repeat
            for index, kernel in enumerate(kernels)
            if kernel == 0
        )
    return skipped / space.num_blocks


def has_converged(distribution: AbstractDistribution, options: SearchOptions) -> bool:
    """Whether every group is surer than ``converged_entropy_nats``."""
    return bool(distribution.group_entropies().max() < options.converged_entropy_nats)


def run_search(
    state: SearchState,
    evaluator: Evaluator,
    cost_model: CostModel,
    options: SearchOptions,
    *,
    on_step: Callable[[dict[str, float]], None] = lambda record: None,
) -> None:
    """Searches from ``state.step`` to the end: all steps done, or the distribution converged.

    Args:
        state: Changed in place.
        evaluator: Trains the weights and scores architectures.
        cost_model: Of the space that the state's distribution is over.
        options: How to search.
        on_step: Called after every step with its record, the keys of :data:`HISTORY_COLUMNS`.
            It may raise to stop; the state is then that after the step.
    """
    if not state.snapshots:
        state.snapshots.append(state.distribution.marginals())
    while state.step < options.num_steps and not has_converged(state.distribution, options):
        record = search_step(state, evaluator, cost_model, options)
        state.history.append([record[column] for column in HISTORY_COLUMNS])
        if state.step % options.snapshot_steps == 0:
            state.snapshots.append(state.distribution.marginals())
        on_step(record)
    if len(state.snapshots) <= -(-state.step // options.snapshot_steps):
        state.snapshots.append(state.distribution.marginals())  # the end, between two records
