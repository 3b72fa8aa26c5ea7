"""The search loop, the same for every strategy.

Tensor shapes: A sampled architectures, G block groups, M variables, C choices (padded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fpnas.cost import CostModel
from fpnas.distribution import AbstractDistribution
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
    "agreement",
    "num_invalid",
    "expected_macs",
    "most_probable_macs",
    "skip_rate",
    "over_budget_rate",
)
"""What is recorded of every step.

``agreement`` is the correlation of the sampled architectures' log-likelihoods on the two halves of
the pictures: about 0 when they differ by chance alone. ``num_invalid`` counts the architectures
whose log-likelihood was not finite. What a strategy does not have is NaN.
"""


class AbstractSearch(ABC):
    """A strategy at work: everything that its next step depends on, apart from the evaluator.

    Attributes:
        evaluator: Holds the shared weights.
        distribution: What is known about the architectures so far.
        cost_model: Of the space that the distribution is over.
        options: How to search.
        step: Steps done.
        num_samples: Architectures drawn.
        history: One row a step, see :data:`HISTORY_COLUMNS`.
        snapshots: Probabilities of all choices, (G, M, C) each.
    """

    evaluator: Any

    def __init__(
        self,
        distribution: AbstractDistribution,
        cost_model: CostModel,
        options: SearchOptions,
        seed: int,
    ) -> None:
        self.distribution, self.cost_model, self.options = distribution, cost_model, options
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.num_samples = 0
        self.history: list[list[float]] = []
        self.snapshots: list[Tensor] = []

    @abstractmethod
    def advance(self) -> dict[str, float]:
        """Does one step, and returns what of :data:`HISTORY_COLUMNS` the strategy knows.

        Raises:
            DivergedError: A loss, a likelihood or a logit became NaN or infinite.
        """

    def state(self) -> dict[str, Any]:
        """As a tree of tensors and scalars."""
        return {
            "logits": self.distribution.logits,
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
        self.generator.set_state(state["generator"])
        self.step, self.num_samples = state["step"], state["num_samples"]
        self.history = state["history"].tolist()
        snapshots = state["snapshots"]
        self.snapshots = [] if snapshots is None else list(snapshots.unbind())


def num_invalid(log_likelihoods: Tensor) -> float:
    """How many of the values (A,) are NaN or infinite."""
    return float((~torch.isfinite(log_likelihoods)).sum())


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
    search: AbstractSearch, *, on_step: Callable[[dict[str, float]], None] = lambda record: None
) -> None:
    """Searches from ``search.step`` to the end: all steps done, or the distribution converged.

    Args:
        search: Changed in place.
        on_step: Called after every step with its record, the keys of :data:`HISTORY_COLUMNS`.
            It may raise to stop; the state is then that after the step.
    """
    options = search.options
    if not search.snapshots:
        search.snapshots.append(search.distribution.marginals())
    while search.step < options.num_steps and not has_converged(search.distribution, options):
        entropy = search.distribution.entropy().item()
        measured = search.advance()
        search.step += 1
        record = {
            **dict.fromkeys(HISTORY_COLUMNS, float("nan")),
            "step": float(search.step),
            "entropy_nats": entropy,
            **_costs(search),
            **measured,
        }
        search.history.append([record[column] for column in HISTORY_COLUMNS])
        if search.step % options.snapshot_steps == 0:
            search.snapshots.append(search.distribution.marginals())
        on_step(record)
    if len(search.snapshots) <= -(-search.step // options.snapshot_steps):
        search.snapshots.append(search.distribution.marginals())  # the end, between two records


def _costs(search: AbstractSearch) -> dict[str, float]:
    distribution, cost_model = search.distribution, search.cost_model
    return {
        "expected_macs": cost_model.expected_macs(distribution.joint_probabilities()),
        "most_probable_macs": float(cost_model.macs(distribution.most_probable()[None])[0]),
        "skip_rate": skip_rate(distribution, cost_model.space),
    }
